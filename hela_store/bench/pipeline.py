"""Say how many views a second everything around the encoder can do: an encoder that answers at once is in its place.

A fast GPU waits for whatever is slower than itself: reading frames, making augmented views, compressing and writing
embeddings. Each is timed alone, and then all of them together, as ``embed`` runs them.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hela_store.base.progress import Progress, silent
from hela_store.base.rng import generator
from hela_store.embedding.batches import Frames, Work, unique_views, work_of
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.embedding.pipeline import Pipeline, write_view
from hela_store.recipe.recipe import EncoderRecipe
from hela_store.sam.checkpoints import load_sam_encoder
from hela_store.sam.devices import pick_device
from hela_store.sam.encoder import Fetch
from hela_store.store.arrays import EMBEDDING_SHAPE
from hela_store.store.store import Store
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig, SyntheticConfig

FRAME = (700, 1100)
"""Rows and columns of the drawn frames, px, as of Fluo-N2DL-HeLa."""
FRAMES = 4
TILE = 512
BATCH = 4
"""Views that a GPU encodes together by default."""
SOME = 3
"""Batches that a CPU encodes to see how busy its encoder is."""


@dataclass(frozen=True, kw_only=True)
class PipelineRow:
    """Views a second.

    Attributes
    ----------
    what : ``"plain"``, views as acquired, or ``"augmented"``, variants
    views : how many were embedded
    read : frames read, normalised and cut, or augmented
    write : embeddings compressed, written durably and read back, one after another
    together : the whole of ``embed``, with an encoder that answers at once
    busy : share of the time in which nano's encoder computes while ``embed`` runs, else it waits for reader or writer
    """

    what: str
    views: int
    read: float
    write: float
    together: float
    busy: float


@dataclass(frozen=True, kw_only=True)
class PipelineBench:
    """The measured rates, the device of the encoder, and how many threads of torch and readers there were."""

    device: str
    threads: int
    readers: int
    tile: int
    batch: int
    codec: str
    rows: tuple[PipelineRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


class _Immediate(Pipeline):
    """As ``embed`` runs it with a GPU, but every view has its embedding at once."""

    @property
    def _fast(self) -> bool:
        return True

    def _encode(self, pixels: npt.NDArray[np.float32]) -> Fetch:
        made = torch.from_numpy(an_embedding()).expand(len(pixels), *EMBEDDING_SHAPE)
        return lambda: made


class _Timed(Pipeline):
    """As ``embed`` runs it; notes for how long the encoder computes."""

    seconds = 0.0

    def _encode(self, pixels: npt.NDArray[np.float32]) -> Fetch:
        device = next(self._encoder.parameters()).device
        if device.type != "cuda":
            start = time.perf_counter()
            fetch = super()._encode(pixels)
            self.seconds += time.perf_counter() - start
            return fetch
        # a batch is fetched after the next one was read: only the GPU itself knows when it computed
        stream = torch.cuda.current_stream(device)
        begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record(stream)
        fetch = super()._encode(pixels)
        done.record(stream)

        def timed() -> torch.Tensor:
            found = fetch()
            done.synchronize()
            self.seconds += begun.elapsed_time(done) / 1000
            return found

        return timed


@functools.cache
def an_embedding() -> npt.NDArray[np.float16]:
    """Return numbers that are distributed as those of an embedding, and so compress like one."""
    return generator("bench pipeline").standard_normal(EMBEDDING_SHAPE).astype(np.float16)


def bench_pipeline(
    *,
    variants: int = 4,
    codec: str = "zstd",
    batch: int = BATCH,
    device: str = "auto",
    readers: int = 0,
    progress: Progress = silent,
) -> PipelineBench:
    """Time what surrounds the encoder on drawn frames in a temporary store.

    Parameters
    ----------
    variants : augmented views of each view as acquired
    codec : of the embeddings
    batch : views that are encoded together
    device : on which the encoder's share of the time is taken
    readers : processes that read and augment while the whole is timed; 0 is a thread
    """
    chosen = pick_device(device)
    ways: list[tuple[str, Callable[[int], bool]]] = [
        ("plain", lambda variant: variant == 0),
        ("augmented", lambda variant: variant > 0),
    ]
    with tempfile.TemporaryDirectory() as folder:
        drawn = SyntheticConfig(frames=FRAMES, shape=FRAME, cells=64)
        store = new(
            Path(folder) / "store",
            NewConfig.of(dataset="synthetic", tile=str(TILE), codec=codec, variants=variants, synthetic=drawn),
        ).store
        embed(store, EmbedConfig(limit=1, batch=batch))  # ingest, plan, and room in the arrays
        rows = [
            _row(store, what, wanted, batch, chosen, readers)
            for what, wanted in progress(ways, total=len(ways), what="bench pipeline")
        ]
    return PipelineBench(
        device=str(chosen),
        threads=torch.get_num_threads(),
        readers=readers,
        tile=TILE,
        batch=batch,
        codec=codec,
        rows=tuple(rows),
    )


def _row(
    store: Store, what: str, wanted: Callable[[int], bool], batch: int, device: torch.device, readers: int
) -> PipelineRow:
    planned = unique_views(store.views_table())
    chosen = np.array([wanted(variant) for variant in planned["variant"].to_pylist()])
    work = work_of(planned.filter(chosen), np.zeros(int(chosen.sum()), bool), batch, None)
    count = int(chosen.sum())
    read = count / _seconds(lambda: _read(store, work))
    made = an_embedding()
    write = count / _seconds(lambda: [write_view(store, view, made) for _, todo in work for view in todo])
    sam = load_sam_encoder(EncoderRecipe(), device)
    together = count / _seconds(lambda: list(_Immediate(store, sam, readers=readers).run(work)))
    timed = _Timed(store, sam, readers=readers)
    some = work[:SOME] if device.type == "cpu" else work
    whole = _seconds(lambda: list(timed.run(some)))
    return PipelineRow(what=what, views=count, read=read, write=write, together=together, busy=timed.seconds / whole)


def _read(store: Store, work: Work) -> None:
    frames = Frames(store)
    for group, _ in work:
        frames.stack(group)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
