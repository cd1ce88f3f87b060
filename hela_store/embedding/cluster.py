"""Embedding by many workers, on this machine or on a cluster that stands; Dask distributed is the engine.

A task is one group of the plan, and owns its chunks. Workers read frames and write chunks themselves; only this process
writes ledger and catalog, after a worker said that its chunks are durable. So a worker may die at any time: its task is
done again by another, and gives the same bytes.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
import uuid
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hela_store.base.executors import connected
from hela_store.base.extras import needs
from hela_store.errors import ClusterError, HelaError, StoreError

with needs("cluster"):
    import dask
    from distributed import Client, KilledWorker, LocalCluster, Security, as_completed, get_worker
    from distributed.system import MEMORY_LIMIT

from hela_store.base.progress import Progress
from hela_store.recipe.recipe import RECIPE_FILE, Recipe
from hela_store.sam.checkpoints import load_sam_encoder
from hela_store.sam.devices import in_turn, pick_device
from hela_store.store.ledger import Entry
from hela_store.store.records import ViewRecord
from hela_store.store.store import Store

from .batches import Work
from .pipeline import Pipeline
from .record import Conditions, EncoderRecord, conditions_on, differences, threads

if TYPE_CHECKING:
    import torch
    from distributed import Future

AHEAD = 2
"""Tasks a worker is given: one it does, and the next."""
AGAIN = "what is committed stays, the same command resumes where it stopped"


@dataclass(frozen=True, kw_only=True)
class Job:
    """Describe what workers are told.

    Attributes
    ----------
    token : str
        Differs from job to job, so that no worker goes on with what it knows of an earlier one.
    path : Path
        The store's folder, which workers see under the same name.
    recipe : Recipe
    version : str
        Of this package.
    device : str
        As of embed, later the kind that was chosen.
    cache_dir : Path or None
        Where official checkpoints are fetched to.
    sha256 : str
        Of the weights, once they are known.
    threads : int
        Within an operation.
    compiled : bool
        Whether the encoder runs through ``torch.compile``.
    """

    token: str
    path: Path
    recipe: Recipe
    version: str
    device: str
    cache_dir: Path | None
    sha256: str = ""
    threads: int = 1
    compiled: bool = False


class Cluster:
    """Workers that embed into one store.

    Parameters
    ----------
    client : of Dask
    job : what its workers are told

    Attributes
    ----------
    conditions : Conditions
        Of the first worker; one thread, because as many workers as cores are faster than one worker with all of them.
    notes : set of str
        In what some workers differ from the first embeddings.
    """

    def __init__(self, client: Client, job: Job, progress: Progress) -> None:
        self._client, self._job = client, job
        if not client.scheduler_info(n_workers=-1)["workers"]:
            for _ in progress([1], total=1, what="wait for a worker"):
                client.wait_for_workers(1)
        self.conditions: Conditions = replace(self._result(client.submit(_conditions, job, pure=False)), threads=1)
        self.notes: set[str] = set()

    @property
    def dashboard(self) -> str:
        """Address of Dask's page on what the workers do."""
        return str(self._client.dashboard_link)

    def commits(self, store: Store, record: EncoderRecord, work: Work) -> Generator[str, None, None]:
        """Have the work done and commit group by group; yield the id of each view that was committed.

        Raises
        ------
        StoreError, CheckpointError, RecipeError
            A worker cannot read the store or the weights; no space, no permission.
        ClusterError
            The scheduler is gone, workers died again and again, or have another version of this package.
        """
        known = {name: getattr(record, name) for name in ("sha256", "threads", "compiled")}
        job = replace(self._job, device=_same_kind(self._job.device, self.conditions.device), **known)
        waiting, running = iter(work), as_completed(loop=self._client.loop)
        pending: set[Future[Any]] = set()

        def top_up() -> None:
            for group, todo in itertools.islice(waiting, max(0, self._room() - len(pending))):
                future = self._client.submit(_embed_group, job, group, todo, pure=False)
                pending.add(future)
                running.add(future)

        try:
            top_up()
            for future in running:
                pending.discard(future)
                entries, truths, conditions = self._result(future)
                store.commit(entries, truths)
                self.notes.update(differences(record, conditions))
                top_up()
                yield from (entry.view for entry in entries)
        finally:
            self._client.cancel(list(pending))

    def _room(self) -> int:
        return AHEAD * max(1, len(self._client.scheduler_info(n_workers=-1)["workers"]))

    def _result(self, future: Future[Any]) -> Any:
        try:
            return future.result()
        except HelaError:
            raise
        except KilledWorker as error:
            raise ClusterError(
                f"a task was given up after {error.allowed_failures + 1} workers died of it, the last "
                f"{error.last_worker.address}, perhaps for want of memory; start fewer workers, or workers with more "
                f"({AGAIN})"
            ) from None
        except (CancelledError, OSError) as error:
            raise ClusterError(f"the Dask scheduler is gone ({type(error).__name__}); {AGAIN}") from error
        except (ImportError, AttributeError, TypeError) as error:
            raise ClusterError(f"a worker has no hela-store {self._job.version} ({error}); install it there") from error


@contextmanager
def cluster(
    store: Store,
    *,
    workers: int | None,
    scheduler: str | None,
    device: str,
    cache_dir: Path | None,
    progress: Progress,
) -> Iterator[Cluster]:
    """Start workers on this machine, or reach those of a scheduler.

    Parameters
    ----------
    store : to embed into
    workers : int or None
        Processes to start here; on GPUs they share them evenly.
    scheduler : str or None
        Address of a cluster that stands, instead.
    device, cache_dir : as of embed
    progress : shows that it waits for the first worker

    Raises
    ------
    ClusterError
        No scheduler answers.
    """
    job = Job(
        token=uuid.uuid4().hex,
        path=store.path,
        recipe=store.recipe,
        version=version("hela-store"),
        device=device,
        cache_dir=cache_dir,
    )
    if scheduler is not None:
        with connected(scheduler, instead="--workers") as client:
            yield Cluster(client, job, progress)
        return
    assert workers is not None
    with (
        # Dask would leave OMP_NUM_THREADS=1 behind in this process; workers are told their threads with each task
        dask.config.set({"distributed.nanny.pre-spawn-environ": {}}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=MEMORY_LIMIT // workers,
            # other users of this machine must not be able to talk to the workers
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            security=Security.temporary(),
            silence_logs=logging.ERROR,
        ) as local,
        Client(local, set_as_default=False) as client,
    ):
        yield Cluster(client, job, progress)


def _same_kind(asked: str, kind: str) -> str:
    """Return the device that workers use: the GPU that was asked for, else any of the kind that the first one chose."""
    return asked if asked.partition(":")[0] == kind else kind


# ---- on the workers

_ONE_AT_A_TIME = threading.Lock()
"""torch's thread count is the process's, and two encoders in one process only get in each other's way."""


def _conditions(job: Job) -> Conditions:
    _check_version(job)
    try:
        return conditions_on(_device(job))
    except HelaError as error:
        _say_where(error)


def _embed_group(
    job: Job, group: list[ViewRecord], todo: list[ViewRecord]
) -> tuple[list[Entry], list[Entry], Conditions]:
    """Encode and store one group; return what the ledgers of embeddings and of variants' labels are to say of it."""
    _check_version(job)
    entries: list[Entry] = []
    truths: list[Entry] = []

    def collect(embedded: Iterable[Entry], labelled: Iterable[Entry]) -> None:
        entries.extend(embedded)
        truths.extend(labelled)

    try:
        with _ONE_AT_A_TIME, threads(job.threads):
            pipeline = _pipeline(job)
            for _ in pipeline.run([(group, todo)], collect):
                pass
            return entries, truths, conditions_on(_device(job))
    except HelaError as error:
        _say_where(error)


@lru_cache(maxsize=1)
def _pipeline(job: Job) -> Pipeline:
    if not (job.path / RECIPE_FILE).exists():
        raise StoreError(f"there is no store at {job.path}; workers must see its folder under the same path")
    store = Store(job.path, job.recipe)
    sam = load_sam_encoder(job.recipe.encoder, _device(job), base=job.path, cache_dir=job.cache_dir)
    if sam.sha256 != job.sha256:
        raise StoreError(f"the weights here have sha256 {sam.sha256[:12]}, expected {job.sha256[:12]}")
    return Pipeline(store, sam, compiled=job.compiled)


def _device(job: Job) -> torch.device:
    device, name = pick_device(job.device), get_worker().name
    # workers of a local cluster are numbered; others see the GPU they are to use and no other
    return pick_device(in_turn(job.device, name)) if isinstance(name, int) else device


def _check_version(job: Job) -> None:
    found = version("hela-store")
    if found != job.version:
        raise ClusterError(f"worker {_name()} has hela-store {found}, this job is of {job.version}; install that")


def _say_where(error: HelaError) -> NoReturn:
    raise type(error)(f"on worker {_name()}: {error}") from None


def _name() -> str:
    return f"{get_worker().address} ({socket.gethostname()}, process {os.getpid()})"
