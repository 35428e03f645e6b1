"""What will be asked for: rates that fade, and the next one of what comes at regular intervals. Pure."""

import math

from msgspec import Struct

WINDOW_S = 20.0
"""Seconds after which an arrival counts a third (1/e) of what it did: of 20 to 120 the best in all of
`bench.oracle`. What is longer remembered keeps what nobody wants any more."""
HORIZON_S = 30.0
"""How far a plan looks ahead."""
LATEST = 0.3
"""What the latest gap counts in the averages."""
REGULAR = 0.25
"""Gaps that stray from their mean by less than this share of it, on average, are regular;"""
SEEN = 2
"""after so many arrivals."""
LATE = 1.5
"""What is not there after so many gaps has lost its rhythm."""


class Trace(Struct, frozen=True):
    """Arrivals of one kind of request; numbers are those of the moment `at`, that of the last one."""

    rate_hz: float = 0.0
    at: float = 0.0
    gap_s: float = 0.0
    """Mean of the gaps between two,"""
    stray_s: float = 0.0
    """and how far they were from it, on average."""
    count: int = 0

    def arrived(self, now: float) -> "Trace":
        """Return the trace after one more arrival."""
        gap_s = now - self.at
        if self.count == 0:
            mean_s = stray_s = 0.0
        elif self.count == 1:
            mean_s, stray_s = gap_s, 0.0
        else:
            mean_s = self.gap_s + LATEST * (gap_s - self.gap_s)
            stray_s = self.stray_s + LATEST * (abs(gap_s - self.gap_s) - self.stray_s)
        return Trace(self.rate(now) + 1.0 / WINDOW_S, now, mean_s, stray_s, self.count + 1)

    def rate(self, now: float) -> float:
        """Return how many come in a second: all that came, each counted less the longer ago it was.

        Not a mean of gaps: two or three of these tell next to nothing of a rate.
        """
        return self.rate_hz * math.exp(-max(0.0, now - self.at) / WINDOW_S)

    def next_s(self, now: float) -> float | None:
        """Return in how many seconds the next one comes, 0.0 at the least; None: it has no rhythm."""
        is_regular = self.count >= SEEN and self.stray_s <= REGULAR * self.gap_s
        if not is_regular or now - self.at > LATE * self.gap_s:
            return None
        return max(0.0, self.at + self.gap_s - now)

    def uses(self, now: float) -> float:
        """Return how many are expected within HORIZON_S; below 1, it tells how near the next one is."""
        next_s = self.next_s(now)
        if next_s is None:
            return self.rate(now) * HORIZON_S
        if next_s > HORIZON_S:
            return HORIZON_S / next_s
        return 1.0 + (HORIZON_S - next_s) / max(1.0, self.gap_s)

    def rhythm_hz(self, now: float) -> float:
        """Return how many come in a second: by their rhythm if they have one, else as they faded."""
        return 1.0 / self.gap_s if self.next_s(now) is not None and self.gap_s > 0 else self.rate(now)
