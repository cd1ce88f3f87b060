"""A command that was killed after all was in place says so when it is given again."""

from __future__ import annotations

from pathlib import Path

from console import Run

from hela_store.runs.folder import latest


def test_new_given_again_is_complete_and_another_is_refused(run: Run, embedded: Path, tmp_path: Path) -> None:
    asked = ("new", "tiny", "--dataset", embedded / "data", "--tile", "none")
    run(*asked)
    recipe = tmp_path / "stores/tiny/store.toml"
    before = recipe.read_text()
    assert "already complete: " in run(*asked).stderr
    assert "is a store already; choose another name" in run(*asked, "--variants", 2, code=1).stderr
    assert recipe.read_text() == before
    recipe.write_text("# comments of another version\n" + "".join(x for x in before.splitlines(True) if x[0] != "#"))
    assert "already complete: " in run(*asked).stderr
    recipe.write_text(before.replace("low = 0.5", "low = 0.4"))
    assert "is a store already; choose another name" in run(*asked, code=1).stderr


def test_drawn_frames_are_compared(run: Run, tmp_path: Path) -> None:
    from hela_store.errors import AlreadyComplete
    from hela_store.workflows.new import new
    from hela_store.workflows.new_config import NewConfig, SyntheticConfig

    def make(seed: int) -> str:
        drawn = SyntheticConfig(frames=4, shape=(64, 64), cells=3, seed=seed)
        try:
            new(tmp_path / "s", NewConfig.of(dataset="synthetic", tile="none", synthetic=drawn))
        except AlreadyComplete:
            return "complete"
        except RuntimeError as error:
            return str(error)
        return "made"

    first, again, other = make(0), make(0), make(1)
    assert (first, again) == ("made", "complete") and "is a store already; choose another name" in other


def test_export_ctc_given_again_is_complete(run: Run, scored: Path, tmp_path: Path) -> None:
    asked = ("export", "ctc", latest(scored, "evaluate").id, "--out", tmp_path / "out", "-s", scored)
    first = run(*asked, "--prompt", "box")
    assert "note: 01_RES holds the frames 7 of 0-7" in first.stderr
    assert "already complete: " in run(*asked, "--prompt", "box").stderr
    assert "is there already, and is another" in run(*asked, "--prompt", "point", code=1).stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["01_RES"]
