from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco
from scipy import ndimage

from hela_store.errors import RunError
from hela_store.images.rle import Rle, bbox, decode, decode_crop, encode, filled, largest_piece, trim


@st.composite
def crops(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
    height, width = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    rows, columns = draw(st.integers(0, height)), draw(st.integers(0, width))
    origin = draw(st.integers(0, width - columns)), draw(st.integers(0, height - rows))
    mask = draw(hnp.arrays(bool, (rows, columns), elements=st.sampled_from([False, True, True])))
    return mask, origin, (height, width)


def in_frame(mask: np.ndarray, origin: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    frame = np.zeros(shape, bool)
    frame[origin[1] : origin[1] + mask.shape[0], origin[0] : origin[0] + mask.shape[1]] = mask
    return frame


@settings(deadline=None, max_examples=300)
@given(crops())
def test_the_code_is_that_of_pycocotools_and_comes_back(
    crop: tuple[np.ndarray, tuple[int, int], tuple[int, int]],
) -> None:
    mask, origin, shape = crop
    frame = in_frame(mask, origin, shape)
    rle = encode(mask, origin, shape)
    assert rle.counts == coco.encode(np.asfortranarray(frame, np.uint8))["counts"].decode()
    assert (rle.height, rle.width) == shape
    back, place = decode_crop(rle.counts, rle.height, rle.width)
    assert np.array_equal(in_frame(back, place, shape), frame)
    assert bbox(back) == (0, 0, back.shape[1], back.shape[0])
    if frame.any():
        assert (*place, place[0] + back.shape[1], place[1] + back.shape[0]) == bbox(frame)


def test_what_lies_beyond_the_frame_is_dropped() -> None:
    back, place = decode(encode(np.ones((5, 5), bool), (-2, 7), (10, 10)), (10, 10))
    assert place == (0, 7)
    assert back.shape == (3, 3)
    assert back.all()


@pytest.mark.parametrize("origin", [(20, 20), (-9, 0), (0, -9)])
def test_a_mask_wholly_beyond_the_frame_is_empty(origin: tuple[int, int]) -> None:
    back, _ = decode(encode(np.ones((5, 5), bool), origin, (10, 10)), (10, 10))
    assert back.shape == (0, 0)


def test_bbox_and_trim() -> None:
    mask = np.zeros((6, 8), bool)
    mask[2:4, 3:7] = True
    assert bbox(mask, (10, 20)) == (13, 22, 17, 24)
    crop, origin = trim(mask, (10, 20))
    assert crop.all()
    assert (crop.shape, origin) == ((2, 4), (13, 22))
    assert bbox(np.zeros((3, 3), bool), (5, 6)) == (5, 6, 5, 6)
    assert trim(np.zeros((3, 3), bool), (5, 6))[0].shape == (0, 0)


@pytest.mark.parametrize("counts", ["", "R", "0000000", "~~~~", "\u00e9", "Pl4"])
def test_a_damaged_code_is_refused(counts: str) -> None:
    with pytest.raises(RunError, match="does not fit a frame of 10 x 12 px"):
        decode_crop(counts, 10, 12)


def test_a_code_of_another_frame_is_refused() -> None:
    rle = encode(np.ones((3, 3), bool), (2, 2), (10, 12))
    with pytest.raises(RunError, match="does not fit"):
        decode_crop(rle.counts, 10, 13)


def test_the_largest_piece_or_the_one_asked_for() -> None:
    mask = np.array([[1, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]], bool)
    right, corner = np.zeros_like(mask), np.zeros_like(mask)
    right[[0, 0, 1], [2, 3, 3]] = corner[0, 0] = True
    assert np.array_equal(largest_piece(mask), right)
    within = np.zeros_like(mask)
    assert np.array_equal(largest_piece(mask, within), right)
    within[0, :2] = within[2] = True
    assert np.array_equal(largest_piece(mask, within), corner)  # corners do not join
    within[3] = True
    assert np.array_equal(largest_piece(mask, within), mask & (np.arange(4) == 3)[:, None])
    empty = np.zeros((0, 0), bool)
    assert largest_piece(empty).shape == (0, 0) and largest_piece(right) is right


@given(mask=hnp.arrays(bool, (7, 9)))
def test_filling_holes_is_what_scipy_does(mask: np.ndarray) -> None:
    assert np.array_equal(filled(mask), ndimage.binary_fill_holes(mask, structure=np.ones((3, 3))))


def packed(*runs: int) -> str:
    """Return up to three runs as COCO writes them; pycocotools itself has no runs above 32 bits."""
    text = ""
    for run in runs:
        more = True
        while more:
            bits, run = run & 0x1F, run >> 5
            more = bool(run or bits & 0x10)
            text += chr((bits | 0x20 * more) + 48)
    return text


@pytest.mark.parametrize(
    "counts",
    [
        packed(9_999_999_999, 1),
        packed(10, 9_999_999_990),
        "o" * 1_000_000,
        "o" * 100_000 + "0",
        "0" * 1_000_000,
        "P" * 100,
        "1o",
        "\x00\x7fé~",
        "",
    ],
    ids=["wide", "full", "endless", "huge", "many", "negative", "cut", "other", "none"],
)
def test_absurd_codes_are_refused_without_asking_for_memory(counts: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(RunError, match="does not fit a frame of 64 x 96 px"):
            decode_crop(counts, 64, 96)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_the_size_beside_a_code_is_no_bound() -> None:
    """A mask of one row in a frame of 100,000 x 100,000 px would be decoded into columns of 9 GiB."""
    absurd = Rle(counts=packed(1, 9_999_999_999), height=100_000, width=100_000)
    with pytest.raises(RunError, match="of a frame of 100000 x 100000 px, expected 64 x 96"):
        decode(absurd, (64, 96))


@given(st.text(max_size=40), st.integers(0, 40), st.integers(0, 40))
def test_any_text_is_a_mask_of_the_frame_or_refused(counts: str, height: int, width: int) -> None:
    try:
        mask, (x, y) = decode_crop(counts, height, width)
    except RunError:
        return
    assert x >= 0 and y >= 0 and x + mask.shape[1] <= width and y + mask.shape[0] <= height
