"""Say where independent jobs run: in processes of this machine, or on the workers of a Dask cluster that stands.

Both are a :class:`concurrent.futures.Executor`, so whoever has jobs knows neither.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import TYPE_CHECKING, TypeVar

from hela_store.errors import ClusterError, HelaError

from .cores import usable_cores
from .extras import needs

if TYPE_CHECKING:
    from distributed import Client

Item = TypeVar("Item")
T = TypeVar("T")
CONNECT_SECONDS = 20


@contextmanager
def processes(jobs: int) -> Iterator[Executor]:
    """Start ``jobs`` processes that share this machine's cores evenly, and end with this one, however that ends."""
    cores = max(1, usable_cores() // jobs)
    # a fork would copy torch's threads in the middle of what they do
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin, initargs=(cores,))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def in_threads(
    work: Callable[[Item], T], items: Iterable[Item], *, threads: int, ahead: int
) -> Generator[T, None, None]:
    """Yield what ``work`` returns for each item, in their order; close it to leave out those that have not begun.

    Parameters
    ----------
    work : callable
    items : iterable
    threads : int
        How many work at one time.
    ahead : int
        Items that are taken up together, so that a million of them take no memory.
    """
    pool, left = ThreadPoolExecutor(threads), iter(items)
    try:
        while part := list(itertools.islice(left, ahead)):
            yield from pool.map(work, part)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def dask(scheduler: str) -> Iterator[Executor]:
    """Reach the workers of a Dask scheduler, ``"tcp://host:port"``; raises as :func:`connected`."""
    with connected(scheduler, instead="--jobs") as client, client.get_executor(pure=False) as executor:
        yield executor


@contextmanager
def connected(scheduler: str, *, instead: str) -> Iterator[Client]:
    """Connect to a Dask scheduler; ``instead`` is the option that does without one.

    Raises
    ------
    ClusterError
        No scheduler answers within :data:`CONNECT_SECONDS`.
    ExtraError
        Dask's scheduler is not installed.
    """
    with needs("cluster"):
        from distributed import Client
    # without a port a client goes on asking, and complains when it is thrown away
    if not re.search(r"^inproc://|[^/]:\d+$", scheduler):
        raise ClusterError(f"scheduler is {scheduler!r}, expected an address such as tcp://localhost:8786")
    client, reason = None, ""
    try:
        if not scheduler.startswith("inproc:"):
            _greet(scheduler)
        client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except TimeoutError as error:
        reason = " ".join(str(error).split()) or f"silent for {CONNECT_SECONDS} s"
    except MemoryError:  # of the length that Dask takes the first bytes for
        reason = "another kind of server does"
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
    if client is None:
        raise ClusterError(
            f"no Dask scheduler answers at {scheduler} ({reason}); start one with `dask scheduler`, or give {instead}"
        )
    with client:
        yield client


def _greet(scheduler: str) -> None:
    """Connect once and leave: a client waits for ever where its connection is taken, but its greeting not answered."""
    from distributed import Security
    from distributed.comm.core import connect

    async def greet() -> None:
        comm = await connect(scheduler, timeout=CONNECT_SECONDS, **Security().get_connection_args("client"))
        await comm.close()

    # a notebook has a loop of its own in this thread
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, asyncio.wait_for(greet(), CONNECT_SECONDS)).result()


def outcome(future: Future[T]) -> T:
    """Return a finished job's result.

    Raises
    ------
    ClusterError
        The process that had it is gone.
    """
    try:
        return future.result()
    except HelaError:
        raise
    except (BrokenExecutor, CancelledError) as error:
        raise ClusterError(f"{_GONE} ({type(error).__name__}); {_AGAIN}") from None
    except Exception as error:
        # Dask's own, which is there only where Dask is
        if type(error).__name__ != "KilledWorker":
            raise
        raise ClusterError(f"{_GONE}, again and again; {_AGAIN}") from None


_GONE = "the process that worked on it ended abruptly, perhaps for want of memory"
_AGAIN = "what was done stays, the same command resumes where it stopped"


def _begin(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # as if killed along with it: nobody is left to ask for the result
