"""The expected quality of an operating point, 0..1, from a variant's curve: pure arithmetic.

A curve is measured (see `bench.quality`) or declared in the manifest; where it came from is kept beside
it. A variant without a curve has no expected quality: `assumed` orders its points among themselves and
below what was measured, and is never shown.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TypeVar

from difs.messages import Level, QualityPoint, VariantInfo

SHARES: dict[Level, float] = {"draft": 0.6, "low": 0.75, "medium": 0.9, "high": 0.97, "best": 1.0}
"""What a named quality is, as a share of the best that the allowed points can reach."""
T = TypeVar("T")
ASSUMED_MOST = 0.5
"""What the best point of a variant without a curve counts as when variants are compared."""


def front(points: Iterable[T], place: Callable[[T], tuple[float, float]]) -> list[T]:
    """Return the points that none beats in seconds and quality, the soonest first; `place` tells both."""
    kept: list[T] = []
    best = -math.inf
    placed = ((*place(point), point) for point in points)
    for _, worth, point in sorted(placed, key=lambda found: (found[0], -found[1])):
        if worth > best:
            kept.append(point)
            best = worth
    return kept


def expected(curve: Sequence[QualityPoint], steps: int, guidance: float, side: int) -> float | None:
    """Return the score at `steps` and `guidance` for a picture shown at `side` pixels; None: no curve.

    The measured side and then the measured guidance that are nearest count; steps are interpolated
    linearly, from nothing at 0 steps, and are worth no more beyond the last measured one.
    """
    if not curve:
        return None
    near = min({p.side for p in curve}, key=lambda s: (abs(math.log(s / side)), s))
    at_side = [p for p in curve if p.side == near]
    scale = min({p.guidance for p in at_side}, key=lambda g: (abs(g - guidance), g))
    line = sorted((p.steps, p.score) for p in at_side if p.guidance == scale)
    if steps <= line[0][0]:
        return line[0][1] * steps / line[0][0]
    for (low, below), (high, above) in pairwise(line):
        if steps <= high:
            return below + (above - below) * (steps - low) / (high - low)
    return line[-1][1]


Ruler = tuple[str, str]
"""How and by whom qualities were found: only those of one ruler can be compared."""
KINDS = ("reference", "clip", "declared", "agreement")
"""The kinds of curves, the one that is believed most first."""


def ruler_of(info: VariantInfo) -> Ruler | None:
    """Return what a variant's curve was measured with; None: it has none."""
    return (info.quality_kind or "declared", info.quality_judge) if info.quality else None


def common_ruler(infos: Sequence[VariantInfo]) -> Ruler | None:
    """Return the ruler by which variants are compared: the most believed, of those the most common.

    Agreement with a variant's own best picture says nothing of another's: it counts for one alone.
    """
    found = [ruler for ruler in map(ruler_of, infos) if ruler is not None]
    usable = Counter(ruler for ruler in found if ruler[0] != "agreement" or len(infos) == 1)
    return min(usable, key=lambda r: (KINDS.index(r[0]), -usable[r], r), default=None)


def assumed(info: VariantInfo, steps: int) -> float:
    """Return a stand-in for the quality of a variant without a curve: rises to its default steps."""
    share = min(1.0, steps / info.steps_default)
    return ASSUMED_MOST * (1.0 - (1.0 - share) ** 2)


def measured_steps(curve: Sequence[QualityPoint]) -> set[int]:
    """Return the numbers of steps at which a curve was measured."""
    return {p.steps for p in curve}


def measured_guidances(curve: Sequence[QualityPoint]) -> set[float]:
    """Return the guidance scales at which a curve was measured."""
    return {p.guidance for p in curve}
