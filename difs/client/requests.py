"""From the arguments of `generate` to a valid message, checked here as the broker would."""

import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypedDict, cast

import msgspec

from difs import wire
from difs.errors import InvalidRequest
from difs.messages import (
    MAX_HEADER_BYTES,
    MAX_PROMPT_BYTES,
    MAX_SEED,
    PROTOCOL,
    Adapter,
    Format,
    Generate,
    Level,
)


class Wishes(TypedDict, total=False):
    """The keyword arguments of `generate`; all optional."""

    latency_s: float
    """Seconds in which the picture is wanted; steps are cut to keep it."""
    quality: float | Level
    """0..1, or draft, low, medium, high, best."""
    width: int
    height: int
    n: int
    seed: int
    negative_prompt: str
    variant: str
    family: str
    steps: int
    guidance_scale: float
    sampler: str
    adapters: Iterable[Adapter | tuple[str, float] | str] | Mapping[str, float]
    """LoRA adapters with their weights; a name alone has weight 1."""
    priority: int
    best_effort: bool
    on_infeasible: Literal["degrade", "reject"]
    timeout_s: float
    """Seconds after which the request is given up (default 120)."""
    deterministic: bool
    """Compute each image alone: the same seed gives the same bits, at the price of speed."""
    delivery: Literal["shm", "inline"]
    format: Format
    metadata: bool
    preview_every: int
    """Steps between two previews in `Progress`; `difs.client.previews` makes arrays of them."""
    request_id: str
    retries: int
    """How often a retryable error is tried again, with the same id (default 3).

    With `on_infeasible="reject"` a refusal for lack of time is told at once.
    """


_PLACES: dict[str, tuple[str, ...]] = {
    "requirements": ("latency_s", "quality", "priority", "best_effort", "on_infeasible"),
    "overrides": ("variant", "family", "steps", "guidance_scale", "sampler"),
    "delivery": ("format", "metadata", "preview_every"),
    "": ("width", "height", "n", "seed", "negative_prompt", "timeout_s", "deterministic"),
}


def build(prompt: str, wishes: Wishes, *, progress: bool) -> Generate:
    """Return the message; raises InvalidRequest (a bad value) or TypeError (an unknown argument)."""
    given: dict[str, Any] = {k: v for k, v in wishes.items() if v is not None}
    given.pop("retries", None)
    for name, value in given.items():
        if isinstance(value, int) and not -(2**63) <= value <= MAX_SEED:
            words = f"{name}: {value} is beyond 64 bits"
            raise InvalidRequest(words, field=name, limit=f"<= {MAX_SEED}")
    tree: dict[str, Any] = {
        "type": "generate",
        "request_id": given.pop("request_id", secrets.token_hex(12)),
        "prompt": prompt,
        "requirements": {},
        "overrides": {},
        "delivery": {"mode": given.pop("delivery", "shm"), "progress": progress},
    }
    given.setdefault("format", "raw")
    tree["overrides"]["adapters"] = _adapters(given.pop("adapters", ()))
    for place, names in _PLACES.items():
        target = tree[place] if place else tree
        target.update({name: given.pop(name) for name in names if name in given})
    if given:
        raise TypeError(f"generate() has no argument {', '.join(sorted(given))}")
    try:
        header = msgspec.msgpack.encode(tree)
    except (TypeError, OverflowError, msgspec.EncodeError, UnicodeEncodeError) as error:
        raise InvalidRequest(f"cannot be sent: {error}") from None
    if len(header) > MAX_HEADER_BYTES:
        sizes = {"prompt": len(prompt)} | {name: len(str(value)) for name, value in wishes.items()}
        field = max(sizes, key=lambda name: sizes[name])
        words = f"{field}: too long, the request has {len(header)} bytes"
        raise InvalidRequest(words, field=field, limit=f"<= {MAX_PROMPT_BYTES} bytes")
    return cast(Generate, wire.decode_from_client([PROTOCOL, header]))


def _adapters(given: Any) -> list[dict[str, Any]]:
    """Return adapters as the protocol has them; raises InvalidRequest."""
    found = given.items() if isinstance(given, Mapping) else given
    try:
        if isinstance(found, str):  # whose letters are names, too
            raise TypeError
        return [_adapter(one) for one in found]
    except (TypeError, ValueError):
        words = "must be names, (name, weight) pairs or a mapping of names to weights"
        raise InvalidRequest(f"adapters: {words}", field="adapters") from None


def _adapter(given: Any) -> dict[str, Any]:
    if isinstance(given, str):
        return {"name": given}
    name, weight = (given.name, given.weight) if isinstance(given, Adapter) else given
    return {"name": name, "weight": weight}
