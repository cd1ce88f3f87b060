"""A large frame goes on where it was interrupted, tile by tile, and ends as if it had not been."""

from __future__ import annotations

import subprocess
import time
from functools import partial
from pathlib import Path

import forked
import numpy as np
import pytest
import tifffile
import torch
from console import COMMAND, environment

import hela_store as hs
from hela_store.errors import StoreError
from hela_store.segmentation.config import DetectedConfig, SegmentConfig
from hela_store.segmentation.kept_tiles import KeptTiles


def test_a_tile_is_encoded_once_and_again_where_what_is_kept_is_damaged(tmp_path: Path) -> None:
    calls: list[float] = []

    def make(tile: np.ndarray) -> torch.Tensor:
        calls.append(float(tile[0, 0]))
        return torch.full((256, 64, 64), float(tile.sum()) / 3)

    encode = partial(KeptTiles(tmp_path / "a.tiles").encode, make)
    one, two = (np.full((8, 8), value, np.float32) for value in (1, 2))
    first = encode(one)
    encode(two)
    assert torch.equal(encode(one), first) and calls == [1, 2]
    for path in sorted((tmp_path / "a.tiles").iterdir()):
        data = bytearray(path.read_bytes())
        data[1000] ^= 1
        path.write_bytes(data)
    assert torch.equal(encode(one), first) and calls == [1, 2, 1]
    (tmp_path / "b.tiles").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="symbolic link"):
        KeptTiles(tmp_path / "b.tiles").encode(make, one)
    KeptTiles(tmp_path / "a.tiles").clear()
    assert not (tmp_path / "a.tiles").exists()


@pytest.mark.slow
def test_a_killed_segmentation_of_one_large_frame_keeps_its_tiles(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    yy, xx = np.mgrid[:1100, :1100]
    discs = sum(((yy - y) ** 2 + (xx - x) ** 2 < 144) for y, x in rng.integers(20, 1080, (60, 2)))
    tifffile.imwrite(
        tmp_path / "big.tif", (500 + 900 * (discs > 0) + rng.normal(0, 30, (1100, 1100))).astype(np.uint16)
    )
    command = [str(COMMAND), "segment", "--generic", str(tmp_path / "big.tif"), "--out", str(tmp_path / "a")]
    command += ["--no-overlay"]
    with forked.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        deadline = time.monotonic() + 300
        while len(kept(tmp_path)) < 3 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    before = {path: path.stat().st_mtime_ns for path in kept(tmp_path)}
    assert 3 <= len(before) < 9
    config = SegmentConfig(out=tmp_path / "a", prompts=DetectedConfig(), overlay=False)
    told: list[tuple[str, int]] = []

    def progress(iterable, *, total, what):
        told.append((what, total))
        for number, item in enumerate(iterable):
            if what.startswith("draw") and number == 0:
                assert len(kept(tmp_path)) == 9
                assert all(path.stat().st_mtime_ns == since for path, since in before.items())
            yield item

    report = hs.segment(None, [tmp_path / "big.tif"], config, progress=progress)
    assert ("find cells, by tile", 9) in told and "draw cells, by tile" in dict(told)
    assert report.cells > 20 and not kept(tmp_path)
    whole = tmp_path / "b"
    hs.segment(None, [tmp_path / "big.tif"], SegmentConfig(out=whole, prompts=DetectedConfig(), overlay=False))
    for path in sorted(whole.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "a" / path.relative_to(whole)).read_bytes(), path


def kept(folder: Path) -> list[Path]:
    return list(folder.glob("a/.cells/*.tiles/*.tile"))
