"""The quick look at plain TIFF files says what the library says, or nothing."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from frames import draw, ome_xml, save, save_pages
from PIL import Image

from hela_store.datasets import FolderReader
from hela_store.datasets.tiff import Header, _Stack
from hela_store.datasets.tiff_peek import peek_tiff
from hela_store.recipe.recipe import DatasetRecipe

FRAME = draw()[0]
STACK = np.stack([draw(t)[0] for t in range(3)])


def pil(path: Path, array: np.ndarray, **options: Any) -> None:
    Image.fromarray(array).save(path, **options)


PLAIN: dict[str, Callable[[Path], object]] = {
    "tifffile": lambda path: save(path, FRAME),
    "tifffile uint8": lambda path: save(path, FRAME.astype(np.uint8)),
    "tifffile float": lambda path: save(path, FRAME.astype(np.float32)),
    "tifffile big-endian": lambda path: save(path, FRAME, byteorder=">"),
    "tifffile no words": lambda path: save(path, FRAME, metadata=None, software=False),
    "tifffile deflate": lambda path: save(path, FRAME, compression="zlib", predictor=True),
    "tifffile lzw strips": lambda path: save(path, FRAME, compression="lzw", rowsperstrip=5),
    "tifffile strips big-endian": lambda path: save(path, FRAME, rowsperstrip=7, byteorder=">"),
    "tifffile resolution": lambda path: save(path, FRAME, resolution=(300, 300), resolutionunit=2),
    "PIL": lambda path: pil(path, FRAME),
    "PIL uint8": lambda path: pil(path, FRAME.astype(np.uint8)),
    "PIL float": lambda path: pil(path, FRAME.astype(np.float32)),
    "PIL lzw": lambda path: pil(path, FRAME, compression="tiff_lzw"),
    "PIL deflate": lambda path: pil(path, FRAME, compression="tiff_adobe_deflate"),
    "PIL dpi": lambda path: pil(path, FRAME, dpi=(72, 72)),
}
OTHER: dict[str, Callable[[Path], object]] = {
    "stack": lambda path: save(path, STACK, photometric="minisblack"),
    "pages": lambda path: save_pages(path, STACK),
    "pages without words": lambda path: save_pages(path, STACK, metadata=None),
    "imagej": lambda path: save(path, FRAME, imagej=True, metadata={"unit": "um"}, resolution=(2, 2)),
    "imagej stack": lambda path: save(path, STACK, imagej=True, metadata={"axes": "TYX"}),
    "ome": lambda path: save(path, FRAME, description=ome_xml([path.name], FRAME.shape, size="0.5"), metadata=None),
    "words": lambda path: save(path, FRAME, description="made by hand", metadata=None),
    "axes": lambda path: save(path, FRAME, metadata={"axes": "YX", "sample": 3}),
    "one frame of a stack": lambda path: save(path, FRAME[None], metadata={"axes": "TYX"}),
    "tiles": lambda path: save(path, FRAME, tile=(16, 16)),
    "BigTIFF": lambda path: save(path, FRAME, bigtiff=True),
    "0 is white": lambda path: save(path, FRAME, photometric="miniswhite"),
    "colour": lambda path: save(path, np.moveaxis(STACK, 0, -1), photometric="rgb"),
    "colour planes": lambda path: save(path, STACK, photometric="rgb", planarconfig="separate"),
    "colour table": lambda path: save(path, FRAME.astype(np.uint8), colormap=np.zeros((3, 256), np.uint16)),
    "with alpha": lambda path: save(path, np.moveaxis(STACK[:2], 0, -1), photometric="minisblack", extrasamples=[2]),
    "signed": lambda path: save(path, FRAME.astype(np.int16)),
    "uint32": lambda path: save(path, FRAME.astype(np.uint32)),
    "double": lambda path: save(path, FRAME.astype(np.float64)),
    "bits": lambda path: save(path, FRAME > 300),
    "one row": lambda path: save(path, FRAME[:1]),
    "one column": lambda path: save(path, FRAME[:, :1]),
    "one pixel": lambda path: save(path, FRAME[:1, :1]),
    "preview": lambda path: save(path, FRAME, subfiletype=1),
    "depth": lambda path: save(path, STACK, volumetric=True, photometric="minisblack"),
    "another program": lambda path: save(path, FRAME, software="MetaSeries", metadata=None),
    "a tag of somebody": lambda path: save(path, FRAME, extratags=[(65000, 4, 1, 7, True)]),
    "bytes at the end": lambda path: save(path, FRAME).write_bytes(path.read_bytes() + bytes(5000)),
}


def library(path: Path) -> Header | None:
    """Return the header as the library has it, None where it refuses the file."""
    try:
        stack = _Stack(path)
    except Exception:  # decoders raise their own classes
        return None
    stack.close()
    return stack.header


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_files_are_read_as_by_the_library(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    PLAIN[kind](path)
    header = peek_tiff(path)
    assert header is not None and header == library(path)
    assert header.shape == FRAME.shape and header.dtype == tifffile.imread(path).dtype


@pytest.mark.parametrize("kind", OTHER)
def test_other_files_are_left_to_the_library(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    OTHER[kind](path)
    assert peek_tiff(path) is None


@pytest.mark.parametrize("data", [b"", b"II*\0", b"II*\0\0\0\0\0", b"II*\0\x08\0\0\0\xff\xff", b"\x89PNG", bytes(200)])
def test_no_header_at_all(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    assert peek_tiff(path) is None


def changed(data: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with bits, bytes or words of its header changed, pieces swapped, or its end cut off."""
    out = bytearray(data)
    (start,) = np.frombuffer(data[4:8], "<u4" if data[:2] == b"II" else ">u4")
    places = [*range(8), *range(int(start), min(int(start) + 260, len(data)))]
    kind = rng.choice(["bit", "byte", "word", "swap", "cut", "longer", "next"])
    at = int(rng.choice(places))
    if kind == "bit":
        out[at] ^= 1 << int(rng.integers(8))
    elif kind == "byte":
        out[at] = int(rng.choice([0, 1, 2, 3, 4, 8, 16, 32, 254, 255]))
    elif kind == "word":  # a value of one tag is set to one that is common in another
        at = int(start) + 2 + 12 * int(rng.integers(14)) + 8
        out[at : at + 2] = bytes(rng.choice([0, 1, 2, 4, 5, 8, 16], 2).astype(np.uint8))
    elif kind == "swap":
        a, b = (int(start) + 2 + 12 * int(n) for n in rng.integers(14, size=2))
        out[a : a + 12], out[b : b + 12] = out[b : b + 12], out[a : a + 12]
    elif kind == "cut":
        del out[int(rng.choice([at, len(data) - 1 - int(rng.integers(40))])) :]
    elif kind == "longer":
        out += bytes(int(rng.integers(1, 9000)))
    else:
        out[8:8] = bytes(2)
    return bytes(out)


@pytest.mark.parametrize("count", [600, pytest.param(40_000, marks=pytest.mark.slow)])
def test_damaged_headers_are_never_believed_more_than_the_library_believes_them(tmp_path: Path, count: int) -> None:
    path, ends = tmp_path / "a.tif", Counter[str]()
    originals = []
    for write in (*PLAIN.values(), OTHER["imagej"], OTHER["pages"]):
        write(path)
        originals.append(path.read_bytes())
    for number in range(count):
        rng = np.random.default_rng([7, number])
        path.write_bytes(changed(originals[number % len(originals)], rng))
        header = peek_tiff(path)
        if header is not None:
            assert header == library(path), number
        ends["left" if header is None else "read"] += 1
    assert min(ends.values()) > count / 10, ends


def test_listing_many_stills_does_not_open_them_with_the_library(tmp_path: Path) -> None:
    count = 400
    for folder, kind in (("png", ".png"), ("tif", ".tif"), ("imagej", ".tif")):
        one = save(tmp_path / folder / f"s0000{kind}", FRAME, **({"imagej": True} if folder == "imagej" else {}))
        for number in range(1, count):
            os.link(one, one.with_name(f"s{number:04}{kind}"))
    took = {}
    for folder in ("png", "tif", "imagej"):
        config = DatasetRecipe(reader="folder", path=folder, labels="none")
        start = time.process_time()
        reader = FolderReader(config, tmp_path / folder)
        took[folder] = time.process_time() - start
        assert len(reader) == count and {entry.image.shape for entry in reader.entries} == {FRAME.shape}
    assert max(took["png"], took["tif"]) < 0.5 * took["imagej"], took  # ImageJ's words take the library
