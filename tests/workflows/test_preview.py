import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hela_store.bench.augment import bench_augment
from hela_store.errors import RecipeError, StoreError
from hela_store.store.store import Store
from hela_store.workflows.preview import preview


def test_both_pictures_are_drawn_and_say_what_they_show(embedded: Path, tmp_path: Path) -> None:
    report = preview(Store.open(embedded), tmp_path / "deep/a.png", frame="01/t002", variants=2)
    sheets = [np.asarray(Image.open(path)) for path in (report.variants, report.strength)]
    assert sheets[0].shape[1] > 6 * 280 and all(sheet.std() > 20 for sheet in sheets)
    assert len(report.drawn) == 2 and len(report.fields) == 20
    one = next(field for field in report.fields if (field["sigma"], field["alpha"]) == (10.0, 2.0))
    assert one["rms"] == pytest.approx(2.0, rel=1e-4) and 0 < one["jacobian"] < 1
    assert json.loads(json.dumps(report.to_json()))["frame"] == "01/t002"


def test_what_cannot_be_drawn_is_said(embedded: Path, tmp_path: Path) -> None:
    store = Store.open(embedded)
    with pytest.raises(RecipeError, match=r"ends in .png"):
        preview(store, tmp_path / "a.jpg")
    with pytest.raises(StoreError, match="no frame '01/t099'"):
        preview(store, tmp_path / "a.png", frame="01/t099")
    with pytest.raises(StoreError, match="no tile 4"):
        preview(store, tmp_path / "a.png", tile=4)
    assert not list(tmp_path.iterdir())


def test_the_timing_has_all_its_parts() -> None:
    found = bench_augment(views=1, tile=128)
    assert min(found.draw, found.image, found.labels, found.encode) > 0 and 0 < found.share < 1
    with pytest.raises(RecipeError, match="views is 0"):
        bench_augment(views=0)
