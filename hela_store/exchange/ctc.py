"""Result folders of the Cell Tracking Challenge: ``<sequence>_RES/mask012.tif`` and ``res_track.txt``.

Nothing is tracked: every object has a number of its own and lives for one frame, which is a valid result and leaves SEG
and DET as they are. Frames the run did not look at are not written; tools that want the whole sequence need a run with
``--split all``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from hela_store.base.names import inside
from hela_store.base.progress import Progress, silent
from hela_store.base.text import own_numbers
from hela_store.errors import RunError
from hela_store.evaluation.sequences import RunLabels, SequenceScores, run_labels, sequence_scores
from hela_store.recipe.splits import format_ranges
from hela_store.store.store import Store

from .target import Targets

MOST_OBJECTS = 65535


@dataclass(frozen=True, kw_only=True)
class CtcExport:
    """Result of an export to the Cell Tracking Challenge's form.

    Attributes
    ----------
    run : str
    folders : dict of sequence to its result folder
    masks : label image of each frame, by its id
    objects : how many were written
    scores : SEG and DET of these images; None where no frame has labels
    notes : what tools that score result folders do with these
    """

    run: str
    folders: dict[str, Path]
    masks: dict[str, Path]
    objects: int
    scores: SequenceScores | None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store export ctc --json`` prints."""
        folders = {name: str(path) for name, path in self.folders.items()}
        scores = None if self.scores is None else self.scores.to_json()
        masks = {frame: str(path) for frame, path in self.masks.items()}
        about = {"run": self.run, "folders": folders, "frames": self.frames, "masks": masks}
        return about | {"objects": self.objects, "scores": scores, "notes": list(self.notes)}

    @property
    def frames(self) -> int:
        """Number of frames that were written."""
        return len(self.masks)


def export_ctc(
    store: Store,
    run: str,
    out: Path,
    *,
    prompt: str | None = None,
    prompt_seed: int | None = None,
    progress: Progress = silent,
) -> CtcExport:
    """Write a run's stored masks as challenge results, uint16 TIFFs of the frames' own size.

    Parameters
    ----------
    run, prompt, prompt_seed
        As in :func:`hela_store.evaluation.sequences.run_labels`.
    out : Path
        Folder that gets ``<sequence>_RES``; another such folder must not be there yet.

    Raises
    ------
    AlreadyComplete
        All of it is there already.
    RunError
        Nothing to export, another folder is there, two frames would be one file, or there are more than 65,535 objects.
    StoreError
        No space, no permission.
    """
    labels = run_labels(store, run, prompt, prompt_seed)
    files = _files(labels)
    tracks: dict[str, list[str]] = {}
    folders: dict[str, Path] = {}
    times: dict[str, list[int]] = {}
    targets = Targets()
    with ExitStack() as stack:
        for row, label in progress(labels, total=len(labels), what="export"):
            name = row.sequence
            if name not in folders:
                folders[name] = stack.enter_context(targets.folder(_folder(out, name)))
            lines = tracks.setdefault(name, [])
            values, index = np.unique(label, return_inverse=True)
            first, count = len(lines) + 1, np.count_nonzero(values)
            if first + count - 1 > MOST_OBJECTS:
                raise RunError(f"sequence {name} has more than {MOST_OBJECTS} objects, the most a result folder holds")
            numbers = np.where(values > 0, np.cumsum(values > 0) + len(lines), 0).astype(np.uint16)
            lines += [f"{number} {row.time} {row.time} 0" for number in range(first, first + count)]
            path = folders[name] / files[row.frame][1]
            tifffile.imwrite(path, numbers[index].reshape(label.shape), compression="zlib")
            times.setdefault(name, []).append(row.time)
        for name, lines in tracks.items():
            (folders[name] / "res_track.txt").write_text("".join(f"{line}\n" for line in lines))
    targets.finish()
    has_truth = any(store.frame_records()[frame].has_label for frame in files)
    return CtcExport(
        run=labels.info.id,
        folders={name: _folder(out, name) for name in folders},
        masks={frame: out.joinpath(*parts) for frame, parts in files.items()},
        objects=sum(map(len, tracks.values())),
        scores=sequence_scores(labels, progress) if has_truth else None,
        notes=tuple(_partial(store, times)),
    )


def _folder(out: Path, sequence: str) -> Path:
    return inside(out, sequence, suffix="_RES", what="the sequence")


def _files(labels: RunLabels) -> dict[str, tuple[str, str]]:
    """Return folder and file of each frame, named by its time, as the challenge asks."""
    files: dict[str, tuple[str, str]] = {}
    owners: dict[tuple[str, str], str] = {}
    for record in labels.store.frame_records().values():
        if record.frame in labels.answers:
            file = files[record.frame] = (f"{record.sequence}_RES", f"mask{record.time:03d}.tif")
            other = owners.setdefault(file, record.frame)
            if other != record.frame:
                raise RunError(
                    f"{other} and {record.frame} have one time, {record.time}, and would be one file, "
                    f"{'/'.join(file)}; make a new store of these frames with `hela-store new`, or use "
                    "`hela-store export coco`"
                )
    return files


def _partial(store: Store, times: dict[str, list[int]]) -> Iterator[str]:
    """Say of each sequence whose masks are not those of frame 0 to the last what scorers make of that."""
    there: dict[str, set[int]] = {}
    frames = store.frame_records().values()
    for record in frames:
        there.setdefault(record.sequence, set()).add(record.time)
    for name, written in times.items():
        last = max(there[name])
        if set(written) == set(range(last + 1)):
            continue
        own = own_numbers((record.name, record.time) for record in frames if record.sequence == name)
        way_out = "" if set(written) == there[name] else " To have all, export a run of `evaluate --split all`."
        yield (
            f"{name}_RES holds the frames {format_ranges(written)} of 0-{last}, numbered as in the store{own}. Tools "
            "that score such a folder want a mask for every frame of the truth. py-ctcmetrics stops where the numbers "
            f"differ, or compares a mask with another frame.{way_out}"
        )
