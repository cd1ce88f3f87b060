"""The synthetic scenes: same seed same scene, labels that fit their definition and what is seen."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from hela_store.base.rng import generator
from hela_store.datasets.nuclei import Outline, depth_map, one_piece, random_waves, soft_mask
from hela_store.pretrain import scenes
from hela_store.pretrain.relief import relief_scene
from hela_store.pretrain.scenes import MIN_AREA, scene

SIZE = 256


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    return scene(generator("test", seed), SIZE)


def test_same_seed_same_scene() -> None:
    first, again, other = draw(3), draw(3), draw(4)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("seed", range(12))
def test_image_and_labels_are_well_formed(seed: int) -> None:
    image, label = draw(seed)
    assert image.dtype == np.float32
    assert label.dtype == np.int32
    assert image.shape == label.shape == (SIZE, SIZE)
    assert np.isfinite(image).all()
    assert image.min() >= 0
    assert image.max() <= 1
    assert image.std() > 0.01
    names = np.unique(label)
    assert np.array_equal(names, np.arange(names[-1] + 1))
    for name, where in enumerate(ndimage.find_objects(label), start=1):
        mask = label[where] == name
        assert ndimage.label(mask)[1] == 1
        assert MIN_AREA <= mask.sum() < 0.5 * SIZE**2


def test_kinds_and_sizes_vary() -> None:
    """Bright and dark ground both occur, and median diameters spread over more than a factor of three."""
    grounds, diameters = [], []
    for seed in range(24):
        image, label = draw(100 + seed)
        if label.max() == 0:
            continue
        grounds.append(float(np.median(image[label == 0])))
        diameters.append(float(np.sqrt(np.median(np.bincount(label.ravel())[1:]) * 4 / np.pi)))
    assert min(grounds) < 0.2
    assert max(grounds) > 0.7
    assert max(diameters) > 3 * min(diameters)


@pytest.mark.parametrize(("kind", "sign"), [("_bright", 1), ("_dark", -1)])
def test_most_cells_stand_out_from_their_surroundings(kind: str, sign: int) -> None:
    """Against the background within 6 px; cells without enough free background around them are passed over."""
    right = total = 0
    for seed in range(8):
        image, label = getattr(scenes, kind)(generator("contrast", kind, seed), SIZE)
        for name in range(1, int(label.max()) + 1):
            mask = label == name
            around = ndimage.binary_dilation(mask, iterations=6) & (label == 0)
            if mask.sum() < MIN_AREA or around.sum() < 40:
                continue
            total += 1
            right += int(sign * (image[mask].mean() - image[around].mean()) > 0.0)
    assert total > 20
    assert right / total > 0.9


def test_relief_cells_are_rougher_than_the_ground() -> None:
    ratio = []
    for seed in range(6):
        image, label = relief_scene(generator("relief", seed), SIZE)
        if (label > 0).any() and (label == 0).sum() > 500:
            ratio.append(image[label > 0].std() / image[label == 0].std())
    assert len(ratio) >= 3
    assert np.median(ratio) > 1.2


def test_outline_lies_at_half_height() -> None:
    """Area of a drawn ellipse and the light inside it: no systematic inflation."""
    outline = Outline(radius=12.0, aspect=0.6, angle=0.4)
    depth = depth_map(outline, 61, (30.0, 30.0))
    assert (depth >= 0).sum() == pytest.approx(np.pi * 12.0**2, rel=0.02)
    alpha = soft_mask(depth, 1.5)
    assert np.array_equal(alpha >= 0.5, depth >= 0)
    assert alpha.sum() == pytest.approx(np.pi * 12.0**2, rel=0.04)


def test_reach_holds_the_cell() -> None:
    rng = generator("reach")
    for _ in range(20):
        outline = Outline(
            radius=9.0,
            aspect=float(rng.uniform(0.4, 1)),
            angle=float(rng.uniform(0, 3)),
            bend=float(rng.uniform(-0.6, 0.6)),
            waves=random_waves(rng, 0.1),
        )
        inside = np.argwhere(depth_map(outline, 101, (50.0, 50.0)) >= 0)
        assert np.hypot(*(inside - 50).T).max() <= outline.reach + 1.0


def test_one_piece_keeps_the_largest_and_numbers() -> None:
    label = np.zeros((40, 40), np.int32)
    label[2:12, 2:12] = 7
    label[30:33, 30:33] = 7
    label[20:22, 2:5] = 9
    label[2:12, 12:22] = 12
    tidy = one_piece(label, 30)
    assert np.array_equal(np.unique(tidy), [0, 1, 2])
    assert (tidy == 1).sum() == 100
    assert np.array_equal(np.unique(one_piece(label, 30, renumber=False)), [0, 7, 12])
