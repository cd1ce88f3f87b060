"""A look at labels and images: what cannot be one number a cell, what is no image, what is a time-lapse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from frames import draw, save

from hela_store.datasets import inspect
from hela_store.datasets.doubts import doubts_of_images, doubts_of_labels, look_at_label, refuse_labels, time_lapses
from hela_store.datasets.folder import FolderReader
from hela_store.errors import DatasetError


def folder(root: Path, labels: list[np.ndarray], names: str = "f{}") -> Path:
    """Write stills with these labels; neighbours show other cells."""
    for number, label in enumerate(labels):
        save(root / "images" / f"{names.format(number)}.tif", draw(number)[0])
        save(root / "masks" / f"{names.format(number)}.tif", label)
    return root


@pytest.mark.parametrize("value", [1, 255])
def test_masks_of_all_cells_are_refused(tmp_path: Path, value: int) -> None:
    root = folder(tmp_path, [(draw(n)[1] > 0).astype(np.uint8) * value for n in range(4)])
    with pytest.raises(
        DatasetError, match=f"value {value}: . separate pieces.*number the pieces.*--labels none"
    ) as caught:
        inspect(root)
    assert "\n" not in str(caught.value)
    assert inspect(root, labels="none").frames == 4


def test_classes_are_refused() -> None:
    looks = [look_at_label(f"f{n}", (draw(n, cells=12)[1] + 1) // 2 % 3) for n in range(3)]
    with pytest.raises(DatasetError, match="look like classes"):
        refuse_labels(looks)


def test_numbers_of_cells_raise_no_doubt(tmp_path: Path) -> None:
    labels = [draw(n)[1] for n in range(4)]
    labels[0][0, 0] = labels[0].max()  # a speck
    labels[1][:] = np.where(labels[1] == 1, 1, 0)  # one cell
    labels[2][30:34] = 0  # a cut through the cells there
    labels[3][:] = 0
    assert inspect(folder(tmp_path, labels)).warnings == ()


def test_odd_values_are_named() -> None:
    label = draw(0)[1]
    label[label == 7] = 0
    for place in (2, 20, 40, 60):
        label[2:6, place : place + 5] = 7
    (text,) = doubts_of_labels([look_at_label("images/a", label), look_at_label("images/b", draw(1)[1])])
    assert "value 7: 4 separate pieces in images/a" in text
    (text,) = doubts_of_labels([look_at_label("images/a", draw(0)[1] + 1)])
    assert "one label value covers more than half of the frame" in text and "value 1" in text
    large = draw(0)[1].astype(np.int32) * (1 << 24)
    assert doubts_of_labels([look_at_label("images/a", large), look_at_label("images/c", large * 0)]) == ()


def test_images_that_are_labels_are_named(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / f"f{number}.tif", draw(number)[0])
        save(tmp_path / f"f{number}_x.png", draw(number)[1])
    (text,) = inspect(tmp_path).warnings
    assert text.startswith("4 of 8 frames looked at look like label images") and "images/f0_x" in text
    saturated = np.where(draw(0)[0] > 300, 255, draw(0)[0] % 97).astype(np.uint8)
    assert doubts_of_images([("a", saturated), ("b", saturated * 0), ("c", draw(0)[0].astype("f4"))]) == ()


def lapse(root: Path, count: int, name: str, moving: float = 0.5, start: int = 0) -> Path:
    rng = np.random.default_rng(start)
    image, label = draw(start, (96, 96), 9)
    for t in range(count):
        moved = np.roll(image, (int(moving * t), int(moving * t)), (0, 1)) + rng.normal(0, 20, image.shape)
        save(root / "images" / f"{name.format(t)}.tif", moved.clip(0).astype(np.uint16))
        save(root / "masks" / f"{name.format(t)}.tif", np.roll(label, (int(moving * t), int(moving * t)), (0, 1)))
    return root


def lapses(root: Path) -> tuple[tuple[int, ...], ...]:
    summary = inspect(root)
    assert time_lapses(FolderReader(summary.config, root).entries) == summary.lapses
    return summary.lapses


@pytest.mark.parametrize("name", ["t{:03}", "{}", "scan 2026-05-01 t{}_c1", "a{:02}_z0_"])
def test_a_time_lapse_as_stills_is_found(tmp_path: Path, name: str) -> None:
    assert lapses(lapse(tmp_path, 12, name)) == (tuple(range(12)),)


def test_several_of_them(tmp_path: Path) -> None:
    for well in range(3):
        lapse(tmp_path, 5, f"w{well}_t{{}}", start=well)
    assert lapses(tmp_path) == (tuple(range(5)), tuple(range(5, 10)), tuple(range(10, 15)))


def test_other_fields_of_view_are_none(tmp_path: Path) -> None:
    assert lapses(folder(tmp_path / "count", [draw(n)[1] for n in range(12)], "f{:03}")) == ()
    names = {0: "ab", 1: "lk", 2: "cd", 3: "xx", 4: "yy"}
    for number, name in names.items():  # the same cells, but names that say nothing of time
        save(tmp_path / f"names/images/{name}.tif", lapse_frame(number))
    assert lapses(tmp_path / "names") == ()


def lapse_frame(number: int) -> np.ndarray:
    return draw(0)[0] + np.uint16(number)
