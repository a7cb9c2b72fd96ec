"""The web application: pages, API and what guards them."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.middleware.gzip import GZipMiddleware

from fossilray.core.errors import FossilrayError, SlideError, StoreError, UsageError
from fossilray.core.version import __version__
from fossilray.serve.access import TOKEN_COOKIE, Gate
from fossilray.serve.annotators import Annotators
from fossilray.serve.identification_desk import IdentificationDesk, IdentificationSettings
from fossilray.serve.identify_routes import identify_router
from fossilray.serve.queries import query_router
from fossilray.serve.routes import router
from fossilray.serve.served_run import ServedRun

STATIC = Path(__file__).parent / "static"
COMMIT_EVERY_S = 60.0
_PAGES = ("/", "/label", "/well", "/query", "/identify", "/slide/{slide_id:path}", "/help")


def build_application(
    runs: Sequence[ServedRun],
    annotators: Annotators,
    *,
    hosts: Collection[str],
    commit_every_s: float = COMMIT_EVERY_S,
    identification: IdentificationSettings | None = None,
) -> FastAPI:
    """Return the application over some runs.

    hosts: names of the server that requests may use. identification: how uploads are identified; None: without a head.

    Raises:
        UsageError: the head is of another backbone.
        WeightsError: the head cannot be loaded.
    """
    desk = IdentificationDesk(runs, identification)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        closing = app.state.closing
        committing = threading.Thread(
            target=_commit_regularly, args=(runs, closing, commit_every_s), daemon=True
        )
        committing.start()
        yield
        closing.set()
        committing.join()
        _commit(runs)
        desk.close()
        for run in runs:
            run.close()

    app = FastAPI(
        title="fossilray",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.state.runs = {run.key: run for run in runs}
    app.state.annotators = annotators
    app.state.closing = threading.Event()
    app.state.identification = desk
    app.include_router(router)
    app.include_router(identify_router)
    app.include_router(query_router)
    app.add_exception_handler(FossilrayError, _explain)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    for page in _PAGES:
        app.get(page, include_in_schema=False)(_page)
    app.get("/login", include_in_schema=False)(_login_page)
    app.post("/login", include_in_schema=False)(_login)
    app.add_middleware(GZipMiddleware, minimum_size=2000)
    app.add_middleware(Gate, hosts=hosts, annotators=annotators)
    return app


async def _page() -> FileResponse:
    return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})


async def _login_page() -> FileResponse:
    return FileResponse(STATIC / "login.html", headers={"cache-control": "no-cache"})


async def _login(request: Request) -> Response:
    """Keep a token in a cookie that scripts cannot read and other sites cannot send."""
    token = (await request.body()).decode("utf-8", "replace").strip()
    annotators: Annotators = request.app.state.annotators
    if annotators.is_guessed_at():
        return JSONResponse({"detail": "too many wrong tokens; wait a minute"}, status_code=429)
    if annotators.of_token(token) is None:
        return JSONResponse({"detail": "this token is not known"}, status_code=401)
    response = RedirectResponse("/", status_code=303)
    response.set_cookie(
        TOKEN_COOKIE,
        token,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        max_age=30 * 86400,
    )
    return response


async def _explain(_: Request, error: Exception) -> JSONResponse:
    """Return an error of fossilray in its own sentence."""
    match error:
        case UsageError() | SlideError():
            status = 404
        case StoreError():
            status = 503
        case _:
            status = 500
    return JSONResponse({"detail": str(error)}, status_code=status)


def _commit_regularly(runs: Sequence[ServedRun], closing: threading.Event, every_s: float) -> None:
    while not closing.wait(every_s):
        _commit(runs)


def _commit(runs: Sequence[ServedRun]) -> None:
    for run in runs:
        if run.desk is not None:
            run.desk.commit_if_possible()
