"""Embedding on a CPU and on a GPU: the same bytes twice and side by side, and stores that are used on another device."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from on_device import SLOW_ON_CPU, there

from hela_store.embedding.batches import Frames, unique_views
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.embedding.plan import make_plan
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.integrity.verify import VerifyConfig, verify
from hela_store.sam.devices import synchronize
from hela_store.store.records import ViewRecord
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
    torch.cuda.reset_peak_memory_stats("cuda:0")
    one = anew(store, tmp_path / "one")
    assert embed(one, EmbedConfig(device=str(device), workers=2)).left == 0
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


@pytest.mark.gpu
def test_variants_are_made_in_parts_where_a_gpu_is_full(store: Store, tmp_path: Path) -> None:
    device = there("cuda")
    varied = anew(store, tmp_path / "varied", variants=8)
    embed(varied, EmbedConfig(limit=1, device="cpu"))
    plan = make_plan(varied)
    views = [view for view in ViewRecord.of(unique_views(plan)) if view.variant and view.frame == "01/t000"]
    expected = Frames(varied, device).stack(views)
    synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    Frames(varied, device).stack(views[:2])
    two, total = torch.cuda.max_memory_reserved(device), torch.cuda.get_device_properties(device).total_memory
    torch.cuda.empty_cache()
    with contextlib.ExitStack() as undo:
        undo.callback(torch.cuda.set_per_process_memory_fraction, 1.0, device)
        torch.cuda.set_per_process_memory_fraction(1.1 * two / total, device)
        frames = Frames(varied, device)
        np.testing.assert_allclose(frames.stack(views), expected, atol=1e-2)
    assert frames._room is not None and frames._room.most in (2, 4)
