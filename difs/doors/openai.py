"""OpenAI Images to DIFS and back: pure translation, no sockets.

Shapes: the `openai` client's types (`images.generate`, its stream events, `models`, errors). A model is a
goal here (`auto`, `draft`, ...) or the name of a variant.
"""

import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from msgspec import Meta, Struct

from difs.doors.answers import Refused, plain_field
from difs.doors.decode import decode, unknown
from difs.doors.orders import FileForm, Order, Outcome, Picture
from difs.errors import InvalidRequest
from difs.messages import (
    MAX_IMAGES,
    MAX_SIDE,
    MIN_SIDE,
    SIDE_MULTIPLE,
    Adapter,
    Level,
    Unit,
    VariantInfo,
)

if TYPE_CHECKING:
    from difs.client.requests import Wishes

INTENTS: dict[str, Level | None] = {
    "auto": None,
    "draft": "draft",
    "fast": "low",
    "balanced": "medium",
    "best": "best",
}
"""What a model's name asks for, where it is no variant."""
QUALITIES: dict[str, Level | None] = {
    "auto": None,
    "draft": "draft",
    "low": "low",
    "standard": "medium",
    "medium": "medium",
    "hd": "high",
    "high": "high",
    "best": "best",
}
QualityName = Literal["auto", "draft", "low", "standard", "medium", "hd", "high", "best"]
MAX_PARTIALS = 3
MEANINGLESS = frozenset({"user"})
"""Fields of the API that ask for nothing: they get no note."""
_SIZE = re.compile(r"^(\d{1,5})x(\d{1,5})\Z")


class ImagesAsk(Struct, frozen=True):
    """The body of `POST /v1/images/generations`; from `seed` on extensions (`extra_body`)."""

    prompt: str
    model: str | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_IMAGES)] | None = None
    quality: Unit | QualityName | None = None
    size: str | None = None
    response_format: Literal["url", "b64_json"] | None = None
    output_format: FileForm | None = None
    output_compression: Annotated[int, Meta(ge=0, le=100)] | None = None
    background: Literal["auto", "opaque", "transparent"] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Meta(ge=0, le=MAX_PARTIALS)] | None = None
    seed: int | None = None
    negative_prompt: str | None = None
    steps: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    adapters: tuple[Adapter | str, ...] | None = None
    latency_s: float | None = None
    on_infeasible: Literal["degrade", "reject"] | None = None
    priority: int | None = None
    deterministic: bool | None = None
    timeout_s: float | None = None
    family: str | None = None


def read(body: bytes) -> ImagesAsk:
    """Return what a body asks for; raises a DifsError that names the field."""
    asked = decode(body, ImagesAsk)
    if asked.background == "transparent":
        raise InvalidRequest(
            "background: transparent pictures cannot be made; use auto or opaque",
            field="background",
            limit="one of auto, opaque",
        )
    return asked


def order(asked: ImagesAsk, body: bytes, variants: Collection[str]) -> Order:
    """Return the order; `variants` are the names of those registered. Raises InvalidRequest."""
    notes = []
    wishes: dict[str, Any] = {"quality": _quality(asked, variants)}
    if asked.model in variants and asked.model not in INTENTS:
        wishes["variant"] = asked.model
    elif asked.model is not None and asked.model not in INTENTS:
        notes.append(f"model: {asked.model[:64]!r} is not known here and is served as auto")
    for name in _PASSED:
        wishes[name] = getattr(asked, name)
    wishes["steps"] = asked.steps if asked.steps is not None else asked.num_inference_steps
    wishes["width"], wishes["height"] = sides(asked.size)
    form = asked.output_format or "png"
    if asked.output_compression is not None and form == "png":
        notes.append("output_compression: means nothing for png")
    if names := unknown(body, ImagesAsk, MEANINGLESS):
        notes.append(f"without a meaning here: {', '.join(names)}")
    return Order(
        asked.prompt,
        cast("Wishes", {name: value for name, value in wishes.items() if value is not None}),
        form,
        None if form == "png" else asked.output_compression,
        tuple(notes),
    )


_PASSED = (
    *("n", "seed", "negative_prompt", "guidance_scale", "sampler", "adapters", "latency_s"),
    *("on_infeasible", "priority", "deterministic", "timeout_s", "family"),
)


def _quality(asked: ImagesAsk, variants: Collection[str]) -> float | Level | None:
    """Return the quality asked for: `quality`'s, else the model's."""
    if isinstance(asked.quality, (int, float)):
        return float(asked.quality)
    level = QUALITIES[asked.quality] if asked.quality is not None else None
    return level if level is not None else INTENTS.get(asked.model or "auto")


def sides(size: str | None) -> tuple[int | None, int | None]:
    """Return the (width, height) that a size such as "512x768" means; (None, None) for auto."""
    if size is None or size == "auto":
        return None, None
    match = _SIZE.match(size)
    bad = match is None or any(
        not MIN_SIDE <= int(side) <= MAX_SIDE or int(side) % SIDE_MULTIPLE for side in match.groups()
    )
    if match is None or bad:
        limit = f"multiples of {SIDE_MULTIPLE} from {MIN_SIDE} to {MAX_SIDE}"
        words = f'size: must be "auto" or such as "512x512", {limit}; got {size[:32]!r}'
        raise InvalidRequest(words, field="size", limit=limit)
    return int(match[1]), int(match[2])


def preview_every(steps: int, partials: int) -> int:
    """Return after how many steps each a preview is due, for `partials` of them in `steps`."""
    return max(1, steps // (partials + 1)) if partials else 0


# ---- replies --------------------------------------------------------------------------------------


def reply(asked: ImagesAsk, outcome: Outcome, created: int) -> dict[str, Any]:
    """Return the body of a reply; `created` in seconds since 1970."""
    return {
        "created": created,
        "data": [_datum(asked, picture) for picture in outcome.pictures],
        **_facts(asked, outcome),
        "difs": outcome.facts(),
    }


def _datum(asked: ImagesAsk, picture: Picture) -> dict[str, Any]:
    """Return one image; a URL holds the image itself, as nothing is kept to be fetched."""
    if asked.response_format == "url":
        return {"url": f"data:image/{picture.form};base64,{picture.base64}"}
    return {"b64_json": picture.base64}


def _facts(asked: ImagesAsk, outcome: Outcome) -> dict[str, Any]:
    return {
        "background": "opaque",
        "output_format": asked.output_format or "png",
        "quality": asked.quality if asked.quality is not None else "auto",
        "size": f"{outcome.plan.width}x{outcome.plan.height}",
    }


def partial(
    asked: ImagesAsk, base64: str, index: int, size: tuple[int, int], created: int
) -> dict[str, Any]:
    """Return the event for a preview, always a small PNG; `size` is (height, width) of the preview."""
    return {
        "type": "image_generation.partial_image",
        "b64_json": base64,
        "partial_image_index": index,
        "background": "opaque",
        "created_at": created,
        "output_format": "png",
        "quality": asked.quality if asked.quality is not None else "auto",
        "size": f"{size[1]}x{size[0]}",
    }


def completed(asked: ImagesAsk, outcome: Outcome, i: int, created: int) -> dict[str, Any]:
    """Return the event for image `i`, done. No tokens are counted here: the usage is nothing."""
    return {
        "type": "image_generation.completed",
        "b64_json": outcome.pictures[i].base64,
        "created_at": created,
        **_facts(asked, outcome),
        "usage": {
            "input_tokens": 0,
            "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
            "output_tokens": 0,
            "total_tokens": 0,
        },
        "difs": outcome.facts(),
    }


def models(variants: Iterable[VariantInfo]) -> dict[str, Any]:
    """Return the list of models: goals first, then the variants that can be pinned."""
    goals = [
        _model(name, "difs", f"quality: {level or 'as DIFS sees fit'}") for name, level in INTENTS.items()
    ]
    pins = [_model(v.name, "difs-variant", v.description) for v in variants if v.name not in INTENTS]
    return {"object": "list", "data": [*goals, *pins]}


def _model(name: str, owner: str, words: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner, "description": words}


def error(told: Refused) -> dict[str, Any]:
    """Return an error's body."""
    return {
        "error": {
            "message": told.message,
            "type": _type(told.status),
            "param": plain_field(told.field),
            "code": told.code,
        }
    }


def _type(status: int) -> str:
    if status == 401:
        return "authentication_error"
    if status == 403:
        return "permission_error"
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 499 else "server_error"
