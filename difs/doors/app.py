"""The application: all routes behind the gate, and errors in the shape of the API that was spoken to."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from difs.client import AsyncClient
from difs.clock import Clock
from difs.doors import guard, openapi
from difs.doors.a1111_routes import A1111Door
from difs.doors.answers import BUG, Refused, Told, refused
from difs.doors.gate import Gate
from difs.doors.native_routes import NativeDoor
from difs.doors.openai_routes import OpenAiDoor
from difs.doors.replies import json, tell
from difs.doors.service import Service
from difs.errors import DifsError

log = logging.getLogger("difs.doors")

PAGE = Path(__file__).parent / "page"
PAGE_FILES = {"/": "index.html", "/page.css": "page.css"} | {f"/{name}": name for name in openapi.SCRIPTS}
"""The page: fixed names, so that no path is ever taken from a request."""
MEDIA = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
WATCH_S = 0.5
"""How often it is looked whether a token that has something open was deleted."""
_WORDS = {
    404: ("not_found", "there is nothing at this path"),
    405: ("bad_method", "not with this method"),
}


def make(
    connect: Callable[[], AsyncClient], clock: Clock, rules: Callable[[], guard.Rules] = guard.Rules
) -> Starlette:
    """Return the application; `connect` makes a connection to the broker."""
    service = Service(connect, clock)
    jobs, a1111 = NativeDoor(service), A1111Door(service)

    async def watch() -> None:
        """End what is open of tokens that are deleted."""
        while True:
            await asyncio.sleep(WATCH_S)
            for account in guard.revoked(rules(), service.accounts()):
                jobs.revoke(account)
                a1111.revoke(account)
                with contextlib.suppress(DifsError):
                    await service.revoke(account)

    @contextlib.asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await jobs.aclose()
            await service.aclose()

    return Starlette(
        routes=[
            *OpenAiDoor(service).routes(),
            *a1111.routes(),
            *jobs.routes(),
            Route("/openapi.json", _document, methods=["GET"]),
            *(Route(path, _page_file, methods=["GET"]) for path in PAGE_FILES),
        ],
        middleware=[Middleware(Gate, rules=rules)],
        exception_handlers={
            DifsError: _failed,
            Told: _told,
            HTTPException: _http_failed,
            Exception: _broken,
        },
        lifespan=life,
    )


async def _document(request: Request) -> Response:
    return json(openapi.document())


async def _page_file(request: Request) -> Response:
    file = PAGE / PAGE_FILES[request.url.path]
    return Response(file.read_bytes(), media_type=MEDIA[file.suffix])


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, DifsError)
    told = refused(error)
    if told.status == 500:
        log.error("%s failed: %s", request.url.path, error)
    return tell(request.url.path, told)


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, Told)
    return tell(request.url.path, error.refused)


async def _http_failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, words = _WORDS.get(error.status_code, ("refused", "refused"))
    return tell(request.url.path, Refused(error.status_code, code, words, retryable=False))


async def _broken(request: Request, error: Exception) -> Response:
    """Answer for a bug; the server logs where it is."""
    answer = tell(request.url.path, Refused(500, "internal", BUG, retryable=False))
    answer.headers.update(guard.SECURITY_HEADERS)  # this answer does not go through the gate
    return answer
