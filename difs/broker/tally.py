"""What the broker counts for `metrics`: plain numbers under bounded labels. Pure.

The desks and the books say what happened; `difs.broker.measures` makes families of it.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Literal

from difs.broker.states import AttemptState, Cause, RequestState
from difs.messages import Sample

Loss = Literal["silent", "stalled"]
"""Why the broker has an actor killed that lives."""

OTHER = "other"
MAX_LABELS = 100
"""Models told apart, and as many ways for an actor to end; the rest is `other`."""

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0)
STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)

_OUTCOMES = {
    RequestState.FINISHED: "ok",
    RequestState.FAILED: "error",
    RequestState.EXPIRED: "expired",
    RequestState.CANCELLED: "cancelled",
}


class Histogram:
    """How often a value fell under each of some bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` ascend; a last one without end is understood."""
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def saw(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def sample(self, **labels: str) -> Sample:
        """Return the counts so far, each with those under lower bounds."""
        buckets, total = [], 0
        for bound, count in zip(self._bounds, self._counts, strict=False):
            total += count
            buckets.append((bound, total))
        return Sample(self._sum, labels, tuple(buckets), sum(self._counts))


class Tally:
    """Everything that only grows."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.requests: Counter[tuple[str, str]] = Counter()
        """By model and outcome."""
        self.rejections: Counter[str] = Counter()
        self.attempts: Counter[str] = Counter()
        self.exits: Counter[tuple[str, str]] = Counter()
        """By device and reason."""
        self.misspoken: Counter[str] = Counter()
        self.durations: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(SECONDS))
        """By outcome."""
        self.queue_s = Histogram(SECONDS)
        self.rows = Histogram(ROWS)
        self.steps_s: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(STEP_SECONDS))
        """By model."""
        self._known: set[str] = set()

    def _bounded(self, label: str) -> str:
        """Return a label of which there are not too many."""
        if label not in self._known:
            if len(self._known) >= MAX_LABELS:
                return OTHER
            self._known.add(label)
        return label

    def rejected(self, code: str) -> None:
        """Count a request that was not accepted."""
        self.rejections[code] += 1
        self.requests[OTHER, "rejected"] += 1

    def began(self, queue_s: float) -> None:
        """Count a request's first dispatch."""
        self.queue_s.saw(queue_s)

    def closed(self, model: str, state: RequestState, seconds: float, is_poison: bool) -> None:
        """Count the end of an accepted request."""
        is_poisoned = is_poison and state is RequestState.FAILED
        outcome = "poisoned" if is_poisoned else _OUTCOMES[state]
        self.requests[self._bounded(model), outcome] += 1
        self.durations[outcome].saw(seconds)

    def attempt_ended(self, state: AttemptState, cause: Cause, *, is_finished: bool) -> None:
        """Count the end of a dispatch; `state` is the one before."""
        if cause is Cause.LOST:
            end = "lost"
        elif state is AttemptState.ABORTING:
            end = "aborted"
        else:
            end = "finished" if is_finished else "failed"
        self.attempts[end] += 1

    def painted(self, model: str, step_s: float, rows: float) -> None:
        """Count what a finished dispatch took: mean seconds of a step, mean images of its calls."""
        self.steps_s[self._bounded(model)].saw(step_s)
        self.rows.saw(rows)

    def exited(self, device: str, reason: str) -> None:
        """Count the end of an actor's process."""
        self.exits[device, self._bounded(reason)] += 1

    def misspoke(self, code: str) -> None:
        """Count a message that the protocol forbids."""
        self.misspoken[code] += 1
