"""What later arrivals, and all else that no schedule knows, make of predictions: learned.

A prediction runs ahead what is there (`difs.foresight`); who comes later shares calls and slows those
that it shares with. How much is a matter of the load, so the ratios of seen to foreseen seconds of a
device's last requests say it. Predicted is the middle of the shortest range that holds nine tenths of
them: of all numbers the one that is nearest to nine tenths. It is the least quantile of squares of
Rousseeuw (1984, "Least Median of Squares Regression"), with nine tenths for the half. Pure.
"""

from collections import deque
from collections.abc import Iterable, Mapping

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


class Lateness:
    """What came of the predictions of one device."""

    def __init__(self) -> None:
        """Know nothing."""
        self._ratios: dict[int, deque[float]] = {}
        self.factors: dict[int, float] = {}
        """By what to multiply predictions, by class, where enough is known."""

    def saw(self, calls: int, ratio: float) -> None:
        """Enter seen by foreseen seconds of a request of so many UNet evaluations."""
        for key in (ALL, class_of(calls)):
            ratios = self._ratios.setdefault(key, deque(maxlen=KEPT))
            ratios.append(ratio)
            if len(ratios) >= ENOUGH:
                self.factors[key] = middle(ratios)


def factor(factors: Mapping[int, float], calls: int) -> float:
    """Return by what to multiply a prediction of so many UNet evaluations."""
    return factors.get(class_of(calls), factors.get(ALL, 1.0))


def middle(ratios: Iterable[float]) -> float:
    """Return the middle of the shortest range with nine tenths of `ratios`, 1 to `MOST`."""
    known = sorted(ratios)
    held = max(2, round(SHARE * len(known)))
    starts = range(len(known) - held + 1)
    first = min(starts, key=lambda i: known[i + held - 1] - known[i])
    return min(MOST, max(1.0, (known[first] + known[first + held - 1]) / 2))
