"""The server of the page: loopback, token and same origin as the explorer's, and the only one that writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hela_store.base.extras import needs
from hela_store.base.locks import embed_lock
from hela_store.errors import ConflictError, StoreError
from hela_store.show.viewer.frames import THUMBNAIL, grey_png, known_frame
from hela_store.store.store import Store

from .background import Background
from .config import TeachConfig
from .lesson import Lesson
from .prepare import encode_ahead

with needs("explore"):
    from starlette.background import BackgroundTask
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.routing import BaseRoute, Route
    from starlette.types import ASGIApp

    from hela_store.show.local_server import PORT, guarded, json_body, json_of, page_file, serve

FILES = {
    "base.css": ("hela_store.show", "report/base.css", "text/css"),
    "mask.js": ("hela_store.show", "viewer/mask.js", "text/javascript"),
    "viewer.js": ("hela_store.show", "viewer/viewer.js", "text/javascript"),
    "teach.css": ("hela_store.teaching", "teach.css", "text/css"),
    **{
        f"{name}.js": ("hela_store.teaching", f"{name}.js", "text/javascript")
        for name in ("teach", "api", "tools", "keys", "panel", "curve")
    },
}
"""What is served besides the page: package, name in it, and type."""


def teach(
    store: Store,
    config: TeachConfig | None = None,
    *,
    port: int = PORT,
    ahead: bool = False,
    cache_dir: Path | None = None,
    started: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve the page on which cells are labelled until Ctrl-C.

    Parameters
    ----------
    store : Store
        With embedded frames.
    config : TeachConfig
        The defaults where None.
    port : int
        On 127.0.0.1; 0 takes a free one.
    ahead : bool
        Embed what is missing while the page is open, instead of refusing a store without embeddings.
    cache_dir : Path
        Where official checkpoints are fetched to; only ``ahead`` loads an encoder.
    started : callable
        Gets the address, token included, once it can be opened.

    Raises
    ------
    StoreError
        Nothing is embedded, the store is being embedded or taught by another process, it cannot be written, or the
        port is taken.
    """
    if not ahead and not store.committed():
        raise StoreError(f"nothing is embedded in {store.path} yet; run `hela-store embed` first")
    with embed_lock(store.path):
        pass
    background = encode_ahead(store, cache_dir) if ahead else Background()
    try:
        lesson = Lesson(store, config or TeachConfig(), background)
        try:
            serve(lambda token, at: application(lesson, token, at), port=port, started=started)
        finally:
            lesson.close()
    finally:
        background.stop()


def application(lesson: Lesson, token: str, port: int) -> ASGIApp:
    """Return the application; whatever does not come from its own page is refused."""
    routes: list[BaseRoute] = [
        Route("/", _page),
        Route("/static/{name}", _file),
        *_reading(lesson),
        *_writing(lesson),
    ]
    return guarded(routes, token, port, "hela-store teach")


async def _page(request: Request) -> Response:
    return page_file("hela_store.teaching", "teach.html", "text/html")


async def _file(request: Request) -> Response:
    name = request.path_params["name"]
    return page_file(*FILES[name]) if name in FILES else PlainTextResponse("no such file", 404)


def _reading(lesson: Lesson) -> list[BaseRoute]:
    """Return what only reads."""

    def picture(most_side: int | None) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            frame = known_frame(lesson.store, request.query_params.get("frame")).frame
            return Response(await run_in_threadpool(grey_png, lesson.store, frame, most_side), media_type="image/png")

        return answer

    async def state(request: Request) -> Response:
        about = request.query_params
        reply = await json_of(lambda: lesson.state(about.get("page", ""), about.get("frame", "")))
        reply.background = BackgroundTask(lesson.offers.prepare)
        return reply

    async def cells(request: Request) -> Response:
        frame = known_frame(lesson.store, request.query_params.get("frame")).frame
        reply = await json_of(lambda: lesson.cells(frame))
        # the first prompt finds the embeddings read
        reply.background = BackgroundTask(lesson.warm, frame)
        return reply

    async def proposals(request: Request) -> Response:
        return await json_of(lambda: lesson.proposed(request.query_params.get("frame")))

    return [
        Route("/image", picture(None)),
        Route("/thumbnail", picture(THUMBNAIL)),
        Route("/state", state),
        Route("/cells", cells),
        Route("/proposals", proposals),
        Route("/hover", _posted(lesson.hover), methods=["POST"]),
        Route("/next", _posted(lesson.next), methods=["POST"]),
        Route("/suspect", _posted(lesson.suspect), methods=["POST"]),
    ]


def _writing(lesson: Lesson) -> list[BaseRoute]:
    """Return what writes; each answers after it is durable."""
    return [
        Route("/edit", _posted(lesson.edit), methods=["POST"]),
        Route("/accept", _posted(lesson.accept), methods=["POST"]),
        Route("/decide", _posted(lesson.decide), methods=["POST"]),
        Route("/undo", _posted(lambda asked: lesson.again("undo")), methods=["POST"]),
        Route("/redo", _posted(lambda asked: lesson.again("redo")), methods=["POST"]),
        Route("/retune", _posted(lesson.retune), methods=["POST"]),
        Route("/leave", _posted(lesson.leave), methods=["POST"]),
    ]


def _posted(work: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        asked = await json_body(request)
        try:
            return await json_of(lambda: work(asked))
        except ConflictError as error:
            return JSONResponse({"error": str(error)}, 409)

    return answer
