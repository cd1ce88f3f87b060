"""Damaged image files: each is read right, refused in one line, or read with a warning; never wrong without a word.

Files are drawn, then changed at places drawn from a seed: bits flipped, the end cut off, tags and pieces swapped. What
a changed byte of uncompressed pixels means cannot be known: there, only that pixel may differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from frames import draw, ome_xml, save, save_pages

from hela_store.datasets import FolderReader, inspect
from hela_store.errors import HelaError

FRAMES = np.stack([draw(t)[0] for t in range(5)])
WRITERS: dict[str, Callable[[Path], object]] = {
    "contiguous.tif": lambda path: save(path, FRAMES, photometric="minisblack"),
    "plain.tif": lambda path: save(path, FRAMES, photometric="minisblack", metadata=None),
    "imagej.tif": lambda path: save(path, FRAMES, imagej=True, metadata={"axes": "TYX", "unit": "um"}),
    "compressed.tif": lambda path: save(path, FRAMES, photometric="minisblack", compression="zlib"),
    "pages.tif": lambda path: save_pages(path, FRAMES),
    "stack.ome.tif": lambda path: save(path, FRAMES, metadata={"axes": "TYX", "PhysicalSizeX": 0.5}),
    "one.ome.tif": lambda path: save(
        path, FRAMES[0], description=ome_xml(["one.ome.tif"], FRAMES[0].shape, size="0.5"), metadata=None
    ),
    "one.tif": lambda path: save(path, FRAMES[0]),
    "one.png": lambda path: save(path, FRAMES[0]),
}


def pixel_bytes(path: Path) -> np.ndarray:
    """Return which bytes of a file are uncompressed pixels, bool."""
    inside = np.zeros(path.stat().st_size, bool)
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as tiff:
            for page in tiff.pages if tiff.pages.first.compression == 1 else ():
                for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                    inside[offset : offset + count] = True
    return inside


def mutate(data: bytes, headers: np.ndarray, rng: np.random.Generator) -> tuple[bytes, str]:
    """Change a file's bytes, mostly those at ``headers`` (indices): what says how the pixels are to be read."""
    kind = str(rng.choice(["bit", "bits", "cut", "swap", "byte", "delete"], p=[0.3, 0.15, 0.15, 0.15, 0.15, 0.1]))
    changed = bytearray(data)
    where = headers if rng.random() < 0.8 and len(headers) else np.arange(len(data))
    if kind in ("bit", "bits"):
        for place in rng.choice(where, 1 if kind == "bit" else 8):
            changed[place] ^= 1 << int(rng.integers(8))
    elif kind == "byte":
        changed[int(rng.choice(where))] = int(rng.integers(256))
    elif kind == "cut":
        del changed[int(rng.integers(1, len(data))) :]
    elif kind == "delete":
        del changed[int(rng.choice(where))]
    else:
        a, b = (int(place) // 12 * 12 for place in rng.choice(where, 2))
        changed[a : a + 12], changed[b : b + 12] = changed[b : b + 12], changed[a : a + 12]
    return bytes(changed), kind


def outcome(root: Path, expected: np.ndarray, changed: int) -> str:
    """Read a data set as `new` and `embed` do; say how that ended, or what was wrong."""
    try:
        summary = inspect(root, axis="t")
        reader = FolderReader(summary.config, root)
        found = [frame.image for frame in reader()]
    except HelaError as error:
        return "refused" if "\n" not in str(error) and "bug" not in str(error) else f"WRONG: {error}"
    same = len(found) == len(expected) and all(image.shape == expected.shape[1:] for image in found)
    wrong = sum(int((a != b).sum()) for a, b in zip(found, expected, strict=True)) if same else 0
    if same and wrong <= changed:
        return "right"
    if summary.warnings:
        return "warned"
    return f"WRONG: {len(found)} frames of {found[0].shape} {found[0].dtype}, {wrong} pixels differ"


def fuzz(root: Path, count: int, seed: int = 0) -> Counter[str]:
    """Return how ``count`` changed files ended."""
    ends: Counter[str] = Counter()
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        name = list(WRITERS)[number % len(WRITERS)]
        path = root / str(number) / name
        WRITERS[name](path)
        data, pixels = path.read_bytes(), pixel_bytes(path)
        mutated, kind = mutate(data, np.flatnonzero(~pixels), rng)
        path.write_bytes(mutated)
        length = min(len(data), len(mutated))
        differs = np.frombuffer(data, np.uint8, length) != np.frombuffer(mutated, np.uint8, length)
        inside = int((differs & pixels[:length]).sum()) if kind not in ("cut", "delete") else 0
        end = outcome(path.parent, FRAMES if name.split(".")[0] != "one" else FRAMES[:1], inside)
        ends[f"{number} {name} {kind}: {end}" if end.startswith("WRONG") else end] += 1
    return ends


@pytest.mark.parametrize("count", [18, pytest.param(400, marks=pytest.mark.slow)])
def test_no_damaged_file_is_read_wrong_without_a_word(tmp_path: Path, count: int) -> None:
    ends = fuzz(tmp_path, count)
    assert set(ends) <= {"right", "refused", "warned"}, ends
    assert sum(ends.values()) == count
