"""Who asked for how much of late, refused or not: he will ask again. Pure; time passed in."""

from collections.abc import Hashable, Sequence
from math import exp, inf

MEMORY_S = 5.0
"""What was asked so long ago counts for 1/e;"""
FORGOTTEN_S = 10 * MEMORY_S
"""and for nothing after this."""
PAUSE_S = 3 * MEMORY_S
"""Who comes after so long without anybody begins anew."""
LEAST_S = 0.5
"""Of a shorter time nothing is concluded."""
LEVEL_S = 0.25
"""For so long the level of fair shares is remembered, as it takes a look at all clients,"""
GROWN = 1.1
"""or until all ask for so many times as much."""
MAX_KEPT = 4096
"""Clients that are remembered; those that asked longest ago are forgotten."""


class Crowd:
    """The rate at which each client asks for work: seconds of a device per second."""

    def __init__(self) -> None:
        """Start with nobody."""
        self._asked: dict[Hashable, tuple[float, float]] = {}
        self._all = (0.0, -inf)
        self._since = 0.0
        """When the first came after the last pause."""
        self._level = (-inf, 0.0, inf)
        """When the level was found, the rate of all then, and it."""

    def __len__(self) -> int:
        return len(self._asked)

    def asked(self, who: Hashable, seconds: float, now: float) -> None:
        """Note that somebody asked for work of so many seconds."""
        if now - self._all[1] > PAUSE_S:
            self._since = now
        before = self._asked.pop(who, (0.0, now))
        self._asked[who] = (_faded(before, now) + seconds, now)  # the latest stands last
        self._all = (_faded(self._all, now) + seconds, now)
        while len(self._asked) > MAX_KEPT or self._oldest_at() < now - FORGOTTEN_S:
            del self._asked[next(iter(self._asked))]

    def withdrew(self, who: Hashable, seconds: float, asked_at: float, now: float) -> None:
        """Note that somebody gave up work that he had asked for: he will not ask for its like again."""
        gone = _faded((seconds, asked_at), now)
        if who in self._asked:
            self._asked[who] = max(0.0, _faded(self._asked.pop(who), now) - gone), now
        self._all = max(0.0, _faded(self._all, now) - gone), now

    def _oldest_at(self) -> float:
        return next(iter(self._asked.values()))[1]

    def rate(self, now: float) -> float:
        """Return the rate of all together."""
        return _faded(self._all, now) / MEMORY_S

    def rate_since(self, now: float) -> float:
        """Return the rate of all together since they began to come; of late that is more than `rate`."""
        seen_s = max(LEAST_S, now - self._since)
        return self.rate(now) / (1.0 - exp(-seen_s / MEMORY_S))

    def rate_of(self, who: Hashable, now: float) -> float:
        """Return the rate of one."""
        return _faded(self._asked[who], now) / MEMORY_S if who in self._asked else 0.0

    def level(self, capacity: float, now: float) -> float:
        """Return the rate above which a client asks for more than its share; inf: nobody does.

        `capacity`: what all may have together.

        Max-min fairness: who asks for less leaves the rest to the others (Bertsekas and Gallager 1992,
        "Data Networks", section 6.5.2).
        """
        found_at, then, level = self._level
        rate = self.rate(now)
        if now - found_at >= LEVEL_S or rate > GROWN * then:
            level = _level(sorted(self.rates(now).values()), capacity)
            self._level = now, rate, level
        return level

    def rates(self, now: float) -> dict[Hashable, float]:
        """Return the rate of each."""
        return {who: _faded(asked, now) / MEMORY_S for who, asked in self._asked.items()}


def _faded(asked: tuple[float, float], now: float) -> float:
    seconds, at = asked
    return seconds * exp((at - now) / MEMORY_S)


def _level(rates: Sequence[float], capacity: float) -> float:
    for i, rate in enumerate(rates):
        share = capacity / (len(rates) - i)
        if rate > share:
            return share
        capacity -= rate
    return inf
