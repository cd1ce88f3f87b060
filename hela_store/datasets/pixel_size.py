"""The size of a pixel, as far as a TIFF file's metadata says it.

A fault in metadata is no fault of the pixels: what cannot be understood is unknown, and a note says so.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

import tifffile

# Lengths in micrometres by the words OME-XML and ImageJ use (ImageJ escapes the micro sign).
MICROMETRES = {
    "um": 1.0,
    "\u00b5m": 1.0,
    "\u03bcm": 1.0,
    "\\u00b5m": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "nanometre": 1e-3,
    "mm": 1e3,
    "millimeter": 1e3,
    "millimetre": 1e3,
    "cm": 1e4,
    "m": 1e6,
}
_WAY_OUT = "if it matters give --pixel-size-um"


@dataclass(frozen=True, kw_only=True)
class PixelSize:
    """Edge length of a pixel in micrometres, None where unknown, and what has to be said about it."""

    um: float | None = None
    notes: tuple[str, ...] = ()


def square_of(x: float, y: float) -> float | None:
    """Return the edge of the square of the same area as a pixel of ``x`` by ``y``, so that areas in um2 stay right."""
    size = math.sqrt(x * y) if x > 0 and y > 0 else math.nan
    return size if math.isfinite(size) and size > 0 else None


def tiff_pixel_size(tiff: tifffile.TiffFile) -> PixelSize:
    """Return what an open file's metadata says; a fault in it never raises."""
    try:
        if tiff.is_ome and tiff.ome_metadata:
            return _from_ome(tiff.ome_metadata)
        if tiff.is_lsm and tiff.lsm_metadata:
            sizes = [float(tiff.lsm_metadata[f"VoxelSize{side}"]) * 1e6 for side in "XY"]
            return PixelSize(um=square_of(*sizes))
        if tiff.is_imagej and tiff.imagej_metadata:
            return _from_imagej(tiff)
    except Exception as error:  # metadata are whatever somebody's program wrote
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return PixelSize(notes=(f"the metadata cannot be read ({reason}): the pixel size is unknown; {_WAY_OUT}",))
    return PixelSize()


def _from_imagej(tiff: tifffile.TiffFile) -> PixelSize:
    scale = MICROMETRES.get(str((tiff.imagej_metadata or {}).get("unit", "")).strip().lower())
    tags = tiff.pages.first.tags
    ratios = [tags[name].value for name in ("XResolution", "YResolution") if name in tags]
    if not scale or len(ratios) != 2 or not all(number for ratio in ratios for number in ratio):
        return PixelSize()
    (up_x, down_x), (up_y, down_y) = ratios
    return PixelSize(um=square_of(scale * down_x / up_x, scale * down_y / up_y))


def _from_ome(xml: str) -> PixelSize:
    root = ElementTree.fromstring(xml)
    pixels = next((element for element in root.iter() if element.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None:
        return PixelSize()
    sizes, notes = [], []
    for side in "XY":
        unit = pixels.get(f"PhysicalSize{side}Unit", "\u00b5m").strip().lower()
        text = pixels.get(f"PhysicalSize{side}")
        if text is None or unit not in MICROMETRES:
            return PixelSize()
        value, note = _number(text)
        notes += [note] if note else []
        sizes.append(value * MICROMETRES[unit])
    return PixelSize(um=square_of(sizes[0], sizes[1]), notes=tuple(dict.fromkeys(notes)))


def _number(text: str) -> tuple[float, str]:
    """Return a length and a note, NaN where the text says none; a decimal comma is understood."""
    for candidate in (text, text.replace(",", ".")):
        try:
            value = float(candidate)
        except ValueError:
            continue
        if math.isfinite(value) and value > 0:
            return value, "" if candidate is text else f"the pixel size {text!r} is taken for {value:g}"
    return math.nan, f"the pixel size {text!r} in the metadata says nothing: it is unknown; {_WAY_OUT}"
