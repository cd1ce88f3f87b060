"""Make a vector of every labelled cell in one pass over the stored embeddings, and keep them as a run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hela_store.base.files import sha256_file
from hela_store.base.parquet import parse_parquet
from hela_store.base.progress import Progress, silent
from hela_store.errors import RunError, StoreError
from hela_store.evaluation.checkpoint import ZERO_SHOT, Checkpoint, resolve_checkpoint
from hela_store.evaluation.frames import FrameCells, Tile, frame_cells, labelled_frames
from hela_store.runs.finished import claim_run, readable_runs
from hela_store.runs.folder import new_run
from hela_store.runs.info import WAY_OUT, RunInfo
from hela_store.sam.decoder import SamDecoder
from hela_store.store.records import CellRecord
from hela_store.store.store import Store
from hela_store.store.stored_tables import READERS

from .pool import Vectors, by_tile, pooled
from .tokens import mask_tokens

KIND = "vectors"
"""The kind of the runs that hold vectors."""
TABLE = "cell_vectors"
METHOD = "mean-in-mask-1"
"""How an embedding is pooled; another way gets another name."""
CHANNELS = 256
_VECTOR = pa.list_(pa.float32(), CHANNELS)
SCHEMA = pa.schema(
    [
        ("cell", pa.string()),
        ("frame", pa.string()),
        ("view", pa.string()),
        ("embedding_sha256", pa.string()),
        ("label_xxh3", pa.string()),
        ("vector", _VECTOR),
        ("token", _VECTOR),
    ]
)
"""Columns of ``cell_vectors.parquet``; the two sums are those of what was read."""


@dataclass(frozen=True, kw_only=True)
class CellVectors:
    """Labelled cells as vectors.

    Attributes
    ----------
    cells : list of str
        Ids of the cells, in the order of the frames.
    vectors : ndarray of float32, shape (n, 256)
        Mean of the embedding over the pixels of each cell.
    tokens : ndarray of float32, shape (n, 256), or None
        Mask token of the decoder for the bounding box of each cell; None where no run was given.
    encoder : str
        Encoder key of the embeddings.
    checkpoint : str or None
        Run whose decoder made the tokens, or ``"zero-shot"``.
    runs : tuple of str
        Runs of kind ``vectors`` that hold the rows.
    """

    cells: list[str]
    vectors: Vectors
    tokens: Vectors | None
    encoder: str
    checkpoint: str | None
    runs: tuple[str, ...]


def cell_vectors(
    store: Store, run: str | None = None, split: str | None = None, *, progress: Progress = silent
) -> CellVectors:
    """Return the embedding of every labelled cell, pooled in its mask.

    A cell is read from the tile, as acquired, in which its bounding box is most interior. Vectors are made once, kept
    as a run of kind ``vectors``, and read from there afterwards. A cell whose embedding or labels are not those that
    were read is made again.

    Parameters
    ----------
    store : Store
        With the views of all labelled frames embedded.
    run : str, optional
        A fine-tuning run, or ``"zero-shot"``: the decoder whose mask tokens are wanted as well. The vectors are of the
        embeddings that this decoder reads.
    split : str, optional
        ``"train"``, ``"val"`` or ``"test"``; all labelled frames by default.
    progress : callable
        Shown frame by frame.

    Returns
    -------
    CellVectors
        With a vector for each cell, and its token where a run was given.

    Raises
    ------
    SplitError
        The split does not exist, or holds no labelled cell.
    StoreError
        A view is not embedded yet, an array is damaged, or the store keeps tokens after a cut instead of embeddings.
    RunError
        The run is unknown, of another kind or of another encoder, or the kept vectors are damaged.
    CheckpointError
        The weights of the decoder are missing or damaged.
    """
    checkpoint = resolve_checkpoint(store, None if run == ZERO_SHOT else run)
    store = checkpoint.store
    if store.recipe.encoder.cut is not None:
        raise StoreError(
            f"{store.key} is cut after {store.recipe.encoder.cut} layers, and has no embeddings to pool; open the "
            "store without a cut"
        )
    frames = labelled_frames(store, split or "all")
    about = _about(checkpoint, with_tokens=run is not None)
    kept = _kept(store, about)
    if lacking := _lacking(store, frames, kept):
        with claim_run(store.path, KIND, about, progress=progress):
            kept = _kept(store, about)  # another process may have made them meanwhile
            if lacking := _lacking(store, frames, kept):
                decoder = checkpoint.load_decoder() if run is not None else None
                made = _made(store, lacking, decoder, checkpoint.window, progress)
                kept[_published(store, about, made)] = made
    return _result(store, frames, kept, about)


def _about(checkpoint: Checkpoint, *, with_tokens: bool) -> dict[str, Any]:
    """Return the configuration of a run of vectors: all that decides them, beside what the rows themselves name."""
    about: dict[str, Any] = {"encoder": checkpoint.key, "method": METHOD, "tokens_of": None, "split": None}
    if not with_tokens:
        return about
    decoder: list[str] = []
    base: Checkpoint | None = checkpoint
    while base is not None:
        decoder.append(sha256_file(base.file))
        base = base.base
    about |= {"checkpoint": checkpoint.id, "tokens_of": checkpoint.name}
    return about | {"decoder_sha256": decoder, "window": checkpoint.window, "prompt": "box-exact"}


def _kept(store: Store, about: Mapping[str, Any]) -> dict[str, pa.Table]:
    """Return the rows of published runs that still hold, by run; each cell once, from the run that began last."""
    runs = sorted((run for run in readable_runs(store.path, KIND) if run.config == about), key=lambda run: run.id)
    if not runs:
        return {}
    found: dict[str, pa.Table] = {}
    sources, seen = _sources(store), set[str]()
    for info in reversed(runs):
        rows = _rows(info)
        columns = (rows[name].to_pylist() for name in ("cell", "view", "embedding_sha256", "label_xxh3"))
        right = [cell not in seen and sources.get(view) == read for cell, view, *read in zip(*columns, strict=True)]
        found[info.id] = rows.filter(pa.array(right, pa.bool_()))
        seen.update(found[info.id]["cell"].to_pylist())
    return found


def _sources(store: Store) -> dict[str, list[str | None]]:
    """Return the sums of embedding and labels of every committed view as acquired, by view."""
    views, frames = store.views_table(), store.frame_records()
    views = views.filter(pc.equal(views["variant"], 0))
    sums = dict(zip(*(store.ledger().table()[name].to_pylist() for name in ("view", "sha256")), strict=True))
    columns = (views[name].to_pylist() for name in ("view", "frame"))
    changed = {frame: state.last.sum for frame, state in store.label_states().items()}
    return {
        view: [sums[view], changed.get(frame, frames[frame].label_xxh3)]
        for view, frame in zip(*columns, strict=True)
        if view in sums
    }


def _rows(info: RunInfo) -> pa.Table:
    path = info.path / f"{TABLE}.parquet"
    data = info.read(path.name)
    if data is None:
        raise RunError(f"run {info.id} is damaged: {path} is not there; {WAY_OUT}")
    try:
        return parse_parquet(path, data, SCHEMA.names, way_out=WAY_OUT).cast(SCHEMA)
    except (StoreError, pa.ArrowException, ValueError) as error:
        raise RunError(f"run {info.id} is damaged: {error}") from None


def _lacking(store: Store, frames: Sequence[str], kept: Mapping[str, pa.Table]) -> dict[str, set[str]]:
    """Return the cells of these frames that have no vector yet, by frame."""
    have = {cell for rows in kept.values() for cell in rows["cell"].to_pylist()}
    wanted, found = set(frames), dict[str, set[str]]()
    for cell, frame in zip(*(store.cells_table()[name].to_pylist() for name in ("cell", "frame")), strict=True):
        if frame in wanted and cell not in have:
            found.setdefault(frame, set()).add(cell)
    return found


def _made(
    store: Store, lacking: Mapping[str, set[str]], decoder: SamDecoder | None, window: int, progress: Progress
) -> pa.Table:
    """Read every embedding that is needed once, and return the rows of the cells that lack a vector."""
    frames = [frame for frame in store.frame_records() if frame in lacking]
    sources = _sources(store)

    def rows_of(frame: FrameCells) -> pa.Table:
        homes = by_tile(frame, [cell for cell in frame.cells if cell.cell in lacking[frame.frame]])
        vectors, tokens = [], []
        for tile, cells in homes.items():
            embedding = store.embedding_at(tile.row)
            vectors.append(pooled(embedding, tile.rect, frame.label, cells))
            if decoder is not None:
                tokens.append(mask_tokens(decoder, embedding, tile.rect, cells, window))
        return _table(homes, sources, np.concatenate(vectors), np.concatenate(tokens) if tokens else None)

    shown = progress(frame_cells(store, frames), total=len(frames), what="cell vectors, frames")
    return pa.concat_tables(_ahead(shown, rows_of))


def _ahead(frames: Iterable[FrameCells], rows_of: Callable[[FrameCells], pa.Table]) -> Iterator[pa.Table]:
    """Yield the rows of frames in order, while the next ones are being read."""
    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[Future[pa.Table]] = deque()
        for frame in frames:
            waiting.append(pool.submit(rows_of, frame))
            if len(waiting) > READERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _table(
    homes: Mapping[Tile, Sequence[CellRecord]],
    sources: Mapping[str, Sequence[str | None]],
    vectors: Vectors,
    tokens: Vectors | None,
) -> pa.Table:
    """Return the rows of the cells of a frame, in the order of the tiles that they are read from."""
    cells = [(cell.cell, cell.frame, tile.view) for tile, inside in homes.items() for cell in inside]
    sums = [sources[view] for _, _, view in cells]
    columns = {
        "cell": [cell for cell, _, _ in cells],
        "frame": [frame for _, frame, _ in cells],
        "view": [view for _, _, view in cells],
        "embedding_sha256": [sha256 for sha256, _ in sums],
        "label_xxh3": [xxh3 for _, xxh3 in sums],
        "vector": _column(vectors),
        "token": pa.nulls(len(cells), _VECTOR) if tokens is None else _column(tokens),
    }
    return pa.table(columns, SCHEMA)


def _column(vectors: Vectors) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1), pa.float32()), CHANNELS)


def _published(store: Store, about: Mapping[str, Any], rows: pa.Table) -> str:
    folder = new_run(store.path, KIND, about, label=str(about["tokens_of"] or ""))
    with folder.tidied():
        folder.write_table(TABLE, rows)
        folder.publish()
    return folder.id


def _result(store: Store, frames: Sequence[str], kept: Mapping[str, pa.Table], about: Mapping[str, Any]) -> CellVectors:
    table, runs = pa.concat_tables(kept.values()), [run for run, rows in kept.items() for _ in range(rows.num_rows)]
    place = {cell: number for number, cell in enumerate(table["cell"].to_pylist())}
    columns = (store.cells_table()[name].to_pylist() for name in ("cell", "frame"))
    of_frame: dict[str, list[str]] = {frame: [] for frame in frames}
    for cell, frame in zip(*columns, strict=True):
        if frame in of_frame:
            of_frame[frame].append(cell)
    cells = [cell for inside in of_frame.values() for cell in inside]
    index = np.array([place[cell] for cell in cells])
    return CellVectors(
        cells=cells,
        vectors=_matrix(table["vector"], index),
        tokens=None if about["tokens_of"] is None else _matrix(table["token"], index),
        encoder=about["encoder"],
        checkpoint=about["tokens_of"],
        runs=tuple(sorted({runs[number] for number in index})),
    )


def _matrix(column: pa.ChunkedArray, index: npt.NDArray[np.int64]) -> Vectors:
    found: Vectors = column.combine_chunks().flatten().to_numpy().reshape(-1, CHANNELS)[index]
    return found
