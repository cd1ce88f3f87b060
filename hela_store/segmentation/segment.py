"""``segment``: frames never seen, without labels, to label images: tiles, encoder, detector, decoder.

One frame is in memory at a time; two where misses are recovered, as the next one has to be looked at before. A frame is
done when its label image is there, which is written last; the same command again goes on with the next one. What was
detected in a frame is kept where its neighbours need it, so that what they get from it does not depend on where a job
was interrupted.
"""

from __future__ import annotations

import io
import json
import re
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

from hela_store.base.files import explain_os_errors, fsync_path, write_atomic
from hela_store.base.parquet import read_parquet, write_parquet
from hela_store.base.progress import Progress, silent
from hela_store.datasets.frame import frame_digest
from hela_store.datasets.listing import find_images
from hela_store.datasets.pixels import Plane, probe, read_image
from hela_store.detection.detections import Detections
from hela_store.detection.rows import PLAIN_SCHEMA, from_rows, plain_rows
from hela_store.errors import DatasetError, RunError, StoreError
from hela_store.images.rle import bbox
from hela_store.store.store import Store

from .assemble import FoundCell
from .config import DetectedConfig, resolve_prompts
from .recover import neighbours
from .segmenter import EncodedFrame, Segmenter, load_segmenter

SETTINGS = "segment.json"
PARTS = ".cells"
NEIGHBOURS = b"neighbours"
"""In the metadata of a frame's cell table: names of the frames it was segmented with."""
CELLS_SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("sequence", "frame", "file", "sha256")],
        ("label", pa.int64()),
        ("area", pa.int64()),
        *[(name, pa.int64()) for name in ("x0", "y0", "x1", "y1")],
        *[(name, pa.float64()) for name in ("cx", "cy", "mean_intensity", "score", "predicted_iou", "probability")],
        ("flagged", pa.bool_()),
        ("recovered", pa.bool_()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """How frames are segmented.

    Attributes
    ----------
    out : folder for the results
    prompts : which detector, decoder, form of prompt, threshold, window and device, and whether cells that only the
        frames before and after show are asked for; its split says nothing here
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
    recovered : cells that only neighbouring frames led to; None where they were not asked for
    empty : frames in which nothing was found
    """

    out: Path
    frames: int
    done_before: int
    cells: int
    flagged: int | None
    recovered: int | None
    empty: int

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store segment --json`` prints."""
        return asdict(self) | {"out": str(self.out)}


@dataclass(frozen=True, kw_only=True)
class _Item:
    sequence: str
    name: str
    file: str
    time: int
    plane: Plane

    @property
    def target(self) -> str:
        return f"{self.sequence}_RES/{self.file}"


Near = dict[str, list[_Item]]
"""By target, the frames before and after one; empty where nothing is recovered."""


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
    prompts = resolve_prompts(store, config.prompts)
    if prompts.detector.kind != "detector":
        raise RunError(f"run {prompts.detector.id} holds detections of stored frames; new frames take a detector")
    _claim(store, config, prompts.config)
    near = _near(items) if config.prompts.recover else {}
    todo = [item for item in items if not _is_done(config.out, item, near)]
    if todo:
        segmenter = load_segmenter(store, prompts, cache_dir=config.cache_dir, progress=progress)
        _segment(segmenter, config, todo, near, progress)
    table = _collect(config.out, items)
    flagged = table["flagged"]
    return SegmentReport(
        out=config.out,
        frames=len(items),
        done_before=len(items) - len(todo),
        cells=table.num_rows,
        flagged=None if flagged.null_count == table.num_rows else sum(filter(None, flagged.to_pylist())),
        recovered=sum(table["recovered"].to_pylist()) if config.prompts.recover else None,
        empty=len(items) - len(set(table["file"].to_pylist())),
    )


def _items(frames: Sequence[Path], config: SegmentConfig) -> Iterator[_Item]:
    found: dict[str, list[tuple[str, Plane]]] = {}
    taken: set[Path] = set()  # files of images that lie in several
    for path in frames:
        if not path.exists():
            raise DatasetError(f"{path}: no such file or folder")
        for file in find_images(path).values():
            if file in taken:
                continue
            planes = probe(file, config.axis, config.channel)
            taken |= {file.with_name(name) for name in planes[0].files}
            if len(planes) == 1:
                folder = (path if path.is_dir() else path.absolute().parent).name
                found.setdefault(folder, []).append((file.stem, planes[0]))
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
            target = f"mask{number.zfill(3)}.tif"
            yield _Item(sequence=sequence, name=name, file=target, time=int(number), plane=plane)


def _near(items: list[_Item]) -> Near:
    of_target = {item.target: item for item in items}
    # what moves from frame to frame keeps its scale: frames of another size are no neighbours
    places = [(item.target, f"{item.sequence} {item.plane.shape}", item.time) for item in items]
    return {target: [of_target[other] for other in others] for target, others in neighbours(places).items()}


def _claim(store: Store, config: SegmentConfig, prompts: DetectedConfig) -> None:
    """Say which settings made the results, or refuse to mix them with others."""
    about = {"encoder": store.key, "tile": store.recipe.views.tile, "overlap": store.recipe.views.overlap}
    about |= {name: value for name, value in asdict(prompts).items() if name not in ("split", "device")}
    path = config.out / SETTINGS
    if path.exists():
        before = json.loads(path.read_text())
        changed = sorted(name for name in about if before.get(name) != about[name])
        if changed:
            raise StoreError(f"{config.out} holds results of another {', '.join(changed)}; choose another --out")
        return
    write_atomic(path, (json.dumps(about, indent=2) + "\n").encode())


def _is_done(out: Path, item: _Item, near: Near) -> bool:
    part = _part(out, item)
    return (out / item.target).is_file() and part.is_file() and _made_with(part) == _names(near, item)


def _part(out: Path, item: _Item) -> Path:
    return out / PARTS / item.sequence / f"{item.file}.parquet"


def _detections(out: Path, item: _Item) -> Path:
    return out / PARTS / item.sequence / f"{item.file}.detections.parquet"


def _read(part: Path) -> pa.Table:
    return read_parquet(part, way_out="delete it and give the same command again")


def _names(near: Near, item: _Item) -> list[str]:
    return [other.name for other in near.get(item.target, [])]


def _made_with(part: Path) -> list[str]:
    """Return the names of the frames that a frame was segmented with, beside itself."""
    names: list[str] = json.loads((pq.read_schema(part).metadata or {}).get(NEIGHBOURS, b"[]"))
    return names


def _segment(segmenter: Segmenter, config: SegmentConfig, todo: list[_Item], near: Near, progress: Progress) -> None:
    """Segment frames in the order of time, so that each is encoded once."""
    held: dict[str, tuple[EncodedFrame, Detections]] = {}
    ordered = sorted(todo, key=lambda item: (item.sequence, item.time))
    for item in progress(ordered, total=len(ordered), what="segment"):
        held = {item.target: held.get(item.target) or _look(segmenter, config, item)}
        frame, found = held[item.target]
        others = []
        for other in near.get(item.target, []):
            path = _detections(config.out, other)
            if not path.is_file():
                held[other.target] = _look(segmenter, config, other)
            others.append(from_rows(_read(path).to_pylist()))
        label, cells = segmenter.cells(frame, found, others)
        rows = _rows(segmenter, item, frame.image, cells)
        table = pa.Table.from_pylist(rows, CELLS_SCHEMA)
        _write(config, item, frame, label, table.replace_schema_metadata({NEIGHBOURS: json.dumps(_names(near, item))}))


def _look(segmenter: Segmenter, config: SegmentConfig, item: _Item) -> tuple[EncodedFrame, Detections]:
    frame, found = segmenter.look(read_image(item.plane))
    if segmenter.prompts.config.recover:
        path = _detections(config.out, item)
        if not path.is_file():
            write_parquet(path, pa.Table.from_pylist(plain_rows(found), PLAIN_SCHEMA))
        found = from_rows(_read(path).to_pylist())
    return frame, found


def _write(
    config: SegmentConfig, item: _Item, frame: EncodedFrame, label: npt.NDArray[np.uint16], cells: pa.Table
) -> None:
    target = config.out / item.target
    with explain_os_errors(f"writing the results of {item.name} into {config.out}"):
        if target.exists():  # made with other neighbours: it must not vouch for what is written now
            target.unlink()
            fsync_path(target.parent)
        write_parquet(_part(config.out, item), cells)
        if config.overlay:
            write_atomic(target.with_suffix(".png"), _overlay(frame.seen, label, cells))
        data = io.BytesIO()
        tifffile.imwrite(data, label, compression="zlib")
        write_atomic(target, data.getvalue())


def _rows(segmenter: Segmenter, item: _Item, image: npt.NDArray[Any], cells: list[FoundCell]) -> list[dict[str, Any]]:
    sure: list[float | None] = [None] * len(cells)
    calibration = segmenter.calibration
    if calibration is not None and cells:
        sure = calibration.probability([cell.signs for cell in cells]).tolist()
    shared = {"sequence": item.sequence, "frame": item.name, "file": item.target, "sha256": frame_digest(image)}
    rows = []
    for label, (cell, probability) in enumerate(zip(cells, sure, strict=True), 1):
        x, y = cell.origin
        part = image[y : y + cell.mask.shape[0], x : x + cell.mask.shape[1]]
        height, width = np.nonzero(cell.mask)
        below = None if calibration is None or probability is None else probability < calibration.review_below
        doubt: dict[str, Any] = {"probability": probability, "flagged": below}
        rows.append(
            shared
            | {"label": label, "area": int(cell.mask.sum())}
            | dict(zip(("x0", "y0", "x1", "y1"), bbox(cell.mask, cell.origin), strict=True))
            | {"cx": float(width.mean()) + x, "cy": float(height.mean()) + y}
            | {"mean_intensity": float(part[cell.mask].mean()) - segmenter.recipe.dataset.offset}
            | {"score": cell.score, "predicted_iou": cell.predicted_iou, "recovered": cell.recovered}
            | doubt
        )
    return rows


def _overlay(seen: npt.NDArray[np.float32], label: npt.NDArray[np.uint16], cells: pa.Table) -> bytes:
    """Return a PNG of the frame with the cells' outlines: green, flagged ones orange."""
    from PIL import Image

    edge = np.zeros(label.shape, bool)
    for axis in (0, 1):
        for step in (1, -1):
            edge |= np.roll(label, step, axis) != label
    edge &= label > 0
    colour = np.repeat(seen.astype(np.uint8)[..., None], 3, axis=2)
    flagged = np.isin(label, cells.filter(cells["flagged"])["label"].to_pylist())
    colour[edge & ~flagged], colour[edge & flagged] = (0, 220, 90), (255, 140, 0)
    data = io.BytesIO()
    Image.fromarray(colour).save(data, "PNG")
    return data.getvalue()


def _collect(out: Path, items: list[_Item]) -> pa.Table:
    """Join the tables of all frames into ``cells.parquet`` and ``cells.csv``."""
    table = pa.concat_tables([CELLS_SCHEMA.empty_table(), *(_read(_part(out, item)) for item in items)])
    write_parquet(out / "cells.parquet", table)
    data = io.BytesIO()
    pa_csv.write_csv(table, data)
    write_atomic(out / "cells.csv", data.getvalue())
    return table
