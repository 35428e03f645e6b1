"""Which unit of work an engine does next, and which images share it: a pure decision.

Who is due first goes first, as in the broker's queue (Liu and Layland 1973, "Scheduling Algorithms for
Multiprogramming in a Hard-Real-Time Environment"): a due that was given out stays, that of a newcomer is
later unless it rides along or those that it passes bear that, so nothing starves. Before it goes only a
promise that one unit more would break. Best effort gets a unit only when nothing else wants one, or a
place in a call that takes no longer for it; so whatever comes waits for one unit of it at most. No time,
no tensors and no jobs here: candidates in, their keys out.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from operator import attrgetter
from typing import Literal, NamedTuple

from msgspec import Struct

from difs.actor_messages import Costs
from difs.foresight import CROWD
from difs.messages import MAX_IMAGES
from difs.profiles import rows_that_pay, step_seconds
from difs.sharing import Rest, Sharer, rode_along

Phase = Literal["encode", "step", "decode", "measure"]
UNNOTICED = 1.02
"""Best effort shares a call of others that takes at most so many times as long with it."""


class Candidate(NamedTuple):
    """One image (or prompt) and the unit that it needs next."""

    key: int
    """The number of its request, times MAX_IMAGES, and that of the image."""
    phase: Phase
    group: Hashable
    """What it may share a call with: the same resident, latent shape and precision."""
    rows: int
    """UNet rows that its step takes."""
    due: float
    remaining_s: float
    """Seconds that it still needs, alone, and the decoding of all that is asked for with it."""
    unit_s: float
    """Seconds of its next unit, alone."""
    evaluations: int = 0
    """UNet calls that it still needs."""
    latest: float = math.inf
    """Until then it was promised: a batch does not grow so far that this is missed."""
    told: float = math.inf
    """It was told to be done by then: that is not missed for the sake of who can wait."""
    is_in_haste: bool = False
    """It shares calls even if others are later for that than they were told."""
    is_running: bool = False
    """It took part in the last step of its group."""
    is_best_effort: bool = False
    """It gives way to all that are not."""


class Pace(Struct, frozen=True):
    """What a step of one group costs, and how many rows fit."""

    costs: Costs
    pixels: int
    max_rows: int

    def seconds(self, rows: int) -> float:
        """Return the seconds of one call with `rows` rows."""
        return step_seconds(self.costs, self.pixels, rows)

    @property
    def worthwhile_rows(self) -> int:
        """Return the rows above which a call only makes everybody wait longer."""
        return min(self.max_rows, rows_that_pay(self.costs, self.pixels))


class Turn(NamedTuple):
    """What to do now: one unit for these keys."""

    phase: Phase
    keys: tuple[int, ...]


def choose(
    candidates: Sequence[Candidate], paces: Mapping[Hashable, Pace], now: float, aside_s: float
) -> Turn | None:
    """Return the next unit, or None when there are no candidates.

    `aside_s`: seconds spent since the last step on units that are no steps. While images are between two
    of their steps, these take no longer than one step, or are a single one, or are due before. Before a
    first step all that can be encoded or decoded is: it makes room for others, who share the call.
    """
    others = [c for c in candidates if not c.is_best_effort]
    turn = _choose(others or candidates, paces, now, aside_s)
    if not others or turn is None:
        return turn
    if last := _at_their_last(others, turn, paces, now):
        turn = _choose_for(min(last, key=attrgetter("latest")), others, paces, now)
    if turn.phase != "step":
        return turn
    return Turn("step", (*turn.keys, *_unnoticed(turn.keys, candidates, paces, now)))


def _choose(
    candidates: Sequence[Candidate], paces: Mapping[Hashable, Pace], now: float, aside_s: float
) -> Turn | None:
    steps = [c for c in candidates if c.phase == "step"]
    asides = [c for c in candidates if c.phase != "step"]
    if not steps:
        first = min(asides, key=_due, default=None)
        return Turn(first.phase, (first.key,)) if first is not None else None
    head = min(steps, key=_due)
    if asides:
        first = min(asides, key=_due)
        if _may_go_aside(first, head, paces[head.group], now, aside_s):
            return Turn(first.phase, (first.key,))
    return _choose_for(head, candidates, paces, now)


def _choose_for(
    head: Candidate, candidates: Sequence[Candidate], paces: Mapping[Hashable, Pace], now: float
) -> Turn:
    """Return the unit that `head` needs, shared if it is a step."""
    if head.phase != "step":
        return Turn(head.phase, (head.key,))
    rivals = [c for c in candidates if c.phase == "step" and c.group == head.group and c is not head]
    rivals.sort(key=_due)
    crowd = {c.key // MAX_IMAGES for c in candidates if c.phase in ("encode", "step")}
    batch = _grow(head, rivals, paces[head.group], now, is_crowded=len(crowd) > CROWD)
    return Turn("step", tuple([c.key for c in batch]))


def _at_their_last(
    candidates: Sequence[Candidate], turn: Turn, paces: Mapping[Hashable, Pace], now: float
) -> list[Candidate]:
    """Return those whose promise is lost if `turn` comes first, and is kept if they do.

    The order is so that of the earliest deadline until zero laxity, which keeps more than the earliest
    deadline alone (Lee 1994, "On-line Multiprocessor Scheduling Algorithms for Real-Time Tasks").
    """
    firm = [c for c in candidates if c.latest < math.inf and c.key not in turn.keys]
    if not firm:
        return []
    chosen = [c for c in candidates if c.key in turn.keys]
    unit_s = chosen[0].unit_s
    if turn.phase == "step":
        unit_s = paces[chosen[0].group].seconds(sum([c.rows for c in chosen]))
    return [c for c in firm if 0.0 <= c.latest - now - c.remaining_s < unit_s]


_due = attrgetter("due")


def _may_go_aside(aside: Candidate, head: Candidate, pace: Pace, now: float, aside_s: float) -> bool:
    """Whether an encoding or decoding may come before the next step."""
    room_s = pace.seconds(head.rows) - aside_s
    # All that is due before may; and before a first step all: else pictures of one step run alone.
    may_all = aside.phase != "measure" and (not head.is_running or aside.due < head.due)
    if aside_s > 0 and aside.unit_s > room_s and not may_all:
        return False
    is_urgent = 0 <= head.latest - now - head.remaining_s < aside.unit_s
    return not (is_urgent and head.due < aside.due)


def _grow(
    head: Candidate, rivals: Sequence[Candidate], pace: Pace, now: float, *, is_crowded: bool
) -> list[Candidate]:
    """Return the batch of `head`: rivals join in order where it pays and no promise is lost.

    Nor is what others were told missed, unless a rival cannot wait.
    """
    batch, rows = [head], head.rows
    for rival in rivals:
        grown = rows + rival.rows
        if grown > pace.worthwhile_rows:
            continue
        was_s, will_s = pace.seconds(rows), pace.seconds(grown)
        if _loses(rival, pace.seconds(rival.rows), will_s, now):
            continue
        is_in_haste = is_crowded or _in_haste(rival, head, will_s, now)
        if not all(_sharer(c, was_s, now).bears(will_s, is_in_haste=is_in_haste) for c in batch):
            continue
        batch.append(rival)
        rows = grown
    return batch


def _in_haste(rival: Candidate, head: Candidate, will_s: float, now: float) -> bool:
    """Whether a rival cannot wait until the head bears it, but is to share its calls now."""
    if rival.is_in_haste:
        return True
    sharer = _sharer(head, head.unit_s, now)
    return rode_along(rival.told - now, _rest(rival), _rest(head), sharer, will_s)


def _rest(candidate: Candidate) -> Rest:
    calls, call_s = candidate.evaluations, candidate.unit_s
    return Rest(calls, call_s, candidate.remaining_s - calls * call_s)


def _unnoticed(
    keys: Sequence[int], candidates: Sequence[Candidate], paces: Mapping[Hashable, Pace], now: float
) -> list[int]:
    """Return the best effort that may join a call of others: they are not to notice it."""
    batch = [c for c in candidates if c.key in keys]
    group, rows = batch[0].group, sum(c.rows for c in batch)
    pace = paces[group]
    alone_s = pace.seconds(rows)
    joined = []
    for guest in sorted((c for c in candidates if c.is_best_effort), key=_due):
        grown = rows + guest.rows
        if guest.group != group or guest.phase != "step" or grown > pace.max_rows:
            continue
        will_s = pace.seconds(grown)
        if will_s <= UNNOTICED * alone_s and not any(_loses(c, alone_s, will_s, now) for c in batch):
            joined.append(guest.key)
            rows = grown
    return joined


def _loses(candidate: Candidate, was_s: float, will_s: float, now: float) -> bool:
    """Whether a candidate keeps its promise at `was_s` seconds a step, and not at `will_s`."""
    return not _sharer(candidate, was_s, now).bears(will_s, is_in_haste=True)


def _sharer(candidate: Candidate, unit_s: float, now: float) -> Sharer:
    """Return a candidate as one sees it that would join it at `unit_s` seconds a step."""
    calls = candidate.evaluations
    left_s = now + candidate.remaining_s - calls * candidate.unit_s
    return Sharer.at(calls, unit_s, candidate.latest - left_s, candidate.told - left_s)
