from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hela_store.errors import PromptError
from hela_store.metrics.boundaries import signed_distance
from hela_store.prompts.context import CellContext, cell_context, cell_contexts


def pair() -> np.ndarray:
    """Two squares of 10 px, 3 px apart, and a far one."""
    labels = np.zeros((80, 120), np.int32)
    labels[30:40, 20:30] = 7
    labels[30:40, 33:43] = 9
    labels[60:70, 100:110] = 2
    return labels


def test_a_cell_with_its_surroundings() -> None:
    (cell,) = cell_contexts(pair(), {7: "01/t000#7"})
    assert cell.area == 100
    assert cell.diameter == pytest.approx(11.28, abs=0.01)
    assert cell.box.tolist() == [20, 30, 30, 40]
    assert cell.gaps == {9: 3.0}
    assert cell.origin == (1, 11)
    assert cell.centroid == (20 + 4.5 - 1, 30 + 4.5 - 11)


def test_both_ways_to_crop_agree() -> None:
    labels = pair()
    (one,) = cell_contexts(labels, {9: "c"})
    other = cell_context(labels, 9, "c", (33, 30, 43, 40))
    assert np.array_equal(one.labels, other.labels)
    assert one.origin == other.origin


def test_a_part_of_a_frame_has_frame_coordinates() -> None:
    labels = pair()
    (cell,) = cell_contexts(labels[20:60, 10:60], {7: "c"}, origin=(10, 20), frame_shape=(80, 120))
    assert cell.box.tolist() == [20, 30, 30, 40]
    assert cell.frame_shape == (80, 120)
    other = cell_context(labels[20:60, 10:60], 7, "c", (20, 30, 30, 40), origin=(10, 20), frame_shape=(80, 120))
    assert other.origin == cell.origin
    assert np.array_equal(other.labels, cell.labels)


@pytest.mark.parametrize("label", [0, 1, 55])
def test_a_label_without_pixels_is_refused(label: int) -> None:
    with pytest.raises(PromptError, match="has no pixel with label"):
        list(cell_contexts(pair(), {label: "c"}))
    cell = CellContext(cell="c", label=label, labels=pair(), origin=(0, 0), frame_shape=(80, 120))
    with pytest.raises(PromptError, match="has no pixel with label"):
        _ = cell.mask


@settings(deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_the_distance_is_that_to_the_nearest_pixel_of_the_other_kind(mask: np.ndarray) -> None:
    found = signed_distance(mask)
    assert np.array_equal(found > 0, mask)
    if mask.any() and not mask.all():
        rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
        for row, column in np.ndindex(mask.shape):
            other = mask != mask[row, column]
            nearest = np.hypot(rows[other] - row, columns[other] - column).min() - 0.5
            assert abs(found[row, column]) == pytest.approx(nearest, abs=1e-5)


@settings(deadline=None)
@given(st.integers(1, 3))
def test_strided_distances_are_in_pixels(stride: int) -> None:
    (cell,) = cell_contexts(pair(), {7: "c"})
    coarse, fine = cell.wide_distance(9, stride), cell.wide_distance(9)
    assert np.abs(coarse - fine[::stride, ::stride]).max() <= stride
