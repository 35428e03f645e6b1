"""When a device will be done with what it has, and with one request more: its schedule, run ahead.

An engine serves who is due first and lets images of one group share calls (`difs.actors.batching`), so a
newcomer rides along in calls that are made anyhow, and slows those that it rides with. A sum of seconds
knows neither. Here the order of work is run ahead, not call by call but stretch by stretch: calls that
follow each other with the same sharers. What has yet to arrive is not in it (`difs.policy.lateness`).
Pure arithmetic; moments are those of one clock, seconds are of a device that does nothing else.
"""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from difs import places, profiles
from difs.actor_messages import Costs, RowCost
from difs.places import Behind, Bounds, Place, Turn
from difs.profiles import Work
from difs.samplers import evaluations
from difs.sharing import Rest, Sharer, joined_after, rode_along
from difs.sizes import at, in_table

CROWD = 7
"""Where more tasks are than that, who can wait shares calls, too, even if others are later for that than
they were told: what is done counts for more. In `tests/unit/test_promises_under_load.py` one in a
hundred more is in time than without; 5 to 9 differ by no more, and predictions err alike."""
MOST = 16
"""Tasks whose order is run ahead, as many as a device is sent; behind them stands a sum of seconds."""


class Pace(NamedTuple):
    """What the calls of one group cost."""

    table: tuple[RowCost, ...]
    most_rows: int
    """More are not worth a call."""

    def seconds(self, rows: int) -> float:
        """Return the seconds of one call with `rows` rows."""
        return in_table(self.table, rows)


@lru_cache(maxsize=2048)
def pace_of(costs: Costs, pixels: int) -> Pace:
    """Return the pace of pictures of `pixels` pixels."""
    return Pace(at(costs, pixels).steps, profiles.rows_that_pay(costs, pixels))


class Task(NamedTuple):
    """A request as far as it is not done, or one that may come."""

    group: Hashable
    """What it may share calls with."""
    rows: int
    """Of all its images, in each call."""
    calls: int
    """Evaluations that it still needs."""
    call_s: float
    """Of one of them, alone."""
    encode_s: float
    """Before the first."""
    decode_s: float
    """After the last."""
    due: float = 0.0
    """It has its place in the order by that."""
    latest: float = math.inf
    """What it was promised: no call grows so far that this is missed."""
    told: float = math.inf
    """What it was told: that is not missed for the sake of who can wait."""
    is_in_haste: bool = False
    """It shares calls even if others are later for that than they were told."""
    since: float = -math.inf
    """Before that it was not there: it is in no call that had begun."""
    bears_until: float = -math.inf
    """Others may go before it as long as it is done by then;"""
    lost_until: float = -math.inf
    """or by then, if it cannot be done so soon anyhow."""
    gives_way: bool = False
    """It is late anyhow, and whoever can be in time goes first."""


@lru_cache(maxsize=2048)  # of each point of every decision, and of what waits
def task_of(costs: Costs, work: Work, variant: str) -> Task:
    """Return the task that `work` with a resident of these costs is, nothing of it being done."""
    alone = profiles.predict(work, costs)
    calls = evaluations(work.sampler, work.steps)
    return Task(
        group=(variant, work.size or work.pixels),
        rows=work.n * profiles.rows_of(work.guidance_scale),
        calls=calls,
        call_s=alone.steps_s / calls,
        encode_s=alone.encode_s,
        decode_s=alone.decode_s,
    )


class Stretch(Struct, frozen=True):
    """Calls that follow each other with the same sharers."""

    begins: float
    group: Hashable
    rows: int
    calls: int
    call_s: float
    head_s: float
    """Of a call of the first of them, alone."""
    sharers: tuple[Sharer, ...]
    aside_s: float
    """After the last call: decoding of those that are done."""

    @property
    def ends(self) -> float:
        """Return when the last call is done."""
        return self.begins + self.calls * self.call_s

    def joined_after(
        self, task: Task, most_rows: int, shared_s: float, later_s: float, *, is_in_haste: bool
    ) -> int:
        """Return after how many of the calls one task more may share the rest; all: it may not.

        They take `shared_s` then. `later_s`: by which it makes the others later before its first.
        """
        if self.group != task.group or self.rows + task.rows > most_rows:
            return self.calls
        after = joined_after(self.sharers, self.call_s, shared_s, later_s, is_in_haste=is_in_haste)
        return min(self.calls, after)

    def free_after(self, calls: int) -> float:
        """Return when something else may go first after so many calls: after what ends with them, too."""
        return self.begins + calls * self.call_s + (self.aside_s if calls == self.calls else 0.0)

    def from_now(self, now: float) -> tuple[int, float]:
        """Return how many of the calls have not begun, and when the first of these begins."""
        if self.begins >= now:
            return self.calls, self.begins
        if self.call_s <= 0:
            return 0, now
        begun = min(self.calls, math.ceil((now - self.begins) / self.call_s - 1e-6))
        return self.calls - begun, self.begins + begun * self.call_s


class Outlook(Struct, frozen=True):
    """What a device will do if nothing more comes."""

    stretches: tuple[Stretch, ...] = ()
    behind: Behind = Behind()
    """Those that follow the ones that are run ahead."""
    aside_s: float = 0.0
    """What is encoded and decoded before the first call."""
    places: tuple[Place, ...] = ()
    """Of those that are run ahead."""
    opens: float = -math.inf
    """When it takes one more, behind all that waits to be sent to it;"""
    frees: float = -math.inf
    """and when it takes the first of those."""

    @property
    def ends(self) -> float:
        """Return when all is done."""
        return self.behind.ends

    @property
    def firm(self) -> float:
        """Return when that is done which does not let a newcomer go first."""
        return self.behind.firm

    @property
    def is_crowded(self) -> bool:
        """Whether one more makes a crowd."""
        return len(self.places) >= CROWD

    def is_over(self, now: float) -> bool:
        """Whether there is nothing to do: time changes nothing of that."""
        return self.ends <= now and not self.places

    def with_behind(self, seconds: float, bounds: Bounds, now: float) -> "Outlook":
        """Return the outlook with one more behind all others."""
        behind = self.behind.then([(seconds, bounds)], now)
        return replace(self, behind=behind, opens=behind.firm if self.opens > -math.inf else self.opens)

    def without_turns(self) -> "Outlook":
        """Return the outlook of one that may go before nobody."""
        return replace(self, places=(), behind=Behind(self.behind.ends, self.behind.firm))

    def turn_before(self, seconds: float, now: float, latest: float) -> Turn | None:
        """Return the turn before those that can wait longer, for a task of `seconds` wanted by `latest`.

        It costs nobody more than they bear; None: whoever would have to wait for it cannot. That is the
        order of the earliest deadline, by which all are in time where any order does that (Liu and
        Layland 1973, "Scheduling Algorithms for Multiprogramming in a Hard-Real-Time Environment").
        """
        line = self.behind
        place = line.first_for(seconds, latest)
        if place == len(line) and place:
            return None
        if place:
            due = (line.dues[place - 1] + line.dues[place]) / 2
            return Turn(max(now, line.done[place - 1]) - now, due)
        passed, ends = places.among(self.places, seconds, latest)
        if not (passed or len(line)):
            return None
        due = min([*passed, *line.dues[:1]])
        begun = [s.free_after(s.calls - s.from_now(now)[0]) for s in self.stretches[:1]]
        return Turn(max(now, self.frees, *begun, *ends) - now, math.nextafter(due, -math.inf))

    def done_in_s(self, task: Task, pace: Pace, now: float, *, is_in_haste: bool = False) -> float:
        """Return in how many seconds one task more would be done, the last of all that wait.

        It joins the calls of its group that have room and let it; `is_in_haste`: it cannot wait. Its
        prompt is encoded between two calls: at once, or one call later where decoding has taken that
        time already.
        """
        left, later_s, aside_s = task.calls, 0.0, self.aside_s
        is_in_haste = is_in_haste or self.is_crowded
        is_encoded = task.encode_s <= 0
        opens = max(now, self.opens)
        has_calls = bool(self.stretches) and opens < self.stretches[-1].ends
        for stretch in self.stretches if has_calls else ():
            if is_encoded and stretch.group != task.group:
                continue
            calls, begins = stretch.from_now(opens)
            before_s = aside_s if begins == stretch.begins else 0.0
            aside_s = stretch.aside_s
            if calls and not is_encoded and 0 < before_s > stretch.head_s - task.encode_s:
                calls, begins = calls - 1, begins + stretch.call_s
            if not calls:
                continue
            if not is_encoded:
                is_encoded, later_s = True, later_s + task.encode_s
            shared_s = pace.seconds(stretch.rows + task.rows)
            apart = stretch.joined_after(task, pace.most_rows, shared_s, later_s, is_in_haste=is_in_haste)
            calls, first = min(calls, stretch.calls - apart), max(stretch.calls - calls, apart)
            if calls <= 0:
                continue
            if left <= calls:
                others_s = aside_s if left == calls else 0.0
                begins = stretch.begins + first * stretch.call_s
                return begins - now + later_s + left * shared_s + others_s + task.decode_s
            left -= calls
            later_s += calls * (shared_s - stretch.call_s)
        later_s += 0.0 if is_encoded else task.encode_s
        return max(0.0, self.firm - now) + later_s + left * task.call_s + task.decode_s


# ---- running ahead --------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Left:
    """A task that still needs calls."""

    task: Task
    calls: int

    def place(self, ends: float) -> Place:
        """Return how one sees it that would go before it, when it is done at `ends`."""
        task = self.task
        return Bounds(task.due, task.bears_until, task.lost_until, task.gives_way).place(ends)

    def sharer(self, moment: float, call_s: float) -> Sharer:
        """Return it as one sees it that would join calls of `call_s` that it shares from then on."""
        task = self.task
        left_s = moment + task.decode_s
        return Sharer.at(self.calls, call_s, task.latest - left_s, task.told - left_s)

    def rest(self) -> Rest:
        """Return what is left of it."""
        return Rest(self.calls, self.task.call_s, self.task.decode_s)

    def in_haste(self, head: "_Left", moment: float, call_s: float) -> bool:
        """Whether it cannot wait until a head bears it, but is to share its calls of `call_s` now."""
        if self.task.is_in_haste:
            return True
        sharer = head.sharer(moment, head.task.call_s)
        return rode_along(self.task.told - moment, self.rest(), head.rest(), sharer, call_s)


class _Call(NamedTuple):
    """One call and who shares it, the first due first."""

    batch: list[_Left]
    rows: int
    seconds: float
    sharers: tuple[Sharer, ...]
    """They, as one sees them that would join."""


def run_ahead(
    tasks: Sequence[Task],
    paces: Mapping[Hashable, Pace],
    *,
    now: float,
    begun: float,
    rest: Sequence[tuple[float, Bounds]] = (),
    waiting: int | None = None,
    may_pass: bool = False,
) -> Outlook:
    """Return what a device does with `tasks`, and after them with the `rest`, one by one.

    `paces`: of each group. `begun`: when the unit of work under way began; `now` if there is none.
    `rest`: seconds, and how much of a delay each bears. `waiting`: how many of all wait until the device
    takes them; None: it would take one more at once. `may_pass`: what has not begun gives its place back
    to who is in haste.
    """
    if not tasks:
        return Outlook(behind=Behind(now, now).then(rest, now))
    first_s = sum([t.encode_s + (0.0 if t.calls else t.decode_s) for t in tasks])
    stretches, known, moment = _run(tasks, paces, now, begun + first_s, is_fresh=not first_s)
    done = sorted([place.ends for place in known])
    ends = firm = max(now, moment)
    if all(bounds.gives_way for _, bounds in rest):
        under_way = [s.free_after(1) for s in stretches[:1]]
        firm = max([now, begun + first_s, *under_way, *[p.ends for p in known if p.is_firm]])
    behind = Behind(ends, firm).then(rest, now)
    opens = frees = -math.inf
    if waiting is not None:
        opens, frees = [done[n] if n < len(done) else behind.firm for n in (waiting, 0)]
        opens, frees = behind.firm if rest else opens, -math.inf if may_pass else frees
    return Outlook(tuple(stretches), behind, first_s, tuple(known), opens, frees)


def _run(
    tasks: Sequence[Task],
    paces: Mapping[Hashable, Pace],
    now: float,
    moment: float,
    *,
    is_fresh: bool,
) -> tuple[list[Stretch], list[Place], float]:
    """Return the stretches from `moment` on, when each task is done, and when all are.

    `is_fresh`: nothing was encoded or decoded before.
    """
    in_order = sorted([task for task in tasks if task.calls], key=attrgetter("due"))
    left = [_Left(task, task.calls) for task in in_order]
    stretches: list[Stretch] = []
    known: list[Place] = []
    while left:
        here = [one for one in left if one.task.since <= moment + 1e-9] or left
        pace = paces[here[0].task.group]
        call = _next_call(here, pace, moment)
        if not stretches and is_fresh:  # a unit that takes longer than it should is not done
            moment = max(moment, now - call.seconds)
        calls = min([one.calls for one in call.batch])
        if calls > 1:
            calls = min([calls, *_joins(left, call, pace, moment)]) if len(here) == len(left) else 1
        stretches.append(_stretch(call, moment, calls))
        moment = stretches[-1].ends + stretches[-1].aside_s
        for one in call.batch:
            one.calls -= calls
            if one.calls <= 0:
                known.append(one.place(moment))
        left = [one for one in left if one.calls > 0]
    return stretches, known, moment


def _next_call(left: Sequence[_Left], pace: Pace, moment: float) -> _Call:
    """Return who shares the next call, the first due first; `left` is in that order.

    Of the group of the first one, whoever has room and costs nobody what was promised, or told.
    """
    first, *others = left
    call = _call([first], first.task.rows, first.task.call_s, moment)
    is_crowded = len(left) > CROWD
    for one in others:
        rows = call.rows + one.task.rows
        if one.task.group != first.task.group or rows > pace.most_rows:
            continue
        will_s = pace.seconds(rows)
        if not one.sharer(moment, one.task.call_s).bears(will_s, is_in_haste=True):
            continue
        is_in_haste = is_crowded or one.in_haste(first, moment, will_s)
        if joined_after(call.sharers, call.seconds, will_s, 0.0, is_in_haste=is_in_haste):
            continue
        call = _call([*call.batch, one], rows, will_s, moment)
    return call


def _call(batch: list[_Left], rows: int, seconds: float, moment: float) -> _Call:
    return _Call(batch, rows, seconds, tuple([one.sharer(moment, seconds) for one in batch]))


def _joins(left: Sequence[_Left], call: _Call, pace: Pace, moment: float) -> Iterator[int]:
    """Yield after how many such calls one more of those that are left may share them."""
    head = call.batch[0]
    for one in left:
        rows = call.rows + one.task.rows
        if one.task.group == head.task.group and rows <= pace.most_rows and one not in call.batch:
            will_s = pace.seconds(rows)
            is_in_haste = one.in_haste(head, moment, will_s)
            yield max(1, joined_after(call.sharers, call.seconds, will_s, 0.0, is_in_haste=is_in_haste))


def _stretch(call: _Call, moment: float, calls: int) -> Stretch:
    batch = call.batch
    return Stretch(
        begins=moment,
        group=batch[0].task.group,
        rows=call.rows,
        calls=calls,
        call_s=call.seconds,
        head_s=batch[0].task.call_s,
        sharers=call.sharers,
        aside_s=sum([one.task.decode_s for one in batch if one.calls <= calls]),
    )
