"""OME-Zarr images of version 0.4 (Zarr v2) and 0.5 (Zarr v3), written here as their specification says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import zarr
from frames import draw, label_of, save

from hela_store.datasets import inspect, open_dataset
from hela_store.errors import DatasetError

FRAMES = np.stack([draw(t)[0] for t in range(5)])
LABELS = np.stack([draw(t)[1] for t in range(5)])


def write(
    path: Path, data: np.ndarray, axes: str, version: str = "0.5", scale: float = 0.5, unit: str = "micrometer"
) -> zarr.Group:
    """Write an image with a second, smaller resolution."""
    form: Literal[2, 3] = 2 if version == "0.4" else 3
    group = zarr.create_group(path, zarr_format=form)
    kinds = {"t": "time", "c": "channel"}
    about = [{"name": a, "type": kinds.get(a, "space")} | ({"unit": unit} if a in "yx" and unit else {}) for a in axes]
    steps = [[(factor * scale) if a in "yx" else 1.0 for a in axes] for factor in (1, 2)]
    levels: list[dict[str, Any]] = []
    for number, step in enumerate(steps):
        part = data[..., :: 1 + number, :: 1 + number]
        group.create_array(
            str(number), data=np.ascontiguousarray(part), chunks=(1,) * (data.ndim - 2) + part.shape[-2:]
        )
        levels.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": step}]})
    scales: Any = [{"version": version, "axes": about, "datasets": levels}]
    group.attrs.update({"multiscales": scales} if form == 2 else {"ome": {"version": version, "multiscales": scales}})
    return group


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_time_lapses_with_labels_inside(tmp_path: Path, version: str) -> None:
    path = tmp_path / "movie.ome.zarr"
    write(path, FRAMES[:, None], "tcyx", version)
    write(path / "labels/nuclei", LABELS[:, None], "tcyx", version)
    for root in (path, tmp_path):
        summary = inspect(root, axis="t")
        assert summary.times == {"movie": tuple(range(5))} and summary.warnings == ()
        assert summary.config.pixel_size_um == 0.5 and summary.config.labels == "masks"
        frames = list(open_dataset(summary.config, tmp_path)())
        assert np.array_equal([frame.image for frame in frames], FRAMES)
        assert np.array_equal([label_of(frame) for frame in frames], LABELS)
    with pytest.raises(DatasetError, match="--axis t"):
        inspect(path)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_stills_beside_tiff_files(tmp_path: Path, version: str) -> None:
    write(tmp_path / "images/a.zarr", FRAMES[0], "yx", version, unit="")
    save(tmp_path / "images/b.tif", FRAMES[1])
    save(tmp_path / "masks/a.tif", LABELS[0])
    a, b = open_dataset(inspect(tmp_path).config, tmp_path)()
    assert np.array_equal(a.image, FRAMES[0]) and np.array_equal(label_of(a), LABELS[0])
    assert a.pixel_size_um is None and np.array_equal(b.image, FRAMES[1])


def test_channels_and_several_labels(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write(path, FRAMES[:2], "cyx")
    for name in ("cells", "nuclei"):
        write(path / "labels" / name, LABELS[0], "yx")
    summary = inspect(path, channel=1)
    (frame,) = open_dataset(summary.config, tmp_path)()
    assert np.array_equal(frame.image, FRAMES[1]) and frame.label is None
    assert "several label images (cells, nuclei)" in summary.warnings[0]
    with pytest.raises(DatasetError, match=r"2 channels .*--channel 0 to 1"):
        inspect(path)


def test_what_is_no_image(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "array.zarr", data=FRAMES[0])
    with pytest.raises(DatasetError, match="Zarr array without OME metadata"):
        inspect(tmp_path / "array.zarr")
    group = zarr.create_group(tmp_path / "plate.zarr")
    group.attrs["ome"] = {"plate": {}}
    with pytest.raises(DatasetError, match="it is a plate: give one field"):
        inspect(tmp_path / "plate.zarr")
    zarr.create_group(tmp_path / "series.zarr").attrs["bioformats2raw.layout"] = 3
    write(tmp_path / "series.zarr/0", FRAMES[0], "yx")
    with pytest.raises(DatasetError, match=r"give one of its parts: .*series\.zarr/0"):
        inspect(tmp_path / "series.zarr")
    assert inspect(tmp_path / "series.zarr/0").frames == 1


@pytest.mark.parametrize("scale", [0.0, float("nan"), -2.0])
def test_a_pixel_size_that_says_nothing(tmp_path: Path, scale: float) -> None:
    write(tmp_path / "a.zarr", FRAMES[0], "yx", scale=scale)
    summary = inspect(tmp_path / "a.zarr")
    assert summary.config.pixel_size_um is None and "says nothing" in summary.warnings[0]


def test_a_damaged_chunk_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", FRAMES[0], "yx")
    chunk = tmp_path / "a.zarr/0/c/0/0"
    chunk.write_bytes(chunk.read_bytes()[:50])
    with pytest.raises(DatasetError, match=r"a\.zarr: truncated or damaged") as caught:
        inspect(tmp_path / "a.zarr")
    assert "\n" not in str(caught.value)
