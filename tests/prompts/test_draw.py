from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from hela_store.base.rng import generator
from hela_store.errors import PromptError
from hela_store.prompts.draw import (
    CellContext,
    cell_contexts,
    centre_point,
    check_prompt_kind,
    draw_box,
    draw_point,
    draw_prompt,
    make_prompt,
)
from hela_store.prompts.kinds import PROMPT_KINDS

DRAWN = [kind for kind in PROMPT_KINDS if kind not in ("mask-previous", "point-clicks")]


def ellipses() -> np.ndarray:
    """Three ellipses, two of them near each other, one at the border."""
    labels = np.zeros((120, 160), np.int32)
    rows, columns = np.indices(labels.shape)
    for label, (x, y, a, b) in enumerate([(40, 50, 14, 10), (65, 50, 10, 13), (155, 20, 12, 12)], start=1):
        labels[((columns - x) / a) ** 2 + ((rows - y) / b) ** 2 <= 1] = label
    return labels


@pytest.fixture(scope="module")
def cells() -> list[CellContext]:
    return list(cell_contexts(ellipses(), {1: "01/t000#1", 2: "01/t000#2", 3: "01/t000#3"}))


def same(a: object, b: object) -> bool:
    return bool(np.array_equal(np.asarray(a), np.asarray(b)))


@pytest.mark.parametrize("kind", DRAWN)
def test_a_draw_depends_on_cell_kind_and_seed_alone(kind: str, cells: list[CellContext]) -> None:
    first = make_prompt(kind, cells[0], 1)
    for other in (cells[1], cells[2]):
        make_prompt(kind, other, 1)
    again = make_prompt(kind, next(cell_contexts(ellipses(), {1: "01/t000#1"})), 1)
    for name in ("kind", "box", "points", "point_labels", "mask", "mask_origin", "params"):
        assert same(getattr(first, name), getattr(again, name)), name
    assert first.kind == kind


@pytest.mark.parametrize(("kind", "field"), [("box", "box"), ("point", "points"), ("mask", "params")])
def test_another_seed_or_cell_is_another_draw(kind: str, field: str, cells: list[CellContext]) -> None:
    found = [make_prompt(kind, cells[0], seed) for seed in range(4)]
    assert len({str(getattr(prompt, field)) for prompt in found}) > 1
    renamed = next(cell_contexts(ellipses(), {1: "02/t000#1"}))
    assert any(
        not same(getattr(prompt, field), getattr(make_prompt(kind, renamed, seed), field))
        for seed, prompt in enumerate(found)
    )


def test_prompts_hold_what_their_kind_says(cells: list[CellContext]) -> None:
    for cell in cells:
        for kind in DRAWN:
            prompt = make_prompt(kind, cell, 0)
            given = {name for name in ("box", "points", "mask") if getattr(prompt, name) is not None}
            parts = {part.partition("-")[0] for part in kind.split("+")}
            assert given == {"points" if part == "point" else part for part in parts}
        assert same(make_prompt("box-exact", cell, 0).box, cell.box)


def test_an_unknown_kind_is_refused(cells: list[CellContext]) -> None:
    with pytest.raises(PromptError, match="'scribble' is unknown, expected one of box, box-exact"):
        make_prompt("scribble", cells[0], 0)
    with pytest.raises(PromptError, match="cannot be drawn"):
        make_prompt("mask-previous", cells[0], 0)
    with pytest.raises(PromptError, match="jitter is -1"):
        make_prompt("box", cells[0], 0, jitter=-1)
    for kind, what in {
        "box@nan": "the jitter is nan, expected 0 to 1",
        "box@-1": "the jitter is -1",
        "point@7": "the depth is 7, expected 0 to 1",
        "mask@2": "the prompt's IoU is 2, expected 0.4 to 0.9",
        "point-clicks@0": "the number of clicks is 0",
        "scribble@1": "is unknown",
    }.items():
        with pytest.raises(PromptError, match=what):
            check_prompt_kind(kind)
    with pytest.raises(PromptError, match="needs the decoder's own first answer"):
        make_prompt("point-clicks@3", cells[0], 0)


def test_box_sides_jitter_by_a_share_of_the_extent() -> None:
    box = np.array([400.0, 300.0, 440.0, 320.0])
    moved = np.array([draw_box(generator("box", i), box, (1000, 1000)) - box for i in range(2000)])
    assert moved.mean(0) == pytest.approx([0, 0, 0, 0], abs=0.2)
    assert moved.std(0) == pytest.approx([2, 1, 2, 1], rel=0.08)
    assert np.abs(np.corrcoef(moved.T) - np.eye(4)).max() < 0.1


def test_jitters_of_one_seed_are_pairs(cells: list[CellContext]) -> None:
    far, near = (make_prompt("box", cells[0], 3, jitter=jitter).box for jitter in (0.10, 0.05))
    assert far is not None
    assert near is not None
    assert far - cells[0].box == pytest.approx(2 * (near - cells[0].box))
    assert same(make_prompt("box", cells[0], 3, jitter=0).box, cells[0].box)


@settings(deadline=None)
@given(
    st.integers(0, 2**40),
    st.tuples(st.integers(0, 59), st.integers(0, 39)),
    st.tuples(st.integers(1, 60), st.integers(1, 40)),
    st.floats(0, 3),
)
def test_a_box_is_never_inverted_and_stays_in_the_frame(
    seed: int, corner: tuple[int, int], extent: tuple[int, int], jitter: float
) -> None:
    box = np.array([*corner, min(corner[0] + extent[0], 60), min(corner[1] + extent[1], 40)], float)
    x0, y0, x1, y1 = draw_box(generator(seed), box, (40, 60), jitter)
    assert 0 <= x0 <= x1 - 1 + 1e-9
    assert x1 <= 60
    assert 0 <= y0 <= y1 - 1 + 1e-9
    assert y1 <= 40


@settings(deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)), st.integers(0, 1000))
def test_a_point_lies_in_the_cell_off_its_edge(mask: np.ndarray, seed: int) -> None:
    if not mask.any():
        return
    x, y = (int(value) for value in draw_point(generator(seed), mask))
    assert mask[y, x]
    inner = ndimage.binary_erosion(mask, np.ones((3, 3)))
    assert inner[y, x] or not inner.any()
    x, y = (int(value) for value in centre_point(mask))
    distance = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    assert distance[y, x] == distance.max()


@settings(deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)), st.integers(0, 1000))
def test_a_point_is_drawn_from_the_pixels_a_distance_transform_finds(mask: np.ndarray, seed: int) -> None:
    rows, columns = np.nonzero(ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] >= 1.5)
    if not len(rows):
        return
    index = int(generator(seed).random() * len(rows))
    assert draw_point(generator(seed), mask).tolist() == [columns[index], rows[index]]


def test_points_are_uniform() -> None:
    mask = np.ones((12, 22), bool)
    points = np.array([draw_point(generator("p", i), mask) for i in range(4000)])
    assert points.min(0).tolist() == [1, 1]
    assert points.max(0).tolist() == [20, 10]
    counts = np.histogram2d(points[:, 0], points[:, 1], bins=(4, 2), range=((0.5, 20.5), (0.5, 10.5)))[0]
    assert counts == pytest.approx(500, rel=0.2)


def test_a_thin_cell_gets_its_centre_and_the_generator_moves_on_all_the_same() -> None:
    line = np.zeros((5, 9), bool)
    line[2, 1:8] = True
    rng, other = generator(1), generator(1)
    assert draw_point(rng, line).tolist() == [4, 2]
    draw_point(other, np.ones((9, 9), bool))
    assert rng.random() == other.random()


def test_points_are_in_frame_coordinates(cells: list[CellContext]) -> None:
    labels = ellipses()
    for cell in cells:
        for kind in ("point", "point-centre"):
            points = make_prompt(kind, cell, 5).points
            assert points is not None
            ((x, y),) = points.astype(int).tolist()
            assert labels[y, x] == cell.label


def test_negative_points_lie_near_outside_and_move_nothing(cells: list[CellContext]) -> None:
    labels = ellipses()
    for cell in cells:
        plain, more = make_prompt("point", cell, 2), make_prompt("point", cell, 2, negatives=5)
        assert plain.points is not None
        assert more.points is not None
        assert more.point_labels is not None
        assert same(plain.points[0], more.points[0])
        assert more.point_labels.tolist() == [1, 0, 0, 0, 0, 0]
        for x, y in more.points[1:].astype(int).tolist():
            assert labels[y, x] != cell.label
            assert np.hypot(x - more.points[0, 0], y - more.points[0, 1]) < 2.5 * cell.diameter
        assert len({tuple(point) for point in more.points.tolist()}) == 6
    with pytest.raises(PromptError, match="go with a point prompt"):
        make_prompt("box", cells[0], 2, negatives=1)
    with pytest.raises(PromptError, match="expected 0 or more"):
        make_prompt("point", cells[0], 2, negatives=-1)


def test_a_cell_of_one_pixel_and_a_cell_that_fills_its_frame_get_every_prompt() -> None:
    dot, full = np.zeros((30, 30), np.int32), np.ones((20, 20), np.int32)
    dot[4, 7] = 1
    for labels in (dot, full):
        (cell,) = cell_contexts(labels, {1: "c"})
        for kind in DRAWN:
            for seed in range(3):
                prompt = make_prompt(kind, cell, seed)
                if prompt.mask is not None:
                    x, y = prompt.mask_origin
                    assert prompt.mask.any()
                    assert x >= 0
                    assert y >= 0
                    assert x + prompt.mask.shape[1] <= 30


def test_training_draws_come_from_the_generator_that_is_given(cells: list[CellContext]) -> None:
    one = draw_prompt(generator("train", 0, 3, 17, "c"), "box", cells[0])
    two = draw_prompt(generator("train", 0, 3, 18, "c"), "box", cells[0])
    again = draw_prompt(generator("train", 0, 3, 17, "c"), "box", cells[0])
    assert same(one.box, again.box)
    assert not same(one.box, two.box)
