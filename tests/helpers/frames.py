"""Drawn frames with cells, and files of them as programs write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from hela_store.datasets.frame import Frame


def label_of(frame: Frame) -> np.ndarray:
    """Return the labels of a frame that has some."""
    assert frame.label is not None
    return frame.label


def draw(seed: int = 0, shape: tuple[int, int] = (64, 72), cells: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Return a uint16 frame of bright discs on noise, and its labels, uint16; other seeds have other places."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image, label = rng.normal(200, 15, shape), np.zeros(shape, np.uint16)
    for number in range(1, cells + 1):
        row, col = rng.uniform(8, shape[0] - 8), rng.uniform(8, shape[1] - 8)
        disc = ((y - row) ** 2 + (x - col) ** 2 <= 36) & (label == 0)
        label[disc], image[disc] = number, image[disc] + rng.uniform(600, 1200)
    return image.clip(0).astype(np.uint16), label


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    """Write an image as what its name says, PNG or TIFF, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".png":
        path.write_bytes(imagecodecs.png_encode(array))
    else:
        tifffile.imwrite(path, array, **options)
    return path


def save_pages(path: Path, pages: np.ndarray, **options: Any) -> Path:
    """Write a stack as a loop over its pages does: every page an image of its own in one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as file:
        for page in pages:
            file.write(page, **options)
    return path


def ome_xml(names: list[str], shape: tuple[int, int], own: int = 0, size: str = "", unit: str = "\u00b5m") -> bytes:
    """Return the OME-XML of a time-lapse with one file a time point (one name: of a file of its own)."""
    uuid = "urn:uuid:00000000-0000-0000-0000-{:012d}"
    planes = "".join(
        f'<TiffData FirstT="{t}" IFD="0" PlaneCount="1"><UUID FileName="{name}">{uuid.format(t)}</UUID></TiffData>'
        for t, name in enumerate(names)
    )
    scale = f'PhysicalSizeX="{size}" PhysicalSizeY="{size}" PhysicalSizeXUnit="{unit}" PhysicalSizeYUnit="{unit}"'
    return (
        f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{uuid.format(own)}">'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="{shape[1]}" '
        f'SizeY="{shape[0]}" SizeZ="1" SizeC="1" SizeT="{len(names)}" {scale if size else ""}>'
        f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{planes}</Pixels></Image></OME>'
    ).encode()
