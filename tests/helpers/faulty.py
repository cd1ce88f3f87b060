"""A server seen through a line on which requests fail: one kind of fault, at chosen requests, and then none."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

BURSTS = {"refused": 1, "reset": 2, "busy": 3, "cut short": 2, "slow": 1, "forbidden": 1, "wrong bytes": 1}
"""How many requests fail, by kind."""
REFUSED_SECONDS = 0.4


class FaultyLine:
    """Passes requests on to a server.

    Parameters
    ----------
    server : (host, port) to pass on to
    late : seconds by which a slow answer comes late

    Attributes
    ----------
    injected : int
        How many requests failed since :meth:`arm`.
    """

    def __init__(self, server: tuple[str, int], late: float) -> None:
        self.server, self.late = server, late
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._running = True
        self.arm("", 0)

    def arm(self, kind: str, first: int) -> None:
        """Let requests fail from the ``first`` on that can fail in this way, counted from 0."""
        with self._lock:
            self.kind, self._left, self._wait, self.injected = kind, BURSTS.get(kind, 0), first, 0

    def due(self, method: str, path: str) -> str:
        """Return how the request fails that came now; empty where it does not."""
        with self._lock:
            able = self._left and (
                method == "GET"
                if self.kind == "cut short"
                else "/c." in path and method == "GET"
                if self.kind == "wrong bytes"
                else True
            )
            if not able:
                return ""
            if self._wait:
                self._wait -= 1
                return ""
            self._left -= 1
            self.injected += 1
            return self.kind

    def serve(self) -> None:
        while self._running:
            try:
                client, address = self._listener.accept()
            except OSError:  # nobody listens for a while
                if self._running:
                    time.sleep(REFUSED_SECONDS)
                    self._listener = socket.create_server(("127.0.0.1", self.port))
                continue
            self._open.add(client)
            threading.Thread(target=self._answer, args=(client, address), daemon=True).start()

    def hang_up(self) -> None:
        """Close the port for a while, and all connections."""
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def close(self) -> None:
        self._running = False
        self.hang_up()

    def _answer(self, client: socket.socket, address: object) -> None:
        with contextlib.suppress(OSError), client:
            _Handler(client, address, self)  # type: ignore[arg-type]
        self._open.discard(client)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyLine  # type: ignore[assignment]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.due(self.command, self.path)
        if fault == "refused":
            self.server.hang_up()
            raise ConnectionResetError
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            raise ConnectionResetError
        if fault in ("busy", "forbidden"):
            status, code = (503, "SlowDown") if fault == "busy" else (403, "AccessDenied")
            self._send(status, {}, f"<Error><Code>{code}</Code></Error>".encode())
            return
        if fault == "slow":
            time.sleep(self.server.late)
        status, headers, answer = self._ask(body)
        if fault == "wrong bytes" and answer:
            place = len(answer) // 2
            answer = answer[:place] + bytes([answer[place] ^ 1]) + answer[place + 1 :]
        self._send(status, headers, answer, keep=len(answer) // 2 if fault == "cut short" else None)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(*self.server.server)
        with contextlib.closing(connection):
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            found = connection.getresponse()
            return found.status, dict(found.getheaders()), found.read()

    def _send(self, status: int, headers: dict[str, str], body: bytes, keep: int | None = None) -> None:
        headers = {name.title(): value for name, value in headers.items()}
        headers.pop("Transfer-Encoding", None)
        headers.pop("Connection", None)
        if self.command != "HEAD" or "Content-Length" not in headers:
            headers["Content-Length"] = str(len(body))
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:keep])
        if keep is not None:
            self.close_connection = True


@contextmanager
def faulty_line(server: tuple[str, int], late: float) -> Iterator[FaultyLine]:
    """Serve a :class:`FaultyLine` in a thread."""
    line = FaultyLine(server, late)
    thread = threading.Thread(target=line.serve, daemon=True)
    thread.start()
    try:
        yield line
    finally:
        line.close()
        thread.join()
