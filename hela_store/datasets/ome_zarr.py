"""OME-Zarr images in local folders: version 0.4 (Zarr v2) and 0.5 (Zarr v3), the full resolution of one image."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from hela_store.errors import DatasetError

from .pixel_size import MICROMETRES, square_of
from .tiff import Header

_MARKS = ("zarr.json", ".zgroup", ".zattrs", ".zarray")


def is_ome_zarr(path: Path) -> bool:
    """Return whether a folder is a Zarr group or array; hela-store's own ``arrays.zarr`` is one as well."""
    return path.is_dir() and any((path / mark).is_file() for mark in _MARKS)


def zarr_header(path: Path) -> Header:
    """Return shape, axes, dtype and pixel size of the full resolution; raises DatasetError where it is no image."""
    array, scales, level = _open(path)
    letters = _axes(path, scales, array.ndim)
    size, notes = _pixel_size(scales, level, letters)
    return Header(shape=array.shape, axes=letters, dtype=np.dtype(array.dtype), pixel_size_um=size, notes=notes)


def read_zarr(path: Path, select: tuple[int | slice, ...]) -> np.ndarray:
    """Return ``array[select]`` of the full resolution."""
    return np.asarray(_open(path)[0][select])


def label_images(path: Path) -> list[Path]:
    """Return the label images that an OME-Zarr image holds, sorted; none of any other file."""
    if not is_ome_zarr(path) or not (folder := path / "labels").is_dir():
        return []
    return sorted(inner for inner in folder.iterdir() if is_ome_zarr(inner))


def _open(path: Path) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Return the array of the full resolution, the metadata of all resolutions, and those of this one."""
    import zarr

    try:
        group = zarr.open_group(path, mode="r", use_consolidated=False)
    except zarr.errors.ContainsArrayError:
        raise DatasetError(f"{path} is a Zarr array without OME metadata, expected an OME-Zarr image") from None
    attributes: dict[str, Any] = dict(group.attrs)
    attributes = {**attributes, **dict(attributes.get("ome", {}))}
    scales = attributes.get("multiscales")
    if not scales:
        raise DatasetError(f"{path}: no OME-Zarr image (no multiscales in its attributes){_parts(path, attributes)}")
    level = scales[0]["datasets"][0]
    array = group[level["path"]]
    if not isinstance(array, zarr.Array):
        raise DatasetError(f"{path}: its multiscales name {level['path']!r}, which is no array")
    return array, scales[0], level


def _parts(path: Path, attributes: dict[str, Any]) -> str:
    """Say where the images of a folder of several images are."""
    if "plate" in attributes:
        return "; it is a plate: give one field of it, such as A/1/0"
    inner = sorted(part.name for part in path.iterdir() if is_ome_zarr(part) and part.name != "OME")
    return f"; give one of its parts: {', '.join(str(path / name) for name in inner[:4])}" if inner else ""


def _axes(path: Path, scales: dict[str, Any], ndim: int) -> str:
    axes = scales.get("axes") or [*"tczyx"][-ndim:]  # before version 0.3 there were always five
    names = [str(axis["name"] if isinstance(axis, dict) else axis).upper() for axis in axes]
    letters = "".join(name[:1] for name in names)
    if len(letters) != ndim or len(set(letters)) != ndim or not {"Y", "X"} <= set(letters):
        raise DatasetError(
            f"{path}: axes {', '.join(names)} of an array with {ndim} dimensions, expected y and x among them"
        )
    return letters


def _pixel_size(scales: dict[str, Any], level: dict[str, Any], letters: str) -> tuple[float | None, tuple[str, ...]]:
    factor = dict.fromkeys("YX", 1.0)
    given = False
    try:
        for transform in (*level.get("coordinateTransformations", ()), *scales.get("coordinateTransformations", ())):
            if transform.get("type") == "scale":
                given = True
                for letter in factor:
                    factor[letter] *= float(transform["scale"][letters.index(letter)])
        units = {str(a.get("unit", "")) for a in scales.get("axes", ()) if a.get("name", "").upper() in factor}
        scale = MICROMETRES.get(units.pop().lower()) if len(units) == 1 else None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        return None, (f"its coordinateTransformations cannot be read ({error}): the pixel size is unknown",)
    if not given or scale is None:
        return None, ()
    size = square_of(factor["X"] * scale, factor["Y"] * scale)
    if size is None or not math.isfinite(size):
        return None, (f"the pixel size {factor['X']} in the metadata says nothing: it is unknown",)
    return size, ()
