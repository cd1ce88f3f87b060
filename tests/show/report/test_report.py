from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hela_store.base.extras import needs
from hela_store.base.progress import silent
from hela_store.baselines.classical import classical
from hela_store.baselines.config import ClassicalConfig
from hela_store.baselines.image_free import image_free
from hela_store.catalog import index as catalog
from hela_store.detection.config import DetectorConfig
from hela_store.detection.detect import detect
from hela_store.detection.evaluate import evaluate_detections
from hela_store.detection.train import train_detector
from hela_store.errors import ExtraError, RunError, StoreError
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.evaluation.rows import PREDICTION_SCHEMA, PROMPT_SCHEMA
from hela_store.evaluation.tracks import CellTracks
from hela_store.runs.folder import list_runs, new_run
from hela_store.show.report import ReportResult, report
from hela_store.show.report.augmented import panels
from hela_store.show.report.choice import choose
from hela_store.show.report.detection import detection
from hela_store.show.report.gallery import MOST_CARDS
from hela_store.show.report.ladder import ELLIPSE, UNSEEN, ladder
from hela_store.show.report.page import in_script
from hela_store.show.report.robustness import robustness
from hela_store.show.report.scores import POINTS
from hela_store.show.report.units import Units
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig, SyntheticConfig
from stores import reseal

SCORED = {"ladder", "distributions", "change", "against", "gallery", "calibration", "learning", "cells", "provenance"}


def data_of(path: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


@pytest.fixture(scope="module")
def made(scored: Path, tmp_path_factory: pytest.TempPathFactory) -> ReportResult:
    return report(Store.open(scored), out=tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def full(scored: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store with runs of every kind that a report shows."""
    path = tmp_path_factory.mktemp("full") / "store"
    shutil.copytree(scored, path)
    store = Store.open(path)
    tuned = finetune(store, FinetuneConfig.of(prompt="point", steps=1, cells=2, workers=0))
    evaluate(store, tuned.run, EvaluateConfig(prompts=("box", "point", "mask"), prompt_seeds=1))
    classical(store, ClassicalConfig(budget=2, search_frames=1))
    image_free(store, prompts=("box",), prompt_seeds=1)
    evaluate(store, None, EvaluateConfig(robustness=True, prompt_seeds=1, window=8))
    train_detector(store, DetectorConfig(steps=10, batch=2, workers=0, evaluate_every=5, device="cpu"))
    detect(store, threshold=0.2, device="cpu")
    return store


@pytest.mark.ci
def test_every_figure_whose_data_is_there(made: ReportResult) -> None:
    assert set(made.sections) >= SCORED and "augmented" not in made.sections
    assert made.split == "test" and made.notes == () and len(made.runs) == 3
    page = Path(made.path).read_text()
    assert made.bytes == len(page.encode()) < 15_000_000
    # nothing is fetched: addresses are data, anchors or names of specifications
    outside = re.sub(r"(<script[^>]*>).*?</script>", r"\1", page, flags=re.DOTALL)
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=\"(?!data:)", outside)
    assert "0.8366" not in page and "naive guess" in page


def test_the_ladder_has_the_means_of_the_catalog(scored: Path, made: ReportResult) -> None:
    page = Path(made.path).read_text()
    rows = catalog.query(
        scored, "SELECT run, prompt, avg(iou) AS iou, avg(dice) AS dice FROM cell_metrics GROUP BY ALL"
    )
    for row in rows.to_pylist():
        assert f"<td>{row['iou']:.3f}</td>" in page and f"<td>{row['dice']:.3f}</td>" in page
    free = catalog.query(scored, "SELECT kind, avg(free_iou) AS iou FROM prompts GROUP BY ALL").to_pylist()
    for row in free:
        assert f"<td>{row['iou']:.3f}</td>" in page


@pytest.mark.ci
def test_a_rung_for_baselines_zero_shot_and_each_tuning(full: Store) -> None:
    choice = choose(full, [])
    section = ladder(choice)
    assert section is not None and choice.prompts == ("box", "point", "mask")
    rows = section.tables[0].rows
    means = catalog.query(full.path, "SELECT run, prompt, count(*) AS n, avg(iou) AS iou FROM predictions GROUP BY ALL")
    mean = {(row["run"], row["prompt"]): row for row in means.to_pylist()}
    for head, prompt in zip(sorted(section.tables[0].heads), choice.prompts, strict=True):
        if prompt == "mask":  # which has two answers that need no image
            assert rows[head + 2][0] == ELLIPSE
        rungs = [row for row in rows[head + 1 : head + 7] if row[0] != ELLIPSE][:5]
        assert [name[:13] for name, *_ in rungs] == [
            "naive guess",
            "classical (ba",
            "zero-shot",
            "finetune-box-",
            "finetune-poin",
        ]
        for rung, line in zip(rungs[1:], choice.beside(prompt), strict=True):
            there = mean[line.run, line.prompt]
            unseen = rung[section.tables[0].columns.index(UNSEEN)]
            assert unseen == "–" or "(n " in unseen
            assert rung[:3] == (line.name, str(there["n"]), f"{there['iou']:.3f}")


def test_a_prompt_is_compared_with_what_was_tuned_for_it(full: Store) -> None:
    after = {pair.prompt: pair.after.name[:13] for pair in choose(full, []).pairs}
    assert after == {"box": "finetune-box-", "point": "finetune-poin", "mask": "finetune-poin"}
    box = next(pair.after.run for pair in choose(full, []).pairs if pair.prompt == "box")
    zero, *_, point = (run.id for run in list_runs(full.path, "evaluate"))
    assert {pair.after.run for pair in choose(full, [zero, point, box]).pairs} == {box}
    assert {pair.after.run for pair in choose(full, [zero, box, point]).pairs} == {point}


def test_robustness_curves_have_the_means_of_the_catalog(full: Store) -> None:
    section = robustness(choose(full, []))
    assert section is not None and [chart.title for chart in section.charts] == [
        f"robustness, {k}" for k in ("box", "point", "mask")
    ]
    run = list_runs(full.path, "robustness")[0].id
    for chart in section.charts:
        kind = chart.title.split()[-1]
        drawn = {(row["name"], row["setting"]): row["iou"] for part in _datasets(chart.spec) for row in part["values"]}
        sql = """SELECT q.prompt, avg(q.iou) AS iou, avg(p.free_iou) AS free FROM predictions q
                 JOIN prompts p USING (run, prompt_id) WHERE q.run = ? AND q.prompt LIKE ? GROUP BY ALL"""
        for row in catalog.query(full.path, sql, [run, f"{kind}@%"]).to_pylist():
            setting = float(row["prompt"].split("@")[1])
            assert drawn["zero-shot", setting] == pytest.approx(row["iou"], rel=1e-4)
            assert drawn["naive guess", setting] == pytest.approx(row["free"], rel=1e-4)
        assert len(drawn) == 2 * len({setting for _, setting in drawn}) >= 10


def test_detections_are_scored_as_the_command_does(full: Store) -> None:
    section = detection(choose(full, []), silent)
    assert section is not None
    truth = evaluate_detections(full)
    confusion, *curves = section.charts
    counts = [row["n"] for part in _datasets(confusion.spec) for row in part["values"]]
    assert counts == [f"{n:,}" for n in (truth.confusion["cell"]["detected"], truth.confusion["cell"]["missed"])] + [
        f"{truth.confusion['background']['detected']:,}",
        "\N{EN DASH}",
    ]
    assert [chart.title.split()[0] for chart in curves] == ["F1", "recall", "precision"]
    drawn = next(part["values"] for part in _datasets(curves[1].spec) if "recall" in part["values"][0])
    assert [row["recall"] for row in drawn] == pytest.approx([row["recall"] for row in truth.curve], rel=1e-4)
    # named by its detector too, where there is nothing else
    alone = choose(full, [list_runs(full.path, "detector")[0].id])
    assert [run.id for run in alone.detections] == [truth.run] and not alone.lines and not alone.notes


def test_a_detection_run_without_its_rows_is_named(full: Store, tmp_path: Path) -> None:
    shutil.copytree(full.path, tmp_path / "s")
    store = Store.open(tmp_path / "s")
    run = list_runs(store.path, "detect")[0]
    (run.path / "detections.parquet").unlink()
    section = detection(choose(store, []), silent)
    assert section is not None and not section.charts and run.id in section.notes[0]


def test_the_gallery_holds_the_worst_cell_of_each_prompt(scored: Path, made: ReportResult) -> None:
    cards = data_of(Path(made.path))["cards"]
    assert len(cards) == made.cards <= MOST_CARDS
    last = list_runs(scored, "evaluate")[-1].id
    for prompt in ("box", "point", "mask"):
        sql = "SELECT min(iou) AS iou FROM cell_metrics WHERE run = ? AND prompt = ? AND prompt_seed = 0"
        worst = catalog.query(scored, sql, [last, prompt]).to_pylist()[0]["iou"]
        mine = [card for card in cards if card["prompt_kind"] == prompt]
        assert min(card["facts"]["iou"] for card in mine) == pytest.approx(worst, abs=1e-4)
        assert {tag for card in mine for tag in card["tags"]} == {"worst", "median", "changed", "random"}
        assert all(card["before"] or card["facts"]["before"] == 0 for card in mine)


def test_naming_a_fine_tuning_reports_its_evaluations(scored: Path) -> None:
    tuned = list_runs(scored, "finetune")[0].id
    choice = choose(Store.open(scored), [tuned])
    assert {line.run for line in choice.lines} == {list_runs(scored, "evaluate")[-1].id}
    assert [run.id for run in choice.tuned] == [tuned]
    first, last = (run.id for run in list_runs(scored, "evaluate"))
    assert [pair.after.run for pair in choose(Store.open(scored), [first, last]).pairs] == [last] * 3
    with pytest.raises(RunError, match="no run 'nonsense'"):
        choose(Store.open(scored), ["nonsense"])


def test_a_store_without_runs_says_what_to_run(store: Store, tmp_path: Path) -> None:
    made = report(store, out=tmp_path / "r.html")
    assert made.sections == ("cells", "provenance") and "hela-store evaluate" in made.notes[0]
    assert "hela-store evaluate" in (tmp_path / "r.html").read_text()


def test_a_store_without_frames_is_an_error(tmp_path: Path) -> None:
    drawn = SyntheticConfig(frames=3, shape=(96, 96), cells=2)
    fresh = new(tmp_path / "s", NewConfig.of(dataset="synthetic", tile="none", synthetic=drawn)).store
    with pytest.raises(StoreError, match="hela-store embed"):
        report(fresh, out=tmp_path / "r.html")


@pytest.mark.ci
def test_a_run_whose_predictions_are_gone_is_named(scored: Path, tmp_path: Path) -> None:
    shutil.copytree(scored, tmp_path / "s")
    store = Store.open(tmp_path / "s")
    first, last = (run.id for run in list_runs(store.path, "evaluate"))
    (store.path / "runs" / last / "predictions.parquet").unlink()
    reseal(store.path / "runs" / last)
    catalog.rebuild(store.path)
    made = report(store, out=tmp_path / "r.html")
    assert any(last in note and "no predictions" in note for note in made.notes)
    assert first in made.runs and "ladder" in made.sections and "change" not in made.sections
    shutil.rmtree(store.path / "arrays.zarr" / "frames")
    assert "ladder" in report(Store.open(store.path), out=tmp_path / "r.html").sections
    assert "no intervals, the label of frame" in (tmp_path / "r.html").read_text()


# in short: test_every_figure_whose_data_is_there
@pytest.mark.slow
def test_a_hundred_thousand_predictions_are_aggregated(scored: Path, tmp_path: Path) -> None:
    shutil.copytree(scored, tmp_path / "s")
    store = Store.open(tmp_path / "s")
    asked = {"prompts": ["box"], "split": "test", "encoder": store.key, "checkpoint": None}
    run = new_run(store.path, "evaluate", asked)
    source = list_runs(store.path, "evaluate")[0].id
    where = f"WHERE run = '{source}' AND prompt_id IN (SELECT prompt_id FROM prompts WHERE run = '{source}' AND kind = 'box')"
    for name, schema, seed in (
        ("prompts", PROMPT_SCHEMA, ", seed AS prompt_seed"),
        ("predictions", PREDICTION_SCHEMA, ""),
    ):
        one = "AND prompt_seed = 0"
        cells = catalog.query(store.path, f"SELECT count(*) AS n FROM {name} {where} {one}").to_pylist()[0]["n"]
        columns = f"* REPLACE (prompt_id || '-' || seed AS prompt_id{seed})"
        sql = f"SELECT {columns} FROM {name}, range({100_000 // cells + 1}) r(seed) {where} {one}"
        table = catalog.query(store.path, sql)
        run.write_table(name, pa.table([table[field.name].cast(field.type) for field in schema], schema=schema))
    run.publish()
    made = report(store, [run.id], out=tmp_path / "r.html")
    data = data_of(tmp_path / "r.html")
    assert made.cards == len(data["cards"]) <= MOST_CARDS and made.bytes < 5_000_000
    longest = max(len(v["values"]) for v in _datasets(data["charts"]))
    assert longest <= POINTS


def _datasets(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [found for each in value for found in _datasets(each)]
    if isinstance(value, dict):
        mine = [value] if isinstance(value.get("values"), list) else []
        return mine + [found for each in value.values() for found in _datasets(each)]
    return []


def test_intervals_count_a_cell_over_time_once() -> None:
    """Twenty frames of ten cells, which differ from each other and not from frame to frame, are ten draws."""
    rng = np.random.default_rng(0)
    of_track = rng.normal(0.8, 0.1, 10)
    cells = [(f"{frame}/{track}", frame, track) for frame in range(20) for track in range(10)]
    tracks = CellTracks(
        method="labels", of={c: track for c, _, track in cells}, times={c: ("01", frame) for c, frame, _ in cells}
    )
    rows = [{"cell": c, "n": 2, "iou": 2 * of_track[track]} for c, _, track in cells]
    low, high = Units(tracks=tracks, unseen=None).interval(rows, "iou")
    assert low is not None and high is not None and low < of_track.mean() < high
    assert high - low == pytest.approx(2 * 2.26 * of_track.std(ddof=1) / np.sqrt(10), rel=0.1)
    nothing = Units(tracks=tracks, unseen=None)
    assert nothing.interval([row | {"iou": None} for row in rows], "iou") == (None, None)
    assert nothing.interval([row for row in rows if row["cell"].startswith("3/")], "iou") == (None, None), "one frame"


def test_data_cannot_end_its_script() -> None:
    hostile = json.dumps({"cell": "</script><script>alert(1)</script>\u2028"}, ensure_ascii=False)
    assert "<" not in in_script(hostile) and json.loads(in_script(hostile)) == json.loads(hostile)


def test_panels_of_a_view() -> None:
    image, label = np.arange(600.0).reshape(20, 30), np.zeros((20, 30), int)
    label[5:9, 5:9] = 3
    found = panels("01/t000", image, label, (0.0, 600.0))
    assert [caption for caption, _ in found] == [f"01/t000: {what}" for what in ("image", "overlay", "mask")]
    assert len({address for _, address in found}) == 3


def test_a_missing_extra_is_named() -> None:
    with pytest.raises(ExtraError, match=r"pip install 'hela-store\[report\]'"), needs("report"):
        importlib.import_module("nothing_of_this_name")
