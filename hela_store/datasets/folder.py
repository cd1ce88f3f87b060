"""Reader for plain folders and for the stacks microscopes write.

- ``<root>/images/<stem>.png|tif`` with labels of the same stem in ``<root>/masks/`` (or none): each file a frame of the
  sequence ``images``, of any size.
- With ``axis`` (``"t"``) every file is a stack whose positions along that axis are frames: multi-page, ImageJ and
  OME-TIFF; its sequence is named by the file's stem, its frames ``t000``, ``t001``, ...
- ``<root>`` may also hold the image files themselves, or be one file; then there are no labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hela_store.base.text import natural
from hela_store.errors import DatasetError
from hela_store.images.labels import apply_field_of_interest, valid_pixels
from hela_store.recipe.recipe import DatasetRecipe

from .entries import Entry, check_mask_size, list_folder, probe_label
from .frame import Frame
from .pixels import PNG, TIFF, Plane, probe, read_image, read_label

STILLS = "images"


class FolderReader:
    """A folder of images or stacks; call it for its frames, ``len`` counts them.

    Attributes
    ----------
    entries : tuple of Entry
        All frames in order, from file names and headers alone; :meth:`read` reads one.
    """

    def __init__(self, config: DatasetRecipe, root: Path) -> None:
        if config.labels not in ("masks", "none"):
            raise DatasetError(f"labels are {config.labels!r}, which is the ctc reader's word; expected masks or none")
        self.config = config
        self.root = root
        images = find_images(root)
        if not images:
            raise DatasetError(f"{root}: no frames found; expected TIFF or PNG files in {root / 'images'} or {root}")
        masks = _find_masks(root, images) if config.labels == "masks" else {}
        entries: list[Entry] = []
        for stem, path in images.items():
            entries += self._list_file(len(entries), stem, path, masks.get(stem))
        self.entries = tuple(self._chosen(entries))

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

    def _list_file(self, number: int, stem: str, path: Path, mask: Path | None) -> list[Entry]:
        axis = self.config.axis
        planes = probe(path, axis, self.config.channel)
        labels = probe_label(mask, axis) if mask is not None else []
        if mask is not None and len(labels) != len(planes):
            raise DatasetError(f"{mask}: {len(labels)} planes, its stack {path.name} has {len(planes)} frames")
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


def find_images(root: Path) -> dict[str, Path]:
    """Return the image files by stem, in natural order (``t2`` before ``t10``).

    Raises
    ------
    DatasetError
        ``root`` is missing or cannot be read, or two files share a stem.
    """
    if root.is_file():
        return _by_stem([root])
    files = list_folder(root)
    return _by_stem(list_folder(root / "images") if root / "images" in files else files)


def _find_masks(root: Path, images: dict[str, Path]) -> dict[str, Path]:
    folder = root / "masks"
    if not folder.is_dir():
        raise DatasetError(f"{root}: no labels, expected label images in {folder}; use --labels none without them")
    masks = _by_stem(list_folder(folder))
    if not masks:
        raise DatasetError(f"{folder}: no label images found; expected TIFF or PNG files, or use --labels none")
    for stem, path in masks.items():
        if stem not in images:
            raise DatasetError(
                f"{path} is a mask without a frame: no image named {stem} in {root / 'images'}; "
                "add the image or remove the mask"
            )
    return masks


def _by_stem(paths: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if path.suffix.lower() in (*TIFF, *PNG) and not path.is_dir():
            stem = path.stem.removesuffix(".ome")
            if stem in found:
                raise DatasetError(f"{path} and {found[stem].name} have the same stem; remove one of them")
            found[stem] = path
    return dict(sorted(found.items(), key=lambda item: natural(item[0])))


def _entry(sequence: str, name: str, time: int, image: Plane, mask: Plane | None) -> Entry:
    labels = {} if mask is None else {"masks": mask}
    return Entry(sequence=sequence, name=name, time=time, image=image, labels=labels)
