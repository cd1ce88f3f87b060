import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import forked
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from hela_store.augment.labels import view_cells, warp_labels
from hela_store.augment.ranges import AugmentRecipe
from hela_store.augment.render import render
from hela_store.augment.variant import Variant, draw_variant
from hela_store.augment.warp import Warp

FRAME = (200, 240)
RECT = (40, 30, 128, 112)
Y, X = np.mgrid[0 : FRAME[0], 0 : FRAME[1]].astype(float)


def cells(seed: int = 0, count: int = 40) -> np.ndarray:
    """Return discs and ellipses of 8 to 14 px radius all over the frame; some touch, some are cut by its border."""
    rng = np.random.default_rng(seed)
    label = np.zeros(FRAME, np.int32)
    for i in range(1, count + 1):
        x, y, a, b = rng.uniform(0, FRAME[1]), rng.uniform(0, FRAME[0]), *rng.uniform(8, 14, 2)
        label[(((X - x) / a) ** 2 + ((Y - y) / b) ** 2 <= 1) & (label == 0)] = 3 * i
    # what a later one left of an earlier one is a cell only in one piece, and a tail of 2 px breaks where it is sampled
    for i in np.unique(label)[1:]:
        label[(label == i) & ~ndimage.binary_opening(label == i, np.ones((3, 3)))] = 0
        pieces, _n = ndimage.label(label == i)
        sizes = np.bincount(pieces.ravel())[1:]
        label[(pieces > 0) & (pieces != 1 + np.append(sizes, 0).argmax())] = 0
        if sizes.max(initial=0) < 60:
            label[label == i] = 0
    return label


variants = st.builds(
    Variant,
    seed=st.integers(0, 10_000),
    rotate=st.floats(-45, 45),
    flip_x=st.booleans(),
    flip_y=st.booleans(),
    shift_x=st.floats(-10, 10),
    shift_y=st.floats(-10, 10),
    scale=st.floats(0.9, 1.1),
    alpha=st.floats(0, 1.5),
)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 5))
def test_identity_changes_nothing_to_the_bit(seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 65535, FRAME).astype(np.uint16)
    label, valid = cells(seed), X > 50
    warp = Warp(Variant(seed=seed), RECT, FRAME)
    part = slice(30, 142), slice(40, 168)
    assert np.array_equal(warp.image(image), image[part])
    assert np.array_equal(render(image, [warp], (0, 65535), 100.0)[0], image[part])
    found, known = warp.truth(label, valid)
    assert np.array_equal(found, label[part]) and np.array_equal(known, valid[part])
    points = np.random.default_rng(seed).uniform(0, 100, (9, 2))
    assert np.allclose(warp.to_frame(points), points + [40, 30])


@settings(max_examples=15, deadline=None)
@given(variant=variants)
def test_points_there_and_back(variant: Variant) -> None:
    warp = Warp(variant, RECT, FRAME)
    points = np.random.default_rng(1).uniform(2, 108, (50, 2))
    assert np.abs(warp.to_view(warp.to_frame(points)) - points).max() < 1e-3
    x, y = points.astype(int)[0]
    assert np.allclose(warp.to_frame([x, y]), warp.grid[:, y, x], atol=1e-3)


@settings(max_examples=12, deadline=None)
@given(variant=variants)
def test_masks_there_and_back(variant: Variant) -> None:
    label = cells()
    warp = Warp(replace(variant, keep=0.0), RECT, FRAME)
    view, _ = warp.truth(label, np.ones(FRAME, bool))
    back = warp.labels_to_frame(view)
    edge = np.zeros(view.shape, bool)
    edge[[0, 1, -2, -1]] = edge[:, [0, 1, -2, -1]] = True
    whole = set(np.unique(view)[1:]) - set(np.unique(view[edge | warp.beyond]))
    for value in whole:
        here, there = label == value, back == value
        assert (here & there).sum() / (here | there).sum() > 0.93, value


@settings(max_examples=25, deadline=None)
@given(variant=variants, seed=st.integers(0, 3))
def test_no_id_appears_none_merges_and_areas_follow_the_jacobian(variant: Variant, seed: int) -> None:
    label = cells(seed)
    warp = Warp(variant, RECT, FRAME)
    view, known = warp.truth(label, np.ones(FRAME, bool))
    assert set(np.unique(view)) <= set(np.unique(label))
    assert not view[warp.beyond].any() and not known[warp.beyond].any()
    edge = np.zeros(view.shape, bool)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    cut = set(np.unique(view[edge | ndimage.binary_dilation(warp.beyond, iterations=2)]))
    for cell in view_cells(view):
        mine = np.flatnonzero(view == cell["label"])
        # in one piece in, in one piece out; every pixel comes from the cell or its rim
        assert ndimage.label(view == cell["label"], np.ones((3, 3)))[1] == 1
        x, y = warp.grid.reshape(2, -1)[:, mine]
        near = ndimage.binary_dilation(label == cell["label"])
        assert near[np.rint(y).astype(int).clip(0, 199), np.rint(x).astype(int).clip(0, 239)].all()
        area, expected = warp.jacobian(mine), (label == cell["label"]).sum()
        assert area.sum() >= variant.keep * expected
        if cell["label"] not in cut:
            low, high = expected / area.max(), expected / area.min()
            assert 0.9 * low - 6 <= cell["area"] <= 1.1 * high + 6


@settings(max_examples=15, deadline=None)
@given(variant=variants)
def test_image_and_mask_stay_in_step(variant: Variant) -> None:
    label = np.zeros(FRAME, np.int32)
    for i, (x, y) in enumerate([(70, 60), (110, 60), (150, 110), (90, 115)], start=1):
        label[((X - x) / 14) ** 2 + ((Y - y) / 12) ** 2 <= 1] = i
    warp = Warp(variant, RECT, FRAME)
    view, _ = warp.truth(label, np.ones(FRAME, bool))
    both, either = 0, 0
    for value in np.unique(view)[1:]:
        shown = warp.image((label == value).astype(np.float32) * 1000) > 500
        if shown[[0, -1]].any() or shown[:, [0, -1]].any():
            continue
        mask = view == value
        # of a cell of 500 px every hundredth is five pixels of its outline
        assert (mask & shown).sum() / (mask | shown).sum() >= 0.97
        both, either = both + (mask & shown).sum(), either + (mask | shown).sum()
    assert both >= 0.98 * either


def test_outlines_are_smoother_than_with_the_nearest_label() -> None:
    """Against the true, rotated outline."""

    def disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return ((x - 100) / 14) ** 2 + ((y - 90) / 10) ** 2 <= 1

    ours: list[float] = []
    nearest: list[float] = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        variant = Variant(rotate=rng.uniform(10, 40), shift_x=rng.uniform(-3, 3), shift_y=rng.uniform(-3, 3))
        x, y = Warp(variant, RECT, FRAME).grid
        truth, label = disc(x, y), disc(X, Y).astype(np.int32)
        for found, scores in (
            (warp_labels(label, x, y) > 0, ours),
            (label[np.rint(y).astype(int), np.rint(x).astype(int)] > 0, nearest),
        ):
            scores.append((found & truth).sum() / (found | truth).sum())
    assert np.mean(ours) > np.mean(nearest) + 0.01 and np.mean(ours) > 0.96


def test_touching_cells_keep_touching_and_a_gap_stays_open() -> None:
    label = np.zeros(FRAME, np.int32)
    label[60:100, 60:90], label[60:100, 90:120] = 1, 2
    label[60:100, 122:140] = 5
    view, _ = Warp(Variant(rotate=20.0), RECT, FRAME).truth(label, np.ones(FRAME, bool))
    grown = {i: ndimage.binary_dilation(view == i) for i in (1, 2, 5)}
    assert (grown[1] & (view == 2)).sum() > 30
    assert not (grown[2] & (view == 5)).any()


def test_context_comes_from_the_whole_frame_and_reflection_only_beyond_it() -> None:
    frame = (X + 1000 * Y).astype(np.float32)
    warp = Warp(Variant(rotate=30.0), RECT, FRAME)
    assert not warp.beyond.any()
    assert np.allclose(warp.image(frame), warp.grid[0] + 1000 * warp.grid[1], rtol=1e-4)
    corner = Warp(Variant(rotate=30.0), (0, 0, 128, 112), FRAME)
    assert corner.beyond.any()
    reflected = np.abs(corner.grid[0]) + 1000 * np.abs(corner.grid[1])
    assert np.allclose(corner.image(frame), reflected, rtol=1e-3, atol=2)


def test_a_cell_of_which_too_little_is_left_is_none_and_its_ground_is_not_valid() -> None:
    label = np.zeros(FRAME, np.int32)
    label[50:70, 30:50] = 1  # half of it lies left of the view
    label[50:70, 100:120] = 2
    moved = Variant(shift_x=0.25)
    view, valid = Warp(replace(moved, keep=0.8), RECT, FRAME).truth(label, np.ones(FRAME, bool))
    assert set(np.unique(view)) == {0, 2} and not valid[30, 5] and valid[30, 20]
    view, valid = Warp(replace(moved, keep=0.4), RECT, FRAME).truth(label, np.ones(FRAME, bool))
    assert set(np.unique(view)) == {0, 1, 2} and valid.all()


def test_turns_and_flips_go_the_way_they_say() -> None:
    frame = np.zeros(FRAME, np.float32)
    middle = (RECT[0] + 63.5, RECT[1] + 55.5)
    frame[int(middle[1]) - 1 : int(middle[1]) + 3, int(middle[0]) + 30 : int(middle[0]) + 33] = 1  # right of it

    def where(variant: Variant) -> tuple[float, float]:
        y, x = ndimage.center_of_mass(Warp(variant, RECT, FRAME).image(frame))
        return x - 63.5, y - 55.5

    assert where(Variant(rotate=45.0)) == pytest.approx((22.2, -21.9), abs=1)  # counter-clockwise, up
    assert where(Variant(flip_x=True))[0] == pytest.approx(-31, abs=1)
    assert where(Variant(shift_x=5.0, shift_y=-7.0)) == pytest.approx((36.5, -6), abs=1)
    assert where(Variant(scale=1.5))[0] == pytest.approx(46.5, abs=1)


@pytest.mark.ci
def test_same_seed_same_bytes_in_another_process() -> None:
    code = """
import hashlib, numpy as np, torch
torch.set_num_threads(1)
from hela_store.augment.ranges import AugmentRecipe, Jitter
from hela_store.augment.render import render
from hela_store.augment.variant import draw_variant
from hela_store.augment.warp import Warp
frame = np.add.outer(np.arange(200), np.arange(240)).astype(np.uint16)
total = hashlib.sha256()
for i in range(1, 5):
    variant = draw_variant(AugmentRecipe(gaussian=Jitter(probability=1.0, range=(0.01, 0.02))), "01/t001", 0, i, (112, 128))
    warp = Warp(variant, (40, 30, 128, 112), (200, 240))
    total.update(render(frame, [warp], (0.0, 440.0), 0.0).tobytes())
    total.update(warp.truth((frame // 20).astype(np.int32), frame > 5)[0].tobytes())
print(total.hexdigest())
"""
    command, folder = [sys.executable, "-c", code], Path(__file__).parents[2]
    runs = [start(command, capture_output=True, text=True, cwd=folder) for start in (subprocess.run, forked.run)]
    assert runs[0].stdout == runs[1].stdout and len(runs[0].stdout.strip()) == 64, runs[0].stderr


def test_views_made_together_are_those_made_alone() -> None:
    frame = np.random.default_rng(0).integers(0, 4000, FRAME).astype(np.uint16)
    recipe = AugmentRecipe()
    warps = [Warp(draw_variant(recipe, "f", 0, i, (112, 128)), RECT, FRAME) for i in range(1, 5)]
    together = render(frame, warps, (0.0, 4000.0), 0.0)
    alone = [render(frame, [warp], (0.0, 4000.0), 0.0)[0] for warp in warps]
    assert all(
        hashlib.sha256(a.tobytes()).digest() == hashlib.sha256(b.tobytes()).digest()
        for a, b in zip(together, alone, strict=True)
    )
