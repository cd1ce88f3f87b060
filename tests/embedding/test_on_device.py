"""Embedding on a CPU and on a GPU: the same bytes twice and side by side, and stores that are used on another device."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from on_device import SLOW_ON_CPU, there

from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.integrity.verify import VerifyConfig, verify
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune
from stores import chunks

ON_BOTH = pytest.mark.parametrize("device", SLOW_ON_CPU, indirect=True)
CLOSE = 1e-3
"""Largest relative error of a stored embedding between devices; float16 alone gives 3e-4, TF32 would give 3e-3."""
EMBED = """
import sys
import torch
torch.set_num_threads(1)
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.store.store import Store
embed(Store.open(sys.argv[1]), EmbedConfig(device=sys.argv[2], batch=3))
"""
TUNE = """
{embed}
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune
how = dict(steps=1, cells=2, validation_cells=2, workers=0, window=8, device=sys.argv[2])
finetune(Store.open(sys.argv[1]), FinetuneConfig.of(**how))
"""


def anew(store: Store, path: Path, variants: int = 0) -> Store:
    """Return a store of the same recipe and frames, with nothing embedded."""
    path.mkdir()
    text = (store.path / "store.toml").read_text().replace("variants = 0", f"variants = {variants}")
    (path / "store.toml").write_text(text)
    shutil.copytree(store.path / "data", path / "data")
    return Store.open(path)


def errors(one: Store, other: Store) -> list[float]:
    """Return the relative error of every view that both stores have."""
    rows, known = one.committed(), other.committed()
    found = []
    for view in rows.keys() & known.keys():
        a, b = (s.embedding_at(r[view]).astype(np.float32) for s, r in ((one, rows), (other, known)))
        found.append(float(np.linalg.norm(a - b) / np.linalg.norm(b)))
    return found


@ON_BOTH
def test_it_gives_the_same_bytes_twice_and_those_of_a_cpu_within_rounding(
    store: Store, device: torch.device, tmp_path: Path
) -> None:
    made = [anew(store, tmp_path / name) for name in ("one", "two")]
    for one in made:
        assert embed(one, EmbedConfig(device=str(device), batch=3)).left == 0
    assert chunks(made[0]) == chunks(made[1])
    assert made[0].ledger().entries() == made[1].ledger().entries()
    found = errors(made[0], store)
    assert len(found) == 8 and max(found) < CLOSE


@ON_BOTH
def test_a_killed_embed_resumes_to_the_same_bytes(store: Store, device: torch.device, tmp_path: Path) -> None:
    straight, halved = anew(store, tmp_path / "one"), anew(store, tmp_path / "two")
    embed(straight, EmbedConfig(device=str(device), batch=3))
    embed(halved, EmbedConfig(device=str(device), batch=3, limit=2))  # a part of a batch
    assert embed(halved, EmbedConfig(device=str(device))).left == 0
    assert chunks(halved) == chunks(straight)


@ON_BOTH
def test_two_processes_on_one_device_do_not_disturb_each_other(
    store: Store, device: torch.device, tmp_path: Path
) -> None:
    made = [anew(store, tmp_path / name) for name in ("one", "two")]
    command = [sys.executable, "-c", EMBED]
    running = [subprocess.Popen([*command, one.path, str(device)], stderr=subprocess.PIPE, text=True) for one in made]
    for process in running:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    assert chunks(made[0]) == chunks(made[1]) and max(errors(made[0], store)) < CLOSE


@ON_BOTH
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_workers_share_a_device_and_give_the_bytes_of_one_process(
    store: Store, device: torch.device, tmp_path: Path
) -> None:
    one, several = anew(store, tmp_path / "one"), anew(store, tmp_path / "several")
    embed(one, EmbedConfig(device=str(device), batch=2, limit=4))
    assert embed(several, EmbedConfig(device=str(device), batch=2, limit=4, workers=2)).done_now == 4
    assert chunks(several) == chunks(one)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_workers_use_the_gpu_that_was_named(store: Store, tmp_path: Path) -> None:
    device = there("cuda:1")
    one, used = anew(store, tmp_path / "one"), [0, 0]

    def watch() -> None:  # the workers are other processes, so the driver is asked
        while not stop.wait(0.05):
            for i in range(2):
                free, total = torch.cuda.mem_get_info(i)
                used[i] = max(used[i], total - free)

    stop, before = threading.Event(), [total - free for free, total in map(torch.cuda.mem_get_info, range(2))]
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert embed(one, EmbedConfig(device=str(device), workers=2)).left == 0
    finally:
        stop.set()
        watcher.join()
    assert used[1] > before[1] + 2**28 and used[0] < before[0] + 2**28
    assert max(errors(one, store)) < CLOSE


@ON_BOTH
def test_a_store_is_tuned_and_scored_on_a_device_it_was_not_embedded_on(
    store: Store, device: torch.device, tmp_path: Path
) -> None:
    there_first = anew(store, tmp_path / "other")
    embed(there_first, EmbedConfig(device=str(device), batch=4))
    how = {"steps": 2, "cells": 2, "validation_cells": 3, "workers": 0, "window": 8}
    scores = []
    for one, tuned_on, scored_on in ((store, str(device), "cpu"), (there_first, "cpu", str(device))):
        run = finetune(one, FinetuneConfig.of(**how, device=tuned_on))
        scored = EvaluateConfig(prompts=("box",), split="val", window=8, device=scored_on)
        scores.append(evaluate(one, run.run, scored).prompts["box"].mean_iou)
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


@ON_BOTH
def test_verify_encodes_again_on_another_device(store: Store, device: torch.device, tmp_path: Path) -> None:
    report = verify(store, VerifyConfig(deep=True, sample=2, device=str(device)))
    assert report.whole and report.worst is not None and report.worst < report.tolerance
    other = anew(store, tmp_path / "other")
    embed(other, EmbedConfig(device=str(device), batch=4))
    assert verify(other, VerifyConfig(deep=True, sample=2, device="cpu")).whole


@ON_BOTH
def test_embedding_and_fine_tuning_share_a_process(store: Store, device: torch.device, tmp_path: Path) -> None:
    """On a GPU products come before the training that wants all of them repeatable."""
    path = anew(store, tmp_path / "new").path
    code = TUNE.format(embed=EMBED.strip())
    done = subprocess.run([sys.executable, "-c", code, str(path), str(device)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@ON_BOTH
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_processes_that_read_change_no_bit(store: Store, device: torch.device, tmp_path: Path) -> None:
    made = [anew(store, tmp_path / str(readers), variants=1) for readers in (None, 2)]
    for one, readers in zip(made, (None, 2), strict=True):
        embed(one, EmbedConfig(device=str(device), batch=2, limit=6, readers=readers))
    assert chunks(made[0]) == chunks(made[1])
