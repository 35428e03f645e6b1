"""From the books to what a device will do: the tasks of an actor, and its schedule run ahead.

Best effort is left out: it gives way to whoever asks. No arithmetic here: that is `difs.foresight`.
"""

import math
from collections.abc import Hashable, Iterator
from itertools import islice

from msgspec.structs import replace

from difs import foresight, profiles
from difs.actor_messages import Costs
from difs.broker.records import NO_OUTLOOK, Actor, Attempt, AttemptState, Request
from difs.foresight import Outlook, Pace, Task
from difs.messages import Plan

STALE_S = 0.1
"""An outlook that is older is made anew even if nothing came or went: steps take what they take."""


def of(actor: Actor, now: float) -> Outlook:
    """Return what an actor will do with all that is not best effort.

    Remembered until something comes or goes: time alone changes nothing of it.
    """
    made_at, found = actor.outlook
    if found is None or now - made_at > STALE_S:
        found = _made(actor, now)
        actor.outlook = now, found
    return found


def with_one_more(actor: Actor, request: Request) -> tuple[float, Outlook | None]:
    """Return what is remembered of an actor whose queue `request` is about to join.

    Behind those that are run ahead it only adds its seconds.
    """
    made_at, found = actor.outlook
    if found is None or request.is_best_effort:
        return actor.outlook
    if actor.queue.up_to(request.rank[0]) < foresight.MOST:
        return NO_OUTLOOK
    return made_at, replace(found, ends=found.ends + request.work_s)


def _made(actor: Actor, now: float) -> Outlook:
    tasks: list[Task] = []
    paces: dict[Hashable, Pace] = {}
    rest_s = actor.account.left_s
    for request, plan, attempt in islice(_in_order(actor), foresight.MOST):
        rest_s -= request.work_s - (attempt.done_s if attempt is not None else 0.0)
        known = actor.known_in(plan.variant, plan.memory_mode)
        costs = known.costs if known is not None else profiles.ASSUMED
        found = _task(request, plan, costs)
        tasks.append(found._replace(since=now) if attempt is None else _under_way(found, attempt))
        if found.group not in paces:
            assert request.work is not None
            paces[found.group] = foresight.pace_of(costs, request.work.pixels)
    if len(tasks) < foresight.MOST:
        rest_s = 0.0  # all of it is in the tasks; what a sum leaves over is rounding
    begun = min(now, actor.progressed_at) if actor.is_working else now
    return foresight.run_ahead(tasks, paces, now=now, begun=begun, rest_s=max(0.0, rest_s))


def _task(request: Request, plan: Plan, costs: Costs) -> Task:
    """Return the task that a request is as long as nothing of it is done.

    Remembered with the request: it is asked for with each newcomer, and its costs seldom change.
    """
    if request.task is None or request.task[0] is not costs or request.task[1] is not plan:
        assert request.work is not None
        task = foresight.task_of(costs, request.work, plan.variant)
        if request.is_alone:
            task = task._replace(group=(plan.variant, request.message.request_id))
        task = task._replace(due=request.due, latest=request.latest or math.inf)
        request.task = costs, plan, task
    return request.task[2]


def _in_order(actor: Actor) -> Iterator[tuple[Request, Plan, Attempt | None]]:
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
        is_running=attempt.calls > 0 and attempt.stepped_at >= told_at,
        since=attempt.started_at,
    )
