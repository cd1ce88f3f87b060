"""The server: loopback only, a random token in the address, same origin only, nothing is ever written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from hela_store.errors import QueryError
from hela_store.show.local_server import PORT, guarded, json_body, json_of, page_file, serve
from hela_store.show.viewer.frames import cell_in_frame, grey_png, known_frame
from hela_store.store.store import Store

from .answer import Page, Running, ask, cards, names

# from the package above: to name show.report would import it, and with it an extra this page does without
SHOW = "hela_store.show"
FILES = {
    "base.css": ("report/base.css", "text/css"),
    "card.js": ("card.js", "text/javascript"),
    "mask.js": ("viewer/mask.js", "text/javascript"),
    "viewer.js": ("viewer/viewer.js", "text/javascript"),
    "frame.js": ("viewer/frame.js", "text/javascript"),
    "frame.css": ("viewer/frame.css", "text/css"),
    "explore.css": ("explorer/explore.css", "text/css"),
    "explore.js": ("explorer/explore.js", "text/javascript"),
}
"""What is served besides the page, where it lies in ``hela_store/show/``, and its type."""


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
    serve(lambda token, at: application(store, token, at), port=port, started=started)


def application(store: Store, token: str, port: int) -> ASGIApp:
    """Return the application; whatever does not come from its own page is refused."""
    running: dict[str, Running] = {}

    async def page(request: Request) -> Response:
        return page_file(SHOW, "explorer/explore.html", "text/html")

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in FILES:
            return PlainTextResponse("no such file", 404)
        return page_file(SHOW, *FILES[name])

    async def catalog_names(request: Request) -> Response:
        return await json_of(lambda: {"columns": names(store), "name": store.recipe.name})

    async def query(request: Request) -> Response:
        asked = await json_body(request)
        key = str(asked.get("id"))
        task = running.setdefault(key, Running())
        try:
            return await json_of(lambda: ask(store, str(asked.get("sql", "")), _page_of(asked), task).to_json())
        finally:
            running.pop(key, None)

    async def stop(request: Request) -> Response:
        task = running.get(str((await json_body(request)).get("id")))
        if task is not None:
            task.stop("stopped, as asked")
        return JSONResponse({"stopped": task is not None})

    async def draw(request: Request) -> Response:
        rows = (await json_body(request)).get("rows")
        good = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        return await json_of(lambda: {"cards": cards(store, good)})

    routes: list[BaseRoute] = [
        *_frame_routes(store),
        Route("/", page),
        Route("/static/{name}", file),
        Route("/names", catalog_names),
        Route("/query", query, methods=["POST"]),
        Route("/stop", stop, methods=["POST"]),
        Route("/cards", draw, methods=["POST"]),
    ]
    return guarded(routes, token, port, "hela-store explore")


def _frame_routes(store: Store) -> list[BaseRoute]:
    """Return what the page of one frame asks for."""

    async def page(request: Request) -> Response:
        return page_file(SHOW, "viewer/frame.html", "text/html")

    async def cells(request: Request) -> Response:
        asked = request.query_params
        seed = asked.get("prompt_seed", "")
        number = int(seed) if seed.isdecimal() and len(seed) < 18 else None
        cell, run, prompt = (asked.get(name, "") for name in ("cell", "run", "prompt"))
        return await json_of(lambda: cell_in_frame(store, cell, run, prompt, number))

    async def image(request: Request) -> Response:
        frame = known_frame(store, request.query_params.get("frame")).frame
        return Response(await run_in_threadpool(grey_png, store, frame), media_type="image/png")

    return [Route("/frame", page), Route("/frame-cells", cells), Route("/image", image)]


def _page_of(asked: Mapping[str, Any]) -> Page:
    known: Sequence[str] = ("offset", "limit", "order", "descending", "count")
    try:
        return Page(**{name: asked[name] for name in known if name in asked})
    except TypeError as error:
        raise QueryError(str(error)) from None
