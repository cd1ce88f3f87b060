"""What must not be embedded: each is one clear line, exit code 1, and the store is as it was."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import forked
import pytest
from console import Run, environment

from hela_store.embedding.record import read_record, write_record
from hela_store.sam.nano import NANO_FILE
from hela_store.store.store import Store

HOLD_AND_DIE = (
    "import os, signal, sys; from pathlib import Path; from hela_store.base.locks import embed_lock\n"
    "with embed_lock(Path(sys.argv[1])):\n    os.kill(os.getpid(), signal.SIGKILL)"
)


def contents(path: Path) -> dict[str, str]:
    files = (file for file in path.rglob("*") if file.is_file() and file.name != ".embed.lock")
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def forget_last(store: Store) -> None:
    """Leave one view to do."""
    segment = sorted(store.ledger().path.iterdir())[-1]
    store.arrays.chunk_path(store.key, json.loads(segment.read_text())["row"]).unlink()
    segment.unlink()


def change(store: Store, old: str, new: str) -> None:
    recipe = store.path / "store.toml"
    text = recipe.read_text()
    assert text.count(old) == 1
    recipe.write_text(text.replace(old, new))


def assert_refused(run: Run, store: Store, words: str) -> None:
    before = contents(store.path)
    done = run("embed", folder=store.path, code=1)
    assert words in done.stderr
    assert contents(store.path) == before


def test_a_codec_nobody_knows(run: Run, store: Store) -> None:
    forget_last(store)
    change(store, f'codec = "{store.recipe.arrays.codec}"', 'codec = "zsdt"')
    assert_refused(run, store, "did you mean 'zstd'?")


def test_embeddings_of_other_weights(run: Run, store: Store) -> None:
    forget_last(store)
    record = read_record(store)
    assert record is not None
    write_record(store, replace(record, sha256="f" * 64))
    assert_refused(run, store, "were made with weights ffffffffffff")


def test_a_checkpoint_that_changed_since_the_plan(run: Run, store: Store) -> None:
    forget_last(store)
    copy = store.path / "weights.safetensors"
    shutil.copy(NANO_FILE, copy)
    change(store, 'checkpoint = ""', 'checkpoint = "weights.safetensors"')
    data = bytearray(copy.read_bytes())
    data[-1] ^= 1
    copy.write_bytes(data)
    assert_refused(run, store, "the store was made with")


def test_a_lock_left_by_a_dead_process_does_not_hold(run: Run, store: Store) -> None:
    forget_last(store)
    dead = forked.run([sys.executable, "-c", HOLD_AND_DIE, store.path], env=environment(), check=False)
    assert dead.returncode == -9 and (store.path / ".embed.holder.json").exists()
    assert "7 done before, 1 now" in run("embed", folder=store.path).stdout
    assert not (store.path / ".embed.holder.json").exists()


def test_a_folder_that_cannot_be_written(run: Run, store: Store, tmp_path: Path) -> None:
    forget_last(store)
    sealed = tmp_path / "sealed"
    sealed.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", sealed], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("cannot mount a file system here")
    try:
        shutil.copytree(store.path, sealed / "store")
        subprocess.run(["mount", "-o", "remount,ro", sealed], check=True)
        assert_refused(run, Store.open(sealed / "store"), "no permission to write")
    finally:
        subprocess.run(["umount", "-l", sealed], check=True)
