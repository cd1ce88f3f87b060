"""Intervals over tracks, frames and seeds, on cases worked by hand. How often they cover: test_coverage.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hela_store.metrics.intervals import Interval, Units, crossed_interval, frame_blocks, per_frame_weights


def units(tracks: list[int], frames: list[int] | None = None, seeds: list[int] | None = None) -> Units:
    track = np.array(tracks, np.int64)
    frame = None if frames is None else np.array(frames, np.int64)
    block = track if frame is None else frame // 5
    return Units(track=track, frame=frame, block=block, seed=np.array(seeds or [0] * len(tracks), np.int64))


def test_blocks_are_neighbouring_frames_of_one_sequence() -> None:
    frames = [("01", t) for t in (70, 71, 74, 75, 81, 82)] + [("02", 71), ("02", 72)]
    assert frame_blocks(frames).tolist() == [0, 0, 0, 1, 2, 2, 3, 3]
    assert frame_blocks(frames[::-1]).tolist() == [3, 3, 2, 2, 1, 0, 0, 0]
    assert frame_blocks(frames, 1).tolist() == list(range(8))


def test_frames_count_alike_whatever_their_cells() -> None:
    weights = per_frame_weights(["a", "a", "b", "a", "b", "c"])
    assert weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 2, 1 / 3, 1 / 2, 1])


def test_constant_differences_have_an_interval_of_no_width() -> None:
    found = crossed_interval(np.full(12, 0.02), units([0, 1] * 6, [0, 0, 5, 5, 10, 10] * 2, [0] * 6 + [1] * 6))
    assert (found.mean, found.low, found.high) == pytest.approx((0.02, 0.02, 0.02))
    assert (found.blocks, found.seeds, found.tracks, found.standing, found.word) == (3, 1, 2, "", "")


@pytest.mark.parametrize("value", [0.0559266726, 0.1 / 3, -0.02, 0.0])
def test_values_that_are_alike_up_to_rounding_give_no_word(value: float) -> None:
    rows = units(list(range(20)) * 75, [n // 20 % 25 for n in range(1500)], [n // 500 for n in range(1500)])
    values = np.asarray(value + 1e-17 * np.arange(1500), np.float64)
    assert crossed_interval(values, rows).word == ""


def test_copies_of_one_seed_count_as_one_seed() -> None:
    rng = np.random.default_rng(0)
    track, frame = (part.ravel().tolist() for part in np.indices((40, 25)))
    three = units(track * 3, frame * 3, [seed for seed in (4, 7, 9) for _ in track])
    one, other = 0.03 + 0.02 * rng.standard_normal((2, 1000))
    copies = crossed_interval(np.concatenate([one, one, one]), three)
    alone = crossed_interval(one, units(track, frame))
    assert (copies.seeds, copies.word, copies.standing) == (1, "", "better")
    assert (copies.low, copies.high) == pytest.approx((alone.low, alone.high))
    mixed = np.concatenate([one, other, one])
    shuffled = rng.permutation(3000)  # rows may come in any order
    assert crossed_interval(mixed[shuffled], three.take(shuffled)).seeds == 2
    apart = np.concatenate([one, other, 0.03 + 0.02 * rng.standard_normal(1000)])
    assert (crossed_interval(apart, three).seeds, crossed_interval(apart, three).word) == (3, "better")


@pytest.mark.parametrize(
    ("tracks", "frames"),
    [([0, 0, 0], [0, 1, 2]), ([0, 1, 2], [4, 4, 4]), ([7, 7, 7], None)],
    ids=["track", "frame", "image"],
)
def test_one_unit_has_no_interval(tracks: list[int], frames: list[int] | None) -> None:
    alone = crossed_interval(np.array([0.1, 0.2, 0.3]), units(tracks, frames))
    assert math.isnan(alone.low) and math.isnan(alone.high) and alone.word == alone.standing == ""


def test_images_give_the_t_interval_of_their_sums() -> None:
    """Two cells in each of four images, all alike within an image: the interval of four numbers."""
    means = np.array([0.1, 0.2, 0.4, 0.5])
    found = crossed_interval(np.repeat(means, 2), units(np.repeat(range(4), 2).tolist()))
    half = 3.1824 * means.std(ddof=1) / 2
    assert (found.mean, found.high - found.mean, found.df) == pytest.approx((0.3, half, 3), rel=1e-4)
    assert found.bootstrap_low >= 0.1 and found.bootstrap_high <= 0.5


def test_a_track_counts_once_however_many_frames_show_it() -> None:
    """Tracks differ and frames do not: many frames of the same cells make the interval no narrower."""
    effects = np.random.default_rng(0).normal(0, 0.05, 40)
    widths = []
    for frames in (10, 20, 40):
        rows = np.repeat(effects, frames), np.repeat(np.arange(40), frames), np.tile(np.arange(frames), 40)
        found = crossed_interval(rows[0], units(rows[1].tolist(), rows[2].tolist()), draws=0)
        widths.append(found.high - found.low)
    expected = 2 * 2.0227 * effects.std(ddof=1) / 40**0.5
    assert widths == pytest.approx([expected] * 3, rel=0.01)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (-0.2, -0.006, "worse"),
        (-0.2, -0.001, "undecided"),
        (-0.1, 0.1, "undecided"),
        (-0.004, 0.0049, "equivalent"),
        (0.001, 0.004, "equivalent"),
        (0.001, 0.1, "undecided"),
        (0.006, 0.1, "better"),
    ],
)
def test_words(low: float, high: float, word: str) -> None:
    assert Interval(mean=0, low=low, high=high, blocks=5, seeds=3).word == word
    for few in ({"blocks": 4, "seeds": 3}, {"blocks": 5, "seeds": 2}):
        found = Interval(mean=0, low=low, high=high, **few)
        assert found.word == "" and found.standing == word, "numbers and no word"


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 12), st.integers(1, 9))
def test_intervals_are_repeatable_and_hold_the_mean_of_any_rows(
    seed: int, seeds: int, frames: int, tracks: int
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, 60)
    codes = [rng.integers(0, n, 60).tolist() for n in (tracks, frames, seeds)]
    first = crossed_interval(values, units(codes[0], codes[1], codes[2]), draws=200)
    again = crossed_interval(values, units(codes[0], codes[1], codes[2]), draws=200)
    assert repr(first) == repr(again)
    if first.tracks > 1 and len(set(codes[1])) > 1:
        assert first.low <= first.mean <= first.high
        assert values.min() <= first.bootstrap_low <= first.bootstrap_high <= values.max()


def test_an_interval_ends_where_the_values_do() -> None:
    wide = crossed_interval(np.array([0.5, 0.9, 1.0]), units([0, 1, 2], [0, 5, 10]))
    assert wide.low < 0 and wide.high > 1, "two degrees of freedom"
    cut = wide.within(0, 1)
    assert (cut.low, cut.high, cut.mean, cut.df) == (0, 1, wide.mean, wide.df)
    assert wide.within(-9, 1).error == pytest.approx(wide.error), "the other side has it still"
    narrow = crossed_interval(np.array([0.5, 0.51, 0.52]), units([0, 1, 2], [0, 5, 10]))
    assert narrow.within(0, 1) == narrow
    none = crossed_interval(np.array([0.1]), units([0], [0])).within(0, 1)
    assert math.isnan(none.low) and math.isnan(none.high)
