"""Say which files of a folder are images, which are the labels of which image, and what is passed over.

``images/`` with ``masks/`` beside it, or all in one folder; a mask has the name of its image, or that name and an
ending such as ``_mask`` or ``_cp_masks``. Names count as equal whatever their Unicode form (a Mac writes another one).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from hela_store.base.text import natural
from hela_store.errors import DatasetError

from .entries import list_folder
from .ome_zarr import is_ome_zarr, label_images
from .pixels import PNG, TIFF
from .vendors import SAVE_AS, refuse_vendor, vendor_files

MASK_ENDING = re.compile(r"(?i)[_-](cp[_-])?(masks?|seg|labels?|instances?|object[ _-]identities)$")
_LABEL_FOLDER = re.compile(
    r"(?i)(.*[_-])?(masks?|labels?|seg(mentations?)?|annotations?|ground[_-]?truth|gt|instances)"
)
_LABEL_FILES = (".npy", ".npz", ".roi", ".zip", ".geojson", ".json")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Contents of a folder of frames.

    Attributes
    ----------
    images : dict of str to Path
        Image files by stem, in natural order (``t2`` before ``t10``).
    masks : dict of str to Path
        Label images by the stem of their image.
    has_labels : bool
        Whether labels are to be expected: there are masks, or a folder for them.
    notes : tuple of str
        What was passed over, or taken although its name is odd, in words.
    """

    images: dict[str, Path]
    masks: dict[str, Path]
    has_labels: bool
    notes: tuple[str, ...]


def list_images(root: Path, labels: bool = True) -> Listing:
    """List a folder, an image stack or an OME-Zarr image, by names alone.

    Parameters
    ----------
    root : Path
    labels : bool
        Whether masks are paired with images; without it they are only kept apart from them.

    Raises
    ------
    DatasetError
        ``root`` is missing or cannot be read or holds only files of a kind that is not read; two files share a stem, a
        mask belongs to no image.
    """
    if root.is_file() or is_ome_zarr(root):
        refuse_vendor(root)
        images = _by_stem([root])
        masks, notes = _inside(images)
        return Listing(images=images, masks=masks, has_labels=bool(masks), notes=notes)
    files = list_folder(root)
    inner = list_folder(_subfolder(files, "images") or root)
    found = _by_stem(inner)
    beside = _beside(found)
    images = {stem: path for stem, path in found.items() if stem not in beside}
    folder = _subfolder(files, "masks")
    masks, notes = _labels(found, images, beside, folder) if labels else ({}, _passed(found, beside, "not asked for"))
    if not images:
        for path in vendor_files(inner):
            refuse_vendor(path)
    known = bool(masks or beside) or folder is not None
    notes += _odd_names(images)
    notes += _left_out({path.name: path for path in (*files, *inner)}.values(), known)
    return Listing(images=images, masks=masks, has_labels=known, notes=notes)


def _labels(
    found: dict[str, Path], images: dict[str, Path], beside: dict[str, str], folder: Path | None
) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Return the masks by the stem of their image: of a folder of masks, else of files beside and in the images."""
    if folder is not None and images:
        masks = _pair(_by_stem(list_folder(folder)), images, folder)
        return masks, _passed(found, beside, f"{folder.name} holds the masks")
    masks, notes = _inside(images)
    for stem, image in beside.items():
        if image in masks:
            raise DatasetError(f"{found[stem]} and {masks[image]} are labels of the same image; keep one of them")
        masks[image] = found[stem]
    return masks, notes


def find_images(root: Path) -> dict[str, Path]:
    """Return the image files by stem, in natural order; label images beside them are left out.

    Raises
    ------
    DatasetError
        As :func:`list_images`.
    """
    return list_images(root, labels=False).images


def same_name(name: str) -> str:
    """Return a file name in the form in which two that read the same are equal (NFC)."""
    return unicodedata.normalize("NFC", name)


def _subfolder(files: list[Path], name: str) -> Path | None:
    folders = [path for path in files if path.name.lower() == name and path.is_dir()]
    return next((path for path in folders if path.name == name), folders[0] if folders else None)


def _by_stem(paths: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if (path.suffix.lower() in (*TIFF, *PNG) and not path.is_dir()) or is_ome_zarr(path):
            stem = path.stem.removesuffix(".ome")
            other = next((found[known] for known in (stem, same_name(stem)) if known in found), None)
            if other is not None:
                raise DatasetError(f"{path} and {other.name} have the same stem; remove one of them")
            found[stem] = path
    return dict(sorted(found.items(), key=lambda item: natural(item[0])))


def _beside(found: dict[str, Path]) -> dict[str, str]:
    """Return, by the stem of each file that is named as the mask of another, the stem of that image."""
    known = {same_name(stem): stem for stem in found}
    named = {stem: MASK_ENDING.sub("", same_name(stem)) for stem in found if MASK_ENDING.search(same_name(stem))}
    pairs = {stem: known[image] for stem, image in named.items() if image in known}
    twice = [image for image, count in Counter(pairs.values()).items() if count > 1]
    for image in twice:
        names = " and ".join(found[stem].name for stem, other in pairs.items() if other == image)
        raise DatasetError(f"{found[image]}: {names} are both named as its labels; keep one of them")
    return pairs


def _pair(masks: dict[str, Path], images: dict[str, Path], folder: Path) -> dict[str, Path]:
    known = {same_name(stem): stem for stem in images}
    pairs: dict[str, Path] = {}
    for stem, path in masks.items():
        name = same_name(stem)
        image = known.get(name) or known.get(MASK_ENDING.sub("", name))
        if image is None:
            raise DatasetError(
                f"{path} is a mask without a frame: no image named {stem}, and none that it could be the mask of "
                f"(a mask has its image's name, or that and _mask, _masks, _cp_masks, _seg or _label); "
                "rename it, add the image or remove the mask"
            )
        if image in pairs:
            raise DatasetError(f"{path} and {pairs[image].name} are both labels of {images[image].name}; keep one")
        pairs[image] = path
    if images and not pairs:
        raise DatasetError(f"{folder}: no label images found; expected TIFF or PNG files, or use --labels none")
    return pairs


def _inside(images: dict[str, Path]) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Return the label image inside each OME-Zarr image that holds one, and a word on those that hold several."""
    masks: dict[str, Path] = {}
    notes: list[str] = []
    for stem, path in images.items():
        labels = label_images(path)
        if len(labels) == 1:
            masks[stem] = labels[0]
        elif labels:
            names = ", ".join(label.name for label in labels)
            notes.append(
                f"{path.name} holds several label images ({names}), none is read; copy one to masks/{stem}.tif"
            )
    return masks, tuple(notes)


def _odd_names(images: dict[str, Path]) -> tuple[str, ...]:
    odd = [path.name for stem, path in images.items() if MASK_ENDING.search(same_name(stem))]
    if not odd:
        return ()
    return (f"{_some(odd)} named like label images, but no image has the rest of the name: taken for images",)


def _passed(found: dict[str, Path], stems: Iterable[str], why: str) -> tuple[str, ...]:
    names = [found[stem].name for stem in stems]
    return (f"{_some(names)} named like label images and passed over: {why}",) if names else ()


def _left_out(files: Collection[Path], has_masks: bool) -> tuple[str, ...]:
    """Name what lies beside the images and cannot be read, or looks like labels where none were found."""
    notes = []
    vendors = [path.name for path in vendor_files(files)]
    if vendors:
        notes.append(f"{_some(vendors)} of a kind that is not read; {SAVE_AS}")
    if has_masks:
        return tuple(notes)
    folders = [path for path in files if path.is_dir() and _LABEL_FOLDER.fullmatch(path.name) and not is_ome_zarr(path)]
    for folder in folders:
        if folder.name.lower() != "masks":
            notes.append(f"the folder {folder.name} looks like labels and is not read; call it masks to use it")
    other = [path.name for path in files if path.suffix.lower() in _LABEL_FILES or path.name.endswith("_outlines.txt")]
    if other:
        notes.append(
            f"{_some(other)} possibly labels and not read: they are read from TIFF and PNG files "
            "(Cellpose: File > Save masks as PNG/tif)"
        )
    return tuple(notes)


def _some(names: list[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} is"
    return f"{len(names)} files ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}) are"
