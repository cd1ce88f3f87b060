"""SEG and DET: by hand, against py-ctcmetrics on the same folders, and on the challenge's own example."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from hela_store.errors import DatasetError, RunError
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.evaluation.sequences import run_labels, sequence_scores
from hela_store.exchange.ctc import export_ctc
from hela_store.images.assemble import Answer, assemble
from hela_store.images.rle import encode
from hela_store.metrics.ctc import FrameMatch, det, match_frame, seg
from hela_store.store.store import Store
from stores import reseal_tables


def labels(seed: int, shape: tuple[int, int] = (80, 90)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), 3)
    return np.asarray(ndimage.label(noise > np.quantile(noise, 0.6))[0], np.uint16)


def disturbed(label: np.ndarray, seed: int) -> np.ndarray:
    """Move, merge, drop and add objects."""
    rng = np.random.default_rng(seed)
    out = np.roll(label, tuple(rng.integers(-2, 3, 2)), (0, 1))
    values = np.unique(out)[1:]
    for value in rng.permutation(values)[: len(values) // 3]:
        out[out == value] = rng.choice([0, values[0], values[-1]])
    out[:6, :6] = 200
    return out


def write_folders(path: Path) -> list[FrameMatch]:
    for name in ("01_GT/TRA", "01_GT/SEG", "01_RES"):
        (path / name).mkdir(parents=True)
    matches, tracks, results = [], [], []
    for t in range(4):
        truth = labels(t)
        truth[truth > 0] += 100 * t  # no track lasts
        found = disturbed(labels(t), t)
        found[found > 0] += 300 * t
        tifffile.imwrite(path / f"01_GT/TRA/man_track{t:03d}.tif", truth)
        tifffile.imwrite(path / f"01_GT/SEG/man_seg{t:03d}.tif", truth)
        tifffile.imwrite(path / f"01_RES/mask{t:03d}.tif", found)
        tracks += [f"{value} {t} {t} 0" for value in np.unique(truth)[1:]]
        results += [f"{value} {t} {t} 0" for value in np.unique(found)[1:]]
        matches.append(match_frame(truth, found))
    (path / "01_GT/TRA/man_track.txt").write_text("\n".join(tracks) + "\n")
    (path / "01_RES/res_track.txt").write_text("\n".join(results) + "\n")
    return matches


def peer(path: Path) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluate_sequence = pytest.importorskip("ctc_metrics.scripts.evaluate").evaluate_sequence
        result = evaluate_sequence(str(path / "01_RES"), str(path / "01_GT"), ["SEG", "DET"], threads=1)
    return {name: float(result[name]) for name in ("SEG", "DET")}


def test_equal_to_py_ctcmetrics(tmp_path: Path) -> None:
    matches = write_folders(tmp_path)
    assert sum(m.missed for m in matches) and sum(m.spurious for m in matches) and sum(m.splits for m in matches)
    assert {"SEG": seg(matches), "DET": det(matches)} == pytest.approx(peer(tmp_path))


@pytest.mark.realdata
def test_the_official_example(realdata: Path) -> None:
    folder = realdata / "ctc-measures"
    matches = []
    for path in sorted((folder / "01_GT/SEG").glob("man_seg*.tif")):
        number = path.stem.removeprefix("man_seg")
        matches.append(match_frame(tifffile.imread(path), tifffile.imread(folder / f"01_RES/mask{number}.tif")))
    expected = json.loads((folder / "expected.json").read_text())["01"]
    assert sum(match.truth for match in matches) == expected["gt_objects"]
    assert round(seg(matches), 6) == expected["SEG"]


def test_rules_by_hand() -> None:
    truth = np.zeros((10, 40), np.int32)
    truth[:, 0:4], truth[:, 4:8], truth[:, 20:24] = 7, 900, 3
    found = np.zeros_like(truth)
    found[:, 0:8] = 5  # both of the first, merged
    found[:, 20:22] = 6  # exactly half: no match
    match = match_frame(truth, found)
    assert match == FrameMatch(truth=3, found=2, missed=1, spurious=1, splits=1, iou_sum=1.0)
    assert seg([match]) == pytest.approx(1 / 3) and det([match]) == pytest.approx(1 - 16 / 30)
    assert match.count_error == -1
    nothing = match_frame(truth, np.zeros_like(truth))
    assert (seg([nothing]), det([nothing]), nothing.missed) == (0, 0, 3)
    empty = match_frame(np.zeros_like(truth), found)
    assert math.isnan(seg([empty])) and math.isnan(det([empty])) and empty.spurious == 2
    with pytest.raises(DatasetError, match="expected one size"):
        match_frame(truth, found[:5])


@given(st.integers(0, 1000))
def test_a_label_image_matches_itself_whatever_its_numbers(seed: int) -> None:
    truth = labels(seed)
    assert truth.any()
    other = np.where(truth > 0, 60000 - truth.astype(np.int32), 0)
    match = match_frame(truth, other)
    assert (match.missed, match.spurious, match.splits) == (0, 0, 0) and seg([match]) == det([match]) == 1


def answer(id: str, score: float | None, x0: int, x1: int) -> Answer:
    return Answer(id=id, score=score, rle=encode(np.ones((4, x1 - x0), bool), (x0, 2), (10, 30)).counts)


def test_the_higher_score_wins_ties_go_to_the_smaller_id() -> None:
    given = [
        answer("f#10", 0.9, 0, 10),
        answer("f#9", 0.9, 5, 15),
        answer("f#1", 0.5, 8, 20),
        answer("f#2", None, 18, 22),
    ]
    expected = np.repeat([1, 2, 3, 4, 0], [5, 10, 5, 2, 8])
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        label = assemble([given[i] for i in order], (10, 30))
        numbers = np.array([0, *(i + 1 for i in order)])
        assert np.array_equal(numbers[label[3]], expected)
        assert not label[:2].any() and not label[6:].any()
    with pytest.raises(RunError, match="several masks"):
        assemble([given[0], given[0]], (10, 30))
    assert not assemble([], (5, 6)).any()


def test_a_run_is_assembled_scored_and_exported(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = evaluate(store, None, EvaluateConfig(prompts=("box", "box-exact"), prompt_seeds=2, window=8))
    with pytest.raises(RunError, match="box, box-exact; choose one"):
        run_labels(store, done.run)
    with pytest.raises(RunError, match="no box-exact prompts of seed 1"):
        run_labels(store, done.run, "box-exact", 1)
    result = export_ctc(store, done.run, tmp_path / "out", prompt="box-exact")
    found = tifffile.imread(tmp_path / "out/01_RES/mask007.tif")
    row = next(row for row in store.frames_table().to_pylist() if row["frame"] == "01/t007")
    match = match_frame(store.pixels.label(row["frame"]), found)
    assert found.dtype == np.uint16 and found.shape == (row["height"], row["width"])
    (note,) = result.notes
    assert note.startswith("01_RES holds the frames 7 of 0-7, numbered as in the store.") and "--split all" in note
    scores = result.to_json()["scores"]["sequences"][0]
    assert scores["SEG (oracle prompts)"] == pytest.approx(seg([match]))
    assert scores["DET (oracle prompts)"] == pytest.approx(det([match]))
    assert scores["count_errors"] == {"01/t007": match.count_error}
    lines = (tmp_path / "out/01_RES/res_track.txt").read_text().splitlines()
    assert len(lines) == result.objects == match.found and lines[0] == "1 7 7 0"
    with pytest.raises(RunError, match="nothing is overwritten"):
        export_ctc(store, done.run, tmp_path / "out", prompt="box-exact")
    monkeypatch.setattr("hela_store.exchange.ctc.MOST_OBJECTS", 1)
    with pytest.raises(RunError, match="sequence 01 has more than 1 objects"):
        export_ctc(store, done.run, tmp_path / "full", prompt="box-exact")
    assert list((tmp_path / "full").iterdir()) == []  # whole or not there
    other = sequence_scores(run_labels(store, done.run, "box", 1))
    assert other.suffix == " (oracle prompts)" and other.prompt_seed == 1


def test_every_frame_is_a_file_of_its_own(store: Store, tmp_path: Path) -> None:
    done = evaluate(store, None, EvaluateConfig(split="all", prompts=("box-exact",), prompt_seeds=1, window=8))
    result = export_ctc(store, done.run, tmp_path / "out")
    assert result.masks == {f"01/t{n:03}": tmp_path / f"out/01_RES/mask{n:03}.tif" for n in range(8)}
    assert all(path.is_file() for path in result.masks.values()) and result.to_json()["frames"] == 8
    frames = store.path / "ingest/frames-0001.parquet"
    rows = pq.read_table(frames)
    shared = pa.array([0, 1, 2, 3, 4, 5, 6, 1])  # as stills that came later had it in earlier versions
    pq.write_table(rows.set_column(rows.column_names.index("time"), "time", shared), frames)
    reseal_tables(store.path)
    with pytest.raises(RunError, match=r"01/t001 and 01/t007 have one time, 1, .* one file, 01_RES/mask001\.tif"):
        export_ctc(Store.open(store.path), done.run, tmp_path / "clash")
    assert not (tmp_path / "clash").exists()
