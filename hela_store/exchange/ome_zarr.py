"""Frames, labels and predicted labels as OME-NGFF 0.5: ``<group>.ome.zarr`` with axes t, y, x and pyramids.

Predicted labels are in it under the name of their run, so several runs can be looked at side by side. Levels are halved
until the long side is at most 128 px, images by area-averaging, labels by the nearest pixel. The answer for a cell has
the number that cell has in ``truth``. The t axis is the order of time; the attribute ``hela-store`` of the image has
the ids and times of its frames. Where a frame has no labels, or a run did not look, labels are 0. An image is written
under a temporary name and renamed: it is whole or not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import zarr
from dask.delayed import delayed

from hela_store.base.extras import needs
from hela_store.base.names import inside
from hela_store.base.progress import Progress, silent
from hela_store.evaluation.sequences import RunLabels, run_labels
from hela_store.images.assemble import assemble
from hela_store.store.records import FrameRecord
from hela_store.store.store import Store

from .target import Targets

AXES = "tyx"
SMALLEST = 128
"""Long side, px, at which a pyramid ends."""
TRUTH = "truth"


@dataclass(frozen=True, kw_only=True)
class OmeZarrExport:
    """Result of an export to OME-NGFF.

    Attributes
    ----------
    images : dict of array group (a sequence, or its frames of one size) to its folder
    frames : how many are in them
    labels : names of the label images each has
    levels : of each pyramid, the full one counted
    without : of each run that looked at some of the frames only, how many it has no masks of; their planes are empty
    """

    images: dict[str, Path]
    frames: int
    labels: list[str]
    levels: dict[str, int]
    without: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        images = {name: str(path) for name, path in self.images.items()}
        return {"images": images, "frames": self.frames, "labels": self.labels, "levels": self.levels} | {
            "without": self.without
        }


def export_ome_zarr(
    store: Store,
    runs: Sequence[str],
    out: Path,
    *,
    prompt: str | None = None,
    prompt_seed: int | None = None,
    progress: Progress = silent,
) -> OmeZarrExport:
    """Write all frames of a store, with their labels and the masks of runs.

    Parameters
    ----------
    runs : ids, their beginnings or ``"latest"``; may be empty
    out : folder that gets ``<group>.ome.zarr``; such a folder must not be there yet
    prompt, prompt_seed : of every run, as in :func:`hela_store.evaluation.sequences.run_labels`
    progress : shown by image

    Raises
    ------
    RunError
        Nothing to export of a run, or an image is there already.
    StoreError
        Nothing was ingested; no space, no permission.
    ExtraError
        The extra ``ome-zarr`` is not installed.
    """
    predicted = [run_labels(store, run, prompt, prompt_seed) for run in dict.fromkeys(runs)]
    rows: dict[str, list[FrameRecord]] = {}
    for row in store.frame_records().values():
        rows.setdefault(row.group, []).append(row)
    images = {group: inside(out, group, suffix=".ome.zarr", what="the group of frames") for group in rows}
    targets = Targets()
    levels = {}
    for group in progress(list(rows), total=len(rows), what="export"):
        levels[group] = _write_image(store, rows[group], predicted, targets, images[group])
    targets.finish()
    has_truth = any(row.has_label for part in rows.values() for row in part)
    names = [TRUTH] * has_truth + [labels.info.id for labels in predicted]
    count = sum(map(len, rows.values()))
    without = {found.info.id: count - len(found) for found in predicted if len(found) < count}
    return OmeZarrExport(images=images, frames=count, labels=names, levels=levels, without=without)


def _write_image(
    store: Store, rows: list[FrameRecord], predicted: list[RunLabels], targets: Targets, path: Path
) -> int:
    with needs("ome-zarr"):
        from ome_zarr import OMEZarrImage, OMEZarrLabels, OMEZarrMultiscale
    frames = store.frames(rows[0].sequence, rows[0].group)
    pyramid = {"scale_factors": _factors(frames.image.shape[1:])}
    about = {"axes": AXES, **_scale(rows)}
    planes = {TRUTH: frames.label.data} if any(row.has_label for row in rows) else {}
    planes |= {found.info.id: _lazy(found, rows) for found in predicted}
    # auto_parse_labels would read every label image to give every value a colour
    labels = {
        name: OMEZarrLabels(OMEZarrImage(plane, **about), auto_parse_labels=False, **pyramid)
        for name, plane in planes.items()
    }
    image = OMEZarrImage(frames.image.data, name=rows[0].group, **about)
    whole = OMEZarrMultiscale(image, method="local_mean", labels=labels, **pyramid)
    with targets.folder(path) as partial:
        # a folder that is there, though empty, it would only add labels to
        whole.to_ome_zarr(str(partial), version="0.5", overwrite=True)
        named: Any = {"frames": [row.frame for row in rows], "times": [row.time for row in rows]}
        named["answered"] = {each.info.id: [r.frame for r in rows if r.frame in each.answers] for each in predicted}
        zarr.open_group(str(partial), mode="r+", use_consolidated=False).attrs["hela-store"] = named
    return len(pyramid["scale_factors"]) + 1


def _lazy(labels: RunLabels, rows: list[FrameRecord]) -> da.Array:
    """Return a run's label images, int32, (frame, row, col), each made when it is written."""
    shape = rows[0].shape
    planes = [delayed(_numbered)(labels, row.frame, shape) for row in rows]
    return da.stack([da.from_delayed(plane, shape, dtype=np.int32) for plane in planes])


def _numbered(labels: RunLabels, frame: str, shape: tuple[int, int]) -> npt.NDArray[np.int32]:
    answers = labels.answers.get(frame, [])
    label = assemble(answers, shape)
    if labels.prompt is None:
        return label
    numbers = np.array([0, *(int(answer.id.rpartition("#")[2]) for answer in answers)], np.int32)
    return numbers[label]


def _factors(shape: tuple[int, int]) -> list[int]:
    """Return by how much each level but the first is smaller."""
    factors = [2]
    while max(shape) > SMALLEST * factors[-1]:
        factors.append(factors[-1] * 2)
    return factors


def _scale(rows: list[FrameRecord]) -> dict[str, Any]:
    size = rows[0].pixel_size_um
    if size is None:
        return {"scale": dict.fromkeys(AXES, 1.0)}
    return {"scale": {"t": 1.0, "y": size, "x": size}, "axes_units": {"y": "micrometer", "x": "micrometer"}}
