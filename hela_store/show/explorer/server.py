"""The server: loopback only, a random token in the address, same origin only, nothing is ever written."""

from __future__ import annotations

import errno
import json
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hela_store.base.text import first_line, visible
from hela_store.errors import HelaError, QueryError, StoreError
from hela_store.store.store import Store

from .answer import Page, Running, ask, cards, names

HOST = "127.0.0.1"
PORT = 8765
MOST_BYTES = 1 << 20
FILES = {
    "base.css": ("report/base.css", "text/css"),
    "card.js": ("card.js", "text/javascript"),
    "explore.css": ("explorer/explore.css", "text/css"),
    "explore.js": ("explorer/explore.js", "text/javascript"),
}
"""What is served besides the page, where it lies in ``hela_store/show/``, and its type."""
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


def explore(store: Store, *, port: int = PORT, started: Callable[[str], None] = lambda address: None) -> None:
    """Serve the explorer until Ctrl-C.

    Parameters
    ----------
    store : Store
    port : int
        On 127.0.0.1; 0 takes a free one.
    started : callable
        Gets the address, token included, once it can be opened.

    Raises
    ------
    StoreError
        Nothing was ingested, or the port is taken.
    """
    store.frames_table()
    token = secrets.token_urlsafe(24)
    with _listening(port) as listener:
        port = listener.getsockname()[1]
        server = uvicorn.Server(
            uvicorn.Config(application(store, token, port), log_level="warning", access_log=False, server_header=False)
        )
        started(f"http://{HOST}:{port}/{token}/")
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            return


def _listening(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
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


def application(store: Store, token: str, port: int) -> ASGIApp:
    """Return the application; whatever does not come from its own page is refused."""
    running: dict[str, Running] = {}

    async def refused(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": visible(" ".join(str(error).split()))}, 400)

    async def page(request: Request) -> Response:
        return Response(_file("explorer/explore.html"), media_type="text/html")

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in FILES:
            return PlainTextResponse("no such file", 404)
        return Response(_file(FILES[name][0]), media_type=FILES[name][1])

    async def catalog_names(request: Request) -> Response:
        return await _answer(lambda: {"columns": names(store), "name": store.recipe.name})

    async def query(request: Request) -> Response:
        asked = await _body(request)
        key = str(asked.get("id"))
        task = running.setdefault(key, Running())
        try:
            return await _answer(lambda: ask(store, str(asked.get("sql", "")), _page_of(asked), task).to_json())
        finally:
            running.pop(key, None)

    async def stop(request: Request) -> Response:
        task = running.get(str((await _body(request)).get("id")))
        if task is not None:
            task.stop("stopped, as asked")
        return JSONResponse({"stopped": task is not None})

    async def draw(request: Request) -> Response:
        rows = (await _body(request)).get("rows")
        good = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        return await _answer(lambda: {"cards": cards(store, good)})

    routes = [
        Route("/", page),
        Route("/static/{name}", file),
        Route("/names", catalog_names),
        Route("/query", query, methods=["POST"]),
        Route("/stop", stop, methods=["POST"]),
        Route("/cards", draw, methods=["POST"]),
    ]
    inner = Starlette(routes=[Mount(f"/{token}", routes=routes)], exception_handlers={HelaError: refused})
    return _Guard(inner, token, port)


class _Guard:
    """Refuse other hosts (DNS rebinding), other origins and addresses without the token; add safe headers."""

    def __init__(self, inner: ASGIApp, token: str, port: int) -> None:
        self._inner = inner
        self._token = token
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
            return "refused: open the address that `hela-store explore` printed, token included"
        return ""


def _file(name: str) -> bytes:
    # from the package above: to name show.report would import it, and with it an extra this page does without
    return resources.files("hela_store.show").joinpath(name).read_bytes()


async def _body(request: Request) -> Mapping[str, Any]:
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


async def _answer(work: Callable[[], Mapping[str, Any]]) -> Response:
    """Do work in a thread, so that a long query holds up nobody."""
    return JSONResponse(await run_in_threadpool(work))


def _page_of(asked: Mapping[str, Any]) -> Page:
    known: Sequence[str] = ("offset", "limit", "order", "descending", "count")
    try:
        return Page(**{name: asked[name] for name in known if name in asked})
    except TypeError as error:
        raise QueryError(str(error)) from None
