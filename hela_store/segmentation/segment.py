"""``segment``: frames never seen, without labels, to label images: tiles, encoder, detector, decoder.

One frame is in memory at a time; two where misses are recovered, as the next one has to be looked at before. Every
result belongs to a frame by its name and its pixels (:mod:`hela_store.segmentation.results`), so that frames that come
later change nothing of earlier ones; the same command again goes on with the next one. What was detected in a frame is
kept where its neighbours need it, so that what they get from it does not depend on where a job was interrupted.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import tifffile

from hela_store.base.files import clear_temporary, explain_os_errors, fsync_path, write_atomic
from hela_store.base.locks import claim
from hela_store.base.names import check_name
from hela_store.base.parquet import write_parquet
from hela_store.base.progress import Progress, silent
from hela_store.base.text import natural, numbered
from hela_store.datasets.frame import frame_digest
from hela_store.datasets.listing import find_images
from hela_store.datasets.pixels import Plane, probe, read_image
from hela_store.detection.detections import Detections
from hela_store.detection.generic import FINER, GENERIC_ENCODER
from hela_store.detection.rows import PLAIN_SCHEMA, from_rows, plain_rows
from hela_store.errors import DatasetError, RunError
from hela_store.images.geometry import Rect, tile_rectangles
from hela_store.images.rle import bbox
from hela_store.predictor.checks import grey_image
from hela_store.predictor.frame import EncodedFrame
from hela_store.predictor.load import default_recipe
from hela_store.recipe.recipe import Recipe, encoder_key
from hela_store.store.store import Store

from .assemble import FoundCell
from .calibration import shipped_calibration
from .config import DetectedConfig, SegmentConfig
from .recover import neighbours
from .resolve import resolve_prompts
from .results import Item, Results, read_part
from .segmenter import Segmenter, kept_generic_segmenter, load_generic_segmenter, load_segmenter, resolve_generic


@dataclass(frozen=True, kw_only=True)
class SegmentReport:
    """Result of a segmentation.

    Attributes
    ----------
    out : folder with ``<sequence>_RES/mask000.tif``, or ``mask_<name>.tif`` of a frame without a number of its own,
        ``cells.parquet`` and ``cells.csv``, which have the cells of every frame in the folder
    frames, done_before : how many were given; how many of them were done already
    cells, flagged : in these frames; flagged for review, None without a calibration
    recovered : cells that only neighbouring frames led to; None where they were not asked for
    empty : frames in which nothing was found
    calibration : which one flags cells and below which probability, or why none does
    """

    out: Path
    frames: int
    done_before: int
    cells: int
    flagged: int | None
    recovered: int | None
    empty: int
    calibration: str

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store segment --json`` prints."""
        return asdict(self) | {"out": str(self.out)}


FEW_TILES = 4
"""Frames of more tiles show how far they are, and keep what was encoded so that an interrupted job goes on within."""
Near = dict[str, list[Item]]
"""By id, the frames before and after one; empty where nothing is recovered."""


@overload
def segment(store: npt.ArrayLike) -> npt.NDArray[np.int32]: ...
@overload
def segment(
    store: Store | None, frames: Sequence[Path], config: SegmentConfig, *, progress: Progress = silent
) -> SegmentReport: ...
def segment(
    store: Store | npt.ArrayLike | None,
    frames: Sequence[Path] | None = None,
    config: SegmentConfig | None = None,
    *,
    progress: Progress = silent,
) -> SegmentReport | npt.NDArray[np.int32]:
    """Segment an image, ``segment(image)``, or files of frames that no store has seen.

    An image, and files where the store is None, are segmented with the encoder, detector and decoder that ship with
    the package.

    Parameters
    ----------
    store : Store, None, or array of any integer or float type, (row, col)
        A store's recipe says how frames are normalised, tiled and encoded. An array is the image itself, grey counts.
    frames : sequence of Path
        Images, stacks, or folders of them; each folder or stack is a sequence. Left out with an image.
    config : SegmentConfig
        Left out with an image.
    progress : Progress
        Shown frame by frame.

    Returns
    -------
    ndarray of int32, (row, col), or SegmentReport
        Of an image its labels, 0 background; of files what was written.

    Raises
    ------
    DatasetError
        Not an image, colours or several channels and none chosen, 3-D data, NaN, two frames or folders of one name;
        cells that only neighbours show are asked for, and no name has a number.
    RunError
        No detector, or one of another encoder; a run is named without a store.
    RecipeError
        The store's embeddings are another tool's.
    StoreError
        ``out`` holds results of other settings, or of other pixels of these frames; no space, no permission.
    """
    if store is not None and not isinstance(store, Store):
        if frames is not None or config is not None:
            raise DatasetError("segment(image) takes an image alone; files take a store or None first")
        return segment_image(store)
    if frames is None or config is None:
        raise DatasetError("nothing to segment: expected an image, or a store (or None), files and a SegmentConfig")
    if store is not None:
        store.recipe.encoder.check_encodes()
    planes = _planes(frames, config)
    source = _generic(config) if store is None else _of_store(store, config, progress)
    items = list(_items(planes, progress))
    near = _near(items) if config.prompts.recover else {}
    with explain_os_errors(f"making {config.out}"):
        config.out.mkdir(parents=True, exist_ok=True)
    with claim(config.out, "segment", wait=True, progress=progress):
        clear_temporary(config.out)
        return _segment_into(source, config, items, near, progress)


def segment_image(image: npt.ArrayLike, prompts: DetectedConfig | None = None) -> npt.NDArray[np.int32]:
    """Segment one image with the shipped encoder, detector and decoder; see :func:`segment`, which raises the same."""
    grey = grey_image(image)
    segmenter = kept_generic_segmenter(resolve_generic(prompts or DetectedConfig()))
    label, _ = segmenter.cells(*segmenter.look(grey), [])
    return label


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Describe what segments: its recipe and settings, every choice made, and how it is loaded when there is work."""

    recipe: Recipe
    prompts: DetectedConfig
    calibration: str
    finer: int
    load: Callable[[], Segmenter]


def _of_store(store: Store, config: SegmentConfig, progress: Progress) -> _Source:
    prompts = resolve_prompts(store, config.prompts)
    if prompts.detector.kind != "detector":
        raise RunError(f"run {prompts.detector.id} holds detections of stored frames; new frames take a detector")
    load = partial(load_segmenter, store, prompts, cache_dir=config.cache_dir, progress=progress)
    calibration = shipped_calibration(store, prompts.config)[1]
    return _Source(recipe=store.recipe, prompts=prompts.config, calibration=calibration, finer=0, load=load)


def _generic(config: SegmentConfig) -> _Source:
    prompts = resolve_generic(config.prompts)
    load = partial(load_generic_segmenter, prompts)
    calibration = "none, so no cell is flagged as doubtful"
    recipe = default_recipe(GENERIC_ENCODER)
    return _Source(recipe=recipe, prompts=prompts, calibration=calibration, finer=FINER, load=load)


def _segment_into(
    source: _Source, config: SegmentConfig, items: list[Item], near: Near, progress: Progress
) -> SegmentReport:
    """Segment what is not done; the caller has claimed the folder."""
    results = Results(config.out)
    results.claim(_settings(source))
    targets = results.targets(items)
    todo = [item for item in items if not results.is_done(item, _names(near, item))]
    results.clear_tiles(todo)
    if todo:
        job = _Job(segmenter=source.load(), config=config, results=results, targets=targets, near=near)
        _segment(job, todo, progress)
    table = results.collect()
    # the folder may hold other frames, of earlier calls
    table = table.filter(pc.is_in(table["file"], pa.array(list(targets.values()), pa.string())))
    flagged = table["flagged"]
    return SegmentReport(
        out=config.out,
        frames=len(items),
        done_before=len(items) - len(todo),
        cells=table.num_rows,
        flagged=None if flagged.null_count == table.num_rows else sum(filter(None, flagged.to_pylist())),
        recovered=sum(table["recovered"].to_pylist()) if config.prompts.recover else None,
        empty=len(items) - len(set(table["file"].to_pylist())),
        calibration=source.calibration,
    )


def _planes(frames: Sequence[Path], config: SegmentConfig) -> list[tuple[str, str, Plane]]:
    """Return sequence, name and plane of each frame: a stack is a sequence, and so are the images of a folder."""
    found: dict[str, list[tuple[str, Plane]]] = {}
    sources: dict[str, Path] = {}
    taken: set[Path] = set()  # files of images that lie in several
    for path in frames:
        if not path.exists():
            raise DatasetError(f"{path}: no such file or folder")
        for stem, file in find_images(path).items():
            if file in taken:
                continue
            planes = probe(file, config.axis, config.channel)
            taken |= {file.with_name(name) for name in planes[0].files}
            if len(planes) == 1:
                # the folder itself, wherever a link in its place leads
                source = Path(os.path.normpath((path if path.is_dir() else path.parent).absolute()))
                sequence, named = source.name, [stem]
            else:
                source, sequence = file.absolute(), stem
                named = [f"t{number:03d}" for number in range(len(planes))]
            other = sources.setdefault(sequence, source)
            if other != source:
                raise DatasetError(
                    f"{other} and {source} would both be sequence {sequence}; segment them one by one, each with an "
                    "--out of its own"
                )
            found.setdefault(sequence, []).extend(zip(named, planes, strict=True))
    if not found:
        raise DatasetError("no frames found; expected TIFF or PNG files, stacks, or folders of them")
    for sequence, members in found.items():
        check_name(sequence, "the folder or stack", DatasetError)
        if len({name for name, _ in members}) < len(members):
            raise DatasetError(f"two frames of sequence {sequence} have the same name; segment them into two folders")
    return [(sequence, name, plane) for sequence, members in found.items() for name, plane in members]


def _items(planes: list[tuple[str, str, Plane]], progress: Progress) -> Iterator[Item]:
    for sequence, name, plane in progress(planes, total=len(planes), what="read frames"):
        yield Item(sequence=sequence, name=name, sha256=frame_digest(read_image(plane)), plane=plane)


def _near(items: list[Item]) -> Near:
    """Return the neighbours of each frame: those whose names say the same but for the number one below or above."""
    of_id = {item.id: item for item in items}
    places = []
    for item in items:
        if number := numbered(item.name):
            # what moves from frame to frame keeps its scale: frames of another size are no neighbours
            places.append((item.id, f"{item.sequence}/{number[0]} {item.plane.shape}", int(number[1])))
    if without := sorted({item.sequence for item in items} - {of_id[frame].sequence for frame, _, _ in places}):
        raise DatasetError(
            f"no frame of {without[0]} has a number in its name, so none is before or after another; leave out "
            "--recover, or number the files"
        )
    return {frame: [of_id[other] for other in others] for frame, others in neighbours(places).items()}


def _settings(source: _Source) -> dict[str, Any]:
    recipe = source.recipe
    about: dict[str, Any] = {"encoder": encoder_key(recipe), "tile": recipe.views.tile, "overlap": recipe.views.overlap}
    if source.finer:
        about["finer_tile"] = source.finer
    return about | {name: value for name, value in asdict(source.prompts).items() if name not in ("split", "device")}


def _names(near: Near, item: Item) -> list[str]:
    return [other.name for other in near.get(item.id, [])]


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Describe what every frame is segmented with, and where its results go."""

    segmenter: Segmenter
    config: SegmentConfig
    results: Results
    targets: dict[str, str]
    near: Near


def _segment(job: _Job, todo: list[Item], progress: Progress) -> None:
    """Segment frames in the order of time, so that each is encoded once."""
    held: dict[str, tuple[EncodedFrame, Detections]] = {}
    ordered = sorted(todo, key=lambda item: (item.sequence, natural(item.name)))
    for item in progress(ordered, total=len(ordered), what="segment"):
        held = {item.id: held.get(item.id) or _look(job, item, progress)}
        frame, found = held[item.id]
        others = []
        for other in job.near.get(item.id, []):
            path = job.results.detections(other)
            if not path.is_file():
                held[other.id] = _look(job, other, progress)
            others.append(from_rows(read_part(path).to_pylist()))
        label, cells = job.segmenter.cells(frame, found, others, _by_tile(frame.tiles, progress))
        _write(job, item, frame, label, _rows(job, item, frame.image, cells))
        job.results.tiles(item).clear()


def _look(job: _Job, item: Item, progress: Progress) -> tuple[EncodedFrame, Detections]:
    views, encode = job.segmenter.recipe.views, job.segmenter.encode
    tiles = tile_rectangles(item.plane.shape, views.tile, views.overlap)
    if len(tiles) > FEW_TILES:
        encode = partial(job.results.tiles(item).encode, encode)
    frame, found = job.segmenter.look(read_image(item.plane), encode, _by_tile(tiles, progress))
    if job.config.prompts.recover:
        path = job.results.detections(item)
        if not path.is_file():
            write_parquet(path, pa.Table.from_pylist(plain_rows(found), PLAIN_SCHEMA))
        found = from_rows(read_part(path).to_pylist())
    return frame, found


def _by_tile(tiles: Sequence[Rect], progress: Progress) -> Progress:
    """Return what shows the tiles of a frame: nothing where they are few and the next frame is soon there."""
    return progress if len(tiles) > FEW_TILES else silent


def _write(
    job: _Job, item: Item, frame: EncodedFrame, label: npt.NDArray[np.int32], rows: list[dict[str, Any]]
) -> None:
    target = job.results.target(job.targets[item.id])
    with explain_os_errors(f"writing the results of {item.name} into {job.config.out}"):
        if target.exists():  # made with other neighbours: it must not vouch for what is written now
            target.unlink()
            fsync_path(target.parent)
        cells = job.results.write_part(item, job.targets[item.id], _names(job.near, item), rows)
        if job.config.overlay:
            write_atomic(target.with_suffix(".png"), _overlay(frame.seen, label, cells))
        data = io.BytesIO()
        # what every reader of label images takes; more cells than it numbers are never left out
        kind = np.uint16 if label.max(initial=0) <= np.iinfo(np.uint16).max else np.uint32
        tifffile.imwrite(data, label.astype(kind), compression="zlib")
        write_atomic(target, data.getvalue())


def _rows(job: _Job, item: Item, image: npt.NDArray[Any], cells: list[FoundCell]) -> list[dict[str, Any]]:
    sure: list[float | None] = [None] * len(cells)
    calibration, offset = job.segmenter.calibration, job.segmenter.recipe.dataset.offset
    if calibration is not None and cells:
        sure = calibration.probability([cell.signs for cell in cells]).tolist()
    shared = {"sequence": item.sequence, "frame": item.name, "file": job.targets[item.id], "sha256": item.sha256}
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
            | {"mean_intensity": float(part[cell.mask].mean()) - offset}
            | {"score": cell.score, "predicted_iou": cell.predicted_iou, "recovered": cell.recovered}
            | doubt
        )
    return rows


def _overlay(seen: npt.NDArray[np.float32], label: npt.NDArray[np.int32], cells: pa.Table) -> bytes:
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
