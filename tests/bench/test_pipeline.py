import json

import pytest
from click.testing import CliRunner
from hela_store_cli.main import main


@pytest.mark.ci
@pytest.mark.parametrize("frames", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_what_surrounds_the_encoder_is_timed(monkeypatch: pytest.MonkeyPatch, frames: int) -> None:
    monkeypatch.setattr("hela_store.bench.pipeline.FRAMES", frames)
    done = CliRunner().invoke(
        main, ["bench", "pipeline", "--variants", "1", "--codec", "lz4", "--device", "cpu", "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["codec"], found["batch"], found["tile"]) == ("lz4", 4, 512)
    plain, augmented = found["rows"]
    assert plain["what"] == "plain" and augmented["what"] == "augmented" and plain["views"] == augmented["views"]
    assert plain["views"] == 6 * frames
    assert all(row[name] > 0 for row in found["rows"] for name in ("read", "write", "together"))
    assert found["device"] == "cpu" and all(0 < row["busy"] <= 1 for row in found["rows"])
