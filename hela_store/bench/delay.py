"""A server on this machine seen through a slow line."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

BLOCK = 1 << 16


class SlowLine:
    """Passes connections on to a server and holds every request back.

    Parameters
    ----------
    server : (host, port) to pass on to
    delay : seconds by which each request comes later; may be changed at any time

    Attributes
    ----------
    open : bool
        Where False, connections are closed at once, those that exist too.
    requests : int
        How many went through.
    """

    def __init__(self, server: tuple[str, int], delay: float = 0.0) -> None:
        self.server, self.delay, self.open, self.requests = server, delay, True, 0
        self._listener = socket.create_server(("127.0.0.1", 0))

    @property
    def url(self) -> str:
        """Address to give to a client."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def serve(self) -> None:
        """Pass on what comes until closed."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.open:
                threading.Thread(target=self._pass, args=(client,), daemon=True).start()
            else:
                client.close()

    def close(self) -> None:
        """Take no more connections."""
        self.open = False
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _pass(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.server) as server:
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answered = threading.Event()
            answered.set()
            back = threading.Thread(target=self._copy, args=(server, client, answered, False), daemon=True)
            back.start()
            self._copy(client, server, answered, True)
            back.join()

    def _copy(self, source: socket.socket, target: socket.socket, answered: threading.Event, asks: bool) -> None:
        """Copy until one side hangs up; what comes after an answer is a new request."""
        with contextlib.suppress(OSError):
            while (data := source.recv(BLOCK)) and self.open:
                if asks and answered.is_set():
                    answered.clear()
                    self.requests += 1
                    time.sleep(self.delay)
                elif not asks:
                    answered.set()
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def slow_line(server: tuple[str, int], delay: float = 0.0) -> Iterator[SlowLine]:
    """Serve a :class:`SlowLine` in a thread."""
    line = SlowLine(server, delay)
    thread = threading.Thread(target=line.serve, daemon=True)
    thread.start()
    try:
        yield line
    finally:
        line.close()
        thread.join()
