"""Tuning from a bucket behind a slow line, against the same tuning from the local disk."""

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from hela_store.base.extras import needs
from hela_store.base.files import write_atomic
from hela_store.base.progress import Progress, silent
from hela_store.embedding.record import decoder_file
from hela_store.errors import StoreError
from hela_store.recipe.recipe import RECIPE_FILE
from hela_store.recipe.toml import recipe_text
from hela_store.sam.decoder import load_decoder
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.data import TrainingSteps
from hela_store.training.finetune import resolve
from hela_store.training.loading import load
from hela_store.training.step import step_loss

from .delay import slow_line

BUCKET = "bench"
START_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class BucketRow:
    """One way: where from, delay of each request in ms, optimiser steps a second, and their share of local disk's.

    Beside it the seconds that a tuning takes once, however long it is: up to its second step, and after its last.
    """

    way: str
    delay: float
    steps_per_second: float
    of_local: float
    once_seconds: float


@dataclass(frozen=True, kw_only=True)
class BucketBench:
    """Results of the bucket benchmark."""

    steps: int
    workers: int
    rows: tuple[BucketRow, ...]


def bench_bucket(
    store: Store,
    connect: Callable[[str], None],
    *,
    delays: Sequence[float] = (1.0, 5.0, 20.0),
    steps: int = 40,
    workers: int = 1,
    progress: Progress = silent,
) -> BucketBench:
    """Tune a decoder for boxes from the local disk and from a local S3 server whose every request comes later.

    With a cache it is measured in the second pass over the same views, which are all in it.

    Parameters
    ----------
    store : with an embedded training block; its arrays are copied, so rather a small one
    connect : called with the server's address, which it makes the endpoint of AWS's tools, with some credentials
    delays : ms
    steps, workers : of each tuning, and processes that prepare batches ahead

    Raises
    ------
    StoreError
        The arrays are in a bucket already, or the server does not start.
    ExtraError
        moto is not installed.
    """
    if store.recipe.arrays.data:
        raise StoreError(f"the arrays of {store.path} are in {store.recipe.arrays.data}; bench a store on local disk")
    ways = [(name, delay) for delay in delays for name in ("bucket", "bucket, cached")]
    rows: list[BucketRow] = []
    with tempfile.TemporaryDirectory() as folder, _server() as server, _line(server) as (address, set_delay):
        connect(address)
        _upload(store, address)
        local, once = _rate(store, steps, workers)
        rows.append(BucketRow(way="local disk", delay=0.0, steps_per_second=local, of_local=1.0, once_seconds=once))
        for number, (name, delay) in enumerate(progress(ways, total=len(ways), what="bench bucket")):
            remote = _twin(store, Path(folder) / str(number), cached="cached" in name)
            set_delay(0.0)
            if "cached" in name:
                _rate(remote, steps, workers)
            set_delay(delay / 1000)
            rate, once = _rate(remote, steps, workers)
            row = BucketRow(way=name, delay=delay, steps_per_second=rate, of_local=rate / local, once_seconds=once)
            rows.append(row)
    return BucketBench(steps=steps, workers=workers, rows=tuple(rows))


def _rate(store: Store, steps: int, workers: int) -> tuple[float, float]:
    """Return optimiser steps a second from the second to the last, and the seconds before and after these."""
    config = resolve(store, FinetuneConfig.of(prompt="box", workers=workers)).config
    data = TrainingSteps(store, "box", cells=config.prompts.cells, seed=0, first=0, count=steps + 1)
    decoder = load_decoder(decoder_file(store)).train()
    optimizer = torch.optim.AdamW(decoder.mask_decoder.parameters(), lr=config.optimiser.lr)
    began = start = stop = time.perf_counter()
    for number, batch in enumerate(load(data, workers, data.start_method)):
        if number == 1:
            start = time.perf_counter()
        optimizer.zero_grad()
        step_loss(decoder, batch, config)[0].mean().backward()
        optimizer.step()
        stop = time.perf_counter()
    # the loop ends when the loader's processes have
    return steps / (stop - start), start - began + time.perf_counter() - stop


def _twin(store: Store, path: Path, *, cached: bool) -> Store:
    """Return the same store with its arrays in the bucket."""
    shutil.copytree(
        store.path, path, ignore=shutil.ignore_patterns("arrays.zarr", "runs", "catalog.*", "data", ".*", RECIPE_FILE)
    )
    limit = 1 << 20 if cached else 0
    arrays = replace(store.recipe.arrays, data=f"s3://{BUCKET}/arrays", cache_mib=limit)
    write_atomic(path / RECIPE_FILE, recipe_text(replace(store.recipe, arrays=arrays)).encode())
    return Store.open(path)


def _upload(store: Store, address: str) -> None:
    with needs("s3"):
        import boto3
    client = boto3.client("s3", endpoint_url=address, region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    root = Path(store.arrays.storage.root)
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        client.put_object(Bucket=BUCKET, Key=f"arrays/{file.relative_to(root)}", Body=file.read_bytes())


# ---- server and line have processes of their own, so that they take no time from the tuning's interpreter


@contextlib.contextmanager
def _server() -> Iterator[tuple[str, int]]:
    with needs("test"):
        import moto.server  # noqa: F401
    with socket.create_server(("127.0.0.1", 0)) as free:
        host, port = free.getsockname()
    command = [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection((host, port)).close()
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise StoreError(
                        "the local S3 server did not start; see whether port and moto are usable"
                    ) from None
                time.sleep(0.1)
        yield host, port
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _line(server: tuple[str, int]) -> Iterator[tuple[str, Callable[[float], None]]]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(server, there), daemon=True)
    process.start()
    try:
        yield str(here.recv()), here.send
    finally:
        process.terminate()
        process.join()


def _serve(server: tuple[str, int], pipe: Connection) -> None:
    with slow_line(server) as line:
        pipe.send(line.url)
        while True:
            line.delay = pipe.recv()
