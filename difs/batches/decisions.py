"""What the worker of batches decides: how much to ask for at once, what an error means, the time left.

Pure; `difs.batches.runner` performs.
"""

from collections.abc import Sequence
from itertools import pairwise

from msgspec import Struct

from difs.errors import (
    ActorLost,
    CapacityError,
    DifsError,
    RequestEnded,
    RequestError,
    TooManyOutstanding,
)
from difs.messages import StatusReport

MAX_IN_FLIGHT = 48
"""Open requests of the worker, at most; fewer than `broker.max_outstanding` is by default."""
MAX_TRIES = 3
"""How often a line may end with an error of the service."""
REST_S, MAX_REST_S = 0.25, 8.0
MAX_TOLD_REST_S = 60.0
"""However long the service says to wait: others may leave before."""
PATIENCE = 3
"""Refusals in a row after which people are told."""
MIN_FREE_BYTES = 32 * 2**20
"""With less room in its folder a batch rests: what was painted could not be kept."""
PACE_OVER = 64
"""Lines that the time left is reckoned from."""


def window(report: StatusReport, ceiling: int = MAX_IN_FLIGHT) -> int:
    """Return how many requests are worth being open: what the ready devices take at a time, not more.

    More would wait in the broker's queue, where it serves nobody and fills the queue for others.
    """
    if report.draining:
        return 0
    credit = sum(device.credits for device in report.devices if device.state == "ready")
    return min(ceiling, credit)


def ceiling(error: DifsError, before: int, in_flight: int) -> int:
    """Return how many requests may be open from now on: fewer if the service said that they are many."""
    return min(before, max(1, in_flight // 2)) if isinstance(error, TooManyOutstanding) else before


class Again(Struct, frozen=True):
    """Not the line's fault: try it again, all others after this rest, too."""

    rest_s: float


class Retry(Struct, frozen=True):
    """Try it again after the others; it counts."""


class Fail(Struct, frozen=True):
    """It will not be better another time."""


Verdict = Again | Retry | Fail


def verdict(error: DifsError, tries: int, refusals: int) -> Verdict:
    """Return what an error means for a line that had `tries` before, after `refusals` in a row.

    Waiting is no failure: a line that expired or was refused for lack of room goes on waiting, as long
    as it takes. What killed its actor thrice has had its tries.
    """
    if isinstance(error, CapacityError | RequestEnded):
        rest_s = min(MAX_REST_S, REST_S * 2 ** min(refusals, 10))
        return Again(max(rest_s, min(MAX_TOLD_REST_S, error.retry_after_s or 0.0)))
    if isinstance(error, RequestError | ActorLost) or tries + 1 >= MAX_TRIES:
        return Fail()
    return Retry()


def left_s(finished_at: Sequence[float], waiting: int) -> float | None:
    """Return the seconds that `waiting` lines take if they come as the last ones did; None: too few.

    `finished_at`: when lines were finished, in seconds, in any order. The longest gap is left out: it
    may have been a night.
    """
    if waiting == 0:
        return 0.0
    times = sorted(finished_at)[-PACE_OVER:]
    gaps = sorted(later - earlier for earlier, later in pairwise(times))[:-1]
    return waiting * sum(gaps) / len(gaps) if gaps else None
