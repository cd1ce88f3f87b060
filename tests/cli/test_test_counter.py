"""Commands write scorings of test into the user's cache."""

from __future__ import annotations

from pathlib import Path

from console import Run

from hela_store.store.store import Store


def test_the_command_counts_in_the_users_cache(run: Run, store: Store, tmp_path: Path) -> None:
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    asked = ("evaluate", "-s", str(store.path), "--zero-shot", "--prompt", "box-exact", "--prompt-seeds", "1")
    done = run(*asked, folder=tmp_path, **cache)
    assert "its frames once in all your stores" in done.stdout, done.stderr
    assert (tmp_path / "cache/hela-store/test_scorings.jsonl").exists()
