"""Reader for plain folders and for the stacks microscopes write.

- ``<root>/images/<stem>.png|tif`` with labels of the same stem in ``<root>/masks/`` (or none): each file a frame of the
  sequence ``images``, of any size; :mod:`~hela_store.datasets.listing` says which other layouts and names are paired.
- With ``axis`` (``"t"``) every file is a stack whose positions along that axis are frames: multi-page, ImageJ and
  OME-TIFF, OME-Zarr; its sequence is named by the file's stem, its frames ``t000``, ``t001``, ...
  One OME-TIFF in several files is one sequence.
- ``<root>`` may also hold the image files themselves, or be one file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hela_store.base.progress import Progress, silent
from hela_store.errors import DatasetError
from hela_store.images.labels import apply_field_of_interest, valid_pixels
from hela_store.recipe.recipe import DatasetRecipe

from .entries import Entry, check_mask_size, plane_notes, probe_label
from .frame import Frame
from .listing import list_images
from .pixels import Plane, probe, read_image, read_label

STILLS = "images"
MANY = 500
"""More files than these take so long to list that it is shown."""


class FolderReader:
    """A folder of images or stacks; call it for its frames, ``len`` counts them.

    Attributes
    ----------
    entries : tuple of Entry
        All frames in order, from file names and headers alone; :meth:`read` reads one.
    notes : tuple of str
        What the files hold beyond these frames, or hold in an unusual way, in words.
    """

    def __init__(self, config: DatasetRecipe, root: Path, progress: Progress = silent) -> None:
        if config.labels not in ("masks", "none"):
            raise DatasetError(
                f"this folder has no labels of kind {config.labels!r}, which only a Cell Tracking Challenge data set "
                "has; expected masks or none"
            )
        self.config = config
        self.root = root
        found = list_images(root, labels=config.labels == "masks")
        if not found.images:
            raise DatasetError(f"{root}: no frames found; expected TIFF or PNG files in {root / 'images'} or {root}")
        if config.labels == "masks" and not found.masks:
            raise DatasetError(
                f"{root}: no labels, expected label images in {root / 'masks'}, or beside the images under their names "
                "and _masks; use --labels none without them"
            )
        sequences = self._sequences(found.images, found.masks, progress)
        self.entries = tuple(self._chosen([entry for part in sequences for entry in part]))
        planes = [plane for entry in self.entries for plane in (entry.image, *entry.labels.values())]
        self.notes = (*found.notes, *plane_notes(planes))

    def __len__(self) -> int:
        return len(self.entries)

    def __call__(self) -> Iterator[Frame]:
        """Yield frames one at a time; raises as :meth:`read`."""
        return (self.read(entry) for entry in self.entries)

    def read(self, entry: Entry) -> Frame:
        """Read one frame.

        Raises
        ------
        DatasetError
            A damaged file, NaN, or a label image that is none.
        """
        label = self.label(entry)
        return Frame(
            sequence=entry.sequence,
            name=entry.name,
            time=entry.time,
            image=read_image(entry.image),
            label=label,
            valid=valid_pixels(label, entry.image.shape, self.config.field_of_interest, partial=False),
            label_origin="" if label is None else "masks",
            pixel_size_um=self.config.pixel_size_um or entry.image.pixel_size_um,
        )

    def label(self, entry: Entry) -> np.ndarray | None:
        """Read the labels of one frame alone, int32 (row, col), None where it has none; raises as :meth:`read`."""
        if "masks" not in entry.labels:
            return None
        return apply_field_of_interest(read_label(entry.labels["masks"]), self.config.field_of_interest)

    def _sequences(self, images: dict[str, Path], masks: dict[str, Path], progress: Progress) -> list[list[Entry]]:
        """Return the entries of every file; of files that hold one image together, those of the first of them."""
        parts: dict[str, list[Entry]] = {}
        owner: dict[str, str] = {}
        stems = {path.name: stem for stem, path in images.items()}
        count = 0
        shown = progress if len(images) > MANY else silent
        for stem, path in shown(images.items(), total=len(images), what="list files"):
            if path.name in owner:
                continue
            planes = probe(path, self.config.axis, self.config.channel)
            names = planes[0].files or (path.name,)
            for name in names:
                owner[name] = stem
                count -= len(parts.pop(stems.get(name, ""), ()))
            labels = [masks[stems[name]] for name in names if stems.get(name) in masks]
            parts[stem] = self._list_file(count, stem, planes, labels)
            count += len(parts[stem])
        return list(parts.values())

    def _list_file(self, number: int, stem: str, planes: list[Plane], masks: list[Path]) -> list[Entry]:
        axis = self.config.axis
        labels = [plane for mask in masks for plane in probe_label(mask, axis)]
        if masks and len(labels) != len(planes):
            raise DatasetError(
                f"{masks[0]}: {len(labels)} planes, its stack {planes[0].path.name} has {len(planes)} frames"
            )
        for image, label in zip(planes, labels, strict=False):
            check_mask_size(image, label)
        if not axis:
            return [_entry(STILLS, stem, number, planes[0], labels[0] if labels else None)]
        digits = max(3, len(str(len(planes) - 1)))
        return [
            _entry(stem, f"t{time:0{digits}}", time, plane, labels[time] if labels else None)
            for time, plane in enumerate(planes)
        ]

    def _chosen(self, entries: list[Entry]) -> list[Entry]:
        wanted = self.config.sequences
        have = list(dict.fromkeys(entry.sequence for entry in entries))
        for name in wanted:
            if name not in have:
                raise DatasetError(f"{self.root}: no sequence {name!r}; found {', '.join(have[:8])}")
        return [entry for entry in entries if not wanted or entry.sequence in wanted]


def _entry(sequence: str, name: str, time: int, image: Plane, mask: Plane | None) -> Entry:
    labels = {} if mask is None else {"masks": mask}
    return Entry(sequence=sequence, name=name, time=time, image=image, labels=labels)
