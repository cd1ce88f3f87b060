from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from hela_store.datasets import open_dataset
from hela_store.datasets.folder import MANY
from hela_store.errors import DatasetError
from hela_store.recipe.recipe import DatasetRecipe


def picture(rows: int = 20, cols: int = 30, dtype: str = "uint16", start: int = 0) -> np.ndarray:
    return (np.arange(rows * cols).reshape(rows, cols) * 7 % 251 * (257 if dtype == "uint16" else 1) + start).astype(
        dtype
    )


def mask(rows: int = 20, cols: int = 30) -> np.ndarray:
    label = np.zeros((rows, cols), np.uint16)
    label[2:8, 3:9], label[10:15, 3:9] = 1, 300
    return label


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(array))
    else:
        tifffile.imwrite(path, array, **options)
    return path


def frames(root: Path, **values: Any) -> list[Any]:
    config = DatasetRecipe(**{"reader": "folder", "path": str(root), "labels": "masks", **values})
    return list(open_dataset(config, Path("/nowhere"))())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three stills of two sizes; one without a mask."""
    save(tmp_path / "images/b2.png", picture())
    save(tmp_path / "images/b10.tif", picture(16, 16, "uint8"))
    save(tmp_path / "images/a.tif", picture(start=1))
    save(tmp_path / "masks/b2.tif", mask())
    save(tmp_path / "masks/a.png", mask())
    (tmp_path / "images/Thumbs.db").write_text("no image")
    return tmp_path


def test_stills_of_several_sizes(root: Path) -> None:
    a, b2, b10 = frames(root)
    assert [f.id for f in (a, b2, b10)] == ["images/a", "images/b2", "images/b10"]
    assert [f.time for f in (a, b2, b10)] == [0, 1, 2]
    assert b2.image.dtype == np.uint16 and np.array_equal(b2.image, picture())  # a 16-bit PNG stays 16-bit
    assert b10.image.shape == (16, 16) and b10.image.dtype == np.uint8
    assert np.array_equal(a.label, mask()) and a.label.dtype == np.int32 and a.label_origin == "masks"
    assert b10.label is None and b10.label_origin == "" and not b10.valid.any()
    assert b2.valid.all() and not b2.partial
    assert frames(root, labels="none")[0].label is None


def test_labels_with_a_colour_table_are_their_indices(root: Path) -> None:
    indexed = Image.fromarray((mask() % 255).astype(np.uint8), "L").convert("P")
    indexed.putdata((mask() % 255).astype(np.uint8).ravel().tolist())
    indexed.putpalette([7] * 768)
    indexed.save(root / "masks/a.png")
    assert np.array_equal(frames(root)[0].label, mask() % 255)
    (root / "masks/a.png").rename(root / "images/c.png")
    with pytest.raises(DatasetError, match=r"c\.png: a PNG with a colour table"):
        frames(root)


def test_sixteen_bit_colour_png_by_channel(tmp_path: Path) -> None:
    colours = np.stack([picture(start=c) for c in range(3)], axis=-1)
    save(tmp_path / "rgb.png", colours)
    assert np.array_equal(frames(tmp_path, labels="none", channel=1)[0].image, colours[..., 1])
    with pytest.raises(DatasetError, match=r"rgb\.png: 3 channels .* --channel 0 to 2"):
        frames(tmp_path, labels="none")


STACK = np.stack([picture(start=i) for i in range(5)])
MICRON = {"resolution": (1 / 0.645, 1 / 0.645), "metadata": {"axes": "TYX", "unit": "um"}}
OME = {
    "axes": "TYX",
    "PhysicalSizeX": 190.0,
    "PhysicalSizeY": 190.0,
    "PhysicalSizeXUnit": "nm",
    "PhysicalSizeYUnit": "nm",
}
STACKS: dict[str, tuple[str, dict[str, Any], float | None]] = {
    "multi-page": ("s.tif", {"photometric": "minisblack", "metadata": None}, None),
    "multi-page compressed": ("s.tif", {"photometric": "minisblack", "compression": "lzw", "metadata": None}, None),
    "tifffile": ("s.tif", {}, None),
    "imagej": ("s.tif", {"imagej": True, **MICRON}, 0.645),
    "imagej big-endian": ("s.tiff", {"imagej": True, "byteorder": ">", **MICRON}, 0.645),
    "ome": ("s.ome.tif", {"metadata": OME}, 0.19),
    "ome compressed": ("s.ome.tif", {"metadata": OME, "compression": "zlib"}, 0.19),
}


@pytest.mark.parametrize("name", STACKS)
def test_stacks_along_t(tmp_path: Path, name: str) -> None:
    file, options, size = STACKS[name]
    save(tmp_path / "images" / file, STACK, **options)
    labels = np.stack([mask() * (i > 0) for i in range(5)])
    save(tmp_path / "masks/s.tif", labels, imagej=True, metadata={"axes": "ZYX"})
    found = frames(tmp_path, axis="t")
    assert [f.id for f in found] == [f"s/t{i:03}" for i in range(5)]
    assert [f.time for f in found] == list(range(5))
    for i, frame in enumerate(found):
        assert np.array_equal(frame.image, STACK[i]) and np.array_equal(frame.label, labels[i])
        assert frame.image.dtype == np.uint16 and frame.image.dtype.isnative
        assert frame.pixel_size_um == (pytest.approx(size, rel=1e-3) if size else None)
    assert frames(tmp_path, axis="t", pixel_size_um=0.3)[0].pixel_size_um == 0.3


@pytest.mark.parametrize("ome", [True, False])
def test_channels_of_a_time_stack(tmp_path: Path, ome: bool) -> None:
    stack = np.stack([STACK, STACK[::-1]], axis=1)
    path = tmp_path / ("m.ome.tif" if ome else "m.tif")
    save(path, stack, metadata={"axes": "TCYX"}, **({} if ome else {"imagej": True}))
    found = frames(path, labels="none", axis="t", channel=1)  # the stack itself may be the data set
    assert [f.id for f in found][:2] == ["m/t000", "m/t001"]
    assert all(np.array_equal(frame.image, STACK[4 - i]) for i, frame in enumerate(found))
    with pytest.raises(DatasetError, match=r"2 channels .*TCYX.*--channel 0 to 1"):
        frames(path, labels="none", axis="t")


def test_a_file_of_one_page_is_a_sequence_of_one_frame(tmp_path: Path) -> None:
    save(tmp_path / "one.tif", picture())
    save(tmp_path / "two.tif", STACK[:2], photometric="minisblack")
    assert [f.id for f in frames(tmp_path, labels="none", axis="t")] == ["one/t000", "two/t000", "two/t001"]
    chosen = frames(tmp_path, labels="none", axis="t", sequences=("two",))
    assert [f.id for f in chosen] == ["two/t000", "two/t001"]
    with pytest.raises(DatasetError, match="no sequence 'three'; found one, two"):
        frames(tmp_path, labels="none", axis="t", sequences=("three",))


def truncate(path: Path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


BROKEN: list[tuple[str, Callable[[Path], object], dict[str, Any], list[str]]] = [
    ("no images", lambda r: empty(r / "images"), {}, ["no frames found"]),
    ("no masks folder", lambda r: (r / "masks").rename(r / "labels"), {}, ["masks", "--labels none"]),
    ("empty masks", lambda r: empty(r / "masks"), {}, ["no label images"]),
    ("mask without a frame", lambda r: save(r / "masks/z.tif", mask()), {}, ["z.tif", "mask without a frame"]),
    ("two of a stem", lambda r: save(r / "images/a.png", picture()), {}, ["same stem"]),
    ("mask size", lambda r: save(r / "masks/a.png", mask(16)), {}, ["a.png", "16 x 30", "20 x 30"]),
    ("mask of floats", lambda r: save(r / "masks/b2.tif", mask().astype("f8")), {}, ["b2.tif", "float64"]),
    ("negative labels", lambda r: save(r / "masks/b2.tif", mask().astype("i2") - 5), {}, ["b2.tif", "-5"]),
    ("colour mask", lambda r: save(r / "masks/a.png", np.zeros((20, 30, 3), "u1")), {}, ["a.png", "whole number"]),
    ("colour image", lambda r: save(r / "images/b2.png", np.zeros((20, 30, 4), "u1")), {}, ["b2.png", "--channel"]),
    ("stack", lambda r: save(r / "images/a.tif", STACK, imagej=True, metadata={"axes": "TYX"}), {},
     ["a.tif", "TYX", "--axis t"]),
    ("wrong axis", lambda r: save(r / "images/a.tif", STACK, imagej=True, metadata={"axes": "ZYX"}), {"axis": "t"},
     ["a.tif", "no axis 't'", "--axis z"]),
    ("three axes", lambda r: save(r / "images/a.tif", np.stack([STACK] * 2), imagej=True, metadata={"axes": "TZYX"}),
     {"axis": "t"}, ["a.tif", "3-D data are not supported"]),
    ("axis is no letter", lambda r: None, {"axis": "time"}, ["axis is 'time'"]),
    ("mask planes", lambda r: save(r / "images/a.tif", STACK), {"axis": "t"}, ["a.png: 1 planes", "a.tif has 5"]),
    ("truncated png", lambda r: truncate(r / "images/b2.png", 0.6), {}, ["b2.png", "truncated"]),
    ("png header", lambda r: truncate(r / "images/b2.png", 0.01), {}, ["b2.png", "PNG"]),
    ("truncated png mask", lambda r: truncate(r / "masks/a.png", 0.7), {}, ["a.png", "truncated"]),
    ("nan", lambda r: save(r / "images/a.tif", np.full((20, 30), np.nan, "f4")), {}, ["a.tif", "600 pixels are NaN"]),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "values", "words"), [case[1:] for case in BROKEN], ids=[c[0] for c in BROKEN])
def test_bad_input_is_one_clear_line(
    root: Path, damage: Callable[[Path], object], values: dict[str, Any], words: list[str]
) -> None:
    damage(root)
    with pytest.raises(DatasetError) as caught:
        frames(root, **values)
    text = str(caught.value)
    assert "\n" not in text and all(word in text for word in words), text


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.8, 0.97, 0.999])
@pytest.mark.parametrize("name", list(STACKS))
def test_a_truncated_stack_never_passes_for_a_shorter_one(tmp_path: Path, name: str, keep: float) -> None:
    file, options, _ = STACKS[name]
    truncate(save(tmp_path / file, STACK, **options), keep)
    try:  # all pixels may be there, and only the headers of later pages cut off
        found = frames(tmp_path, labels="none", axis="t")
    except DatasetError as error:
        assert "truncated or damaged" in str(error)  # noqa: PT017 - a readable file may also come out
    else:
        assert keep > 0.9 and np.array_equal(np.stack([frame.image for frame in found]), STACK)


def test_many_files_are_listed_with_a_bar(tmp_path: Path) -> None:
    one = save(tmp_path / "images/i00000.tif", picture())
    for number in range(1, MANY + 1):
        os.link(one, tmp_path / f"images/i{number:05}.tif")
    shown: list[tuple[str, int, int]] = []

    def progress(iterable: Iterable[Any], *, total: int, what: str) -> Iterator[Any]:
        items = list(iterable)
        yield from items
        shown.append((what, len(items), total))

    reader = open_dataset(DatasetRecipe(reader="folder", path="", labels="none"), tmp_path, progress)
    assert shown == [("list files", MANY + 1, MANY + 1)]
    assert [entry.time for entry in reader.entries] == list(range(MANY + 1))
    one.unlink()
    open_dataset(DatasetRecipe(reader="folder", path="", labels="none"), tmp_path, progress)
    assert len(shown) == 1


REALDATA = Path(os.environ.get("HELA_REALDATA", Path(__file__).resolve().parents[2] / "../shared/data"))


@pytest.mark.realdata
@pytest.mark.skipif(not REALDATA.is_dir(), reason=f"no real frames at {REALDATA} (HELA_REALDATA)")
def test_real_stills() -> None:
    config = DatasetRecipe(reader="folder", path="dsb2018", labels="masks")
    reader = open_dataset(config, REALDATA)
    assert len(reader) == 450 and len({entry.image.shape for entry in reader.entries}) > 3
    frame = reader.read(reader.entries[0])
    assert frame.image.dtype == np.uint8 and frame.label is not None and frame.label.max() > 0
