"""The OpenAPI document: made of the types that requests are decoded into, so it cannot say other things.

That every route stands in it, and nothing else, is tested.
"""

from functools import cache
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from difs.doors import a1111, a1111_lists, a1111_routes, native, openai
from difs.messages import Explanation, StatusReport
from difs.version import __version__

REF = "#/components/schemas/{name}"


class Path(NamedTuple):
    """One path and method."""

    method: str
    path: str
    says: str
    takes: type[Struct] | None = None
    gives: str | type[Struct] = "application/json"
    """A media type, or the type of the JSON."""
    status: int = 200


SCRIPTS = ("page.js", "words.js", "plot.js", "gallery.js", "machine.js")
"""Of the page."""
S = a1111_routes.PATH
D = native.PATH

PATHS: tuple[Path, ...] = (
    Path("post", "/v1/images/generations", "Make pictures (OpenAI Images)", openai.ImagesAsk),
    Path("post", "/v1/images/edits", "Not supported", status=501),
    Path("post", "/v1/images/variations", "Not supported", status=501),
    Path("get", "/v1/models", "List goals and variants"),
    Path("get", "/v1/models/{model}", "Tell of one goal or variant"),
    Path("post", f"{S}/txt2img", "Make pictures (A1111)", a1111.Txt2ImgAsk),
    Path("get", f"{S}/progress", "How far the oldest open txt2img is"),
    Path("post", f"{S}/interrupt", "Give up the oldest open txt2img"),
    Path("post", f"{S}/skip", "As interrupt"),
    Path("get", f"{S}/options", "The options"),
    Path("post", f"{S}/options", "Change options", a1111.Settings),
    Path("get", f"{S}/sd-models", "Goals and variants"),
    Path("get", f"{S}/samplers", "Samplers"),
    Path("get", f"{S}/schedulers", "Schedules"),
    Path("get", f"{S}/loras", "Adapters"),
    Path("get", f"{S}/memory", "Memory of the devices"),
    Path("get", f"{S}/cmd-flags", "Flags"),
    Path("get", f"{S}/embeddings", "None"),
    Path("get", f"{S}/scripts", "None"),
    Path("post", f"{S}/png-info", "What a PNG says of itself", a1111_routes.PngInfoAsk),
    Path("post", f"{S}/refresh-checkpoints", "Nothing: the service looks by itself"),
    Path("post", f"{S}/refresh-loras", "Nothing: the service looks by itself"),
    Path("post", f"{S}/unload-checkpoint", "Take idle variants off the devices"),
    Path("post", f"{S}/reload-checkpoint", "Load the chosen variant"),
    *(Path("get", f"{S}/{name}", "An empty list") for name in a1111_lists.EMPTY_LISTS),
    *(Path("post", f"{S}/{name}", "Not supported", status=501) for name in a1111_lists.NOT_HERE),
    Path("post", f"{D}/generate", "Begin a job", native.GenerateAsk, status=202),
    Path("post", f"{D}/explain", "What generate would do now", native.GenerateAsk, Explanation),
    Path("get", f"{D}/requests", "The caller's jobs"),
    Path("get", f"{D}/requests/{{id}}", "How a job stands"),
    Path("delete", f"{D}/requests/{{id}}", "Cancel a job, or forget an ended one"),
    Path("get", f"{D}/requests/{{id}}/events", "A job's states as they come", gives="text/event-stream"),
    Path("get", f"{D}/requests/{{id}}/images/{{i}}", "One picture", gives="image/*"),
    Path("get", f"{D}/status", "The service's state", gives=StatusReport),
    Path("get", f"{D}/variants", "Variants and adapters"),
    Path("get", "/healthz", "Whether the door stands"),
    Path("get", "/readyz", "Whether a picture could be made now"),
    Path("get", "/metrics", "For Prometheus", gives="text/plain"),
    Path("get", "/openapi.json", "This document"),
    Path("get", "/", "The page", gives="text/html"),
    Path("get", "/page.css", "The page's style", gives="text/css"),
    *(Path("get", f"/{name}", "A script of the page", gives="text/javascript") for name in SCRIPTS),
)


@cache
def document() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    kinds = [kind for path in PATHS for kind in (path.takes, path.gives) if isinstance(kind, type)]
    refs, schemas = msgspec.json.schema_components(list(dict.fromkeys(kinds)), ref_template=REF)
    ref_of = dict(zip(dict.fromkeys(kinds), refs, strict=True))
    paths: dict[str, Any] = {}
    for path in PATHS:
        paths.setdefault(path.path, {})[path.method] = _operation(path, ref_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "DIFS", "version": __version__, "description": "Pictures from stated goals."},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic"},
            },
        },
        "security": [{}, {"bearer": []}, {"basic": []}],
    }


def _operation(path: Path, ref_of: dict[type, Any]) -> dict[str, Any]:
    media, schema = (
        ("application/json", ref_of[path.gives]) if isinstance(path.gives, type) else (path.gives, {})
    )
    found: dict[str, Any] = {
        "summary": path.says,
        "responses": {
            str(path.status): {"description": path.says, "content": {media: {"schema": schema}}},
            "default": {"description": "An error, in the shape of this API"},
        },
    }
    if path.takes is not None:
        found["requestBody"] = {"content": {"application/json": {"schema": ref_of[path.takes]}}}
    names = [part[1:-1] for part in path.path.split("/") if part.startswith("{")]
    if names:
        found["parameters"] = [
            {
                "name": name,
                "in": "path",
                "required": True,
                "schema": {"type": "integer" if name == "i" else "string"},
            }
            for name in names
        ]
    return found
