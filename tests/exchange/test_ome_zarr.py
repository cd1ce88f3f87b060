"""The ome-zarr library opens what is written, and its models validate it against the specification."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models.v05 import Image
from ome_zarr_models.v05.image_label import ImageLabel

from hela_store.errors import RunError
from hela_store.evaluation.sequences import run_labels
from hela_store.exchange.ome_zarr import export_ome_zarr
from hela_store.runs.folder import list_runs
from hela_store.store.store import Store


def level(path: Path, name: str, number: int) -> np.ndarray:
    group = zarr.open_group(path / "labels" / name, mode="r")
    return np.asarray(group[ome(group)["multiscales"][0]["datasets"][number]["path"]])


def ome(group: zarr.Group) -> Any:
    return group.attrs["ome"]


def test_frames_labels_and_predictions_come_back(scored: Path, tmp_path: Path) -> None:
    store = Store.open(scored)
    runs = [run.id for run in list_runs(scored, "evaluate")]
    found = export_ome_zarr(store, runs, tmp_path, prompt="box")
    assert found.labels == ["truth", *runs] and found.frames == 8 and list(found.levels) == ["01"]
    path = found.images["01"]
    with pytest.raises(RunError, match="there already"):
        export_ome_zarr(store, [], tmp_path)
    image, *labels = Reader(parse_url(path))()
    expected = store.frames("01")
    names = [axis["name"] for axis in image.metadata["axes"]]
    assert names == ["t", "y", "x"] and len(image.data) == found.levels["01"] == 2
    np.testing.assert_array_equal(image.data[0], expected.image)
    means = expected.image.values.reshape(8, 96, 2, 128, 2).mean((2, 4))
    assert np.abs(np.asarray(image.data[1], float) - means).max() <= 1
    assert labels
    planes = {name: level(path, name, 0) for name in found.labels}
    np.testing.assert_array_equal(planes["truth"], expected.label)
    for run in runs:
        plane = planes[run]
        answers = run_labels(store, run, "box")
        for row, label in answers:
            numbers = [0, *(int(answer.id.split("#")[1]) for answer in answers.answers[row.frame])]
            np.testing.assert_array_equal(plane[row.row], np.array(numbers)[label])
            overlap = (plane[row.row] > 0) & (planes["truth"][row.row] > 0)
            assert (plane[row.row] == planes["truth"][row.row])[overlap].mean() > 0.8
        seen = [row.row for row, _ in answers]
        assert plane[seen].any(axis=(1, 2)).all() and not np.delete(plane, seen, 0).any()
        half = level(path, run, 1)
        assert set(np.unique(half)) <= set(np.unique(plane))


def test_the_metadata_is_what_the_specification_asks(scored: Path, tmp_path: Path) -> None:
    run = list_runs(scored, "evaluate")[0].id
    path = export_ome_zarr(Store.open(scored), [run], tmp_path, prompt="point").images["01"]
    group = zarr.open_group(path, mode="r")
    times = list(range(8))
    about = {"frames": [f"01/t{time:03}" for time in times], "times": times, "answered": {run: ["01/t007"]}}
    assert group.attrs["hela-store"] == about
    assert group.metadata.zarr_format == 3 and ome(group)["version"] == "0.5"
    image = Image.from_zarr(group)
    assert image.labels is not None
    assert sorted(image.labels.ome_attributes.labels) == sorted(["truth", run])
    for name in ("truth", run):
        label = ImageLabel.from_zarr(zarr.open_group(path / "labels" / name, mode="r"))
        assert len(label.ome_attributes.multiscales[0].datasets) == 2
