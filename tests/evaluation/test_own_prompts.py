"""Prompts that users bring: each is scored on its cell, or the user is told that it is not."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result
from hela_store_cli.main import main

from hela_store.errors import PromptError
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import EvaluateResult, evaluate
from hela_store.runs.folder import load_run
from hela_store.store.store import Store


def cells(store: Store, frame: str = "01/t007") -> list[dict[str, Any]]:
    return store.sql(f"SELECT * FROM cells WHERE frame = '{frame}'").to_arrow_table().to_pylist()


def boxes(store: Store, frame: str = "01/t007", order: str = "x0 y0 x1 y1") -> list[dict[str, Any]]:
    columns = ("x0", "y0", "x1", "y1")
    return [
        {"frame": frame} | dict(zip(columns, (c[n] for n in order.split()), strict=True)) for c in cells(store, frame)
    ]


def table(folder: Path, rows: list[dict[str, Any]]) -> Path:
    with (folder / "own.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "own.csv"


def score(store: Store, **own: Any) -> EvaluateResult:
    return evaluate(store, None, EvaluateConfig(window=8, **own))


def command(store: Store, *arguments: object) -> Result:
    given = ["evaluate", "-s", store.path, "--zero-shot", "--window", 8, *arguments]
    return CliRunner().invoke(main, [str(part) for part in given])


def background(store: Store) -> list[int]:
    label = store.pixels.label("01/t007")
    y, x = (int(place[0]) for place in np.nonzero(label == 0))
    return [x, y]


def test_rows_that_fit_no_cell_are_counted_and_named(store: Store, tmp_path: Path) -> None:
    """Two good boxes, a point on background, a box beside its cell, a second box of a cell, rows of other frames."""
    good, (x, y) = boxes(store), background(store)
    first = good[0]
    beside = first | {"x0": first["x1"] - 1, "x1": first["x1"] + first["x1"] - first["x0"] - 1}
    rows = [*good[:2], {"frame": "01/t007", "x": x, "y": y}, beside, good[1], *boxes(store, "01/t000")]
    path = table(tmp_path, rows)
    fit = score(store, prompt_table=path).own_prompts
    assert fit is not None and (fit.given, fit.scored) == (5, 2)
    assert [one.row for one in fit.unmatched] == [3, 4, 5] and fit.outside == {"train": len(rows) - 5}
    done = command(store, "--prompts", path, "--json")
    told = json.loads(done.stdout)
    assert told["prompts"]["box"]["n"] == 2 and told["own_prompts"]["scored"] == 2
    assert told["own_prompts"]["unmatched"] == [{"frame": "01/t007", "row": row} for row in (3, 4, 5)]
    assert "3 of 5 prompts fit no cell" in done.stderr and "row 3, row 4, row 5" in done.stderr
    assert f"for frames that are not scored: train {len(rows) - 5}" in done.stderr
    kept = load_run(store.path, told["run"]).config["own_prompts"]
    assert (kept["given"], kept["scored"], len(kept["sum"])) == (5, 2, 64)


def test_drawn_prompts_say_nothing_of_own_ones(store: Store) -> None:
    done = command(store, "--prompt", "box-exact", "--json")
    assert json.loads(done.stdout)["own_prompts"] is None and "prompts fit" not in done.stderr


def test_exchanged_columns_are_told(store: Store, tmp_path: Path) -> None:
    every = [row for frame in store.frame_records() for row in boxes(store, frame, "y0 x0 y1 x1")]
    turned = [row for row in every if row["x1"] <= 256 and row["y1"] <= 192 and not _touches(store, row)]
    assert len(turned) > 5
    done = command(store, "--split", "all", "--prompts", table(tmp_path, turned))
    assert done.exit_code == 1 and f"with x and y exchanged {len(turned)} would; exchange them" in done.stderr
    assert not (store.path / "runs").exists()
    done = command(store, "--split", "all", "--prompts", table(tmp_path, [*turned, boxes(store)[0]]))
    assert done.exit_code == 0, done.output
    assert f"{len(turned)} of {len(turned) + 1} prompts fit no cell" in done.stderr
    assert "row 1, row 2, " in done.stderr and f"; with x and y exchanged {len(turned)} would" in done.stderr


def _touches(store: Store, row: dict[str, Any]) -> bool:
    record = store.frame_records()[row["frame"]]
    label = store.pixels.label(record.frame)
    return bool(label[row["y0"] : row["y1"], row["x0"] : row["x1"]].any())


def test_prompts_of_another_split_are_told(store: Store, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"other splits \(train \d+\); give --split train"):
        score(store, prompt_table=table(tmp_path, boxes(store, "01/t000")))
    with pytest.raises(PromptError, match=r"other splits \(gap \d+\); give --split all"):
        score(store, prompt_table=table(tmp_path, boxes(store, "01/t004")))


def test_points_on_background_are_told(store: Store, tmp_path: Path) -> None:
    x, y = background(store)
    with pytest.raises(PromptError, match=r"none of the given prompts .*x to the right, y down, both from 0"):
        score(store, prompt_table=table(tmp_path, [{"frame": "01/t007", "x": x, "y": y}]))


def test_a_named_cell_that_a_prompt_does_not_lie_on_is_told(store: Store, tmp_path: Path) -> None:
    one, two = cells(store)[:2]
    x, y = background(store)
    rows = [
        {"frame": "01/t007", "cell": one["cell"], **{name: one[name] for name in ("x0", "y0", "x1", "y1")}},
        {"frame": "01/t007", "cell": two["cell"], "x": x, "y": y},
    ]
    fit = score(store, prompt_table=table(tmp_path, rows)).own_prompts
    assert fit is not None and (fit.scored, fit.beside) == (2, [2])
    assert fit.notes() == ["1 prompts name a cell that they do not lie on: rows 2"]


def test_masks_are_used_one_to_one_and_what_is_left_is_named(store: Store, tmp_path: Path) -> None:
    label = store.pixels.label("01/t007")
    values = [int(value) for value in np.unique(label) if value]
    drawn = label.copy()
    empty = np.argwhere(label == 0)[-1]
    drawn[tuple(empty)] = 60_000
    folder = tmp_path / "masks"
    folder.mkdir()
    for name, image in {"mask007.TIF": drawn, "t000.png.tif": drawn, "t002.tif": drawn}.items():
        tifffile.imwrite(folder / name, image.astype(np.uint16))
    fit = score(store, prompt_masks=folder).own_prompts
    assert fit is not None and (fit.given, fit.scored) == (len(values) + 1, len(values))
    assert [(one.frame, one.label) for one in fit.unmatched] == [("01/t007", 60_000)]
    assert fit.outside == {"train": 1} and fit.unused == [str(folder / "t000.png.tif")]
    assert "01/t007 label 60000" in fit.notes()[0] and "1 files have no frame's name" in fit.notes()[2]
