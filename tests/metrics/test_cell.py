"""Boundary metrics and failure words of one cell."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from hela_store.base.aliases import BoolArray, LabelArray
from hela_store.metrics.boundaries import band_width, boundary_iou, edge, hausdorff, surface_dice, surface_distances
from hela_store.metrics.cell import CellScores, score_cell
from hela_store.metrics.failures import FAILURES, judge, label_areas
from hela_store.metrics.overlap import equivalent_diameter


def blob(seed: int, shape: tuple[int, int] = (40, 36)) -> BoolArray:
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), rng.uniform(1, 5))
    return np.asarray(noise > np.quantile(noise, rng.uniform(0.3, 0.95)))


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> BoolArray:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.asarray((rows - centre[1]) ** 2 + (columns - centre[0]) ** 2 <= radius**2)


@pytest.fixture(scope="module")
def monai_metrics() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("monai.metrics", exc_type=ImportError)


def test_boundary_metrics_equal_monai(monai_metrics: object) -> None:
    import torch

    for seed in range(40):
        a, b = blob(seed), blob(seed + 1000 if seed % 3 else seed)
        if seed % 4 == 0:
            a[:, :10] = True  # reaches the border
        if not (a.any() and b.any()):
            continue
        distances = surface_distances(a, b)
        one, other = (torch.from_numpy(m)[None, None].float() for m in (a, b))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            hd = monai_metrics.compute_hausdorff_distance(one, other, include_background=True, percentile=95)  # type: ignore[attr-defined]
            nsd = [monai_metrics.compute_surface_dice(one, other, [t], include_background=True) for t in (1.0, 2.0)]  # type: ignore[attr-defined]
        assert hausdorff(distances) == pytest.approx(float(hd), abs=1e-5)
        assert [surface_dice(distances, t) for t in (1.0, 2.0)] == pytest.approx([float(n) for n in nsd], abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_boundaries_by_slow_ways(seed: int, width: int) -> None:
    a, b = blob(seed, (23, 31)), blob(seed + 1, (23, 31))
    assert np.array_equal(edge(a), a & ~ndimage.binary_erosion(a))
    square = np.ones((2 * width + 1,) * 2, bool)
    bands = [m & ~ndimage.binary_erosion(m, square) for m in (a, b)]
    union = (bands[0] | bands[1]).sum()
    assert boundary_iou(a, b, width) == pytest.approx((bands[0] & bands[1]).sum() / union)
    assert boundary_iou(a, a, width) == 1
    assert hausdorff(surface_distances(a, a)) == 0 and surface_dice(surface_distances(a, b), 100) == 1


def frame() -> LabelArray:
    """Cell 1 and cell 2 side by side, cell 3 far away and small."""
    labels = np.zeros((60, 90), np.int32)
    labels[disc(labels.shape, (20, 30), 10)] = 1
    labels[disc(labels.shape, (42, 30), 10)] = 2
    labels[disc(labels.shape, (75, 30), 4)] = 3
    return labels


def score(predicted: BoolArray, label: int = 1) -> CellScores:
    labels = frame()
    rows, columns = np.nonzero(labels == label)
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    return score_cell(predicted, (0, 0), labels, label, box, label_areas(labels))


def test_a_perfect_and_an_empty_prediction() -> None:
    labels = frame()
    perfect = CellScores(boundary_iou=1.0, hd95=0.0, nsd1=1.0, nsd2=1.0, spill=0.0, failure="")
    assert score(labels == 1) == perfect
    diameter = equivalent_diameter(int((labels == 1).sum()))
    empty = CellScores(boundary_iou=0.0, hd95=diameter, nsd1=0.0, nsd2=0.0, spill=0.0, failure="empty")
    assert score(np.zeros_like(labels, bool)) == empty
    none = score_cell(np.zeros((0, 0), bool), (5, 5), labels, 1, (10, 20, 31, 41), label_areas(labels))
    assert none == empty


def test_the_border_of_the_frame_is_no_boundary() -> None:
    """A prediction 3 px too large has no boundary pixel within 1 px, whether or not the frame cuts the cell."""
    for place in (slice(0, 14), slice(20, 34)):
        labels = np.zeros((60, 60), np.int32)
        labels[20:40, place] = 1
        predicted = ndimage.binary_dilation(labels == 1, iterations=3)
        box = (place.start, 20, place.stop, 40)
        found = score_cell(predicted, (0, 0), labels, 1, box, label_areas(labels))
        assert found.nsd1 == 0 and found.boundary_iou < 0.02, place
        assert found.hd95 == pytest.approx(3, abs=1.3), place
        same = score_cell(labels == 1, (0, 0), labels, 1, box, label_areas(labels))
        assert (same.nsd1, same.hd95, same.boundary_iou) == (1, 0, 1)
    labels = np.ones((30, 30), np.int32)  # fills the frame: it has no other boundary than the border
    full = score_cell(labels[:, :27] == 1, (0, 0), labels, 1, (0, 0, 30, 30), label_areas(labels))
    assert 0 < full.nsd1 < 1 and full.hd95 == pytest.approx(3, abs=0.1)


def words() -> dict[str, BoolArray]:
    labels = frame()
    one, two, three = (labels == k for k in (1, 2, 3))
    half = one & (np.arange(90) < 20)
    return {
        "empty": np.zeros_like(one),
        "wrong cell": two | half,
        "merged": one | (two & (np.arange(90) < 40)),
        "leak": disc(labels.shape, (20, 30), 12.5) & ~two & ~three,
        "under-segmented": half,
        "fragmented": one & (np.abs(np.arange(60) - 30) > 1)[:, None],
        "": ndimage.binary_erosion(one),
    }


@pytest.mark.parametrize("word", ["", *FAILURES])
def test_every_word_has_its_case(word: str) -> None:
    assert score(words()[word]).failure == word


def test_rules_apply_in_their_order_and_at_their_limits() -> None:
    labels = np.zeros((30, 60), np.int32)
    labels[10:20, 10:20], labels[10:20, 20:30] = 1, 2
    areas = label_areas(labels)

    def word(**parts: slice) -> str:
        mask = np.zeros_like(labels, bool)
        for columns in parts.values():
            mask[10:20, columns] = True
        return judge(mask, labels, 1, areas).failure

    assert word(own=slice(10, 20), other=slice(20, 21)) == ""  # 10 % of the neighbour
    assert word(own=slice(10, 20), other=slice(20, 22)) == "merged"
    assert word(own=slice(15, 20), other=slice(20, 26)) == "merged"  # more on the other, but half of the own
    assert word(own=slice(16, 20), other=slice(20, 25)) == "wrong cell"
    assert word(own=slice(13, 20)) == "" and word(own=slice(14, 20)) == "under-segmented"
    assert word(own=slice(10, 20), leak=slice(7, 10)) == "" and word(own=slice(10, 20), leak=slice(6, 10)) == "leak"
    assert word(nothing=slice(40, 41)) == "leak"
    assert word(own=slice(14, 20), leak=slice(5, 9)) == "leak"  # before under-segmented
    spilled = np.zeros_like(labels, bool)
    spilled[10:20, 10:25] = True
    assert judge(spilled, labels, 1, areas).spill == pytest.approx(1 / 3)


def test_crops_at_any_place_score_alike() -> None:
    labels = frame()
    whole = np.roll(labels == 1, 2, 1)
    crop = whole[15:50, 5:80]
    box = (10, 20, 31, 41)
    areas = label_areas(labels)
    expected = score_cell(whole, (0, 0), labels, 1, box, areas)
    assert score_cell(crop, (5, 15), labels, 1, box, areas) == expected
    padded = np.pad(whole, 7)
    assert score_cell(padded, (-7, -7), labels, 1, box, areas) == expected
    beyond = padded.copy()
    beyond[:5] = True  # outside of the frame: nothing
    assert score_cell(beyond, (-7, -7), labels, 1, box, areas) == expected


@given(st.floats(1, 500))
def test_the_band_is_at_least_a_pixel(diameter: float) -> None:
    assert 1 <= band_width(diameter) <= 1 + 0.08 * diameter


def test_a_frame_of_130_nuclei_takes_less_than_100_ms() -> None:
    labels = np.zeros((700, 1100), np.int32)
    cells = []
    for i in range(130):
        x, y = 40 + 75 * (i % 14), 35 + 68 * (i // 14)
        labels[disc((29, 29), (14, 14), 12.3).nonzero()[0] + y, disc((29, 29), (14, 14), 12.3).nonzero()[1] + x] = i + 1
        cells.append((i + 1, (x + 2, y + 2, x + 27, y + 27)))
    answer = disc((40, 40), (20, 19), 12.8)
    times = []
    for _ in range(7):
        # of this thread alone: those that an earlier test left in the process are not what is measured
        start = time.thread_time()
        areas = label_areas(labels)
        for label, box in cells:
            score_cell(answer, (box[0] - 7, box[1] - 7), labels, label, box, areas)
        times.append(time.thread_time() - start)
    assert min(times) < 0.1
