"""Work beside the page, in a process of its own at low priority: a fine-tuning, or encoding frames ahead."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch

from hela_store.base.cores import usable_cores
from hela_store.errors import HelaError

NICE = 5
"""How far the process gives way to the one that answers the page."""


class Background:
    """One piece of work at a time; it ends with the process that started it, unless that is killed.

    Attributes
    ----------
    running : bool
        Whether there is work whose end was not asked for yet.
    """

    def __init__(self) -> None:
        self._process: Any = None
        self._result: Connection | None = None

    @property
    def running(self) -> bool:
        """Whether there is work whose result was not fetched yet."""
        return self._process is not None

    def start(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Begin work, which has to be a function of a module; its arguments and its result are pickled."""
        context = get_context("spawn")  # a fork would copy torch's threads in the middle of what they do
        self._result, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(sender, work, arguments), daemon=True)
        self._process.start()
        sender.close()

    def result(self) -> Any:
        """Return the result of work that ended, or the HelaError that it raised; None while there is none."""
        if self._process is None or self._result is None or (self._process.is_alive() and not self._result.poll()):
            return None
        try:
            found = self._result.recv()
        except EOFError:
            found = HelaError("the process in the background ended without a result; is there enough memory?")
        self.stop()
        return found

    def stop(self) -> None:
        """End the work, wherever it is: what it had not published is left out."""
        if self._process is not None:
            self._process.join(1)
            self._process.terminate()
            self._process.join()
            self._process.close()
        self._process = self._result = None


def _work(sender: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    # Ctrl-C in a terminal reaches all processes; the page ends this one when it ends itself
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICE)
    torch.set_num_threads(max(1, min(torch.get_num_threads(), usable_cores() // 2)))
    try:
        found = work(*arguments)
    except HelaError as error:
        found = error
    sender.send(found)
    sender.close()
