"""From the books to what a device will do: the tasks of an actor, and its schedule run ahead.

Best effort is left out: it gives way to whoever asks. No arithmetic here: that is `difs.foresight`.
"""

import math
from collections.abc import Hashable, Iterator, Sequence
from itertools import islice

from difs import foresight, profiles
from difs.actor_messages import Costs
from difs.broker.records import NO_OUTLOOK, Actor, Attempt, Request
from difs.broker.states import AttemptState
from difs.foresight import Outlook, Pace, Task
from difs.messages import Plan
from difs.places import Bounds

SEEN = 176
"""Behind those that are run ahead so many are looked at, whether they bear that others go before them."""
UNSEEN = Bounds(math.inf)
"""Who stands so far behind lets nobody go ahead;"""
LATE = Bounds(math.inf, lost_until=math.inf, gives_way=True)
"""or everybody, if all that stands there is late."""
STALE_S = 0.1
"""An outlook that is older is made anew even if nothing came or went: steps take what they take."""


Seen = tuple[Request, Plan, Attempt | None]


def of(actor: Actor, now: float) -> Outlook:
    """Return what an actor will do with all that is not best effort.

    Remembered until something comes or goes: time alone changes nothing of it, but which call of what
    gives way is under way.
    """
    made_at, found = actor.outlook
    is_stale = now - made_at > STALE_S or (found is not None and found.firm < now < found.ends)
    if found is None or (is_stale and not found.is_over(now)):
        found = _made(actor, now)
        actor.outlook = now, found
    return found


def believed(actor: Actor, now: float, *, is_best_effort: bool) -> Outlook | None:
    """Return what an actor will do, where a new request can rest on that; None: only sums are known.

    A best effort gives way to whoever comes, and what waits for loads stands in no schedule.
    """
    is_unknown = is_best_effort or actor.waits_for_loads(is_best_effort=False)
    return None if is_unknown else of(actor, now)


def with_one_more(actor: Actor, request: Request) -> tuple[float, Outlook | None]:
    """Return what is remembered of an actor whose queue `request` is about to join.

    Behind those that are run ahead it only adds its seconds.
    """
    made_at, found = actor.outlook
    plan = request.plan
    if found is None or request.is_best_effort:
        return actor.outlook
    if plan is None or request.goes_ahead or actor.queue.up_to(request.rank[0]) < foresight.MOST:
        return NO_OUTLOOK
    return made_at, found.with_behind(request.work_s, _bounds(request, plan), made_at)


def _made(actor: Actor, now: float) -> Outlook:
    tasks: list[Task] = []
    paces: dict[Hashable, Pace] = {}
    seen = list(islice(_in_order(actor), foresight.MOST + SEEN))
    rest_s = actor.account.left_s
    most = next((i for i, one in enumerate(seen[: foresight.MOST]) if _is_last(one)), foresight.MOST)
    for request, plan, attempt in seen[:most]:
        rest_s -= _left_s(request, attempt)
        known = actor.known_in(plan.variant, plan.memory_mode)
        costs = known.costs if known is not None else profiles.ASSUMED
        found = _task(request, plan, costs)
        tasks.append(found._replace(since=now) if attempt is None else _under_way(found, attempt))
        if found.group not in paces:
            assert request.work is not None
            paces[found.group] = foresight.pace_of(costs, request.work.pixels)
    rest = [(_left_s(r, attempt), _bounds(r, plan)) for r, plan, attempt in seen[most:]]
    rest_s -= sum([seconds for seconds, _ in rest])
    if len(seen) == foresight.MOST + SEEN and rest_s > 0:
        rest.append((rest_s, UNSEEN if _has_more(actor, seen) else LATE))
    begun = min(now, actor.progressed_at) if actor.is_working else now
    urgent = actor.queue.urgent
    return foresight.run_ahead(
        tasks,
        paces,
        now=now,
        begun=begun,
        rest=rest,
        waiting=urgent if urgent or actor.free_credits <= 0 else None,
        may_pass=any(attempt is not None and not attempt.calls for _, _, attempt in seen),
    )


def _is_last(one: Seen) -> bool:
    """Whether one waits, and all that can be in time goes before it."""
    request, _, attempt = one
    return attempt is None and request.told == "late"


def _has_more(actor: Actor, seen: Sequence[Seen]) -> bool:
    """Whether more waits than was seen that is not late anyhow."""
    urgent = actor.queue.urgent - actor.queue.late
    if urgent > len(seen):
        return True
    return urgent > sum([a is None and request.told != "late" for request, _, a in seen])


def _left_s(request: Request, attempt: Attempt | None) -> float:
    return request.work_s - (attempt.done_s if attempt is not None else 0.0)


def _task(request: Request, plan: Plan, costs: Costs) -> Task:
    """Return the task that a request is as long as nothing of it is done.

    Remembered with the request: it is asked for with each newcomer, and its costs seldom change.
    """
    if request.task is None or request.task[0] is not costs or request.task[1] is not plan:
        assert request.work is not None
        task = foresight.task_of(costs, request.work, plan.variant)
        if request.is_alone:
            task = task._replace(group=(plan.variant, request.message.request_id))
        _, bears, lost, gives_way = _bounds(request, plan)
        task = task._replace(
            due=request.due,
            latest=request.held_to or math.inf,
            told=request.kept_until,
            is_in_haste=request.is_in_haste,
            bears_until=bears,
            lost_until=lost,
            gives_way=gives_way,
        )
        request.task = costs, plan, task
    return request.task[2]


def _bounds(request: Request, plan: Plan) -> Bounds:
    """Return until when a request may be late for others' sake, and until when if that cannot be kept.

    It keeps what it was told. What will be late goes after all that can be in time, as long as its client
    waits. Remembered with the request: all that wait are asked for with each newcomer.
    """
    if request.bounds is None or request.bounds[0] is not plan:
        request.bounds = plan, _found(request, plan)
    return request.bounds[1]


def _found(request: Request, plan: Plan) -> Bounds:
    told, due = request.told, request.due
    if told == "late":
        return Bounds(due, lost_until=request.deadline, gives_way=True)
    if told == "promised":
        assert request.latest is not None
        return Bounds(due, request.latest, request.deadline)
    return Bounds(due, request.told_at, request.told_at)


def _in_order(actor: Actor) -> Iterator[Seen]:
    """Yield what an actor has, what it was sent first."""
    for attempt in actor.attempts.values():
        if attempt.state is AttemptState.RUNNING and not attempt.request.is_best_effort:
            yield attempt.request, attempt.plan, attempt
    for request in actor.queue:
        if request.plan is not None and not request.is_best_effort:
            yield request, request.plan, None


def _under_way(task: Task, attempt: Attempt) -> Task:
    """Return what is left of a task that was sent: its prompt is encoded before the next call."""
    told_at = attempt.actor.progressed_at
    has_begun = attempt.calls > 0 or attempt.started_at < told_at
    return task._replace(
        calls=max(0, task.calls - attempt.calls // attempt.request.message.n),
        encode_s=0.0 if has_begun else task.encode_s,
        since=attempt.started_at,
    )
