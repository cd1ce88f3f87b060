from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hela_store.errors import PromptError
from hela_store.images.boxes import box_iou
from hela_store.prompts.prompt import Prompt, prompt_rectangle
from hela_store.prompts.table import (
    LEAST_OVERLAP,
    UserPrompt,
    mask_prompt,
    match_masks,
    match_prompts,
    read_prompt_table,
)

FRAMES = {"01/t000": (100, 200), "01/t001": (100, 200)}


def csv(folder: Path, text: str) -> Path:
    path = folder / "prompts.csv"
    path.write_text(text)
    return path


def test_boxes_and_points_from_csv(tmp_path: Path) -> None:
    text = "frame,cell,x0,y0,x1,y1,x,y,label\n01/t000,,10,20,30,40,,,\n01/t001,01/t001#3,,,,,5,6,1\n"
    text += "01/t001,01/t001#3,,,,,9,6,0\n01/t001,,1,1,9,9,4.5,4,1\n"
    box, points, both = read_prompt_table(csv(tmp_path, text), FRAMES)
    assert (box.frame, box.cell, box.row, box.prompt.kind) == ("01/t000", None, 1, "box")
    assert box.prompt.box is not None
    assert box.prompt.box.tolist() == [10, 20, 30, 40]
    assert box.prompt.points is None
    assert (points.cell, points.row, points.prompt.kind) == ("01/t001#3", 2, "point")
    assert points.prompt.points is not None
    assert points.prompt.point_labels is not None
    assert points.prompt.points.tolist() == [[5, 6], [9, 6]]
    assert points.prompt.point_labels.tolist() == [1, 0]
    assert both.prompt.box is not None
    assert both.prompt.points is not None


def test_parquet_with_other_number_types(tmp_path: Path) -> None:
    path = tmp_path / "prompts.parquet"
    table = pa.table({"frame": ["01/t000"], "x": pa.array([3], pa.int16()), "y": pa.array([4], pa.float32())})
    pq.write_table(table, path)
    (prompt,) = read_prompt_table(path, FRAMES)
    assert prompt.prompt.points is not None
    assert prompt.prompt.points.tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frame,x0,y0,x1,y1,x0\n01/t000,1,1,3,3,2\n", "column 'x0' is there 2 times, expected once"),
        ("frame,x0,y0,x1,yy1\n", "unknown column 'yy1'.*did you mean 'y1'"),
        ("frame,x0,y0,x1\n01/t000,1,1,2\n", "expected frame and x0, y0, x1, y1 or x, y"),
        ("x,y\n1,2\n", "expected frame"),
        ("frame,x,y\n", "no rows"),
        ("frame,x,y\n01/t000,1,2\n01/t007,1,2\n", "row 2: there is no frame '01/t007'"),
        ("frame,x,y\n01/t000,1,\n", "row 1: y missing beside x"),
        ("frame,x,y\n01/t000,1,nan\n", "row 1: y missing beside x"),
        ("frame,x,y\n01/t000,1,inf\n", "row 1: y is inf, expected a finite number"),
        ("frame,x,y\n01/t000,1,abc\n", "row 1: y is 'abc', expected a number"),
        ("frame,x,y\n01/t000,,\n", "row 1: neither a box"),
        ("frame,x,y\n01/t000,1,2\n01/t000,200,5\n", r"row 2: point \(200, 5\) lies outside of the frame of 200 x 100"),
        ("frame,x0,y0,x1,y1\n01/t000,5,5,5,9\n", "row 1: box .* is empty or inverted"),
        ("frame,x0,y0,x1,y1\n01/t000,5,5,3,9\n", "row 1: box .* is empty or inverted"),
        ("frame,x0,y0,x1,y1\n01/t000,-1,5,3,9\n", "row 1: box .* leaves the frame of 200 x 100 px"),
        ("frame,x0,y0,x1,y1\n01/t000,1,5,3,101\n", "row 1: box .* leaves the frame"),
        ("frame,x,y,label\n01/t000,1,2,2\n", "row 1: label is 2, expected 1"),
        ("frame,x,y,label\n01/t000,1,2,0\n", "row 1: only background points"),
        ("frame,cell,x0,y0,x1,y1\n01/t000,a,1,1,2,2\n01/t000,a,1,1,3,3\n", "row 2: a second box for cell a"),
        ("frame,x,y\n01/t000,1,2,3\n", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_a_wrong_table_says_what_and_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PromptError, match=message) as caught:
        read_prompt_table(csv(tmp_path, text), FRAMES)
    assert "\n" not in str(caught.value)


def test_nan_in_parquet_and_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "prompts.parquet"
    pq.write_table(pa.table({"frame": ["01/t000"], "x": [1.0], "y": [float("nan")]}), path)
    with pytest.raises(PromptError, match="row 1: y is nan"):
        read_prompt_table(path, FRAMES)
    path.write_bytes(b"PAR1 this is none")
    with pytest.raises(PromptError, match="cannot be read"):
        read_prompt_table(path, FRAMES)
    with pytest.raises(PromptError, match="no prompt table at"):
        read_prompt_table(tmp_path / "absent.csv", FRAMES)
    with pytest.raises(PromptError, match=r"is a .parquet or a .csv"):
        read_prompt_table(tmp_path / "prompts.xlsx", FRAMES)


def test_box_iou() -> None:
    found = box_iou([[0, 0, 10, 10]], [[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4]])
    assert found[0] == pytest.approx([1, 1 / 3, 0, 0.04])


def given_for(kind: str, cell: str | None = None, row: int = 1, **values: list[float]) -> UserPrompt:
    prompt = Prompt(
        kind=kind,
        box=np.array(values["box"]) if "box" in values else None,
        points=np.array([values["point"]], float) if "point" in values else None,
        point_labels=np.ones(1, np.int64) if "point" in values else None,
    )
    return UserPrompt(frame="01/t000", cell=cell, row=row, prompt=prompt)


def test_prompts_are_given_to_the_cells_of_a_frame() -> None:
    labels = np.zeros((40, 60), np.int32)
    labels[5:15, 5:15], labels[5:15, 20:30], labels[20:30, 40:50] = 1, 2, 5
    cells = {"c1": 1, "c2": 2, "c5": 5}
    named = given_for("box", "c2", 1, box=[0.0, 0.0, 3.0, 3.0])
    boxed = given_for("box", None, 2, box=[6.0, 6.0, 14.0, 15.0])
    point = given_for("point", None, 3, point=[44.6, 20.0])
    nowhere = given_for("point", None, 4, point=[0.0, 0.0])
    second = given_for("point", None, 5, point=[25.0, 10.0])
    matched, unmatched = match_prompts([named, boxed, point, nowhere, second], cells, labels)
    assert matched == {"c2": named, "c1": boxed, "c5": point}
    assert unmatched == [nowhere, second]
    with pytest.raises(PromptError, match="row 7: there is no cell 'c3' in frame 01/t000"):
        match_prompts([given_for("point", "c3", 7, point=[1.0, 1.0])], cells, labels)
    assert match_prompts([boxed], {}, labels) == ({}, [boxed])


def test_boxes_are_matched_one_to_one_with_a_least_overlap() -> None:
    """The total counts: the best pair, 9/11, would leave the second box with 2/18, which is no pair."""
    labels = np.zeros((40, 60), np.int32)
    labels[0, 4:14] = labels[0:10, 4] = 1
    labels[9, 8:18] = labels[0:10, 17] = 2
    labels[20:30, 10:20] = 3
    cells = {"c1": 1, "c2": 2, "c3": 3}
    one, two = given_for("box", row=1, box=[5.0, 0, 15, 10]), given_for("box", row=2, box=[0.0, 0, 10, 10])
    assert match_prompts([one], cells, labels) == ({"c1": one}, [])
    assert match_prompts([one, two], cells, labels) == ({"c2": one, "c1": two}, [])
    far = given_for("box", row=3, box=[15.0, 20, 25, 30])  # IoU 1/3
    farther = given_for("box", row=4, box=[16.0, 20, 26, 30])  # IoU 1/4
    assert match_prompts([far], cells, labels) == ({"c3": far}, [])
    assert match_prompts([farther], cells, labels) == ({}, [farther])
    assert match_prompts([farther, far], cells, labels) == ({"c3": far}, [farther])


def test_masks_are_matched_one_to_one_with_a_least_overlap() -> None:
    truth, user = np.zeros((20, 40), np.int32), np.zeros((20, 40), np.uint16)
    truth[2:10, 2:10], truth[2:10, 12:20], truth[2:10, 30:38], truth[15:18, 2:5] = 1, 2, 3, 4
    user[2:10, 3:20] = 9  # covers two, the second better
    user[2:6, 30:38], user[6:10, 30:34], user[12:14, 30:38], user[15, 2] = 4, 5, 6, 7
    assert match_masks(user, truth) == {2: 9, 3: 4}
    prompt = mask_prompt(user, 5)
    assert prompt.mask is not None
    assert (prompt.mask.shape, prompt.mask_origin) == ((4, 4), (30, 6))
    with pytest.raises(PromptError, match="no label 77"):
        mask_prompt(user, 77)
    with pytest.raises(PromptError, match="expected one size"):
        match_masks(user[:10], truth)
    with pytest.raises(PromptError, match="float64, expected whole numbers"):
        match_masks(user.astype(float), truth)


@settings(deadline=None)
@given(
    hnp.arrays(np.int32, (6, 7), elements=st.integers(0, 3)), hnp.arrays(np.uint8, (6, 7), elements=st.integers(0, 3))
)
def test_no_other_assignment_fits_better(truth: np.ndarray, user: np.ndarray) -> None:
    found = match_masks(user, truth)

    def score(cell: int, label: int) -> float:
        iou = float(((truth == cell) & (user == label)).sum() / ((truth == cell) | (user == label)).sum())
        return iou if iou >= LEAST_OVERLAP else 0.0

    cells, labels = ([*(set(np.unique(image).tolist()) - {0})] for image in (truth, user))
    slots = [*labels, *[None] * len(cells)]
    totals = [
        sum(score(cell, label) for cell, label in zip(cells, chosen, strict=True) if label is not None)
        for chosen in itertools.permutations(slots, len(cells))
    ]
    assert len(set(found.values())) == len(found) and all(score(*pair) > 0 for pair in found.items())
    assert sum(score(*pair) for pair in found.items()) == pytest.approx(max(totals))


def test_the_rectangle_of_a_prompt() -> None:
    assert prompt_rectangle(Prompt(kind="box", box=np.array([1.0, 2, 3, 4]))).tolist() == [1, 2, 3, 4]
    mask = Prompt(kind="mask", mask=np.array([[False, True]]), mask_origin=(5, 6))
    assert prompt_rectangle(mask).tolist() == [6, 6, 7, 7]
    points = Prompt(kind="point", points=np.array([[5.0, 6.0], [90.0, 90.0]]), point_labels=np.array([1, 0], np.int64))
    assert prompt_rectangle(points).tolist() == [5.5, 6.5, 5.5, 6.5]
    with pytest.raises(PromptError, match="without box, mask or points"):
        prompt_rectangle(Prompt(kind="point"))
