"""Looking at finished pictures: how they scored, and how many may be painted again. Pure.

Light first, the heavy one where that is not good enough, is the idea of cascades (Ahmad et al.,
"DiffServe", arXiv 2411.15381). What is common to policies that look stands here, not whom they ask to
paint.
"""

from collections.abc import Sequence

from msgspec import Struct

BINS = 20
KEPT = 0.995
"""What a score counts when the next one has come: some two hundred count."""


class Scores(Struct, frozen=True):
    """How many pictures got each score, in equal parts of 0..1, old ones fading."""

    counts: tuple[float, ...] = (1.0,) * BINS

    @property
    def total(self) -> float:
        """Return how many scores count."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Return the mean score."""
        return self.worst(1.0)[1]

    def seen(self, score: float) -> "Scores":
        """Return the scores after one more."""
        bins = len(self.counts)
        at = min(bins - 1, int(score * bins))
        return Scores(tuple([KEPT * c + (i == at) for i, c in enumerate(self.counts)]))

    def below(self, threshold: float) -> float:
        """Return the share of pictures that score below `threshold`: DiffServe's f(t)."""
        bins = len(self.counts)
        whole = int(threshold * bins)
        part = self.counts[whole] * (threshold * bins - whole) if whole < bins else 0.0
        return (sum(self.counts[:whole]) + part) / self.total

    def worst(self, share: float) -> tuple[float, float]:
        """Return the score below which the worst `share` lie, and what they add to the mean of all."""
        bins, left, sum_ = len(self.counts), share * self.total, 0.0
        for i, count in enumerate(self.counts):
            if count >= left:
                width = left / count if count > 0 else 0.0
                return (i + width) / bins, (sum_ + left * (i + width / 2) / bins) / self.total
            left -= count
            sum_ += count * (i + 0.5) / bins
        return 1.0, sum_ / self.total


def affordable(budget_s: float, light_s: float, heavy_s: float) -> float:
    """Return the share of requests that may be painted twice, 0..1.

    Each may take `budget_s` seconds of a device in the mean; `light_s` all do, and `heavy_s` more those
    that are painted twice.
    """
    return min(1.0, max(0.0, (budget_s - light_s) / heavy_s)) if heavy_s > 0 else 1.0


def expected(light: Scores, heavy: Scores, share: float) -> float:
    """Return the mean score when the worst `share` of the light pictures are painted again.

    What is hard for the light one is as hard for the heavy one: the worst of both are of the same
    prompts. So no gain is counted that is only that of a new throw of the dice.
    """
    return light.mean - light.worst(share)[1] + heavy.worst(share)[1]


def mixed(sides: Sequence[tuple[float, float]], budget_s: float) -> float:
    """Return the greatest mean worth that sides (seconds, worth), chosen blindly, have in the budget."""
    low = [(s, w) for s, w in sides if s <= budget_s]
    if not low:
        return min(sides)[1]
    most = max(w for _, w in low)
    for above_s, above in sides:
        if above_s > budget_s and above > most:
            most = max(
                most,
                *(w + (above - w) * (budget_s - s) / (above_s - s) for s, w in low),
            )
    return most
