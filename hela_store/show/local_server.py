"""A server for this machine alone: loopback, a random token in the address, same origin, safe headers."""

from __future__ import annotations

import errno
import json
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import resources
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hela_store.base.text import first_line, visible
from hela_store.errors import HelaError, QueryError, StoreError

HOST = "127.0.0.1"
PORT = 8765
MOST_BYTES = 1 << 20
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


def serve(application: Callable[[str, int], ASGIApp], *, port: int, started: Callable[[str], None]) -> None:
    """Serve a page until Ctrl-C or SIGTERM.

    Parameters
    ----------
    application : callable
        Makes what answers, from the token and the port; see :func:`guarded`.
    port : int
        On 127.0.0.1; 0 takes a free one.
    started : callable
        Gets the address, token included, once it can be opened.

    Raises
    ------
    StoreError
        The port is taken.
    """
    token = secrets.token_urlsafe(24)
    with _listening(port) as listener:
        port = listener.getsockname()[1]
        server = uvicorn.Server(
            uvicorn.Config(application(token, port), log_level="warning", access_log=False, server_header=False)
        )
        with _ended_by_sigterm(server), suppress(KeyboardInterrupt):
            started(f"http://{HOST}:{port}/{token}/")
            server.run(sockets=[listener])


@contextmanager
def _ended_by_sigterm(server: uvicorn.Server) -> Iterator[None]:
    """Let SIGTERM end the server and nothing else, also before it listens to signals and when it raises them again.

    Otherwise the process would end there and not clean up: a fine-tuning beside the page would go on without it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread
        return

    def end(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _listening(port: int) -> socket.socket:
    # asyncio sends each part of an answer at once (TCP_NODELAY) only on sockets that name TCP; on others the second
    # part waits up to 40 ms for the other side's delayed acknowledgement
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(64)
    except (OSError, OverflowError) as error:
        listener.close()
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise StoreError(f"port {port} is in use; choose another with --port, 0 takes a free one") from None
        raise StoreError(f"port {port} cannot be opened ({error}); choose another with --port") from None
    return listener


def guarded(routes: list[BaseRoute], token: str, port: int, command: str) -> ASGIApp:
    """Return an application of these routes that refuses whatever does not come from its own page.

    Parameters
    ----------
    routes : below the token
    token : in the address of the page
    port : where it listens
    command : what prints the address, such as ``"hela-store explore"``
    """
    inner = Starlette(routes=[Mount(f"/{token}", routes=routes)], exception_handlers={HelaError: _refused})
    return _Guard(inner, token, port, command)


async def _refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": visible(" ".join(str(error).split()))}, 400)


class _Guard:
    """Refuse other hosts (DNS rebinding), other origins and addresses without the token; add safe headers."""

    def __init__(self, inner: ASGIApp, token: str, port: int, command: str) -> None:
        self._inner, self._token, self._command = inner, token, command
        self._hosts = {f"{HOST}:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        if scope["type"] == "http":
            refused = self._refusal(scope)
            if refused:
                await PlainTextResponse(refused, 403)(scope, receive, send_safely)
                return
        elif scope["type"] != "lifespan":
            return
        await self._inner(scope, receive, send_safely)

    def _refusal(self, scope: Scope) -> str:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if headers.get("host") not in self._hosts:
            return "refused: another host"
        origin = headers.get("origin")
        if origin is not None and origin not in {f"http://{host}" for host in self._hosts}:
            return "refused: another origin"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return "refused: another site"
        given = scope["path"].split("/")[1]
        if not secrets.compare_digest(given.encode(), self._token.encode()):
            return f"refused: open the address that `{self._command}` printed, token included"
        return ""


def page_file(package: str, name: str, media_type: str) -> Response:
    """Return a file of a page; ``package`` is where it lies, such as ``"hela_store.show"``."""
    return Response(resources.files(package).joinpath(name).read_bytes(), media_type=media_type)


async def json_body(request: Request) -> Mapping[str, Any]:
    """Return a request's JSON object; an empty one for another kind, which every question refuses in its own words.

    Raises
    ------
    QueryError
        It is too long, no JSON, nested too deeply, or holds text that is no Unicode.
    """
    if request.headers.get("content-type") != "application/json":
        return {}
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > MOST_BYTES:
            raise QueryError(f"the request has more than {MOST_BYTES} bytes")
    try:
        found = json.loads(data)
        json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise QueryError("the request is nested too deeply") from None
    except UnicodeEncodeError:
        raise QueryError("the request holds half a character (a lone surrogate)") from None
    except ValueError as error:
        raise QueryError(f"the request is no JSON: {first_line(error)}") from None
    return found if isinstance(found, dict) else {}


async def json_of(work: Callable[[], Mapping[str, Any]]) -> Response:
    """Do work in a thread, so that it holds up nobody, and return its result as JSON."""
    return JSONResponse(await run_in_threadpool(work))
