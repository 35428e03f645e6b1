"""Answers as starlette sends them: JSON by msgspec, events, and an error in the shape of its API."""

from typing import Any

import msgspec
from starlette.responses import Response

from difs.doors import a1111, native, openai
from difs.doors.answers import Refused

CLOSING = (408, 413)
"""Statuses after which what is left of a body is not waited for."""


def json(tree: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON answer."""
    return Response(msgspec.json.encode(tree), status, headers, "application/json")


def event(tree: dict[str, Any], name: str) -> bytes:
    """Return one server-sent event."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(tree) + b"\n\n"


def error_tree(path: str, refused: Refused) -> dict[str, Any]:
    """Return an error's body in the shape of the API that `path` belongs to."""
    if path.startswith("/v1/"):
        return openai.error(refused)
    if path.startswith("/sdapi/"):
        return a1111.error(refused)
    return native.error(refused)


def tell(path: str, refused: Refused) -> Response:
    """Return the answer to a request that is refused."""
    headers = refused.headers()
    if refused.status in CLOSING:
        headers["connection"] = "close"
    return json(error_tree(path, refused), refused.status, headers)
