"""The synthetic time-lapse: layout, determinism, and the properties of the data set it stands for."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from hela_store.base.rng import generator
from hela_store.datasets.population import Habitat, live
from hela_store.datasets.synthetic import BLACK_LEVEL, FULL_SCALE, field_of_interest, write_sequence
from hela_store.errors import DatasetError

FRAMES = 5
SHAPE = (256, 320)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sequence(tmp_path_factory.mktemp("synthetic"), frames=FRAMES, shape=SHAPE, cells=18, seed=1)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def labels(root: Path) -> list[np.ndarray]:
    return [tifffile.imread(p) for p in sorted((root / "01_ST" / "SEG").glob("*.tif"))]


def images(root: Path) -> list[np.ndarray]:
    return [tifffile.imread(p) for p in sorted((root / "01").glob("*.tif"))]


def test_layout_is_that_of_the_challenge(root: Path) -> None:
    names = [f"01/t{t:03d}.tif" for t in range(FRAMES)] + [f"01_ST/SEG/man_seg{t:03d}.tif" for t in range(FRAMES)]
    assert list(digests(root)) == names
    for array in images(root) + labels(root):
        assert array.dtype == np.uint16
        assert array.shape == SHAPE
    with tifffile.TiffFile(root / "01" / "t000.tif") as file:
        assert file.pages.first.compression in (8, 32946)
        top, bottom = file.pages.first.tags["XResolution"].value
        assert 1e4 * bottom / top == pytest.approx(0.645, rel=1e-3)


def test_same_seed_same_bytes(root: Path, tmp_path: Path) -> None:
    again = write_sequence(tmp_path / "again", frames=2, shape=SHAPE, cells=18, seed=1)
    other = write_sequence(tmp_path / "other", frames=2, shape=SHAPE, cells=18, seed=2)
    expected = digests(root)
    assert all(expected[name] == digest for name, digest in digests(again).items())
    assert all(expected[name] != digest for name, digest in digests(other).items())


def test_levels_are_those_of_the_camera(root: Path) -> None:
    stack = np.stack(images(root)).astype(int)
    assert stack.min() > BLACK_LEVEL + 150
    assert stack.max() <= BLACK_LEVEL + FULL_SCALE
    free = np.stack([ndimage.distance_transform_edt(label == 0) > 15 for label in labels(root)])
    assert np.median(stack[free]) == pytest.approx(BLACK_LEVEL + 302, abs=15)
    contrast = [
        np.median(image[label == name]) - np.median(stack[free])
        for image, label in zip(stack, labels(root), strict=True)
        for name in np.unique(label[label > 0])
    ]
    assert np.percentile(contrast, 10) > 20
    assert np.percentile(contrast, 90) > 2.5 * np.percentile(contrast, 10)


def test_nuclei_have_the_size_of_hela_nuclei(root: Path) -> None:
    areas = np.concatenate([np.bincount(label.ravel())[1:] for label in labels(root)])
    diameters = np.sqrt(areas[areas > 0] * 4 / np.pi)
    assert np.median(diameters) == pytest.approx(24.6, abs=2.5)
    assert areas[areas > 0].min() >= 30


def test_cells_are_connected_and_some_touch(root: Path) -> None:
    touching = 0
    for label in labels(root):
        for name, where in enumerate(ndimage.find_objects(label.astype(np.int32)), start=1):
            if where is not None:
                assert ndimage.label(label[where] == name)[1] == 1
        pairs = (label[:, 1:] != label[:, :-1]) & (label[:, 1:] > 0) & (label[:, :-1] > 0)
        touching += int(pairs.any())
    assert touching >= 1


def test_outer_band_carries_no_label_of_its_own(root: Path) -> None:
    for label in labels(root):
        assert np.array_equal(np.unique(label[25:-25, 25:-25][label[25:-25, 25:-25] > 0]), np.unique(label[label > 0]))
    label = np.zeros((100, 100), np.int32)
    label[2:20, 40:60], label[10:30, 10:30], label[60:70, 60:70] = 1, 2, 5
    assert np.array_equal(np.unique(field_of_interest(label)), [0, 2, 5])


def test_divisions_happen_and_daughters_are_small_and_bright() -> None:
    frames = list(live(generator("life"), Habitat(shape=(512, 640), radius=10.7, cells=30), 24))
    mothers: dict[int, list[int]] = {}
    for n in frames[-1]:
        if n.mother:
            mothers.setdefault(n.mother, []).append(n.name)
    assert len(mothers) >= 5
    for before, after in itertools.pairwise(frames):
        known = {n.name: n for n in before}
        born = [n for n in after if n.name not in known]
        assert len(after) == len(before) + len(born) // 2
        for child in born:
            parent = known[child.mother]
            assert parent.left == 1
            assert child.look[0] < child.birth_radius
            assert child.look[1] > 1.5 * child.brightness
            assert np.hypot(child.x - parent.x, child.y - parent.y) < 3 * parent.birth_radius


def test_nuclei_move_slowly() -> None:
    frames = list(live(generator("drift"), Habitat(shape=(512, 640), radius=10.7, cells=20), 6))
    before, after = ({n.name: (n.x, n.y) for n in frame} for frame in (frames[-2], frames[-1]))
    steps = [np.hypot(*np.subtract(after[name], before[name])) for name in after if name in before]
    assert 0.1 < float(np.median(steps)) < 5.0


def test_refuses_to_overwrite_and_leaves_nothing_behind(root: Path) -> None:
    before = digests(root)
    with pytest.raises(DatasetError, match="is there already"):
        write_sequence(root, frames=1, shape=SHAPE)
    with pytest.raises(DatasetError, match="at least 1 frame"):
        write_sequence(root, sequence="02", frames=0)
    assert digests(root) == before
    assert sorted(p.name for p in root.iterdir()) == ["01", "01_ST"]
