"""Loader processes that prepare batches ahead: what goes wrong in one is raised here as what it is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any, Generic, TypeVar

from torch.utils.data import DataLoader, Dataset

from hela_store.errors import HelaError

Item = TypeVar("Item")


class _Told(Dataset[Item | HelaError], Generic[Item]):
    """A data set that returns its errors; torch would turn one into a traceback in the text of another."""

    def __init__(self, data: Dataset[Item]) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Item | HelaError:
        try:
            return self._data[index]
        except HelaError as error:
            return error


class _Collate:
    """Puts items together, unless one of them is an error."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self._collate = collate

    def __call__(self, items: list[Any]) -> Any:
        wrong = next((item for item in items if isinstance(item, HelaError)), None)
        return self._collate(items) if wrong is None else wrong


def load(
    data: Dataset[Any],
    workers: int,
    start_method: str | None = None,
    *,
    order: Iterable[int] | None = None,
    size: int | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
) -> Iterator[Any]:
    """Yield the items of a data set, or batches of them, in order.

    Parameters
    ----------
    data : Dataset
        With ``__len__`` unless ``order`` is given.
    workers : int
        Processes that prepare items ahead; 0 is none.
    start_method : str or None
        How these are started (``multiprocessing_context`` of torch's loader).
    order : iterable of int or None
        Which items; None is all.
    size : int or None
        Items of a batch, put together by ``collate``; None yields the items themselves.
    collate : callable or None
        Called with the items of a batch.

    Raises
    ------
    HelaError
        What an item raised, in whichever process.
    """
    loader = DataLoader(
        _Told(data),
        batch_size=size,
        sampler=order,
        num_workers=workers,
        collate_fn=None if collate is None else _Collate(collate),
        multiprocessing_context=start_method if workers else None,
        worker_init_fn=_leave_interrupts,
    )
    with _interrupts_held():
        items = iter(loader)
    for item in items:
        if isinstance(item, HelaError):
            raise item
        yield item


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back, from this process for as long as this lasts, from those started meanwhile for good.

    A process that is being started knows nothing yet of :func:`_leave_interrupts`.
    """
    # started by the first process that is spawned, it would let Ctrl-C through again
    resource_tracker.ensure_running()
    held: list[object] = []
    # the mask is this thread's alone and inherited by what it starts; another thread may take the signal, and Python
    # then interrupts the main one
    handler = signal.signal(signal.SIGINT, lambda *_: held.append(None)) if _is_main() else None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if held:
        signal.raise_signal(signal.SIGINT)


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def _leave_interrupts(_: int) -> None:
    # Ctrl-C reaches every process of a terminal: the one that started the workers ends them
    signal.signal(signal.SIGINT, signal.SIG_IGN)
