"""What is known of a node, as it told itself, and what of a request matters for choosing one. Pure.

A report is small and comes twice a second; it may be old, and its node may be gone. The clock of another
machine tells nothing here: who hears a report notes when.
"""

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

from difs.messages import (
    Alternative,
    Explanation,
    Generate,
    Level,
    Plan,
    StatusReport,
    VariantInfo,
)

MAX_POINTS = 64
"""Operating points of a report."""


NAME_CHARS = 12


def name_of(node_id: str) -> str:
    """Return what a node is called: the begin of the id that Ray gave it."""
    return node_id[:NAME_CHARS]


class Point(Struct, frozen=True):
    """An operating point of a node: what a picture of its native size takes, and is worth."""

    variant: str
    family: str
    steps: int
    pixels: int
    wait_s: float
    """Until its device is free."""
    own_s: float
    """Its own costs, loading among them where it is not resident."""
    quality: float | None = None


class Forecast(Struct, frozen=True):
    """How many requests a node expects for a variant within the horizon of its autoscaler."""

    variant: str
    uses: float


class NodeState(Struct, frozen=True):
    """What a node told of itself."""

    node: str
    serial: int
    """Counts its reports: another serial is another report."""
    is_ready: bool
    devices: int = 0
    open_requests: int = 0
    backlog_s: float = 0.0
    """Predicted seconds until a device is free, the mean over its devices."""
    variants: dict[str, int] = {}
    """Bytes of each registered variant."""
    residents: tuple[str, ...] = ()
    points: tuple[Point, ...] = ()
    forecast: tuple[Forecast, ...] = ()


class Wanted(Struct, frozen=True):
    """What of a request matters for choosing its node."""

    latency_s: float | None = None
    quality: float | Level | None = None
    variant: str | None = None
    family: str | None = None
    pixels: int | None = None
    n: int = 1


class Label(Struct, frozen=True):
    """What stands on a call between the door and a node."""

    caller: str = ""
    wanted: Wanted = Wanted()
    avoid: tuple[str, ...] = ()
    """Nodes that were tried."""
    only: str = ""
    """The node that is meant; empty: any."""


def wanted(request: Generate) -> Wanted:
    """Return what of a request matters for choosing its node."""
    needs, pins = request.requirements, request.overrides
    pixels = request.width * request.height if request.width and request.height else None
    return Wanted(needs.latency_s, needs.wanted_quality, pins.variant, pins.family, pixels, request.n)


def probe(variants: Iterable[VariantInfo]) -> Generate:
    """Return the request for which a node tells its operating points: of something that it can paint."""
    words = (info.captions[0][0] for info in variants if info.captions)
    return Generate(request_id="difs-cluster-report", prompt=next(words, "a picture"))


def report(
    node: str,
    serial: int,
    status: StatusReport,
    explained: Explanation,
    variants: Iterable[VariantInfo],
) -> NodeState:
    """Return a node's report, made of its service's answers."""
    infos = {info.name: info for info in variants}
    waits = {device.device: device.backlog_s for device in status.devices}
    return NodeState(
        node=node,
        serial=serial,
        is_ready=status.ready and not status.draining,
        devices=len(status.devices),
        open_requests=status.queued + status.running,
        backlog_s=sum(waits.values()) / max(1, len(waits)),
        variants={name: info.bytes for name, info in infos.items()},
        residents=tuple(sorted({name for device in status.devices for name in device.residents})),
        points=_points(explained, infos, waits),
        forecast=_forecast(status),
    )


def _points(
    explained: Explanation, infos: Mapping[str, VariantInfo], waits: Mapping[str, float]
) -> tuple[Point, ...]:
    """Return the points among which a node would choose, without those that another beats."""
    listed = [one for one in explained.points if one.variant in infos]
    if not listed and explained.plan is not None and explained.plan.variant in infos:
        listed = [_chosen(explained.plan)]  # of a policy that tells its choice only
    found = [_point(one, infos[one.variant], waits.get(one.device, 0.0)) for one in listed]
    return undominated(found)[:MAX_POINTS]


def _chosen(plan: Plan) -> Alternative:
    total_s = plan.prediction.total_s
    return Alternative(
        plan.variant, plan.device, plan.steps, plan.guidance_scale, total_s, "", plan.expected_quality
    )


def _point(one: Alternative, info: VariantInfo, wait_s: float) -> Point:
    width, height = info.native_sizes[0]
    own_s = max(0.0, one.total_s - wait_s)
    pixels = width * height
    return Point(
        one.variant, info.family, one.steps, pixels, min(wait_s, one.total_s), own_s, one.expected_quality
    )


def undominated(points: Iterable[Point]) -> tuple[Point, ...]:
    """Return each variant's points that no other one beats in time and quality; the soonest first."""
    best: dict[str, float] = {}
    kept = []
    for point in sorted(points, key=lambda p: (p.wait_s + p.own_s, -(p.quality or 0.0))):
        quality = point.quality or 0.0
        if point.variant not in best or quality > best[point.variant]:
            best[point.variant] = quality
            kept.append(point)
    return tuple(kept)


def _forecast(status: StatusReport) -> tuple[Forecast, ...]:
    uses: dict[str, float] = {}
    for one in status.expected:
        if one.variant is not None:
            uses[one.variant] = uses.get(one.variant, 0.0) + one.uses
    return tuple(Forecast(name, number) for name, number in sorted(uses.items()))


def encode(value: NodeState | Label) -> bytes:
    """Return a report or a label as bytes."""
    return msgspec.msgpack.encode(value)


def decode_state(data: bytes) -> NodeState | None:
    """Return a report; None where the bytes are none."""
    try:
        return msgspec.msgpack.decode(data, type=NodeState)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError):
        return None


def decode_label(data: bytes) -> Label:
    """Return a label; an empty one where the bytes are none."""
    try:
        return msgspec.msgpack.decode(data, type=Label)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError):
        return Label()
