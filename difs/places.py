"""Whom a newcomer may go before: what those that wait can bear, and the turn that they leave it.

Behind the tasks whose order is run ahead (`difs.foresight`) stands a line of others, each with the
seconds that it takes. Pure; moments are those of one clock.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from msgspec import Struct

MARGIN = 0.1
"""Who bears a delay keeps so much of its wait for itself: nobody foresees all of it."""
CROWDED = 1.2
"""Times the seconds that it takes in full calls, what stands in the line needs: its calls are not all as
full, and others' are made between them. Found with `bench.single_gpu`: 1 keeps 0.9 of the promises, 1.1
0.96, 1.2 and 1.3 0.97."""


class Place(NamedTuple):
    """A task as one sees it that would go before it."""

    due: float
    ends: float
    bears_s: float
    """It may be done so much later."""
    latest: float = math.inf
    """Who wants to be done before that goes before it; inf: it is late anyhow."""
    is_firm: bool = True
    """No newcomer goes before it for the sake of being in time."""


class Bounds(NamedTuple):
    """What a task bears."""

    due: float
    """It has its place in the order by that."""
    bears_until: float = -math.inf
    """Others may go before it as long as it is done by then;"""
    lost_until: float = -math.inf
    """or by then, if it cannot be done so soon anyhow."""
    gives_way: bool = False
    """It is late anyhow, and whoever can be in time goes first until its turn."""

    def place(self, ends: float) -> Place:
        """Return how one sees it that would go before it, which is done at `ends`."""
        if ends <= self.bears_until:
            return Place(self.due, ends, self.bears_until - ends, self.bears_until)
        is_firm = not self.gives_way or ends >= self.due
        return Place(self.due, ends, self.lost_until - ends, is_firm=is_firm)


class Turn(NamedTuple):
    """When a task has its turn that goes before others."""

    in_s: float
    """Seconds until it begins."""
    due: float
    """What gives it that place in the order."""


class Behind(Struct, frozen=True):
    """The line behind those that are run ahead; of each in it, in its order, four numbers."""

    ends: float = 0.0
    """When all is done;"""
    firm: float = 0.0
    """and when that is done which does not let a newcomer go first."""
    dues: tuple[float, ...] = ()
    done: tuple[float, ...] = ()
    """When each is done."""
    latest: tuple[float, ...] = ()
    """As that of a Place."""
    bears: tuple[float, ...] = ()
    """How much later than they would be may be done each and all that follow it."""

    def __len__(self) -> int:
        return len(self.dues)

    def then(self, more: Iterable[tuple[float, Bounds]], now: float) -> "Behind":
        """Return the line with others behind it: their seconds in full calls, and what they bear."""
        ends, firm = self.ends, self.firm
        dues, done, latest, each = list(self.dues), list(self.done), list(self.latest), []
        for seconds, (due, bears_until, lost_until, gives_way) in more:
            is_firm = firm == ends
            ends += CROWDED * seconds
            is_kept = ends <= bears_until
            each.append(bears_until - ends - MARGIN * (ends - now) if is_kept else lost_until - ends)
            latest.append(bears_until if is_kept else math.inf)
            dues.append(due)
            done.append(ends)
            if is_firm and (is_kept or not gives_way or ends >= due):
                firm = ends
        least = accumulate([*reversed(each)], min)
        bears = (*least,)[::-1]
        if bears and self.bears:
            bears = (*[min(before, bears[0]) for before in self.bears], *bears)
        return Behind(ends, firm, tuple(dues), tuple(done), tuple(latest), bears or self.bears)

    def first_for(self, seconds: float, latest: float) -> int:
        """Return before which of them a task of `seconds` may stand that is wanted by `latest`.

        Before the first that may wait longer, if all from there on bear it; after the last: nowhere.
        """
        first = bisect_left(self.bears, seconds)  # they grow: from there on all bear it
        return next((i for i in range(first, len(self)) if self.latest[i] > latest), len(self))


def among(places: Sequence[Place], seconds: float, latest: float) -> tuple[list[float], list[float]]:
    """Return when those are due before which one more may go, and when the others are done."""
    firm = [p.due for p in places if p.bears_s < seconds or p.latest <= latest]
    last = max(firm, default=-math.inf)
    return [p.due for p in places if p.due > last], [p.ends for p in places if p.due <= last]
