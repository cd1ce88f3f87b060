from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from hela_store.datasets import open_dataset
from hela_store.errors import DatasetError
from hela_store.recipe.recipe import DatasetRecipe

LABEL = np.zeros((32, 48), np.uint16)
LABEL[8:16, 8:20] = 3
LABEL[0:2, 40:44] = 4


def image(number: int = 0, dtype: str = "uint16") -> np.ndarray:
    return (np.arange(32 * 48).reshape(32, 48) % 200 + number).astype(dtype)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Sequence 01 of three frames, silver for all, gold for the second."""
    for number in range(3):
        write(tmp_path, f"01/t{number:03}.tif", image(number))
        write(tmp_path, f"01_ST/SEG/man_seg{number:03}.tif", LABEL)
    gold = np.zeros_like(LABEL)
    gold[9:16, 8:20] = 1
    write(tmp_path, "01_GT/SEG/man_seg001.tif", gold)
    return tmp_path


def write(root: Path, name: str, array: np.ndarray, **options: Any) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array, **options)
    return path


def recipe(**values: object) -> DatasetRecipe:
    return DatasetRecipe(**{"path": ".", **values})  # type: ignore[arg-type]


def test_frames_with_silver_labels(root: Path) -> None:
    reader = open_dataset(recipe(), root)
    frames = list(reader())
    assert len(reader) == 3
    assert [f.id for f in frames] == ["01/t000", "01/t001", "01/t002"]
    assert [f.time for f in frames] == [0, 1, 2]
    assert frames[1].image.dtype == np.uint16 and np.array_equal(frames[1].image, image(1))
    assert frames[0].label is not None and frames[0].label.dtype == np.int32
    assert np.array_equal(frames[0].label, LABEL)
    assert frames[0].label_origin == "ST" and not frames[0].partial and frames[0].valid.all()
    assert [f.id for f in reader()] == [f.id for f in frames]  # a reader can be called again


def test_gold_is_partial_and_some_frames_have_none(root: Path) -> None:
    frames = list(open_dataset(recipe(labels="GT"), root)())
    assert [f.label is None for f in frames] == [True, False, True]
    assert frames[1].partial and frames[1].label_origin == "GT"
    assert frames[1].label is not None and np.array_equal(frames[1].valid, frames[1].label > 0)
    assert frames[0].label_origin == "" and not frames[0].valid.any()


def test_gold_over_reference(root: Path) -> None:
    frames = list(open_dataset(recipe(labels="GT+ST"), root)())
    assert [f.label_origin for f in frames] == ["ST", "GT+ST", "ST"]
    label = frames[1].label
    assert label is not None and set(np.unique(label)) == {0, 3, 4}
    assert (label == 3).sum() == 7 * 12 and not frames[1].partial


def test_field_of_interest(root: Path) -> None:
    frame = next(iter(open_dataset(recipe(field_of_interest=4), root)()))
    assert frame.label is not None and set(np.unique(frame.label)) == {0, 3}
    assert frame.valid.sum() == 24 * 40


def test_without_labels_and_with_pixel_size(root: Path) -> None:
    frame = next(iter(open_dataset(recipe(labels="none", pixel_size_um=0.5), root)()))
    assert frame.label is None and frame.pixel_size_um == 0.5


def test_sequences_and_four_digits(root: Path) -> None:
    write(root, "02/t0000.tif", image())
    write(root, "02/t0001.tif", image())
    assert [f.id for f in open_dataset(recipe(), root)()][3:] == ["02/t0000", "02/t0001"]
    assert len(open_dataset(recipe(sequences=("01",)), root)) == 3


@pytest.mark.parametrize(
    ("dtype", "compression"),
    [("uint8", "lzw"), (">u2", "zlib"), (">u2", "lzw"), ("int16", "zstd"), ("uint32", None), ("float64", "lzw")],
)
def test_pixel_types_and_compressions(root: Path, dtype: str, compression: str | None) -> None:
    write(root, "01/t000.tif", image(dtype=dtype), compression=compression)
    frame = next(iter(open_dataset(recipe(), root)()))
    kind = {"uint8": np.uint8, "float64": np.float32}.get(dtype, np.uint16)
    assert frame.image.dtype == kind and frame.image.dtype.isnative
    assert np.array_equal(frame.image, image())


def test_all_zero_frame_is_allowed(root: Path) -> None:
    write(root, "01/t000.tif", image() * 0)
    assert not next(iter(open_dataset(recipe(), root)())).image.any()


def rename(root: Path) -> None:
    (root / "01/t002.tif").rename(root / "01/t003.tif")


def truncate(name: str, keep: float) -> Callable[[Path], None]:
    def cut(root: Path) -> None:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: int(keep * len(data))])

    return cut


NAN = image(dtype="float32")
NAN[3, 3] = np.nan
T1, SEG1 = "01/t001.tif", "01_ST/SEG/man_seg001.tif"
BROKEN: list[tuple[str, Callable[[Path], object], list[str]]] = [
    ("empty file", truncate(T1, 0.0), [T1, "truncated"]),
    ("half a frame", truncate(T1, 0.5), [T1, "truncated"]),
    ("most of a frame", truncate(T1, 0.98), [T1, "truncated"]),
    ("half a mask", truncate(SEG1, 0.5), [SEG1, "truncated"]),
    ("no tiff", lambda root: (root / T1).write_text("hello, hello"), [T1, "damaged"]),
    ("rgb", lambda root: write(root, T1, np.zeros((32, 48, 3), "u1"), photometric="rgb"), [T1, "--channel"]),
    ("stack", lambda root: write(root, T1, np.zeros((5, 32, 48), "u2")), [T1, "--axis t", "3-D"]),
    ("z stack", lambda root: write(root, T1, np.zeros((5, 32, 48), "u2"), imagej=True, metadata={"axes": "ZYX"}),
     [T1, "--axis z", "3-D"]),
    ("nan", lambda root: write(root, T1, NAN), [T1, "NaN"]),
    ("complex", lambda root: write(root, T1, image(dtype="complex64")), [T1, "complex64"]),
    ("too deep", lambda root: write(root, T1, image(dtype="uint32") + 70000), [T1, "0..65535"]),
    ("mask size", lambda root: write(root, SEG1, LABEL[:30]), [SEG1, "30 x 48", "32 x 48"]),
    ("mask of floats", lambda root: write(root, SEG1, LABEL.astype("f4")), [SEG1, "float32", "uint16"]),
    ("negative labels", lambda root: write(root, SEG1, LABEL.astype("i4") - 1), [SEG1, "-1..3"]),
    ("mask of colours", lambda root: write(root, SEG1, np.zeros((32, 48, 3), "u1"), photometric="rgb"),
     [SEG1, "whole number"]),
    ("sizes", lambda root: write(root, T1, image()[:20]), [T1, "20 x 48", "32 x 48", "folder reader"]),
    ("mask without frame", rename, ["man_seg002.tif", "mask without a frame"]),
    ("slices", lambda root: write(root, "01_ST/SEG/man_seg_001_003.tif", LABEL), ["man_seg_001_003.tif", "3-D"]),
    ("twice", lambda root: write(root, "01/t0001.tif", image()), ["t0001.tif", "both number 1"]),
    ("folder for a frame", lambda root: (root / "01/t003.tif").mkdir(), ["t003.tif"]),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "words"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_bad_input_is_one_clear_line(root: Path, damage: Callable[[Path], object], words: list[str]) -> None:
    damage(root)
    with pytest.raises(DatasetError) as caught:
        list(open_dataset(recipe(), root)())
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"path": "elsewhere"}, ["elsewhere", "no such folder", "--dataset"]),
        ({"path": "01"}, ["itself a sequence", "--sequence 01"]),
        ({"path": "01_ST"}, ["no frames found"]),
        ({"sequences": ("05",)}, ["05", "no such folder"]),
        ({"sequences": ("01_ST",)}, ["01_ST", "no frames found"]),
        ({"labels": "masks"}, ["masks", "ST, GT"]),
        ({"channel": 2}, ["t000.tif", "one channel"]),
        ({"reader": "folder"}, ["'ST'", "expected masks or none"]),
    ],
)
def test_what_the_recipe_asks_for_is_not_there(root: Path, values: dict[str, object], words: list[str]) -> None:
    with pytest.raises(DatasetError) as caught:
        open_dataset(recipe(**values), root)
    assert all(word in str(caught.value) for word in words), caught.value


def test_missing_label_folder_names_what_there_is(root: Path) -> None:
    (root / "01_GT/SEG/man_seg001.tif").unlink()
    (root / "01_GT/SEG").rmdir()
    with pytest.raises(DatasetError, match=r"01_GT/SEG; use --labels ST or --labels none"):
        open_dataset(recipe(labels="GT"), root)


def test_channel_of_a_colour_frame(root: Path) -> None:
    for number in range(3):
        colours = np.stack([image(number, "uint8") + c for c in range(3)], axis=-1).astype(np.uint8)
        write(root, f"01/t{number:03}.tif", colours, photometric="rgb")
    frames = list(open_dataset(recipe(channel=2), root)())
    assert np.array_equal(frames[1].image, image(3))
    with pytest.raises(DatasetError, match="channel 3 asked for, the file has 0 to 2"):
        open_dataset(recipe(channel=3), root)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(root: Path) -> None:
    (root / T1).chmod(0)
    with pytest.raises(DatasetError, match="no permission"):
        open_dataset(recipe(), root)


REALDATA = Path(os.environ.get("HELA_REALDATA", Path(__file__).resolve().parents[2] / "../shared/data"))
needs_realdata = pytest.mark.skipif(not REALDATA.is_dir(), reason=f"no real frames at {REALDATA} (HELA_REALDATA)")


@pytest.mark.realdata
@needs_realdata
def test_real_fluo_frames() -> None:
    reader = open_dataset(recipe(path="Fluo-N2DL-HeLa", field_of_interest=25), REALDATA)
    assert len(reader) == 92
    for entry, nuclei in ((reader.entries[0], 43), (reader.entries[91], 136)):
        frame = reader.read(entry)
        assert frame.image.shape == (700, 1100) and frame.image.dtype == np.uint16
        assert frame.image.min() >= 32768
        assert frame.label is not None and np.unique(frame.label).size - 1 == nuclei
        assert 0.87 < frame.valid.mean() < 0.91


@pytest.mark.realdata
@needs_realdata
def test_real_fluo_gold_over_reference() -> None:
    silver, gold, both = (
        open_dataset(recipe(path="Fluo-N2DL-HeLa", labels=labels), REALDATA) for labels in ("ST", "GT", "GT+ST")
    )
    st, gt, merged = (reader.label(reader.entries[12]) for reader in (silver, gold, both))
    assert st is not None and gt is not None and merged is not None
    assert both.read(both.entries[12]).label_origin == "GT+ST"
    assert ((merged > 0) & (gt > 0)).sum() == (gt > 0).sum()
    for value in np.unique(gt[gt > 0]):
        assert np.unique(merged[gt == value]).size == 1  # each gold nucleus stands whole
    assert abs(np.unique(merged).size - np.unique(st).size) <= 3
    untouched = set(np.unique(st)) - set(np.unique(st[(gt > 0) | (merged != st)])) - {0}
    assert len(untouched) > 0 and all(np.array_equal(merged == value, st == value) for value in untouched)


@pytest.mark.realdata
@needs_realdata
def test_real_dic_frames_are_lzw() -> None:
    reader = open_dataset(recipe(path="DIC-C2DH-HeLa", field_of_interest=50), REALDATA)
    frame = reader.read(reader.entries[0])
    assert len(reader) == 40 and frame.image.shape == (512, 512) and frame.image.dtype == np.uint8
    assert frame.label is not None and 8 <= np.unique(frame.label).size <= 16
