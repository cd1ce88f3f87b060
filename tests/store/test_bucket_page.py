"""The commands of the page on clusters and buckets, run as it has them: a cluster and a bucket of this machine."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from buckets import URL
from console import COMMAND, environment
from distributed import LocalCluster

PAGE = Path(__file__).parents[2] / "notebooks/clusters_and_buckets.md"
FRAMES, SCHEDULER, BUCKET = "path/to/frames", "tcp://node1:8786", "s3://bucket/fluo"
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


def add_frame(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.iterdir()))
    pixels = np.random.default_rng(number).integers(100, 4000, (64, 64)).astype(np.uint16)
    tifffile.imwrite(folder / f"cells{number:02}.tif", pixels)


def run(folder: Path, line: str) -> dict[str, Any]:
    given = [str(COMMAND), *shlex.split(line, comments=True)[1:]]
    done = subprocess.run(given, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, (line, done.stderr)
    asked = [str(COMMAND), "info", "--json", "-s", "fluo"]
    told = subprocess.run(asked, cwd=folder, env=environment(), capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(told.stdout)
    return found


@pytest.mark.slow  # five times torch is loaded, twice in workers, too
def test_the_commands_of_the_page_do_what_it_says(tmp_path: Path, client: Any) -> None:
    text = PAGE.read_text()
    assert all(there in text for there in (FRAMES, SCHEDULER, BUCKET))
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for line in "".join(blocks).splitlines() if line.startswith("hela-store ")]
    made = [line for line in lines if line.startswith("hela-store new ")]
    rest = [line for line in lines if line not in made]
    assert len(made) == 1 and [line.split()[1] for line in rest] == ["embed"] * 4 + ["verify"]
    for _ in range(6):
        add_frame(tmp_path / FRAMES)
    (tmp_path / "stores").mkdir()
    run(tmp_path, made[0].replace(BUCKET, URL))
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None) as it:
        for count, line in enumerate(rest):
            if "embed" in line:
                add_frame(tmp_path / FRAMES)
            found = run(tmp_path, line.replace(SCHEDULER, it.scheduler_address).replace("--workers 4", "--workers 2"))
            assert found["views_done"] == found["views_planned"] == 7 + min(count, 3)
    assert client.list_objects_v2(Bucket="cells")["KeyCount"] > 10
    assert not (tmp_path / "stores/fluo/arrays.zarr").exists()
