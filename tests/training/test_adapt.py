"""Adapting decoder and encoder from the store, end to end, with nano."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hela_store.base.files import sha256_file
from hela_store.embedding.batches import Frames
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.embedding.encoders import store_of, variant_of
from hela_store.embedding.reader import ViewReader, readable_views
from hela_store.errors import CheckpointError, RecipeError, RunError, StoreError
from hela_store.evaluation.checkpoint import checkpoint_of
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.exchange.checkpoint import export_checkpoint
from hela_store.integrity.verify import VerifyConfig, verify
from hela_store.recipe.recipe import parse_recipe
from hela_store.recipe.toml import recipe_text
from hela_store.runs.default import default_run
from hela_store.runs.folder import load_run, new_run, partial_runs
from hela_store.sam.adapters import learned, set_learned
from hela_store.sam.checkpoints import load_sam_encoder
from hela_store.sam.encoder import encode
from hela_store.sam.fast_encoder import tail_embedding
from hela_store.store.records import ViewRecord
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune, resolve, run_config
from hela_store.training.learner import new_learner, save_learner
from stores import chunks, forget, reseal

QUICK = FinetuneConfig.of(
    steps=3, evaluate_every=1, cells=2, validation_cells=3, workers=0, lr=3e-3, window=8, warmup=1
)
DECODER = QUICK.with_choices(adapt="decoder")
# with these the very first step is better than none, so that something is kept
LEARNS = {"prompt": "point", "steps": 2, "cells": 4, "lr": 3e-4, "warmup": 0}
ENCODER = QUICK.with_choices(adapt="encoder", cut=3, **LEARNS)
CPU = torch.device("cpu")
SCORED = EvaluateConfig(prompts=("point-centre",), split="val")


@pytest.fixture(scope="module")
def trunk(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the small store with the tokens after three of nano's four blocks, too. Not to be changed."""
    path = tmp_path_factory.mktemp("trunk") / "store"
    shutil.copytree(embedded, path)
    embed(Store.open(path), EmbedConfig(cut=3))
    return path


@pytest.fixture
def cached(trunk: Path, tmp_path: Path) -> Store:
    """Return a private copy of that store."""
    shutil.copytree(trunk, tmp_path / "store")
    return Store.open(tmp_path / "store")


@pytest.fixture(scope="module")
def adapted(trunk: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return that store with an adapted encoder's embeddings, and the run that adapted it. Not to be changed.

    Its adapters are drawn: a few steps would move an embedding by little more than rounding does.
    """
    path = tmp_path_factory.mktemp("adapted") / "store"
    shutil.copytree(trunk, path)
    store, config = Store.open(path), resolve(Store.open(path), ENCODER).config
    learner = new_learner(store.with_encoder(cut=3), config, CPU, init=None)
    torch.manual_seed(0)
    assert learner.encoder is not None
    for value in learned(learner.encoder).values():
        torch.nn.init.normal_(value, std=0.3)
    folder = new_run(path, "finetune", run_config(resolve(store, config)), label="point encoder")
    save_learner(folder.path, store, config, learner)
    folder.log(step=1, result={"verdict": "better"})
    run = folder.publish().name
    embed(store, EmbedConfig(adapter=run))
    return path, run


# decoder


@pytest.mark.ci
def test_decoder_adapters_are_all_a_run_keeps_and_score_as_they_did(store: Store) -> None:
    result = finetune(store, DECODER)
    run = load_run(store.path, result.run)
    assert not run.weights.exists()
    assert (run.path / "adapter.safetensors").stat().st_size < 4e5
    assert run.encoder == store.key and "decoder" in run.id
    base, tuned = (
        checkpoint_of(store, None).load_decoder().state_dict(),
        checkpoint_of(store, run).load_decoder().state_dict(),
    )
    assert base.keys() == tuned.keys(), "merged: the names of the stock decoder"
    changed = {name for name in base if not torch.equal(base[name], tuned[name])}
    assert bool(changed) == (result.best_step > 0)
    assert all("transformer" in name and name.endswith("_proj.weight") for name in changed)
    best = max((row for row in run.log() if "val" in row), key=lambda row: row["val"]["mean_iou"])
    assert best["step"] == result.best_step
    again = evaluate(store, result, replace(SCORED, window=8))
    assert again.checkpoint == result.run


@pytest.mark.ci
def test_decoder_adapters_begin_with_a_tuned_decoder_and_tuning_with_theirs(store: Store) -> None:
    first = finetune(store, QUICK.with_choices(steps=1))
    second = finetune(store, DECODER.with_choices(steps=1, init=first.run))
    third = finetune(store, QUICK.with_choices(steps=1, init=second.run))
    assert load_run(store.path, third.run).parent == second.run
    weights = load_run(store.path, first.run).weights
    data = load_file(weights)
    save_file({name: value + 1 for name, value in data.items()}, weights, {"architecture": "nano"})
    reseal(weights.parent)
    with pytest.raises(CheckpointError, match="does not fit: its weights is"):
        checkpoint_of(store, load_run(store.path, second.run)).load_decoder()


def test_decoder_adapters_are_exported_merged(store: Store, tmp_path: Path) -> None:
    run = load_run(store.path, finetune(store, DECODER.with_choices(steps=1)).run)
    out = export_checkpoint(store, run.id, tmp_path / "out.safetensors").path
    found, expected = load_file(out), checkpoint_of(store, run).load_decoder().state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not any("parts" in name for name in found)


# tokens after a cut


@pytest.mark.ci
def test_tokens_are_stored_with_every_promise_of_the_store(cached: Store) -> None:
    source = cached.with_encoder(cut=3)
    assert source.key.startswith("nano-cut3-") and source.key != cached.key
    assert cached.arrays.embedding_keys() == sorted([cached.key, source.key])
    assert len(source.committed()) == len(cached.committed()) == 8
    data = cached.xarray(source.key).embedding
    assert data.dims == ("view", "y", "x", "channel") and data.shape == (8, 64, 64, 192) and data.dtype == "float16"
    assert verify(cached, VerifyConfig(cut=3, deep=True, sample=2)).whole
    assert verify(cached).whole
    before = {row: cached.arrays.chunk_path(source.key, row).read_bytes() for row in range(8)}
    segments = sorted(source.ledger().path.iterdir())
    segments[-1].unlink()
    cached.arrays.chunk_path(source.key, 0).write_bytes(before[1])
    report = embed(Store.open(cached.path), EmbedConfig(cut=3))
    assert (report.done_before, report.done_now, report.left) == (7, 1, 0)
    found = verify(cached, VerifyConfig(cut=3, repair=True))
    assert found.whole and [fault.kind for fault in found.repaired] == ["swapped"]
    assert before == {row: cached.arrays.chunk_path(source.key, row).read_bytes() for row in range(8)}


@pytest.mark.ci
def test_every_cut_and_its_tail_give_the_embedding_of_the_whole_encoder(store: Store) -> None:
    sam = load_sam_encoder(store.recipe.encoder)
    pixels = Frames(store).pixels(next(ViewRecord.of(store.views_table().slice(2, 1))))[None]
    expected = encode(sam.encoder, pixels)
    for cut in range(1, 4):
        tokens = encode(sam.encoder, pixels, cut=cut)
        with torch.inference_mode():
            assert torch.equal(tail_embedding(sam.encoder, tokens, cut), expected)
            rounded = tail_embedding(sam.encoder, tokens.half().float(), cut)
        assert ((rounded - expected).norm() / expected.norm()).item() < 1e-3


@pytest.mark.parametrize("cut", [0, 3])
def test_what_learns_begins_with_the_embeddings_there_are(cached: Store, cut: int) -> None:
    source = cached.with_encoder(cut=cut)
    learner = new_learner(source, ENCODER.with_choices(cut=cut), CPU, init=None).eval()
    read, views = ViewReader(source), readable_views(source)
    assert views == cached.committed()
    row = next(iter(views.values()))
    stored = torch.from_numpy(cached.embedding_at(row).astype(np.float32))
    with torch.no_grad():
        found = learner.embed(read(row))
    assert ((found - stored).norm() / stored.norm()).item() < 1e-3


@pytest.mark.parametrize("cut", [4, 12])
def test_a_cut_that_nano_does_not_have(store: Store, cut: int) -> None:
    for refused in (lambda: embed(store, EmbedConfig(cut=cut)), lambda: finetune(store, ENCODER.with_choices(cut=cut))):
        with pytest.raises(RecipeError, match=f"cut of nano .layers. is {cut}, expected 0 to 3"):
            refused()
    with pytest.raises(RecipeError, match="nothing to store"):
        EmbedConfig(cut=0)


def test_tokens_that_are_not_there(store: Store) -> None:
    with pytest.raises(StoreError, match="not embedded yet; run `hela-store embed --cut 3`"):
        finetune(store, ENCODER)
    assert not partial_runs(store.path)


# encoder


SLOW = pytest.mark.slow


@pytest.mark.ci
@pytest.mark.parametrize(
    "how",
    [
        {},
        pytest.param({"conv": True}, marks=SLOW),
        pytest.param({"adapt": "encoder-full"}, marks=SLOW),
        pytest.param({"linear": True}, marks=SLOW),
        pytest.param({"cut": 0}, marks=SLOW),
    ],
)
def test_only_adapters_and_decoder_change(cached: Store, how: dict[str, Any]) -> None:
    config = ENCODER.with_choices(**how)
    adapt = config.adapt
    assert adapt is not None
    fresh = new_learner(cached.with_encoder(cut=adapt.cut), config, CPU, init=None)
    result = finetune(cached, config)
    run = load_run(cached.path, result.run)
    base = load_sam_encoder(cached.recipe.encoder)
    mine = store_of(cached, run)
    sam = load_sam_encoder(mine.recipe.encoder, base=cached.path)
    kept, first = load_file(run.path / "adapter.safetensors"), learned(fresh)
    assert {f"encoder.{name}" for name in kept} == {name for name in first if name.startswith("encoder.")}
    if result.best_step:
        assert any(not torch.equal(kept[name], first[f"encoder.{name}"]) for name in kept)
    after = {name.replace(".base.", "."): value for name, value in sam.encoder.state_dict().items()}
    touched = {n for n, value in base.encoder.state_dict().items() if not torch.equal(value, after[n])}
    if adapt.part == "encoder":
        allowed = ("attn.qkv.weight", "attn.proj.weight", "mlp.lin1.weight", "mlp.lin2.weight")
        assert all(name.endswith(allowed if adapt.linear else allowed[:1]) for name in touched)
    early = tuple(f"blocks.{number}." for number in range(adapt.cut or 0))
    assert not any(name.startswith(("patch_embed", *early)) for name in touched) or adapt.cut == 0
    decoders = (
        checkpoint_of(cached, None).load_decoder().state_dict(),
        checkpoint_of(mine, run).load_decoder().state_dict(),
    )
    moved = [name for name in decoders[0] if not torch.equal(decoders[0][name], decoders[1][name])]
    assert all(name.startswith("mask_decoder") for name in moved) and bool(moved) == (result.best_step > 0)


@pytest.mark.ci
def test_an_adapted_encoder_embeds_what_its_tail_did_in_training(adapted: tuple[Path, str]) -> None:
    path, name = adapted
    store, run = Store.open(path), load_run(path, name)
    source, mine = store.with_encoder(cut=3), variant_of(store, adapter=name)
    learner = new_learner(source, ENCODER, CPU, init=None).eval()
    assert learner.encoder is not None
    set_learned(learner.encoder, load_file(run.path / "adapter.safetensors"))
    read = ViewReader(source)
    for row in mine.committed().values():
        there = torch.from_numpy(mine.embedding_at(row).astype(np.float32))
        with torch.no_grad():
            found = learner.embed(read(row))
        assert ((found - there).norm() / there.norm()).item() < 2e-3


@pytest.mark.ci
def test_an_adapted_encoder_is_scored_beside_the_one_it_came_from(adapted: tuple[Path, str]) -> None:
    path, name = adapted
    store, run = Store.open(path), load_run(path, name)
    mine = variant_of(store, adapter=name)
    assert mine.key.startswith("nano-") and mine.key not in (store.key, run.encoder)
    assert len(mine.committed()) == 8 and mine.embedding("01/t002").shape == (256, 64, 64)
    assert verify(store, VerifyConfig(adapter=name, deep=True, sample=1)).whole
    first = store.embedding("01/t002").astype(np.float32)
    assert np.abs(mine.embedding("01/t002").astype(np.float32) - first).max() > 0.1
    scored = evaluate(store, name, replace(SCORED, window=8))
    assert scored.checkpoint == name
    zero = evaluate(store, None, replace(SCORED, window=8))
    rows = store.sql("SELECT encoder, count(*) FROM cell_metrics GROUP BY encoder").fetchall()
    assert dict(rows).keys() == {store.key, mine.key}
    pairs = store.sql(
        f"SELECT count(*) FROM cell_metrics a JOIN cell_metrics b USING (prompt, prompt_seed, cell) "
        f"WHERE a.run = '{zero.run}' AND b.run = '{scored.run}' AND a.encoder != b.encoder"
    )
    assert pairs.fetchall()[0][0] == zero.prompts["point-centre"].n


@pytest.mark.ci
def test_later_runs_stream_from_an_adapted_encoder(adapted: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(adapted[0], tmp_path / "store")
    store = Store.open(tmp_path / "store")
    mine = variant_of(store, adapter=adapted[1])
    text = recipe_text(mine.recipe)
    (tmp_path / "store/store.toml").write_text(text)
    opened = Store.open(tmp_path / "store")
    assert opened.key == mine.key and parse_recipe(text) == mine.recipe
    report = embed(opened)
    assert (report.done_now, report.left, report.adapter) == (0, 0, adapted[1])
    tuned = finetune(opened, QUICK.with_choices(steps=1))
    run = load_run(opened.path, tuned.run)
    assert run.encoder == mine.key
    lora = finetune(opened, DECODER.with_choices(steps=1))
    assert evaluate(opened, lora, SCORED).checkpoint == lora.run
    assert evaluate(opened, adapted[1], SCORED).checkpoint == adapted[1]
    with pytest.raises(RunError, match="was tuned on embeddings of"):
        evaluate(store, tuned, SCORED)
    with pytest.raises(RecipeError, match=r"take encoder.adapter out"):
        embed(opened, EmbedConfig(cut=3))


def test_an_adapted_encoder_is_not_tested_on_what_it_trained_on(adapted: tuple[Path, str]) -> None:
    mine = variant_of(Store.open(adapted[0]), adapter=adapted[1])
    split = replace(mine.recipe.split, train="5-5", val="7-7", test="0-3")
    with pytest.raises(RunError, match="trained on 4 of the 4 frames"):
        evaluate(Store(mine.path, replace(mine.recipe, split=split)), None, replace(SCORED, split="test"))


# as in test_cluster.py
@SLOW  # test_cluster.py has the short form
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_workers_give_the_bytes_of_one_process(adapted: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(adapted[0], tmp_path / "store")
    store, environment = Store.open(tmp_path / "store"), dict(os.environ)
    for which in ({"cut": 3}, {"adapter": adapted[1]}):
        mine = variant_of(store, **which)
        before = chunks(mine)
        assert len(before) == 8
        forget(mine, 2)
        report = embed(store, EmbedConfig(workers=1, **which))
        assert (report.key, report.done_before, report.done_now, report.left) == (mine.key, 6, 2, 0)
        assert chunks(mine) == before
    left = {name for name in os.environ if os.environ[name] != environment.get(name)}
    assert not {name for name in left if "THREADS" in name}  # of processes that are started later


def test_it_is_never_the_default_run_of_the_embeddings_it_does_not_read(adapted: tuple[Path, str]) -> None:
    store = Store.open(adapted[0])
    assert default_run(store.path, store.key) is None


def test_an_adapted_encoder_is_exported_merged(adapted: tuple[Path, str], tmp_path: Path) -> None:
    store = Store.open(adapted[0])
    out = export_checkpoint(store, adapted[1], tmp_path / "out.safetensors").path
    sam = load_sam_encoder(replace(store.recipe.encoder, checkpoint=str(out), sha256=""))
    mine = variant_of(store, adapter=adapted[1])
    view = next(ViewRecord.of(mine.views_table().slice(2, 1)))
    found = encode(sam.encoder, Frames(store).pixels(view)[None])[0].numpy()
    there = mine.embedding_at(view.row).astype(np.float32)
    assert np.linalg.norm(found - there) / np.linalg.norm(found) < 1e-3
    with torch.no_grad():
        stock = sam.encoder(torch.zeros(1, 3, 1024, 1024))
    assert stock.shape == (1, 256, 64, 64), "segment-anything's own forward runs it"


@pytest.mark.ci
def test_conv_lora_is_embedded_but_not_exported(cached: Store, tmp_path: Path) -> None:
    run = finetune(cached, ENCODER.with_choices(conv=True, steps=1)).run
    report = embed(cached, EmbedConfig(adapter=run, limit=1))
    assert (report.done_now, report.left) == (1, 7)
    with pytest.raises(CheckpointError, match=r"Conv-LoRA adapters.*cannot be merged"):
        export_checkpoint(cached, run, tmp_path / "out.safetensors")


def test_a_changed_adapter_is_refused(adapted: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(adapted[0], tmp_path / "store")
    mine = variant_of(Store.open(tmp_path / "store"), adapter=adapted[1])
    path = mine.path / "runs" / adapted[1] / "adapter.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunError, match=r"adapter.safetensors changed since it was published"):
        verify(mine, VerifyConfig(deep=True, sample=1))
    reseal(path.parent)
    assert sha256_file(path) != mine.recipe.encoder.adapter_sha256
    with pytest.raises(CheckpointError, match=r"is not the one encoder.adapter_sha256 names"):
        verify(mine, VerifyConfig(deep=True, sample=1))


# configurations


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"adapt": "encodr"}, "adapt is 'encodr', expected one of decoder, encoder, encoder-full"),
        ({"adapt": "encoder"}, "needs cut"),
        ({"adapt": "decoder", "rank": 0}, "rank is 0, expected 1 or more"),
        ({"adapt": "encoder-full", "cut": 2, "rank": 8}, "rank is that of low-rank adapters"),
        ({"rank": 8}, "rank is that of low-rank adapters"),
        ({"adapt": "decoder", "conv": True}, "conv says how the encoder is adapted"),
        ({"cut": 2}, "cut says from which layer"),
        ({"adapt": "encoder", "cut": 2, "init": "latest"}, "init begins with a tuned decoder"),
    ],
)
def test_impossible_configurations(wrong: dict[str, Any], what: str) -> None:
    with pytest.raises(RecipeError, match=what):
        FinetuneConfig.of(**wrong)


def test_a_rank_above_the_width(cached: Store) -> None:
    for config, most in ((DECODER, 128), (ENCODER, 192)):
        with pytest.raises(RecipeError, match=f"rank is 300, expected 1 to {most}|rank is 300, expected 1 to 256"):
            finetune(cached, config.with_choices(rank=300))
    assert not partial_runs(cached.path)


def test_a_recipe_names_an_adapter_wholly_and_no_cut(store: Store) -> None:
    text = recipe_text(store.recipe)
    with pytest.raises(RecipeError, match="belong together"):
        parse_recipe(text.replace('adapter = ""', 'adapter = "20261123-144501-finetune-box-3f9a"'))
    with pytest.raises(RecipeError, match="take it out and run `hela-store embed --cut 2`"):
        parse_recipe(text.replace("[encoder]\n", "[encoder]\ncut = 2\n"))
    with pytest.raises(RunError, match="adapted no encoder"):
        embed(store, EmbedConfig(adapter=finetune(store, DECODER.with_choices(steps=1)).run))


# killed


CODE = """
import json, sys, torch
torch.set_num_threads(1)
from hela_store.training.finetune import FinetuneConfig, finetune
from hela_store.store.store import Store
print(finetune(Store.open(sys.argv[1]), FinetuneConfig.of(**json.loads(sys.argv[2]))).run)
"""
KILLED = {"steps": 5, "evaluate_every": 1, "cells": 2, "validation_cells": 2, "lr": 3e-3, "window": 8, "refine": 0.5}


@SLOW  # the trainer is the same for all; test_finetune.py has the short form
@pytest.mark.parametrize("how", [{"adapt": "encoder", "cut": 3, "conv": True, "rank": 2}, {"adapt": "decoder"}])
def test_a_killed_run_goes_on_and_ends_in_the_same_adapters(cached: Store, tmp_path: Path, how: dict[str, Any]) -> None:
    shutil.copytree(cached.path, tmp_path / "other")
    config = json.dumps(KILLED | how)

    def start(path: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CODE, str(path), config]
        return forked.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])

    straight, _ = start(cached.path).communicate(timeout=500)
    with start(tmp_path / "other") as victim:
        deadline = time.monotonic() + 300
        while victim.poll() is None and time.monotonic() < deadline:
            names = partial_runs(tmp_path / "other")
            log = tmp_path / "other" / "runs" / f".{names[0]}.partial" / "log.jsonl" if names else None
            if log is not None and log.exists() and log.read_text().count("\n") >= 3:
                os.kill(victim.pid, signal.SIGKILL)
                break
            time.sleep(0.01)
    assert victim.returncode == -signal.SIGKILL, "it finished before it could be killed"
    resumed, _ = start(tmp_path / "other").communicate(timeout=500)
    runs = [load_run(path, run.strip()) for path, run in ((cached.path, straight), (tmp_path / "other", resumed))]
    first, second = (load_file(run.path / "adapter.safetensors") for run in runs)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    logs = [[{k: v for k, v in row.items() if k not in ("result", "seconds")} for row in run.log()] for run in runs]
    assert logs[0] == logs[1] and logs[0][-2]["step"] == 5


def test_a_key_names_the_cut_and_old_keys_stay(store: Store) -> None:
    keys = {store.with_encoder(cut=cut).key for cut in range(4)} | {store.key}
    assert len(keys) == 5 and not any("cut" in key for key in keys & {store.key})
    other = store.with_encoder(adapter="run", adapter_sha256="0" * 64)
    assert other.key not in keys and other.with_encoder(adapter="renamed").key == other.key
