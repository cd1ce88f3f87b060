"""Boxes of other detectors: what is read, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hela_store.detection.import_boxes import read_boxes
from hela_store.errors import PromptError

FRAMES = {"01/t000": (100, 200), "01/t001": (100, 200)}


def table(path: Path, rows: str) -> Path:
    path.write_text(f"frame,x0,y0,x1,y1,score\n{rows}")
    return path


def test_a_table_is_sorted_by_score(tmp_path: Path) -> None:
    path = table(tmp_path / "b.csv", "01/t001,0,0,10,10,0.2\n01/t001,20,5,30,25,0.9\n")
    found = read_boxes(path, FRAMES)
    assert list(found) == ["01/t001"]
    assert found["01/t001"].scores.tolist() == [0.9, 0.2]
    assert found["01/t001"].points[0].tolist() == [24.5, 14.5]
    whole = tmp_path / "b.parquet"
    pq.write_table(pa.table({"frame": ["01/t000"], "x0": [1], "y0": [1], "x1": [3], "y1": [4]}), whole)
    assert read_boxes(whole, FRAMES)["01/t000"].scores.tolist() == [1.0]


def test_yolo_labels(tmp_path: Path) -> None:
    (tmp_path / "01").mkdir()
    (tmp_path / "01" / "t000.txt").write_text("0 0.5 0.5 0.1 0.2 0.75\n\n0 0.050000 0.5 0.1 0.1\n")
    (tmp_path / "t001.txt").write_text("")
    found = read_boxes(tmp_path, FRAMES)["01/t000"]
    assert found.boxes.tolist() == [[0, 45, 20, 55], [90, 40, 110, 60]]
    assert found.scores.tolist() == [1.0, 0.75]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("01/t009,0,0,10,10,0.5", r"row 1: there is no frame '01/t009'; did you mean '01/t00"),
        ("01/t000,nan,0,10,10,0.5", r"row 1: a value is missing or NaN"),
        ("01/t000,10,0,10,10,0.5", r"row 1: box \(10, 0, 10, 10\) is empty or inverted"),
        ("01/t000,0,0,201,10,0.5", r"row 1: box .* leaves the frame of 200 x 100 px"),
        ("01/t000,0,0,10,10,1.5", r"row 1: score is 1.5, expected 0 to 1"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        read_boxes(table(tmp_path / "b.csv", row + "\n"), FRAMES)


def test_what_is_no_box_table(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="no box table at"):
        read_boxes(tmp_path / "none.csv", FRAMES)
    with pytest.raises(PromptError, match="a box table is"):
        read_boxes(table(tmp_path / "b.txt", ""), FRAMES)
    (tmp_path / "c.csv").write_text("frame,left\n01/t000,3\n")
    twice = tmp_path / "twice.csv"
    twice.write_text("frame,x0,y0,x1,y1,x0\n01/t000,1,1,3,3,2\n")
    with pytest.raises(PromptError, match="column 'x0' is there 2 times, expected once"):
        read_boxes(twice, FRAMES)
    with pytest.raises(PromptError, match="unknown column 'left'"):
        read_boxes(tmp_path / "c.csv", FRAMES)
    (tmp_path / "labels").mkdir()
    with pytest.raises(PromptError, match=r"no file in .* has the name of a frame; expected e.g. 01/t000.txt"):
        read_boxes(tmp_path / "labels", FRAMES)
    (tmp_path / "labels" / "t000.txt").write_text("0 0.5 0.5\n")
    with pytest.raises(PromptError, match="line 1: 3 values"):
        read_boxes(tmp_path / "labels", FRAMES)


def test_a_file_by_a_bare_name_is_not_used_for_two_sequences(tmp_path: Path) -> None:
    frames = {"01/t000": (100, 200), "02/t000": (100, 200)}
    (tmp_path / "t000.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(PromptError, match=r"t000\.txt fits frame 01/t000 and frame 02/t000.*01/t000\.txt"):
        read_boxes(tmp_path, frames)
    (tmp_path / "02").mkdir()
    (tmp_path / "t000.txt").rename(tmp_path / "02/t000.txt")
    assert list(read_boxes(tmp_path, frames)) == ["02/t000"]
