"""Say what each codec costs and saves, on a store's own embeddings, and what it does to the cells that are decoded."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hela_store.base.progress import Progress, silent
from hela_store.embedding.reader import embed_command
from hela_store.embedding.record import decoder_file
from hela_store.errors import StoreError
from hela_store.evaluation.frames import frame_cells, labelled_frames, median_training_radius
from hela_store.evaluation.questions import Question, truth_questions
from hela_store.metrics.overlap import overlap
from hela_store.sam.decoder import SamDecoder, load_decoder
from hela_store.sam.predict import predict_view
from hela_store.store.arrays import Arrays
from hela_store.store.store import Store

CODECS = ("raw", "lz4", "zstd", "bitround:7", "bitround:5", "bitround:4", "bitround:3", "bitround:2", "int8")
KEY = "bench"


@dataclass(frozen=True, kw_only=True)
class CodecRow:
    """One codec.

    Attributes
    ----------
    codec : str
    bytes_per_view : float
    write_mb_s, read_mb_s : float
        MB/s of decoded bytes; writing is durable.
    error : float
        Relative to what the store holds, L2 norms, the worst view.
    iou_change, iou_change_worst : float
        Paired, per cell: mean, and the most negative.
    """

    codec: str
    bytes_per_view: float
    write_mb_s: float
    read_mb_s: float
    error: float
    iou_change: float
    iou_change_worst: float


@dataclass(frozen=True, kw_only=True)
class CodecBench:
    """Costs of each codec; ``stored`` is the codec of the store itself, whose losses are not counted again."""

    stored: str
    split: str
    prompt: str
    views: int
    cells: int
    rows: tuple[CodecRow, ...]


def bench_codec(
    store: Store, *, views: int = 16, prompt: str = "box", split: str = "val", progress: Progress = silent
) -> CodecBench:
    """Write, read and decode embeddings of a block's labelled views under every codec.

    Raises
    ------
    StoreError
        No embedded view of that block has a labelled cell.
    """
    questions = _questions(store, prompt, split, views)
    if not questions:
        raise StoreError(
            f"no embedded view of split {split!r} of {store.path} has a labelled cell; run `{embed_command(store)}`"
        )
    data = {row: store.arrays.embedding(store.key, row) for row in questions}
    decoder = load_decoder(decoder_file(store))
    before = _scores(decoder, data, questions)
    rows = []
    for codec in progress(CODECS, total=len(CODECS), what="bench codec"):
        now, row = _store_and_read(codec, data)
        change = np.array(_scores(decoder, now, questions)) - before if row["error"] else np.zeros(len(before))
        rows.append(CodecRow(**row, iou_change=float(change.mean()), iou_change_worst=float(change.min())))
    return CodecBench(
        stored=store.recipe.arrays.codec,
        split=split,
        prompt=prompt,
        views=len(data),
        cells=len(before),
        rows=tuple(rows),
    )


Embeddings = dict[int, npt.NDArray[np.floating]]


def _questions(store: Store, prompt: str, split: str, views: int) -> dict[int, list[Question]]:
    found: dict[int, list[Question]] = {}
    for frame in frame_cells(store, labelled_frames(store, split)):
        for question in truth_questions(frame, [prompt], [0], median_training_radius(store)):
            if question.tile.row in found or len(found) < views:
                found.setdefault(question.tile.row, []).append(question)
        if len(found) >= views:
            break
    return found


def _scores(decoder: SamDecoder, data: Embeddings, questions: dict[int, list[Question]]) -> npt.NDArray[np.float64]:
    scores = []
    for row, asked in questions.items():
        embedding = torch.from_numpy(data[row].astype(np.float32))
        found = predict_view(decoder, embedding, asked[0].tile.rect, [q.prompt for q in asked], window=16)
        for question, prediction in zip(asked, found, strict=True):
            context = question.context
            scores.append(overlap(prediction.mask, context.mask, prediction.origin, context.origin).iou)
    return np.array(scores)


def _store_and_read(codec: str, data: Embeddings) -> tuple[Embeddings, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        arrays = Arrays(Path(folder) / "arrays.zarr")
        first = next(iter(data.values()))
        arrays.create_embeddings(KEY, len(data), first.dtype.name, codec)
        start = time.perf_counter()
        for place, values in enumerate(data.values()):
            arrays.write_embedding(KEY, place, values)
        written = time.perf_counter() - start
        size = sum(arrays.chunk_path(KEY, place).stat().st_size for place in range(len(data)))
        arrays.embedding(KEY, 0)
        start = time.perf_counter()
        back = {row: arrays.embedding(KEY, place) for place, row in enumerate(data)}
        read = time.perf_counter() - start
    megabytes = first.nbytes * len(data) / 1e6
    errors = [_error(back[row].astype(np.float64), data[row].astype(np.float64)) for row in data]
    return back, {
        "codec": codec,
        "bytes_per_view": size / len(data),
        "write_mb_s": megabytes / written,
        "read_mb_s": megabytes / read,
        "error": max(errors),
    }


def _error(found: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
