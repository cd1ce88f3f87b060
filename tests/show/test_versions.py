"""Pages show a run with the labels that it was scored against, also after these labels changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from label_events import make_event

from hela_store.catalog import index as catalog
from hela_store.errors import QueryError
from hela_store.labels.log import LabelLog
from hela_store.show.report.choice import choose
from hela_store.show.report.frames import MOST, worst_frames
from hela_store.show.viewer.frames import cell_in_frame
from hela_store.store.store import Store


def test_a_mask_of_an_erased_cell_stays_with_its_run(scored: Path, tmp_path: Path) -> None:
    shutil.copytree(scored, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    cell, run = store.sql("SELECT cell, run FROM cell_metrics ORDER BY cell, run LIMIT 1").fetchall()[0]
    frame, _, label = cell.rpartition("#")
    before = cell_in_frame(store, cell, run, "", None)
    assert "version" not in before and cell in [each["name"] for each in before["cells"]]
    with LabelLog(store) as log:
        log.append([make_event("erase", frame, (int(label),))])
    for opened in (store, Store.open(store.path)):
        after = cell_in_frame(opened, cell, run, "", None)
        assert after.pop("version") == f"Labels of version 0, which run {run} was scored against; the latest is 1."
        assert after == before, "no mask is left out"
        other = next(each["name"] for each in before["cells"] if each["name"] != cell)
        latest = cell_in_frame(opened, other, "", "", None)
        assert "version" not in latest and len(latest["cells"]) == len(before["cells"]) - 1
        with pytest.raises(QueryError, match=r"is not in version 1 of the labels, the latest one"):
            cell_in_frame(opened, cell, "", "", None)
        with pytest.raises(QueryError, match="no such run"):
            cell_in_frame(opened, other, "x", "", None)


def test_the_worst_frames_are_whole_and_of_the_version_that_was_scored(scored: Path, tmp_path: Path) -> None:
    shutil.copytree(scored, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    before = worst_frames(choose(store, []))
    assert before is not None and 1 <= len(before.frames) <= MOST
    means = catalog.query(
        store.path,
        "SELECT frame, avg(iou) AS iou FROM cell_metrics WHERE run = $run AND prompt = 'box' AND split = 'test' GROUP BY ALL "
        "ORDER BY 2",
        {"run": choose(store, []).pairs[0].after.run},
    ).to_pylist()
    assert [frame["frame"] for frame in before.frames] == [row["frame"] for row in means][:MOST]
    for frame, iou in zip(before.frames, [row["iou"] for row in means], strict=False):
        assert f"mean IoU {iou:.3f} of {len(frame['cells'])} cells" in frame["caption"]
        assert len(frame["predictions"]) == len(frame["cells"]) and frame["image"].startswith("data:image/webp")
        assert {each["iou"] for each in frame["predictions"]} == {each["iou"] for each in frame["cells"]}
    name = before.frames[0]["frame"]
    with LabelLog(store) as log:
        log.append([make_event("erase", name, (before.frames[0]["cells"][0]["label"],))])
    assert worst_frames(choose(Store.open(store.path), [])) == before
