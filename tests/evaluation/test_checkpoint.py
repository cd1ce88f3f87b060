"""The name of a run becomes a decoder and the embeddings that it reads, once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hela_store.errors import RunError
from hela_store.evaluation.checkpoint import resolve_checkpoint
from hela_store.runs.folder import latest
from hela_store.sam.predict import DEFAULT_WINDOW
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune

# with these the first step is better than none, so that something is kept
QUICK = FinetuneConfig.of(
    prompt="point", steps=1, evaluate_every=1, cells=4, validation_cells=3, workers=0, lr=3e-4, window=8, warmup=0
)


def test_without_a_run_it_is_the_decoder_that_came_with_the_encoder(store: Store) -> None:
    found = resolve_checkpoint(store, None)
    assert (found.run, found.base, found.id, found.name) == (None, None, None, "zero-shot")
    assert found.key == store.key and found.window == DEFAULT_WINDOW[store.recipe.encoder.architecture]
    assert found.file == store.encoder_folder() / "decoder.safetensors"


def test_a_run_brings_its_window_and_adapters_are_merged_with_their_base(store: Store) -> None:
    whole = finetune(store, QUICK).run
    adapters = finetune(store, QUICK.with_choices(adapt="decoder", init=whole)).run
    base, tuned = resolve_checkpoint(store, whole), resolve_checkpoint(store, adapters)
    assert (base.id, base.base, base.window) == (whole, None, 8)
    assert tuned.base is not None and tuned.base.id == whole and tuned.name == adapters
    stock, before, after = (one.load_decoder().state_dict() for one in (resolve_checkpoint(store, None), base, tuned))
    assert stock.keys() == before.keys() == after.keys()
    assert any(not torch.equal(stock[name], before[name]) for name in stock)
    # everything but the adapted projections is the base's, not the stock decoder's
    kept = [name for name in before if not name.endswith("_proj.weight")]
    assert kept and all(torch.equal(before[name], after[name]) for name in kept)


def test_what_is_no_checkpoint_of_this_store_is_refused(scored: Path, detected: Path) -> None:
    store = Store.open(scored)
    run = latest(scored, "finetune").id
    with pytest.raises(RunError, match="nosuch"):
        resolve_checkpoint(store, "nosuch")
    with pytest.raises(RunError, match=r"was tuned on embeddings of .*, this recipe asks for"):
        resolve_checkpoint(store.with_encoder(precision="bfloat16"), run)
    detector = latest(detected, "detector").id
    with pytest.raises(RunError, match="finetune"):
        resolve_checkpoint(Store.open(detected), detector)
