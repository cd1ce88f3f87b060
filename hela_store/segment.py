"""``segment``: frames never seen, without labels, to label images: tiles, encoder, detector, decoder.

One frame is in memory at a time. A frame is done when its label image is there, which is written last; the same command
again goes on with the next one.
"""

from __future__ import annotations

import io
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import tifffile
import torch

from . import normalise
from .datasets.folder import find_images
from .datasets.pixels import Plane, probe, read_image
from .detect.assemble import FoundCell, decode_detections, resolve
from .detect.calibrate import Calibration
from .detect.head import GridHead
from .detect.propose import detect_frame
from .detect.run import load_detector
from .detect.score import DetectedConfig, find_calibration, resolved
from .errors import DatasetError, RunError, StoreError
from .files import explain_os_errors, write_atomic, write_parquet
from .geometry import Rect, tile_rectangles
from .ingest import frame_digest
from .masks import bbox
from .progress import Progress, silent
from .runs import load_run
from .sam.checkpoints import LoadedSam, load_sam_encoder
from .sam.decoder import SamDecoder
from .sam.encoder import encode, pick_device
from .store import Store
from .tuned import decoder_of

SETTINGS = "segment.json"
PARTS = ".cells"
CELLS_SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("sequence", "frame", "file", "sha256")],
        ("label", pa.int64()),
        ("area", pa.int64()),
        *[(name, pa.int64()) for name in ("x0", "y0", "x1", "y1")],
        *[(name, pa.float64()) for name in ("cx", "cy", "mean_intensity", "score", "predicted_iou", "probability")],
        ("flagged", pa.bool_()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """How frames are segmented.

    Attributes
    ----------
    out : folder for the results
    prompts : which detector, decoder, form of prompt, threshold, window and device; its split says nothing here
    axis : letter of the axis of a stack whose positions are frames
    channel : which channel, where there are several
    overlay : whether a PNG with the outlines is written beside each label image
    cache_dir : where official checkpoints are fetched to
    """

    out: Path
    prompts: DetectedConfig = DetectedConfig()
    axis: str = "t"
    channel: int | None = None
    overlay: bool = True
    cache_dir: Path | None = None


@dataclass(frozen=True, kw_only=True)
class SegmentReport:
    """What was segmented.

    Attributes
    ----------
    out : folder with ``<sequence>_RES/mask000.tif``, ``cells.parquet`` and ``cells.csv``
    frames, done_before : how many there are; how many of them were done already
    cells, flagged : in all frames; flagged for review, None without a calibration
    empty : frames in which nothing was found
    """

    out: Path
    frames: int
    done_before: int
    cells: int
    flagged: int | None
    empty: int

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store segment --json`` prints."""
        return asdict(self) | {"out": str(self.out)}


@dataclass(frozen=True, kw_only=True)
class _Item:
    sequence: str
    name: str
    file: str
    plane: Plane

    @property
    def target(self) -> str:
        return f"{self.sequence}_RES/{self.file}"


@dataclass(frozen=True, kw_only=True)
class _Tools:
    """All that is loaded once."""

    store: Store
    config: SegmentConfig
    prompts: DetectedConfig
    sam: LoadedSam
    head: GridHead
    decoder: SamDecoder
    calibration: Calibration | None


def segment(
    store: Store, frames: Sequence[Path], config: SegmentConfig, *, progress: Progress = silent
) -> SegmentReport:
    """Segment frames that no store has seen, with a store's encoder, detector and decoder.

    Parameters
    ----------
    store : whose recipe says how frames are normalised, tiled and encoded
    frames : images, stacks, or folders of them; each folder or stack is a sequence
    config : SegmentConfig

    Raises
    ------
    DatasetError
        Not an image, several channels and none chosen, 3-D data, two frames of one name.
    RunError
        No detector, or one of another encoder.
    RecipeError
        The store's embeddings are another tool's.
    StoreError
        ``out`` holds results of other settings; no space, no permission.
    """
    store.recipe.encoder.check_encodes()
    items = list(_items(frames, config))
    prompts, detector = resolved(store, config.prompts)
    if detector.kind != "detector":
        raise RunError(f"run {detector.id} holds detections of stored frames; new frames take a detector")
    _claim(store, config, prompts)
    todo = [item for item in items if not _is_done(config.out, item)]
    if todo:
        tools = _load(store, config, prompts, progress)
        for item in progress(todo, total=len(todo), what="segment"):
            _segment_one(tools, item)
    table = _collect(config.out, items)
    flagged = table["flagged"]
    return SegmentReport(
        out=config.out,
        frames=len(items),
        done_before=len(items) - len(todo),
        cells=table.num_rows,
        flagged=None if flagged.null_count == table.num_rows else sum(filter(None, flagged.to_pylist())),
        empty=len(items) - len(set(table["file"].to_pylist())),
    )


def _items(frames: Sequence[Path], config: SegmentConfig) -> Iterator[_Item]:
    found: dict[str, list[tuple[str, Plane]]] = {}
    for path in frames:
        if not path.exists():
            raise DatasetError(f"{path}: no such file or folder")
        for file in find_images(path).values():
            planes = probe(file, config.axis, config.channel)
            if len(planes) == 1:
                place = (path if path.is_dir() else path.absolute().parent).name
                found.setdefault(place, []).append((file.stem, planes[0]))
            else:
                named = [(f"t{number:03d}", plane) for number, plane in enumerate(planes)]
                found.setdefault(file.stem, []).extend(named)
    if not found:
        raise DatasetError("no frames found; expected TIFF or PNG files, stacks, or folders of them")
    for sequence, members in found.items():
        if len({name for name, _ in members}) < len(members):
            raise DatasetError(f"two frames of sequence {sequence} have the same name; segment them into two folders")
        numbers = [re.fullmatch(r".*?(\d+)", name) for name, _ in members]
        own = [match[1] for match in numbers if match]
        counted = len({int(text) for text in own}) == len(members)
        for i, (name, plane) in enumerate(members):
            number = own[i] if counted else f"{i:03d}"
            yield _Item(sequence=sequence, name=name, file=f"mask{number.zfill(3)}.tif", plane=plane)


def _claim(store: Store, config: SegmentConfig, prompts: DetectedConfig) -> None:
    """Say which settings made the results, or refuse to mix them with others."""
    about = {"encoder": store.key, "tile": store.recipe.views.tile, "overlap": store.recipe.views.overlap}
    about |= {name: value for name, value in asdict(prompts).items() if name not in ("split", "device", "recover")}
    path = config.out / SETTINGS
    if path.exists():
        before = json.loads(path.read_text())
        changed = sorted(name for name in about if before.get(name) != about[name])
        if changed:
            raise StoreError(f"{config.out} holds results of another {', '.join(changed)}; choose another --out")
        return
    write_atomic(path, (json.dumps(about, indent=2) + "\n").encode())


def _is_done(out: Path, item: _Item) -> bool:
    return (out / item.target).is_file() and _part(out, item).is_file()


def _part(out: Path, item: _Item) -> Path:
    return out / PARTS / item.sequence / f"{item.file}.parquet"


def _load(store: Store, config: SegmentConfig, prompts: DetectedConfig, progress: Progress) -> _Tools:
    device = pick_device(prompts.device)
    sam = load_sam_encoder(store.recipe.encoder, device, base=store.path, cache_dir=config.cache_dir, progress=progress)
    info = None if prompts.checkpoint is None else load_run(store.path, prompts.checkpoint)
    return _Tools(
        store=store,
        config=config,
        prompts=prompts,
        sam=sam,
        head=load_detector(store, prompts.detector, prompts.device)[1],
        decoder=decoder_of(store, info, device),
        calibration=find_calibration(store, prompts),
    )


def _segment_one(tools: _Tools, item: _Item) -> None:
    image = read_image(item.plane)
    recipe = tools.store.recipe
    black = recipe.dataset.offset
    lo, hi = normalise.limits(image, recipe.normalise.method, recipe.normalise.low, recipe.normalise.high, black)
    seen = normalise.apply(image, lo, hi, recipe.normalise.method)
    blank: list[FoundCell] = []
    label, cells = _find(tools, seen) if hi > lo else (np.zeros(image.shape, np.uint16), blank)
    rows = _rows(tools, item, image, cells)
    out = tools.config.out
    with explain_os_errors(f"writing the results of {item.name} into {out}"):
        write_parquet(_part(out, item), pa.Table.from_pylist(rows, CELLS_SCHEMA))
        if tools.config.overlay:
            write_atomic((out / item.target).with_suffix(".png"), _overlay(seen, label, rows))
        data = io.BytesIO()
        tifffile.imwrite(data, label, compression="zlib")
        write_atomic(out / item.target, data.getvalue())


def _find(tools: _Tools, seen: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint16], list[FoundCell]]:
    views, shape = tools.store.recipe.views, (seen.shape[0], seen.shape[1])
    tiles = tile_rectangles(shape, views.tile, views.overlap)
    prompts = tools.prompts
    assert prompts.threshold is not None and prompts.window is not None
    with tempfile.TemporaryFile() as file:
        # a large frame has more tiles than memory holds embeddings
        kept = np.memmap(file, tools.store.recipe.arrays.dtype, "w+", shape=(len(tiles), 256, 64, 64))

        def embedding(number: int) -> torch.Tensor:
            return torch.from_numpy(np.asarray(kept[number], np.float32))

        def encoded() -> Iterator[torch.Tensor]:
            for number, rect in enumerate(tiles):
                kept[number] = _encode(tools, seen, rect)
                yield embedding(number)

        found = detect_frame(tools.head, encoded(), tiles, shape).above(prompts.threshold)
        if len(found) == 0:
            return np.zeros(shape, np.uint16), []
        how: dict[str, Any] = {"form": prompts.form, "window": prompts.window}
        return resolve(decode_detections(tools.decoder, embedding, tiles, shape, found, **how), shape)


def _encode(tools: _Tools, seen: npt.NDArray[np.float32], rect: Rect) -> npt.NDArray[np.float32]:
    x0, y0, width, height = rect
    view = np.ascontiguousarray(seen[y0 : y0 + height, x0 : x0 + width])
    return encode(tools.sam.encoder, view[None], tools.store.recipe.encoder.precision)[0].numpy()


def _rows(tools: _Tools, item: _Item, image: npt.NDArray[Any], cells: list[FoundCell]) -> list[dict[str, Any]]:
    sure: list[float | None] = [None] * len(cells)
    if tools.calibration is not None and cells:
        sure = tools.calibration.probability([cell.signs for cell in cells]).tolist()
    shared = {"sequence": item.sequence, "frame": item.name, "file": item.target, "sha256": frame_digest(image)}
    rows = []
    for label, (cell, probability) in enumerate(zip(cells, sure, strict=True), 1):
        x, y = cell.origin
        part = image[y : y + cell.mask.shape[0], x : x + cell.mask.shape[1]]
        height, width = np.nonzero(cell.mask)
        calibration = tools.calibration
        below = None if calibration is None or probability is None else probability < calibration.review_below
        doubt: dict[str, Any] = {"probability": probability, "flagged": below}
        rows.append(
            shared
            | {"label": label, "area": int(cell.mask.sum())}
            | dict(zip(("x0", "y0", "x1", "y1"), bbox(cell.mask, cell.origin), strict=True))
            | {"cx": float(width.mean()) + x, "cy": float(height.mean()) + y}
            | {"mean_intensity": float(part[cell.mask].mean()) - tools.store.recipe.dataset.offset}
            | {"score": cell.score, "predicted_iou": cell.predicted_iou}
            | doubt
        )
    return rows


def _overlay(seen: npt.NDArray[np.float32], label: npt.NDArray[np.uint16], rows: list[dict[str, Any]]) -> bytes:
    """Return a PNG of the frame with the cells' outlines: green, flagged ones orange."""
    from PIL import Image

    edge = np.zeros(label.shape, bool)
    for axis in (0, 1):
        for step in (1, -1):
            edge |= np.roll(label, step, axis) != label
    edge &= label > 0
    colour = np.repeat(seen.astype(np.uint8)[..., None], 3, axis=2)
    flagged = np.isin(label, [row["label"] for row in rows if row["flagged"]])
    colour[edge & ~flagged], colour[edge & flagged] = (0, 220, 90), (255, 140, 0)
    data = io.BytesIO()
    Image.fromarray(colour).save(data, "PNG")
    return data.getvalue()


def _collect(out: Path, items: list[_Item]) -> pa.Table:
    """Join the tables of all frames into ``cells.parquet`` and ``cells.csv``."""
    table = pa.concat_tables([CELLS_SCHEMA.empty_table(), *(pq.read_table(_part(out, item)) for item in items)])
    write_parquet(out / "cells.parquet", table)
    data = io.BytesIO()
    pa_csv.write_csv(table, data)
    write_atomic(out / "cells.csv", data.getvalue())
    return table
