from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hela_store.errors import RecipeError, SplitError
from hela_store.recipe.recipe import SplitRecipe
from hela_store.recipe.splits import (
    FrameKey,
    assign,
    default_split,
    format_ranges,
    members,
    name_groups,
    parse_ranges,
    protocol,
)


def frames_of(**lengths: int) -> list[FrameKey]:
    """Frames of sequences ``s01=92``."""
    return [(f"{name[1:]}/t{time:03d}", name[1:], time) for name, length in lengths.items() for time in range(length)]


def test_the_blocks_of_measuring_rule_1() -> None:
    blocks = assign(SplitRecipe(train="0-54", val="58-66", test="70-91"), frames_of(s01=92))
    assert Counter(blocks.values()) == {"train": 55, "val": 9, "test": 22, "gap": 6}
    assert [blocks[f"01/t{t:03d}"] for t in (54, 55, 57, 58, 69, 70)] == ["train", "gap", "gap", "val", "gap", "test"]


def test_ranges_count_in_every_sequence() -> None:
    blocks = assign(SplitRecipe(train="0-1, 4", val="2", test="3"), frames_of(s01=5, s02=5))
    assert [frame for frame, block in blocks.items() if block == "train"] == [
        "01/t000",
        "01/t001",
        "01/t004",
        "02/t000",
        "02/t001",
        "02/t004",
    ]


def test_by_sequence_with_validation_from_the_end() -> None:
    blocks = assign(SplitRecipe(mode="sequence", train="01", test="02"), frames_of(s01=92, s02=10, s03=5))
    assert Counter(blocks.values()) == {"train": 80, "gap": 3 + 5, "val": 9, "test": 10}
    assert blocks["01/t091"] == "val"
    assert blocks["01/t082"] == "gap"
    assert blocks["01/t079"] == "train"
    none = assign(SplitRecipe(mode="sequence", train="01", test="02", val_share=0), frames_of(s01=9, s02=2))
    assert Counter(none.values()) == {"train": 9, "test": 2}


@pytest.mark.parametrize(
    ("split", "text"),
    [
        (SplitRecipe(train="0-54", val="x"), "split.val is 'x'"),
        (SplitRecipe(train="0-5,", test="7"), "'' is no range"),
        (SplitRecipe(train="5-0"), "runs backwards; write 0-5"),
        (SplitRecipe(train="-3"), "no range"),
        (SplitRecipe(train="0-10", test="8-20"), "split.train and split.test overlap at frames 8-10"),
        (SplitRecipe(train="0-5,3"), "overlap at frames 3-3"),
        (SplitRecipe(train="0-10", test="70-91"), "split.test = '70-91' holds no frame; found sequence 01 with 0-39"),
        (SplitRecipe(mode="sequence", train="01", test="02"), "names sequence '02', found 01"),
        (SplitRecipe(mode="sequence", train="01", test="01"), "both name sequence 01"),
        (SplitRecipe(mode="sequence", train="01", val="01"), "leave it empty"),
        (SplitRecipe(mode="sequence", train="01", gap=36), "leaves none to train on"),
    ],
)
def test_a_wrong_split_says_so_in_one_line(split: SplitRecipe, text: str) -> None:
    with pytest.raises(SplitError) as caught:
        assign(split, frames_of(s01=40))
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_members() -> None:
    blocks = assign(SplitRecipe(train="0-4", test="5"), frames_of(s01=7))
    assert members(blocks, "test") == ["01/t005"]
    assert len(members(blocks, "all")) == 7
    with pytest.raises(SplitError, match="'val' holds no frame"):
        members(blocks, "val")
    with pytest.raises(SplitError, match="unknown"):
        members(blocks, "gap")


def test_without_a_word_the_default_is_taken() -> None:
    blocks = assign(SplitRecipe(), frames_of(s01=92, s02=40))
    assert Counter(block for frame, block in blocks.items() if frame.startswith("01")) == {
        "train": 55,
        "val": 9,
        "test": 22,
        "gap": 6,
    }


@settings(deadline=None)
@given(st.integers(0, 120), st.booleans())
def test_the_default_always_has_three_blocks_if_it_can(count: int, stills: bool) -> None:
    frames = frames_of(s01=count)
    blocks = default_split(frames, stills)
    assert len(blocks) == count
    held = Counter(blocks.values())
    if count >= 3:
        assert min(held["train"], held["val"], held["test"]) >= 1
        assert held["train"] == max(held.values())
    elif count:
        assert held["test"] == 1


@settings(deadline=None)
@given(st.integers(30, 120))
def test_time_blocks_are_in_order_with_gaps(count: int) -> None:
    order = list(default_split(frames_of(s01=count)).values())
    assert [block for i, block in enumerate(order) if i == 0 or block != order[i - 1]] == [
        "train",
        "gap",
        "val",
        "gap",
        "test",
    ]
    assert order.count("gap") == 6


def test_a_still_that_comes_later_moves_no_other() -> None:
    frames = frames_of(s01=200)
    before, after = default_split(frames[:150], stills=True), default_split(frames, stills=True)
    assert all(after[frame] == block for frame, block in before.items())
    shares = Counter(after.values())
    assert 100 < shares["train"] < 140


@settings(deadline=None)
@given(st.sets(st.integers(0, 200)))
def test_ranges_round_trip(numbers: set[int]) -> None:
    ranges = parse_ranges(format_ranges(numbers))
    assert {n for first, last in ranges for n in range(first, last + 1)} == numbers


@settings(deadline=None)
@given(st.integers(30, 100), st.integers(2, 6), st.integers(0, 3))
def test_folds_test_every_frame_once_and_keep_their_distance(count: int, folds: int, gap: int) -> None:
    tested: Counter[str] = Counter()
    for fold in range(folds):
        blocks = assign(SplitRecipe(mode="folds", folds=folds, fold=fold, gap=gap), frames_of(s01=count, s02=count + 7))
        tested.update(frame for frame, block in blocks.items() if block == "test")
        for sequence in ("01", "02"):
            times = {
                name: [int(f[-3:]) for f, block in blocks.items() if block == name and f.startswith(sequence)]
                for name in ("train", "val", "test")
            }
            assert all(times.values())
            for one, other in (("train", "test"), ("train", "val"), ("val", "test")):
                assert min(abs(a - b) for a in times[one] for b in times[other]) > gap
    assert len(tested) == 2 * count + 7 and set(tested.values()) == {1}


def test_folds_that_leave_nothing_say_so() -> None:
    with pytest.raises(SplitError, match="sequence 01 has 8 frames: 4 folds"):
        assign(SplitRecipe(mode="folds", folds=4, fold=1), frames_of(s01=8))
    with pytest.raises(SplitError, match="leave it empty"):
        assign(SplitRecipe(mode="folds", test="3"), frames_of(s01=40))
    with pytest.raises(RecipeError, match=r"split.fold \(of 3\) is 3"):
        SplitRecipe(mode="folds", folds=3, fold=3)


def test_a_group_of_stills_is_in_one_block_and_moves_no_other() -> None:
    frames = [(f"images/s{n:03}", "images", n) for n in range(200)]
    groups = {frame: f"g{n // 4}" for frame, _, n in frames}
    blocks = assign(SplitRecipe(group="look"), frames, True, groups)
    by_group: dict[str, set[str]] = {}
    for frame, group in groups.items():
        by_group.setdefault(group, set()).add(blocks[frame])
    assert all(len(found) == 1 for found in by_group.values())
    assert Counter(blocks.values())["train"] > 90 and min(Counter(blocks.values()).values()) > 10
    assert assign(SplitRecipe(), frames[:160], True, groups).items() <= blocks.items()


def test_stills_without_groups_are_split_as_ever() -> None:
    frames = [(f"images/s{n}", "images", n) for n in range(9)]
    own = {frame: frame for frame, _, _ in frames}
    before = "test train val train test test train train val".split()
    assert list(assign(SplitRecipe(), frames, True).values()) == before
    assert list(assign(SplitRecipe(), frames, True, own).values()) == before


def test_groups_by_name() -> None:
    names = {"images/a_1": "a_1", "images/a_2": "a_2", "images/b_1": "b_1", "images/x": "x"}
    of = {"images/a_1": "a", "images/a_2": "a", "images/b_1": "b", "images/x": "images/x"}
    assert name_groups("^([^_]+)_", names) == of
    with pytest.raises(SplitError, match=r"finds nothing in the names of the stills, such as a_1, a_2, b_1"):
        name_groups("plate", names)
    for wrong in ("name:", "name:(", "slide"):
        with pytest.raises(RecipeError, match=r"split\.group is"):
            SplitRecipe(group=wrong)


def test_protocol_says_whether_test_shows_the_same_nuclei() -> None:
    frames = frames_of(s01=40, s02=40)
    sequences = {frame: sequence for frame, sequence, _ in frames}
    by_sequence = assign(SplitRecipe(mode="sequence", train="01", test="02"), frames)
    assert protocol(by_sequence, sequences) == "train 01, test 02"
    assert protocol(by_sequence, sequences, "val") == "the same nuclei, later"
    assert protocol(assign(SplitRecipe(), frames), sequences) == "the same nuclei, later"
    part = {frame: block for frame, block in assign(SplitRecipe(), frames).items() if frame < "02" or block == "test"}
    assert protocol(part, sequences) == "train 01, test 01, 02; of 01 the same nuclei, later"
    assert protocol(assign(SplitRecipe(test="0-9"), frames), sequences) == ""
