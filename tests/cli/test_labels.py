"""`hela-store labels`: export, correct a file, import it, and see what changed; and a score against another version."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tifffile
from click.testing import CliRunner, Result
from hela_store_cli.main import main

from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.store.store import Store


def hela(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_labels_go_out_and_corrected_ones_come_in(store: Store, tmp_path: Path) -> None:
    place, out = ("-s", store.path), tmp_path / "labels"
    run = evaluate(store, None, EvaluateConfig(prompts=("box-exact",), prompt_seeds=1)).run
    assert "as `embed` first read them" in hela("labels", "log", *place).output
    done = hela("labels", "export", out, *place)
    assert done.exit_code == 0 and "labels of 8 frames at version 0" in done.output, done.output
    for frame in store.frame_records().values():
        written = tifffile.imread(out / f"01_ST/SEG/man_seg{frame.time:03d}.tif")
        assert written.dtype == np.uint16 and np.array_equal(written, store.pixels.label(frame.frame))
    assert "already complete" in hela("labels", "export", out, *place).output
    same = hela("labels", "import", out, *place)
    assert "All 8 label files are as version 0 has them" in same.output, same.output

    file = out / "01_ST/SEG/man_seg007.tif"
    label = tifffile.imread(file)
    gone, moved = sorted(set(np.unique(label)) - {0})[:2]
    corrected = np.where(label == gone, 0, label)
    corrected[tuple(np.argwhere(label == moved)[0])] = 0
    tifffile.imwrite(file, corrected)
    done = hela("labels", "import", out, *place, "--who", "ann", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "version": 1,
        "frames": ["01/t007"],
        "compared": 8,
        "cells": "1 changed, 1 gone",
    }
    again = Store.open(store.path)
    assert np.array_equal(again.pixels.label("01/t007"), corrected)
    log = hela("labels", "log", *place).output
    lines = [line for line in log.splitlines() if not line.startswith("Next:")]
    assert "ann" in log and "erase 1, replace 1" in log and max(map(len, lines)) <= 80
    difference = json.loads(hela("labels", "diff", "0", "latest", *place, "--json").stdout)
    assert [(row["frame"], row["changed"], row["gone"]) for row in difference] == [("01/t007", [moved], [gone])]
    assert "1 frame with differences." in hela("labels", "diff", "0", "1", *place).output
    assert "Both versions have the same labels" in hela("labels", "diff", "1", "1", *place).output

    scored = hela("score", run, *place, "--labels-version", "latest", "--json")
    assert scored.exit_code == 0, scored.output
    (row,) = json.loads(scored.stdout)
    assert (row["labels_before"], row["labels_version"], row["gone"], row["trained"]) == (0, 1, 1, None)
    assert abs(row["mean_iou"] - row["mean_iou_before"]) < 0.05


def test_bad_input_is_one_line(store: Store, tmp_path: Path) -> None:
    place = ("-s", store.path)
    (tmp_path / "empty").mkdir()
    wrong = tmp_path / "wrong/01_ST/SEG"
    wrong.mkdir(parents=True)
    tifffile.imwrite(wrong / "man_seg099.tif", np.zeros((192, 256), np.uint16))
    small = tmp_path / "small/01_ST/SEG"
    small.mkdir(parents=True)
    tifffile.imwrite(small / "man_seg000.tif", np.zeros((10, 10), np.uint16))
    for words, said in (
        (("labels", "diff", "0", "7", *place), "there is no version 7 of the labels; the latest is 0"),
        (("labels", "import", tmp_path / "empty", *place), "has no label files; expected"),
        (("labels", "import", tmp_path / "wrong", *place), "is of no frame of"),
        (("labels", "import", tmp_path / "small", *place), "holds 10 x 10 px, expected one of 192 x 256 px"),
        (("labels", "export", tmp_path / "out", *place, "--labels-version", "3"), "there is no version 3"),
    ):
        found = hela(*words)
        assert found.exit_code == 1 and said in found.output and "Traceback" not in found.output, found.output
        assert found.output.strip().count("\n") == 0, found.output
    assert hela("labels", "diff", "0", "last", *place).exit_code == 2
    assert not (tmp_path / "out").exists() and not (store.path / "labels").exists()
