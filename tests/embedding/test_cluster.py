"""Real Dask clusters: what they make is what one process makes, whoever dies meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
import psutil
import pytest
from distributed import LocalCluster
from safetensors.torch import save_file

from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.errors import CheckpointError, ClusterError, RecipeError
from hela_store.sam.nano import load_nano
from hela_store.store.store import Store
from stores import changed, chunks, forget, reshard

# closing a cluster leaves the collecting of some of its sockets and loops to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


def after(count: int, act: Callable[[], object]) -> Callable[..., Iterator[Any]]:
    """Return a Progress that does something once so many views are committed."""

    def progress(iterable, *, total, what):
        if not what.startswith("embed"):
            yield from iterable
            return
        if count == 0:
            act()
        for number, item in enumerate(iterable, 1):
            yield item
            if number == count:
                act()

    return progress


def worker_processes() -> list[psutil.Process]:
    spawned = (p for p in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(p.cmdline()))
    return sorted(spawned, key=lambda process: process.pid)


@pytest.fixture
def standing() -> Iterator[str]:
    """Return the address of a scheduler with one worker, both in this process."""
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None) as it:
        yield it.scheduler_address


@pytest.mark.ci
def test_two_workers_of_which_one_is_killed_give_the_bytes_of_one_process(store: Store):
    before, entries = chunks(store), store.ledger().entries()
    forget(store, 4)
    killed = []

    def kill() -> None:
        killed.append(worker_processes()[0])
        killed[0].send_signal(signal.SIGKILL)

    report = embed(store, EmbedConfig(workers=2), progress=after(1, kill))
    assert (report.done_before, report.done_now, report.left) == (4, 4, 0)
    assert killed and not killed[0].is_running()
    assert chunks(store) == before
    assert store.ledger().entries() == entries
    assert not worker_processes()


@pytest.mark.ci
def test_a_standing_cluster_is_told_all_it_needs(store: Store, standing: str):
    before = chunks(store)
    forget(store, 2)
    shown = []

    def progress(iterable, *, total, what):
        shown.append((what.partition(" ")[0], total))
        return iter(iterable)

    assert embed(store, EmbedConfig(scheduler=standing, limit=1), progress).left == 1
    assert ("embed", 1) in shown
    assert embed(store, EmbedConfig(scheduler=standing)).left == 0
    assert chunks(store) == before
    forget(store, 1)
    with pytest.raises(KeyboardInterrupt):
        embed(store, EmbedConfig(scheduler=standing), after(1, lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert embed(store, EmbedConfig(scheduler=standing)).left == 0


def test_a_worker_without_the_checkpoint_says_so(store: Store, standing: str, tmp_path: Path):
    weights = tmp_path / "nano.safetensors"
    save_file({name: value.contiguous() for name, value in load_nano().state_dict().items()}, weights)
    other = changed(store, encoder=replace(store.recipe.encoder, checkpoint=str(weights), sha256=""))
    with pytest.raises(CheckpointError, match=r"on worker tcp://.*nano.safetensors"):
        embed(other, EmbedConfig(scheduler=standing), after(0, weights.unlink))
    assert other.committed() == {}


@pytest.mark.ci
def test_a_worker_of_another_version_is_refused(store: Store, tmp_path: Path):
    forget(store, 1)
    other = tmp_path / "other" / "hela_store-9.9.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: hela-store\nVersion: 9.9.9\n")
    with LocalCluster(n_workers=0, processes=False, protocol="tcp", dashboard_address=None) as standing:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", standing.scheduler_address, "--no-dashboard"]
        environment = os.environ | {"PYTHONPATH": str(other.parent)}
        worker = subprocess.Popen(
            [*command, "--nthreads=1", "--no-nanny"], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
        )
        try:
            with pytest.raises(ClusterError, match=r"has hela-store 9.9.9, this job is of"):
                embed(store, EmbedConfig(scheduler=standing.scheduler_address))
        finally:
            worker.terminate()
            worker.wait(30)
    assert len(store.committed()) == 7


def test_a_scheduler_that_does_not_answer(store: Store, monkeypatch: pytest.MonkeyPatch):
    forget(store, 1)
    monkeypatch.setattr("hela_store.base.executors.CONNECT_SECONDS", 1)
    for address, what in (
        ("tcp://127.0.0.1:1", "no Dask scheduler answers at tcp://127.0.0.1:1"),
        ("nonsense", "scheduler is 'nonsense', expected an address such as tcp://localhost:8786"),
        ("tcp://localhost", "scheduler is 'tcp://localhost', expected an address"),
    ):
        with pytest.raises(ClusterError, match=what):
            embed(store, EmbedConfig(scheduler=address))


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_port_that_is_no_scheduler(store: Store, monkeypatch: pytest.MonkeyPatch, said: bytes):
    forget(store, 1)
    monkeypatch.setattr("hela_store.base.executors.CONNECT_SECONDS", 2)
    taken: list[socket.socket] = []

    def take(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                taken.append(server.accept()[0])
                taken[-1].sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=take, args=(server,), daemon=True).start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(ClusterError, match=rf"no Dask scheduler answers at {address} \(.*; start one .*--workers"):
            embed(store, EmbedConfig(scheduler=address))
        assert time.monotonic() - start < 20
        assert taken
        server.shutdown(socket.SHUT_RDWR)
    for each in taken:
        each.close()


@pytest.mark.ci
def test_a_scheduler_that_is_lost(store: Store):
    before = chunks(store)
    forget(store, 4)
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None) as it:
        with pytest.raises(ClusterError, match=r"the Dask scheduler is gone .* resumes where it stopped"):
            embed(store, EmbedConfig(scheduler=it.scheduler_address), after(1, it.close))
    assert 5 <= len(store.committed()) < 8
    assert embed(store).left == 0
    assert chunks(store) == before


def test_workers_here_or_there():
    with pytest.raises(RecipeError, match="give one of the two"):
        EmbedConfig(workers=2, scheduler="tcp://127.0.0.1:1")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_parent_is_killed_and_the_bytes_stay_the_same(store: Store, workers: int):
    before, entries = chunks(store), store.ledger().entries()
    forget(store, 6)
    command = [
        str(Path(sys.executable).with_name("hela-store")),
        "embed",
        "-s",
        str(store.path),
        "--workers",
        str(workers),
    ]
    job = forked.Popen(command, stderr=subprocess.PIPE)
    children = []
    while len(store.committed()) < 4 and job.poll() is None:
        children = psutil.Process(job.pid).children(recursive=True)
    job.kill()
    job.wait()
    assert not psutil.wait_procs(children, 20)[1]
    assert len(store.committed()) < 8
    assert embed(store, EmbedConfig(workers=workers)).left == 0
    assert chunks(store) == before
    assert store.ledger().entries() == entries


def test_workers_write_no_shards_and_one_that_is_killed_tears_none(store: Store):
    sharded = reshard(store, 3)
    before, entries = chunks(sharded), sharded.ledger().entries()
    shutil.rmtree(sharded.ledger().path)
    for name in before:
        (sharded.arrays.chunk_path(sharded.key, 0).parent / name).unlink()
    report = embed(
        Store.open(store.path),
        EmbedConfig(workers=2),
        progress=after(2, lambda: worker_processes()[0].send_signal(signal.SIGKILL)),
    )
    assert (report.done_now, report.left) == (8, 0)
    assert chunks(sharded) == before and len(before) == 3
    assert Store.open(store.path).ledger().entries() == entries
