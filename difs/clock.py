"""Time enters here and nowhere else: seconds on the machine's monotonic clock.

CLOCK_MONOTONIC is one clock for all processes of a host, so a deadline computed in the broker
holds in an actor; it never jumps with the wall clock.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """A source of seconds."""

    def now(self) -> float:
        """Return seconds since an arbitrary, fixed point."""
        ...


class MonotonicClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Return seconds since boot."""
        return time.monotonic()


class ManualClock:
    """A clock that moves only when told to; for tests and simulation."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """Return the time last set."""
        return self._now

    def advance(self, seconds: float) -> float:
        """Move forward by `seconds` (>= 0) and return the new time."""
        if seconds < 0:
            raise ValueError(f"time runs forward: {seconds}")
        self._now += seconds
        return self._now
