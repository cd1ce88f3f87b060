"""Say what reading, compressing and writing add to encoding: the whole of ``embed`` against the encoder alone."""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hela_store.base.progress import Progress, silent
from hela_store.embedding.batches import Frames, unique_views, work_of
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.embedding.pipeline import Pipeline
from hela_store.recipe.recipe import EncoderRecipe
from hela_store.sam.checkpoints import load_sam_encoder
from hela_store.sam.devices import pick_device
from hela_store.sam.encoder import encode
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig, SyntheticConfig


@dataclass(frozen=True, kw_only=True)
class EmbedBench:
    """Times of embedding; ``ratio`` is ``embed_seconds / encode_seconds``, both a view and over all rounds."""

    device: str
    views: int
    rounds: int
    codec: str
    encode_seconds: float
    embed_seconds: float
    ratio: float


def bench_embed(
    *, views: int = 16, rounds: int = 3, codec: str = "zstd", device: str = "auto", progress: Progress = silent
) -> EmbedBench:
    """Time encoding alone and the whole pipeline in turns, with nano on drawn 512-px frames in a temporary store."""
    where = pick_device(device)
    sam = load_sam_encoder(EncoderRecipe(), where)
    drawn = SyntheticConfig(frames=views, shape=(512, 512), cells=8)
    totals = {"encode": 0.0, "embed": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        store = new(
            Path(folder) / "store", NewConfig.of(dataset="synthetic", tile="none", codec=codec, synthetic=drawn)
        ).store
        embed(store, EmbedConfig(device=device, limit=1))  # ingest, plan, and a warm encoder
        planned = unique_views(store.views_table())
        work = work_of(planned, np.zeros(len(planned), bool), 1, None)
        for way in progress(["encode", "embed"] * rounds, total=2 * rounds, what="bench embed"):
            frames = Frames(store)
            pixels = [frames.pixels(group[0])[None] for group, _ in work] if way == "encode" else []
            start = time.perf_counter()
            for one in pixels:
                encode(sam.encoder, one)
            if way == "embed":
                with contextlib.closing(Pipeline(store, sam).run(work)) as commits:
                    list(commits)
            totals[way] += time.perf_counter() - start
    each = rounds * len(work)
    return EmbedBench(
        device=where.type,
        views=len(work),
        rounds=rounds,
        codec=codec,
        encode_seconds=totals["encode"] / each,
        embed_seconds=totals["embed"] / each,
        ratio=totals["embed"] / totals["encode"],
    )
