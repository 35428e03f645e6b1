"""How well anybody could tell this machine's next call from its last ones. Nothing of DIFS is asked.

Two cores that are lent by a hypervisor take 15 ms for a step of the embedded model and, after a rest of
a tenth of a second, perhaps 24: what else their silicon computes is not ours to know. A prediction can be
no better than that. So the bare pipeline paints the same picture again and again, with the rests that a
load has, and each call is told from those before it by exponential means of several weights: the error
of the best, chosen with hindsight, is what a goal is to be read beside.
"""

import time
from collections.abc import Sequence
from typing import Any

from bench.overhead import paint_bare
from bench.report import percentile

STEPS = 2
WEIGHTS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0)
"""Of the newest call in the mean."""
WARM = 10


def seconds_at(pipe: Any, times: Sequence[float]) -> list[float]:
    """Paint at each of the times, or as soon as the last picture is done; returns the seconds of each."""
    for i in range(WARM):
        paint_bare(pipe, i, STEPS)
    started, found = time.perf_counter(), []
    for i, due in enumerate(times):
        time.sleep(max(0.0, started + due - time.perf_counter()))
        found.append(paint_bare(pipe, i, STEPS)[0])
    return found


def error(seconds: Sequence[float], share: float = 0.9) -> float:
    """Return that percentile of the relative errors of the mean that told most of the calls best."""
    return min(percentile(_errors(seconds, weight), share) for weight in WEIGHTS)


def _errors(seconds: Sequence[float], weight: float) -> list[float]:
    expected, found = seconds[0], []
    for value in seconds[1:]:
        found.append(abs(value - expected) / expected)
        expected += weight * (value - expected)
    return found
