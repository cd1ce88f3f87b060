"""Metrics of whole frames beside MONAI and py-ctcmetrics: the same masks, interleaved, one thread of Python.

Drawn masks, because time depends on their sizes and not on what they show: 130 nuclei of 24.6 px in a frame of
700 x 1100 px, each answered by itself, moved and bent.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from hela_store.base.progress import Progress, silent
from hela_store.base.rng import generator
from hela_store.metrics.cell import score_cell
from hela_store.metrics.ctc import det, match_frame, seg
from hela_store.metrics.failures import label_areas

FRAMES = 2
WIDTH = 1100
PITCH = (70, 78)
RADIUS = 12.3
CROP_MARGIN = 8

Labels = npt.NDArray[np.int32]
Box = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Time of one way to score a frame, s.

    Attributes
    ----------
    what : what was computed
    who : whose code
    median, best : float or None
        Seconds a frame over the repeats; None where that package is not installed.
    worst_difference : float or None
        Largest difference to ours; None of ours.
    """

    what: str
    who: str
    median: float | None
    best: float | None
    worst_difference: float | None


@dataclass(frozen=True, kw_only=True)
class MetricsBench:
    """Times of :func:`bench_metrics`; ``cells`` a frame, over so many ``repeats``."""

    cells: int
    repeats: int
    rows: list[Timing]

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store bench metrics --json`` prints."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A frame of truth and answers: int32 (row, col), and the cells as (label, box ``x0, y0, x1, y1``)."""

    truth: Labels
    answer: Labels
    cells: list[tuple[int, Box]]


def draw_frame(number: int, cells: int) -> Drawn:
    """Draw nuclei on a grid and answers that differ a little from them, the same for the same ``number``."""
    rng = generator("bench metrics", number)
    height, width = PITCH
    columns = WIDTH // width
    shape = -(-cells // columns) * height, WIDTH
    truth, answer = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    boxes: list[tuple[int, Box]] = []
    rows, cols = np.mgrid[:height, :width] - np.reshape([height / 2 - 0.5, width / 2 - 0.5], (2, 1, 1))
    for i in range(cells):
        y, x = i // columns * height, i % columns * width
        for image, shift in ((truth, 0.0), (answer, 1.5)):
            radius = RADIUS * (1 + 0.15 * rng.uniform(-1, 1) * np.cos(3 * np.arctan2(rows, cols) + rng.uniform(0, 6)))
            moved = np.hypot(rows - rng.normal(0, shift), cols - rng.normal(0, shift))
            image[y : y + height, x : x + width][moved < radius] = i + 1
        there = np.argwhere(truth[y : y + height, x : x + width] == i + 1)
        (top, left), (bottom, right) = there.min(0), there.max(0) + 1
        boxes.append((i + 1, (x + int(left), y + int(top), x + int(right), y + int(bottom))))
    return Drawn(truth=truth, answer=answer, cells=boxes)


def _crop(box: Box) -> tuple[slice, slice]:
    x0, y0, x1, y1 = box
    return slice(max(y0 - CROP_MARGIN, 0), y1 + CROP_MARGIN), slice(max(x0 - CROP_MARGIN, 0), x1 + CROP_MARGIN)


def _ours(drawn: Drawn) -> list[list[float]]:
    areas, found = label_areas(drawn.truth), []
    for label, box in drawn.cells:
        part = _crop(box)
        mask = drawn.answer[part] == label
        score = score_cell(mask, (part[1].start, part[0].start), drawn.truth, label, box, areas)
        found.append([score.hd95, score.nsd1, score.nsd2])
    return found


def _monai() -> Callable[[Drawn], list[list[float]]]:
    import torch

    metrics = importlib.import_module("monai.metrics")

    def score(drawn: Drawn) -> list[list[float]]:
        found = []
        for label, box in drawn.cells:
            both = (drawn.answer[_crop(box)] == label, drawn.truth[_crop(box)] == label)
            one, other = (torch.from_numpy(mask)[None, None].float() for mask in both)
            hd = metrics.compute_hausdorff_distance(one, other, include_background=True, percentile=95)
            nsd = [metrics.compute_surface_dice(one, other, [t], include_background=True) for t in (1.0, 2.0)]
            found.append([float(value) for value in (hd, *nsd)])
        return found

    return score


def _our_folder(folder: Path) -> list[list[float]]:
    found = []
    for kind, name in (("SEG", "man_seg"), ("TRA", "man_track")):
        matches = []
        for path in sorted((folder / "01_GT" / kind).glob("*.tif")):
            result = folder / "01_RES" / f"mask{path.stem.removeprefix(name)}.tif"
            matches.append(match_frame(tifffile.imread(path), tifffile.imread(result)))
        found.append(seg(matches) if kind == "SEG" else det(matches))
    return [found]


def _peer_folder() -> Callable[[Path], list[list[float]]]:
    evaluate = importlib.import_module("ctc_metrics.scripts.evaluate").evaluate_sequence

    def score(folder: Path) -> list[list[float]]:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints
            found = evaluate(str(folder / "01_RES"), str(folder / "01_GT"), ["SEG", "DET"], threads=1)
        return [[float(found["SEG"]), float(found["DET"])]]

    return score


def _write(folder: Path, drawn: list[Drawn]) -> Path:
    for name in ("01_GT/SEG", "01_GT/TRA", "01_RES"):
        (folder / name).mkdir(parents=True)
    tracks: dict[str, list[str]] = {"01_GT/TRA/man_track": [], "01_RES/res_track": []}
    for t, frame in enumerate(drawn):
        # two are merged, so that DET is not 1
        result = np.where(frame.answer <= 2, np.minimum(frame.answer, 1), frame.answer)
        for image, names in (
            (frame.truth, ("01_GT/SEG/man_seg", "01_GT/TRA/man_track")),
            (result, ("01_RES/mask",)),
        ):
            numbered = np.where(image > 0, image + t * len(frame.cells), 0).astype(np.uint16)
            for name in names:
                tifffile.imwrite(folder / f"{name}{t:03d}.tif", numbered)
            lines = tracks["01_RES/res_track" if names == ("01_RES/mask",) else "01_GT/TRA/man_track"]
            lines += [f"{value} {t} {t} 0" for value in np.unique(numbered)[1:]]
    for name, lines in tracks.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def bench_metrics(*, cells: int = 130, repeats: int = 5, progress: Progress = silent) -> MetricsBench:
    """Time the per-cell metrics of a frame, and SEG and DET of a sequence of two from files.

    Parameters
    ----------
    cells : int
        A frame.
    repeats : int
        Each way is timed so often, in turn, after one call that is not counted.
    """
    frames = [draw_frame(number, cells) for number in range(FRAMES)]
    with tempfile.TemporaryDirectory(prefix="hela-store-") as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = _write(Path(temporary), frames)
        ways: list[tuple[str, str, Callable[[], list[list[float]]] | None, int]] = []
        monai, peer = _optional("monai", _monai), _optional("py-ctcmetrics", _peer_folder)
        surface, both = "HD95, NSD 1 and 2 px", "SEG and DET from files"
        ways.append((f"{surface}, boundary IoU, spill, failure", "hela-store", lambda: _ours(frames[0]), 1))
        ways.append((surface, "MONAI", None if monai is None else lambda: monai(frames[0]), 1))
        ways.append((both, "hela-store", lambda: _our_folder(folder), len(frames)))
        ways.append((both, "py-ctcmetrics", None if peer is None else lambda: peer(folder), len(frames)))
        found = [None if call is None else call() for _, _, call, _ in ways]
        times: list[list[float]] = [[] for _ in ways]
        for _ in progress(range(repeats), total=repeats, what="bench metrics"):
            for place, (_, _, call, count) in enumerate(ways):
                if call is not None:
                    start = time.perf_counter()
                    call()
                    times[place].append((time.perf_counter() - start) / count)
    rows = []
    for place, (what, who, _, _) in enumerate(ways):
        theirs, ours = found[place], found[place - place % 2]
        away = None
        if place % 2 and theirs is not None and ours is not None:
            away = float(np.abs(np.subtract(theirs, ours)).max())
        taken = times[place]
        median, best = (statistics.median(taken), min(taken)) if taken else (None, None)
        rows.append(Timing(what=what, who=who, median=median, best=best, worst_difference=away))
    return MetricsBench(cells=cells, repeats=repeats, rows=rows)


def _optional(name: str, make: Callable[[], Any]) -> Any:
    """Return what ``make`` returns; None where that package is not installed."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    return make()
