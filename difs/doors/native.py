"""DIFS's own HTTP API (`/difs/v1`): the protocol's `generate` in JSON, and jobs. Pure translation.

A body has the fields of the protocol's `generate` (docs/PROTOCOL.md), with `delivery.format` png, jpeg
or webp: what travels between door and broker is the door's business.
"""

from typing import TYPE_CHECKING, Annotated, Any, cast

from msgspec import Meta, Struct
from msgspec.structs import asdict

from difs.doors.answers import Refused
from difs.doors.decode import decode, unknown
from difs.doors.jobs import Job
from difs.doors.orders import FileForm, Order
from difs.messages import (
    DEFAULT_TIMEOUT_S,
    MAX_IMAGES,
    MAX_STEPS,
    MAX_TIMEOUT_S,
    Overrides,
    RequestId,
    Requirements,
    Side,
)

if TYPE_CHECKING:
    from difs.client.requests import Wishes

PATH = "/difs/v1"
GIVEN_UP = Refused(499, "cancelled", "the request was cancelled", retryable=False)


class Write(Struct, frozen=True):
    """How the images are written, and shown before they are done."""

    format: FileForm = "png"
    compression: Annotated[int, Meta(ge=0, le=100)] | None = None
    metadata: bool = True
    preview_every: Annotated[int, Meta(ge=0, le=MAX_STEPS)] = 0


class GenerateAsk(Struct, frozen=True):
    """The body of `POST /difs/v1/generate` and `/explain`."""

    prompt: str
    request_id: RequestId | None = None
    negative_prompt: str = ""
    width: Side | None = None
    height: Side | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_IMAGES)] = 1
    seed: Annotated[int, Meta(ge=0)] | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=MAX_TIMEOUT_S)] = DEFAULT_TIMEOUT_S
    deterministic: bool = False
    requirements: Requirements = Requirements()
    overrides: Overrides = Overrides()
    delivery: Write = Write()
    survey: bool = False
    """For `explain`: all operating points, too."""


def read(body: bytes) -> GenerateAsk:
    """Return what a body asks for; raises a DifsError that names the field."""
    return decode(body, GenerateAsk)


def order(asked: GenerateAsk, body: bytes) -> Order:
    """Return the order."""
    tree = asdict(asked)
    for name in ("prompt", "requirements", "overrides", "delivery", "survey"):
        del tree[name]
    tree |= asdict(asked.requirements) | asdict(asked.overrides)
    tree |= {"metadata": asked.delivery.metadata, "preview_every": asked.delivery.preview_every}
    names = unknown(body, GenerateAsk, frozenset({"task", "type"}))
    return Order(
        asked.prompt,
        cast("Wishes", {name: value for name, value in tree.items() if value is not None}),
        asked.delivery.format,
        None if asked.delivery.format == "png" else asked.delivery.compression,
        (f"without a meaning here: {', '.join(names)}",) if names else (),
    )


def view(job: Job, now: float, preview: str | None = None, position: int | None = None) -> dict[str, Any]:
    """Return a job as JSON; `preview` is the last one, as a PNG in base64; `position` where it waits."""
    shown: dict[str, Any] = {
        "id": job.request_id,
        "state": job.state,
        "position": position,
        "step": job.step,
        "steps": job.steps,
        "share": round(job.share(), 4),
        "elapsed_s": (now if job.is_open else job.ended_at) - job.begun_at,
        "predicted_left_s": job.left_s(now),
        "plan": job.plan,
    }
    if preview is not None:
        shown["preview"] = {"image": job.preview_of, "b64_json": preview}
    if job.outcome is not None:
        shown["result"] = {
            **job.outcome.facts(),
            "images": [
                {
                    "url": f"{PATH}/requests/{job.request_id}/images/{i}",
                    "format": picture.form,
                    "seed": picture.seed,
                    "width": picture.width,
                    "height": picture.height,
                    "nbytes": len(picture.data),
                }
                for i, picture in enumerate(job.outcome.pictures)
            ],
        }
    if job.refused is not None:
        shown |= error(job.refused)
    return shown


def error(told: Refused) -> dict[str, Any]:
    """Return an error's body: the protocol's `error`."""
    return {
        "error": {
            "code": told.code,
            "message": told.message,
            "field": told.field,
            "limit": told.limit,
            "retryable": told.retryable,
            "retry_after_s": told.retry_after_s,
        }
    }
