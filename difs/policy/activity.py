"""How often a variant was wanted on a device lately, and how it fared: averages that fade."""

import math

from msgspec import Struct
from msgspec.structs import replace

WINDOW_S = 30.0
"""Seconds after which what happened counts a third (1/e) of what it did."""
LATEST = 0.3
"""What the latest slowdown counts in the average."""


class Activity(Struct, frozen=True):
    """See the module; `rate_hz` and `slowdown` are those of the moment `at`."""

    rate_hz: float = 0.0
    slowdown: float = 1.0
    at: float = 0.0

    def rate(self, now: float) -> float:
        """Return the requests a second that were assigned to it lately."""
        return self.rate_hz * self._fading(now)

    def slowness(self, now: float) -> float:
        """Return how many times the profiled seconds its attempts took lately; it fades to 1.

        Other programs, heat and the company of other attempts are in it, waiting and loading are not.
        """
        return 1.0 + (self.slowdown - 1.0) * self._fading(now)

    def wanted(self, now: float) -> "Activity":
        """Return the activity after one more request."""
        return Activity(self.rate(now) + 1.0 / WINDOW_S, self.slowness(now), now)

    def finished(self, seen_s: float, profiled_s: float, now: float) -> "Activity":
        """Return the activity after an attempt took `seen_s` where `profiled_s` were expected."""
        if profiled_s <= 0:
            return self
        before = self.slowness(now)
        slowdown = before + LATEST * (seen_s / profiled_s - before)
        return replace(self, rate_hz=self.rate(now), slowdown=slowdown, at=now)

    def _fading(self, now: float) -> float:
        return math.exp(-max(0.0, now - self.at) / WINDOW_S)
