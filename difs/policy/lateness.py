"""What later arrivals, and all else that no schedule knows, make of predictions: learned.

A prediction runs ahead what is there (`difs.foresight`): the units of work. Between and around them are
messages and loops, the way, which takes a long picture hardly longer than a short one: the median of what
it took those that were alone. And who comes later shares calls and slows those that it shares with. How
much is a matter of the load, so the ratios of seen to foreseen seconds of a device's last requests say
it, the way left out. Predicted is the middle of the shortest range that holds nine tenths of them: of all
numbers the one that is nearest to nine tenths. It is the least quantile of squares of Rousseeuw (1984,
"Least Median of Squares Regression"), with nine tenths for the half. Pure.
"""

from bisect import bisect_left, insort
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence

KEPT = 96
"""Ratios of the last requests."""
ENOUGH = 12
"""With fewer nothing is concluded."""
SHARE = 0.9
MOST = 1.5
"""A prediction is stretched by no more: beyond it something else is wrong."""


ALL = 0
"""The class of all requests."""


def class_of(calls: int) -> int:
    """Return the class of a request of so many UNet evaluations: the longer, the more comes meanwhile."""
    return calls.bit_length()


class _Last:
    """The last numbers of a kind, in the order in which they came, and sorted."""

    def __init__(self) -> None:
        self._came: deque[float] = deque()
        self.known: list[float] = []

    def add(self, number: float) -> None:
        self._came.append(number)
        insort(self.known, number)
        if len(self._came) > KEPT:
            del self.known[bisect_left(self.known, self._came.popleft())]


class Lateness:
    """What came of the predictions of one device."""

    def __init__(self) -> None:
        """Know nothing."""
        self._last: defaultdict[int, _Last] = defaultdict(_Last)
        self.factors: dict[int, float] = {}
        """By what to multiply predictions, by class, where enough is known."""
        self._ways = _Last()
        self.way_s = 0.0
        """Seconds that a picture takes beyond its units of work."""

    def was_alone(self, way_s: float) -> None:
        """Enter what a request that nobody was beside took beyond its units of work."""
        self._ways.add(way_s)
        self.way_s = max(0.0, self._ways.known[len(self._ways.known) // 2])

    def saw(self, calls: int, foreseen_s: float, seen_s: float) -> None:
        """Enter what came of a request of so many UNet evaluations."""
        ratio = (seen_s - self.way_s) / foreseen_s
        for key in (ALL, class_of(calls)):
            last = self._last[key]
            last.add(ratio)
            if len(last.known) >= ENOUGH:
                self.factors[key] = middle(last.known)


def factor(factors: Mapping[int, float], calls: int) -> float:
    """Return by what to multiply a prediction of so many UNet evaluations."""
    return factors.get(class_of(calls), factors.get(ALL, 1.0))


def middle(known: Sequence[float]) -> float:
    """Return the middle of the shortest range with nine tenths of the sorted `known`, 1 to `MOST`."""
    held = max(2, round(SHARE * len(known)))
    _, low, high = min(
        [(high - low, low, high) for low, high in zip(known, known[held - 1 :], strict=False)]
    )
    return min(MOST, max(1.0, (low + high) / 2))
