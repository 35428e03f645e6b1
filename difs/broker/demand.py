"""What requests want, counted by kind: the autoscaler's forecast is made of it."""

from difs.autoscaler.base import Want
from difs.autoscaler.forecast import Trace
from difs.broker.books import Books
from difs.broker.records import Request
from difs.messages import Generate

WANTS_KEPT = 128
"""Kinds of requests that are told apart; those that came longest ago are forgotten."""
LATENCY_STEP = 1.5
"""Stated latencies that differ by less are one kind of request."""


def note_arrival(books: Books, request: Request, variant: str, now: float) -> None:
    """Enter what a new request wants.

    A policy that does not weigh points has given it `variant` for good: no other would be taken.
    """
    scaling = books.scaling
    if scaling is None or request.is_best_effort:
        return
    want = _want(request.message, variant if books.surveyor is None else None)
    trace = scaling.traces.pop(want, Trace())
    scaling.traces[want] = trace.arrived(now)  # the latest stands last
    if len(scaling.traces) > WANTS_KEPT:
        del scaling.traces[next(iter(scaling.traces))]


def _want(message: Generate, variant: str | None) -> Want:
    pins, needs = message.overrides, message.requirements
    quality = needs.wanted_quality
    return Want(
        variant=pins.variant or variant,
        family=None if pins.variant or variant else pins.family,
        latency_s=_rounded(needs.latency_s),
        floor=round(quality, 1) if isinstance(quality, float) else 0.0,
    )


def _rounded(latency_s: float | None) -> float | None:
    """Return a latency of a coarse scale, never a longer one."""
    if latency_s is None:
        return None
    rounded = 0.01
    while rounded * LATENCY_STEP <= latency_s:
        rounded *= LATENCY_STEP
    return min(rounded, latency_s)
