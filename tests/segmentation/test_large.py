"""A frame of 8,000 x 8,000 px without a store: in a process of its own, whose memory is weighed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from hela_store.datasets.synthetic import write_sequence

COMMAND = Path(sys.executable).with_name("hela-store")
SIDE = 8000
MOST = 2 << 30


@pytest.mark.slow  # 324 tiles are encoded
def test_a_frame_of_8000_px_is_segmented_within_2_gb(tmp_path: Path) -> None:
    write_sequence(tmp_path / "drawn", frames=1, shape=(500, 500), cells=20)
    small = tifffile.imread(tmp_path / "drawn/01/t000.tif")
    tifffile.imwrite(tmp_path / "large.tif", np.tile(small, (SIDE // 500, SIDE // 500)))
    given = ["segment", "large.tif", "--generic", "--no-overlay", "--out", "out"]
    process = subprocess.Popen([COMMAND, *given], cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"})
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    label = tifffile.imread(next((tmp_path / "out").rglob("*.tif")))
    assert label.shape == (SIDE, SIDE) and len(np.unique(label)) > 1000
    assert used.ru_maxrss << 10 < MOST
