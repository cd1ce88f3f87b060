"""TIFF files as instruments and programs write them: whatever a file holds is read, or named."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from frames import draw, label_of, ome_xml, save, save_pages

from hela_store.datasets import CtcReader, FolderReader, inspect, open_dataset
from hela_store.errors import DatasetError
from hela_store.recipe.recipe import DatasetRecipe

FRAMES = np.stack([draw(t)[0] for t in range(8)])
LABELS = np.stack([draw(t)[1] for t in range(8)])


def reader(root: Path, **values: Any) -> CtcReader | FolderReader:
    config = DatasetRecipe(**{"reader": "folder", "path": str(root), "labels": "none", **values})
    return open_dataset(config, Path("/nowhere"))


def images(root: Path, **values: Any) -> np.ndarray:
    return np.stack([frame.image for frame in reader(root, **values)()])


@pytest.mark.parametrize("options", [{}, {"metadata": None}, {"compression": "zlib"}, {"photometric": "minisblack"}])
def test_a_stack_written_page_by_page_has_all_its_pages(tmp_path: Path, options: dict[str, Any]) -> None:
    save_pages(tmp_path / "images/movie.tif", FRAMES, **options)
    save_pages(tmp_path / "masks/movie.tif", LABELS, **options)
    found = list(reader(tmp_path, labels="masks", axis="t")())
    assert [frame.id for frame in found] == [f"movie/t{t:03}" for t in range(8)]
    assert np.array_equal([frame.image for frame in found], FRAMES)
    assert np.array_equal([label_of(frame) for frame in found], LABELS)
    with pytest.raises(DatasetError, match="--axis t"):
        reader(tmp_path)


@pytest.mark.parametrize("pages", [3, 4])
@pytest.mark.parametrize("options", [{"photometric": "rgb", "planarconfig": "separate"}, {"photometric": "minisblack"}])
def test_three_or_four_pages_are_frames(tmp_path: Path, pages: int, options: dict[str, Any]) -> None:
    save(tmp_path / "images/movie.tif", FRAMES[:pages], **options)
    save(tmp_path / "masks/movie.tif", LABELS[:pages], **options)
    found = reader(tmp_path, labels="masks", axis="t")
    assert np.array_equal([frame.image for frame in found()], FRAMES[:pages])
    assert np.array_equal([label_of(frame) for frame in found()], LABELS[:pages])
    assert bool(found.notes) == ("rgb" in options.values())
    if found.notes:
        assert f"{pages} planes are tagged as colours" in found.notes[0]
        assert np.array_equal(images(tmp_path, channel=1), FRAMES[1:2])  # unless it is asked for as a colour
        with pytest.raises(DatasetError, match=r"--channel 0 to \d, or with --axis t"):
            reader(tmp_path)


def test_colour_pixels_are_no_frames(tmp_path: Path) -> None:
    save(tmp_path / "a.tif", np.moveaxis(FRAMES[:3], 0, -1), photometric="rgb")
    with pytest.raises(DatasetError, match="3 channels"):
        reader(tmp_path, axis="t")


def scan(root: Path, count: int = 4) -> list[str]:
    names = [f"scan_T{t}.ome.tif" for t in range(count)]
    for t, name in enumerate(names):
        xml = ome_xml(names, FRAMES[0].shape, own=t)
        save(root / name, FRAMES[t], description=xml, metadata=None, photometric="minisblack")
    return names


def test_an_image_in_several_files_is_one_sequence(tmp_path: Path) -> None:
    scan(tmp_path / "images")
    found = reader(tmp_path, axis="t")
    assert [(entry.sequence, entry.time) for entry in found.entries] == [("scan_T0", t) for t in range(4)]
    assert np.array_equal(images(tmp_path, axis="t"), FRAMES[:4])
    for t in range(4):
        save(tmp_path / f"masks/scan_T{t}.tif", LABELS[t])
    labelled = list(reader(tmp_path, labels="masks", axis="t")())
    assert np.array_equal([label_of(frame) for frame in labelled], LABELS[:4])
    with pytest.raises(DatasetError, match="--axis t"):
        reader(tmp_path)


def test_a_missing_file_of_several_is_named(tmp_path: Path) -> None:
    names = scan(tmp_path)
    (tmp_path / names[2]).unlink()
    with pytest.raises(DatasetError, match=r"1 of the 4 planes its OME-XML lists are not there") as caught:
        reader(tmp_path, axis="t")
    assert "\n" not in str(caught.value)


def test_pixels_in_another_folder_are_not_fetched(tmp_path: Path) -> None:
    save(tmp_path / "secret.tif", FRAMES[1])
    xml = ome_xml(["a.ome.tif", "../secret.tif"], FRAMES[0].shape)
    save(tmp_path / "in/a.ome.tif", FRAMES[0], description=xml, metadata=None, photometric="minisblack")
    with pytest.raises(DatasetError, match=r"in another folder|planes its OME-XML lists are not there"):
        reader(tmp_path / "in", axis="t")


def test_images_of_several_sizes_in_one_file(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "main.tif") as file:
        file.write(FRAMES[0])
        file.write(FRAMES[0][::4, ::4])
    found = reader(tmp_path)
    assert np.array_equal(images(tmp_path)[0], FRAMES[0])
    assert found.notes == ("main.tif: it also holds 1 smaller image (shape (16, 18)), not read",)
    with tifffile.TiffWriter(tmp_path / "main.tif") as file:
        file.write(FRAMES[0][::4, ::4])
        file.write(FRAMES[0])
    with pytest.raises(DatasetError, match=r"main\.tif: holds 2 separate images .* expected one"):
        reader(tmp_path)
    with tifffile.TiffWriter(tmp_path / "main.tif") as file:  # positions, each a time-lapse
        file.write(FRAMES[:4], metadata={"axes": "TYX"}, photometric="minisblack")
        file.write(FRAMES[4:], metadata={"axes": "TYX"}, photometric="minisblack")
    with pytest.raises(DatasetError, match="holds 2 separate images"):
        reader(tmp_path, axis="t")


def test_a_pyramid_is_its_full_resolution(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "p.ome.tif") as file:
        file.write(FRAMES[0], subifds=1, tile=(16, 16))
        file.write(FRAMES[0][::2, ::2], subfiletype=1, tile=(16, 16))
    assert np.array_equal(images(tmp_path)[0], FRAMES[0]) and reader(tmp_path).notes == ()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_where_0_is_white_the_negative_is_read(tmp_path: Path, dtype: str) -> None:
    white = {"uint8": 255, "uint16": 65535, "float32": 0}[dtype]
    bright = (FRAMES[0] >> 4).astype(dtype)
    save(tmp_path / "images/a.tif", (white - bright).astype(dtype), photometric="miniswhite")
    save(tmp_path / "masks/a.tif", LABELS[0], photometric="miniswhite")  # numbers, no light
    found = reader(tmp_path, labels="masks")
    (frame,) = found()
    assert np.array_equal(frame.image, bright) and np.array_equal(label_of(frame), LABELS[0])
    assert "0 means white" in found.notes[0]


@pytest.mark.parametrize("chained", [True, False])
def test_an_imagej_stack_whose_description_says_too_little(tmp_path: Path, chained: bool) -> None:
    path = save(tmp_path / "a.tif", np.repeat(FRAMES, 4, axis=0), imagej=True, metadata={"axes": "TYX"})
    data = bytearray(path.read_bytes().replace(b"images=32", b"images=12").replace(b"frames=32", b"frames=12"))
    if not chained:  # as ImageJ writes large stacks: one page, then all pixels
        (start,) = struct.unpack("<I", data[4:8])
        (tags,) = struct.unpack("<H", data[start : start + 2])
        data[start + 2 + 12 * tags : start + 6 + 12 * tags] = bytes(4)
    path.write_bytes(data)
    found = reader(tmp_path, axis="t")
    assert np.array_equal(images(tmp_path, axis="t"), np.repeat(FRAMES, 4, axis=0)[:12])
    (note,) = found.notes
    assert note.startswith("a.tif: ") and "belong to none of its 12 planes, room for 20 more: not read" in note


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", FRAMES[:5], photometric="minisblack")
    found = reader(tmp_path, axis="t")
    assert np.array_equal(found.read(found.entries[4]).image, FRAMES[4])
    save(path, FRAMES[::-1][:5], photometric="minisblack")
    os.utime(path, ns=(1, 1))
    assert np.array_equal(found.read(found.entries[4]).image, FRAMES[3])


def test_a_forked_process_reads_the_same(tmp_path: Path) -> None:
    save(tmp_path / "a.tif", FRAMES, photometric="minisblack", compression="zlib")
    found = reader(tmp_path, axis="t")
    found.read(found.entries[0])
    child = os.fork()
    wrong = sum(not np.array_equal(found.read(e).image, FRAMES[e.time]) for e in found.entries for _ in range(5))
    if child == 0:
        os._exit(min(wrong, 1))
    assert os.waitpid(child, 0)[1] == 0 and wrong == 0


WRITERS: dict[str, Callable[[Path, np.ndarray], object]] = {
    "contiguous": lambda path, stack: save(path, stack, photometric="minisblack"),
    "imagej": lambda path, stack: save(path, stack, imagej=True, metadata={"axes": "TYX"}),
    "compressed": lambda path, stack: save(path, stack, photometric="minisblack", compression="zlib"),
    "ome": lambda path, stack: save(path.with_suffix(".ome.tif"), stack, compression="zlib", metadata={"axes": "TYX"}),
    "pages": lambda path, stack: save_pages(path, stack),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_long_stacks_cost_in_proportion(tmp_path: Path, writer: str) -> None:
    stack = np.random.default_rng(0).integers(100, 2000, (600, 16, 16)).astype(np.uint16)
    WRITERS[writer](tmp_path / "movie.tif", stack)
    start = time.process_time()
    assert np.array_equal(images(tmp_path, axis="t"), stack)
    # it took 0.1 s a plane where every plane parsed all pages again
    assert (time.process_time() - start) / len(stack) < 0.01


def test_metadata_never_make_a_file_damaged(tmp_path: Path) -> None:
    """Pixel sizes that say nothing are unknown, those with a comma are understood, and both are named."""
    sizes = {"NaN": None, "0,65": 0.65, "inf": None, "-1": None, "0": None, "half a micron": None, "": None}
    for size, um in sizes.items():
        xml = ome_xml(["a.ome.tif"], FRAMES[0].shape, size=size)
        save(tmp_path / "a.ome.tif", FRAMES[0], description=xml, metadata=None, photometric="minisblack")
        (frame,) = reader(tmp_path)()
        assert np.array_equal(frame.image, FRAMES[0]) and frame.pixel_size_um == um, size
        notes = reader(tmp_path).notes
        assert len(notes) == bool(size) and all(repr(size) in note for note in notes)
        assert inspect(tmp_path).warnings == notes


@pytest.mark.parametrize("text", ["<OME broken", "<OME/>", '<OME><Image><Pixels SizeX="a"/></Image></OME>'])
def test_broken_ome_xml_leaves_the_pages(tmp_path: Path, text: str) -> None:
    xml = ome_xml(["a.ome.tif"], FRAMES[0].shape).decode()
    broken = text if text.endswith("OME>") else xml.replace("<Image", "<Image <", 1)
    save(tmp_path / "a.ome.tif", FRAMES[0], description=broken.encode(), metadata=None, photometric="minisblack")
    (frame,) = reader(tmp_path)()
    assert np.array_equal(frame.image, FRAMES[0]) and frame.pixel_size_um is None


def save_lsm(path: Path, frames: np.ndarray, um: float) -> None:
    """Write a time series as a Zeiss LSM has it: every second page a preview, dimensions in one binary tag."""
    count, rows, cols = frames.shape
    about = struct.pack("<I11i", 67127628, 112, cols, rows, 1, 1, count, 2, 8, 8, 0, 0)[:40]
    about += struct.pack("<6d2HI", um * 1e-6, um * 1e-6, 0, 0, 0, 0, 3, 0, 0)
    about += bytes(112 - len(about))
    with tifffile.TiffWriter(path, byteorder="<") as file:
        for number, frame in enumerate(frames):
            tags = [(34412, 1, len(about), about, True)] if number == 0 else []
            file.write(frame, metadata=None, extratags=tags, photometric="minisblack")
            file.write(frame[::8, ::8], metadata=None, subfiletype=1, photometric="minisblack")


def test_lsm_files_are_read_without_their_previews(tmp_path: Path) -> None:
    save_lsm(tmp_path / "scan.lsm", FRAMES[:4], 0.25)
    found = reader(tmp_path, axis="t")
    assert np.array_equal([frame.image for frame in found()], FRAMES[:4]) and found.notes == ()
    assert found.entries[0].image.pixel_size_um == pytest.approx(0.25)
    with pytest.raises(DatasetError, match="--axis t"):
        reader(tmp_path)
