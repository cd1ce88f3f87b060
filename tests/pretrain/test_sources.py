"""Folders of real images that pretraining learns from: how they are named, read, split and drawn from."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from hela_store.errors import DatasetError, RecipeError
from hela_store.pretrain.sources import Pool, Source, make_source, origin, parse_data, read_sources, split_by_group


def disc_source(name: str, diameters: list[float], seed: int = 0, grey: float = 0.5) -> Source:
    """Discs side by side on a ground of noise."""
    rng = np.random.default_rng(seed)
    side = int(max(diameters)) + 4
    label = np.zeros((side, side * len(diameters)), np.int32)
    y, x = np.mgrid[: label.shape[0], : label.shape[1]]
    for i, diameter in enumerate(diameters):
        label[np.hypot(x - side * (i + 0.5), y - side / 2) <= diameter / 2] = i + 1
    image = np.where(label > 0, grey, 0.1) + rng.normal(0, 0.01, label.shape)
    source = make_source(name, image.clip(0, 1).astype(np.float32), label)
    assert source is not None
    return source


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cells", (Path("cells"), 1.0)),
        ("cells:2.5", (Path("cells"), 2.5)),
        ("a:b/cells", (Path("a:b/cells"), 1.0)),
        ("a:b/cells:0.5", (Path("a:b/cells"), 0.5)),
    ],
)
def test_a_folder_may_carry_a_weight(text: str, expected: tuple[Path, float]) -> None:
    assert parse_data(text) == expected


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "much", ""])
def test_a_weight_is_a_positive_number(weight: str) -> None:
    with pytest.raises(RecipeError, match="expected a positive number such as cells:2"):
        parse_data(f"cells:{weight}")


def write(folder: Path, stem: str, image: np.ndarray, label: np.ndarray | None) -> None:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / "images" / f"{stem}.png")
    if label is not None:
        tifffile.imwrite(folder / "masks" / f"{stem}.tif", label)


def test_folders_without_images_without_masks_or_of_two_sizes_are_refused(tmp_path: Path) -> None:
    image = np.zeros((20, 30), np.uint8)
    with pytest.raises(DatasetError, match="no PNG images"):
        read_sources(tmp_path)
    write(tmp_path / "lone", "a", image, None)
    with pytest.raises(DatasetError, match=r"has no mask .* expected a\.tif there"):
        read_sources(tmp_path / "lone")
    write(tmp_path / "odd", "a", image, np.ones((20, 31), np.uint16))
    with pytest.raises(DatasetError, match="expected one grey plane of one size"):
        read_sources(tmp_path / "odd")


def test_images_without_cells_are_no_sources(tmp_path: Path) -> None:
    image, label = np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint16)
    write(tmp_path, "empty", image, label)
    label[4:9, 5:15] = 3
    write(tmp_path, "full", image, label)
    parts = read_sources(tmp_path)
    (found,) = [source for part in parts.values() for source in part]
    assert found.name == "full"
    # the middle of 5..14 and 4..8, width and height, the diameter of a disc of 50 px
    np.testing.assert_allclose(found.cells, [[9.5, 6.0, 10, 5, np.sqrt(200 / np.pi)]], rtol=1e-6)


@pytest.mark.parametrize(
    ("one", "two"),
    [("field3_z07", "field3_z01"), ("trap2_tp4_z1", "trap2_tp9_z3"), ("2019-03-02_HeLa_a", "2019-03-02_HeLa_b")],
)
def test_planes_times_and_sessions_have_one_origin(one: str, two: str) -> None:
    assert origin(one) == origin(two)
    assert origin(one) != origin("another")


def test_no_look_and_no_origin_is_in_two_parts() -> None:
    """Ten fields of three planes: the planes differ in brightness, the fields in the size of their cells."""
    sources = [
        disc_source(f"field{field}_z{plane}", [10.0 * 1.3**field, 8.0], seed=plane, grey=0.3 + 0.2 * plane)
        for field in range(10)
        for plane in range(3)
    ]
    parts = split_by_group(sources)
    held: dict[str, set[str]] = {}
    for source, part in zip(sources, parts, strict=True):
        held.setdefault(origin(source.name), set()).add(part)
    assert all(len(found) == 1 for found in held.values())
    assert {"train", "val"} <= set(parts)
    assert split_by_group(sources) == parts


def test_large_cells_are_drawn_as_often_as_small_ones() -> None:
    pool = Pool(name="drawn", weight=1.0, sources=[disc_source("a", [10.0] * 300), disc_source("b", [40.0] * 30)])
    rng = np.random.default_rng(0)
    drawn = [source.cells[row, 4] for source, row in (pool.draw(rng) for _ in range(2000))]
    # 0.6 of the draws are even between the two sizes, in the others 30 of 330 cells are large
    assert np.mean(np.array(drawn) > 30) == pytest.approx(0.6 / 2 + 0.4 * 30 / 330, abs=0.03)


def test_a_few_odd_cells_are_not_drawn_over_and_over() -> None:
    pool = Pool(name="odd", weight=1.0, sources=[disc_source("a", [17.0] * 99 + [40.0])])
    rng = np.random.default_rng(0)
    drawn = [source.cells[row, 4] for source, row in (pool.draw(rng) for _ in range(1000))]
    assert np.mean(np.array(drawn) > 30) < 0.03
