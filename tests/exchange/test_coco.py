import contextlib
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hela_store.errors import AlreadyComplete, RunError
from hela_store.exchange.coco import _annotation, export_coco
from hela_store.images.assemble import Answer
from hela_store.images.rle import encode
from hela_store.runs.folder import latest
from hela_store.store.store import Store


# pycocotools' own decoder warns under NumPy 2
@pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_opens_it_and_finds_every_mask(scored: Path, tmp_path: Path) -> None:
    store, run = Store.open(scored), latest(scored, "evaluate")
    with pytest.raises(RunError, match="choose one"):
        export_coco(store, run.id, tmp_path / "all.json")
    result = export_coco(store, run.id, tmp_path / "deep/run.json", prompt="box")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(result.path))
    rows = pq.read_table(run.path / "predictions.parquet", columns=["cell", "rle"]).to_pylist()
    stored = {(row["cell"], row["rle"]) for row in rows}
    by_cell = {annotation["cell"]: annotation for annotation in coco.anns.values()}
    assert result.annotations == len(by_cell) > 1 and result.images == len(coco.imgs)
    for annotation in by_cell.values():
        image = coco.imgs[annotation["image_id"]]
        mask = coco.annToMask(annotation)
        assert mask.shape == (image["height"], image["width"]) and mask.sum() == annotation["area"]
        assert list(masks.toBbox(annotation["segmentation"])) == annotation["bbox"]
        assert annotation["cell"].startswith(f"{image['file_name']}#")
        assert (annotation["cell"], annotation["segmentation"]["counts"]) in stored
    with pytest.raises(RunError, match="there already"):
        export_coco(store, run.id, result.path, prompt="box")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_scores_the_results_against_the_truth(scored: Path, tmp_path: Path) -> None:
    store, run = Store.open(scored), latest(scored, "evaluate")
    found = export_coco(store, run.id, tmp_path / "run.json", prompt="box")
    assert (found.results, found.truth) == (tmp_path / "run.results.json", tmp_path / "run.truth.json")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(found.truth))
        results = truth.loadRes(str(found.results))
        scores = COCOeval(truth, results, "segm")
        scores.evaluate(), scores.accumulate(), scores.summarize()
        perfect = [cell | {"score": 1.0} for cell in truth.dataset["annotations"]]
        best = COCOeval(truth, truth.loadRes(perfect), "segm")
        best.evaluate(), best.accumulate(), best.summarize()
    assert len(results.anns) == found.annotations and len(truth.imgs) == found.images
    assert best.stats[0] == pytest.approx(1.0) and 0 <= scores.stats[0] < 1
    stored = {row["cell"] for row in run.rows("predictions")}
    assert truth.anns
    name = ""
    for cell in truth.anns.values():
        name = f"{truth.imgs[cell['image_id']]['file_name']}#{cell['cell'].partition('#')[2]}"
        assert cell["cell"] == name and name in stored
        label = store.pixels.label("01/t007")
        assert np.array_equal(truth.annToMask(cell).astype(bool), label == int(name.partition("#")[2]))
    ious = {results.anns[each]["cell"]: each for each in results.anns}
    code = results.anns[ious[name]]["segmentation"]
    same = masks.iou([code], [truth.annToRLE(cell)], [0])[0, 0]
    assert same in [pytest.approx(row["iou"]) for row in run.rows("predictions") if row["cell"] == name]
    (tmp_path / "run.json").unlink()
    export_coco(store, run.id, tmp_path / "run.json", prompt="box")  # as after a kill between two of the files
    with pytest.raises(AlreadyComplete, match=r"already complete: .*run.json is there already"):
        export_coco(store, run.id, tmp_path / "run.json", prompt="box")
    found.results.write_text("[]")
    with pytest.raises(RunError, match=r"run.results.json is there already, and is another; nothing is overwritten"):
        export_coco(store, run.id, tmp_path / "run.json", prompt="box")


@given(hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_boxes_and_areas_are_those_of_pycocotools(mask: np.ndarray) -> None:
    rle = encode(mask, (0, 0), mask.shape).counts
    found = _annotation(Answer(id="a", score=None, rle=rle), mask.shape)
    code = {"size": list(mask.shape), "counts": rle.encode()}
    assert (found is None) == (not mask.any())
    if found is not None:
        assert (found["area"], found["bbox"]) == (masks.area(code), list(masks.toBbox(code)))
