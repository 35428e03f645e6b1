"""From the queue to the actors and back: dispatch, losses, and the ends of requests."""

import math
from enum import Enum
from itertools import takewhile
from operator import attrgetter

from msgspec.structs import replace

from difs.actor_messages import Abort, Excuse, Execute, KillActor
from difs.broker import admission, planning, scaling, shares
from difs.broker.books import Books
from difs.broker.effects import TellActor, TellClient, TellSupervisor
from difs.broker.records import Actor, Attempt, Request
from difs.broker.scaling import Brought
from difs.broker.states import AttemptState, Cause, RequestState
from difs.messages import MAX_SEED, Accepted, Error, Generate, Plan
from difs.policy.base import Admit, Reject

# ---- planning again ----------------------------------------------------------------------------


def replan(books: Books, request: Request, now: float) -> None:
    """Find a new place for a queued request whose device is gone."""
    books.unassign(request)
    request.plan = None
    books.waiting[request.message.request_id] = request
    decision = planning.decide(books, request.message, now, planning.variants_for(books, request))
    if isinstance(decision, Reject) and decision.code == "unavailable":
        return  # it was accepted: it waits for a device until its deadline
    refused = planning.refusal_of(books, request.message, decision)
    if refused is not None:
        fail(books, request, refused, now)
        return
    planning.place(books, request, decision, now)
    if request.plan is not None:
        announce(books, request)


def lighten(books: Books, request: Request, heavy: Plan, now: float) -> bool:
    """Move a request that ran out of memory to a lighter variant; False where none may serve it.

    Each move is to a strictly lighter one, so they come to an end.
    """
    info = books.variants.get(heavy.variant)
    if info is None or request.message.overrides.variant is not None:
        return False
    request.below_bytes, request.repainted_with = info.bytes, None
    lighter = planning.variants_for(books, request)
    decision = planning.decide(books, request.message, now, lighter) if lighter else None
    if not isinstance(decision, Admit) or planning.refusal_of(books, request.message, decision):
        return False
    note = f"out of memory with {heavy.variant}: moved to the lighter {decision.plan.variant}"
    books.counts["lightened"] += 1
    _begin_again(books, request, decision, note, now)
    return True


def repaint(books: Books, request: Request, decision: Admit, now: float) -> None:
    """Paint a request anew whose pictures were judged and not good enough."""
    note = f"painted again with {decision.plan.variant}: {decision.plan.reason}"
    books.counts["repainted"] += 1
    request.repainted_with = decision.plan.variant
    _begin_again(books, request, replace(decision, is_judged=False), note, now)


def _begin_again(books: Books, request: Request, decision: Admit, note: str, now: float) -> None:
    """Queue a request whose attempt has ended under another plan."""
    request.notes += (note,)
    books.unassign(request)
    books.move(request, Cause.REQUEUED, now, note)
    books.waiting[request.message.request_id] = request
    planning.place(books, request, decision, now)
    announce(books, request)


def announce(books: Books, request: Request) -> None:
    """Tell the client the plan of its request as it stands."""
    accepted = Accepted(request.message.request_id, books.epoch, request.attempts, request.plan)
    books.effects.append(TellClient(request.client.route, accepted))


# ---- dispatch -----------------------------------------------------------------------------------


def dispatch(books: Books, now: float) -> None:
    """Hand queued work to every actor that has a free credit and free slots.

    Where that does not suffice for what stands in a queue, best effort gives its place back.
    """
    moved = True
    while moved:  # a request that moved may now stand with an actor that was looked at before
        moved = False
        for actor in books.ready:
            while len(actor.attempts) < actor.credits and actor.queue:
                outcome = _dispatch_head(books, actor, now)
                moved = moved or outcome is _Outcome.MOVED
                if outcome is not _Outcome.GONE:
                    break
    for actor in books.ready:
        if actor.spared and actor.queue.urgent:
            _recall(books, actor, now)
        elif actor.free_credits <= 0 and actor.queue.urgent:
            _let_pass(books, actor, now)


def _let_pass(books: Books, actor: Actor, now: float) -> None:
    """Take back what has not begun, the last turn first, for promises whose turns are before it."""
    first = takewhile(attrgetter("goes_ahead"), actor.queue)
    hasty = [r for r in first if r.plan is not None and r.plan.variant in actor.residents]
    if not hasty or actor.suspects:
        return
    idle = [a for a in actor.attempts.values() if a.state is AttemptState.RUNNING and not a.calls]
    idle.sort(key=lambda a: _line_of(a.request), reverse=True)
    for request, attempt in zip(hasty[actor.aborting :], idle, strict=False):
        if _line_of(attempt.request) <= _line_of(request):
            return
        books.counts["let_pass"] += 1
        _take_back(books, actor, attempt, now, "it had not begun, and lets pass what has less time")


def _line_of(request: Request) -> tuple[int, float]:
    """Return where a request stands in the queue: its class, and when it is due."""
    return request.rank[0], request.due


def _take_back(books: Books, actor: Actor, attempt: Attempt, now: float, why: str) -> None:
    """Have a dispatched request wait in the queue again."""
    request = attempt.request
    books.unassign(request)
    books.abort(attempt)
    request.attempt = None
    books.effects.append(TellActor(actor.route, Abort(attempt.number)))
    books.move(request, Cause.REQUEUED, now, why)
    books.assign(request, actor)


def _recall(books: Books, actor: Actor, now: float) -> None:
    """Have best effort begin anew later, so that its credits and slots are free after one unit of work.

    Where only credits are missing as many as are wanted, else all: any of them may hold what is missing.
    """
    found = actor.yielding
    if found and _lacks_only_credits(books, actor):
        found = found[: max(0, actor.queue.urgent - actor.aborting)]
    for attempt in found:
        request = attempt.request
        books.counts["recalled"] += 1
        _take_back(books, actor, attempt, now, RECALLED)
        if RECALLED not in request.notes:
            request.notes += (RECALLED,)
            request.plan = replace(attempt.plan, notes=(*attempt.plan.notes, RECALLED))


def _lacks_only_credits(books: Books, actor: Actor) -> bool:
    """Whether an actor's next request could be dispatched if there were a credit."""
    head = books.head(actor)
    if head is None or head.plan is None or head.is_suspect or actor.suspects:
        return False
    nbytes = admission.slot_bytes(head.message, head.plan)
    has_slots = books.pools[actor.device].can_lease(head.message.n, nbytes)
    return actor.free_credits <= 0 and has_slots


LEAST_S = 0.001
"""What is left at least of a latency: less is no latency."""
RECALLED = "best effort: it gave its place to other work, and began anew"


class _Outcome(Enum):
    """What became of the first request of a queue."""

    GONE = "gone"
    MOVED = "moved"
    STUCK = "stuck"


def _dispatch_head(books: Books, actor: Actor, now: float) -> _Outcome:
    """Dispatch the first request of an actor's queue, if it need not go on waiting."""
    request = books.head(actor)
    if request is None or request.plan is None:
        return _Outcome.STUCK
    if request.deadline <= now:
        expire(books, request, now)
        return _Outcome.GONE
    is_held_back = bool(actor.attempts) and (actor.suspects > 0 or request.is_suspect)
    if is_held_back or request.plan.variant in actor.outdated:  # until it is loaded as it is now
        return _Outcome.STUCK
    message, plan = request.message, request.plan
    nbytes = admission.slot_bytes(message, plan)
    if not books.pools[actor.device].can_lease(message.n, nbytes):
        return _move_to_room(books, request, nbytes, now)
    return _bring(books, actor, request, plan, now)


def _bring(books: Books, actor: Actor, request: Request, plan: Plan, now: float) -> _Outcome:
    """Dispatch a request if its variant is there or comes."""
    mode, may_differ = plan.memory_mode, request.is_settled
    brought = scaling.bring(books, actor, plan.variant, now, mode=mode, may_differ=may_differ)
    if brought is Brought.COMES:
        _begin(books, actor, request, plan, now)
        return _Outcome.GONE
    if brought is Brought.DIFFERS:
        _settle(books, request, now)
        return _Outcome.MOVED
    return _Outcome.STUCK  # until what is busy has ended, and can leave


def _settle(books: Books, request: Request, now: float) -> None:
    """Decide anew on a request whose plan rests on a memory mode for which there is no room: once."""
    request.is_settled = True
    rest = _rest_of(request, now)
    decision = planning.decide(books, rest, now, planning.variants_for(books, request))
    if isinstance(decision, Admit) and planning.refusal_of(books, rest, decision) is None:
        planning.place(books, request, decision, now)
        announce(books, request)


def _rest_of(request: Request, now: float) -> Generate:
    """Return what a request asks for with the seconds that are left of its latency."""
    message = request.message
    if request.latest is None:
        return message
    left_s = max(LEAST_S, request.latest - now)
    return replace(message, requirements=replace(message.requirements, latency_s=left_s))


def _begin(books: Books, actor: Actor, request: Request, plan: Plan, now: float) -> None:
    slots = books.pools[actor.device].lease(
        request.message.n, admission.slot_bytes(request.message, plan)
    )
    assert slots is not None
    attempt = books.begin(request, plan, actor, slots, now)
    attempt.notes = tuple(filter(None, [actor.forced.get(plan.variant)]))
    books.effects.append(TellActor(actor.route, _execute(attempt)))
    if request.attempts > 1:
        announce(books, request)


MOVE_REST_S = 0.5
"""A request whose device has no free slots looks at the others once in so long."""


def _move_to_room(books: Books, request: Request, nbytes: int, now: float) -> _Outcome:
    """Move a request whose device has no free slots to one that has, if the policy admits it there.

    Only where it can begin at once: two full queues would throw all that they have to and fro.
    """
    message = request.message
    if now < request.stays_until:
        return _Outcome.STUCK
    roomy = planning.with_room(books, message.n, nbytes, [a for a in books.ready if a.takes_more])
    if not roomy:
        return _Outcome.STUCK
    variants = planning.variants_for(books, request)
    decision = planning.decide_among(books, message, now, variants, roomy)
    if not isinstance(decision, Admit) or planning.refusal_of(books, message, decision):
        request.stays_until = now + MOVE_REST_S
        return _Outcome.STUCK
    planning.place(books, request, decision, now)
    announce(books, request)
    return _Outcome.MOVED


def _execute(attempt: Attempt) -> Execute:
    request, plan = attempt.request, attempt.plan
    message = request.message
    due, latest = _due(request, plan)
    kept_until = request.kept_until
    return Execute(
        attempt=attempt.number,
        request_id=message.request_id,
        variant=plan.variant,
        prompt=message.prompt,
        negative_prompt=message.negative_prompt,
        width=plan.width,
        height=plan.height,
        steps=plan.steps,
        guidance_scale=plan.guidance_scale,
        sampler=plan.sampler,
        seeds=tuple((request.first_seed + i) & MAX_SEED for i in range(message.n)),
        deadline=request.deadline,
        slots=attempt.slots,
        format=message.delivery.format,
        metadata=_metadata(message, plan),
        adapters=message.overrides.adapters,
        due=due,
        latest=latest,
        told=kept_until if kept_until < math.inf else 0.0,
        is_in_haste=request.is_in_haste,
        is_alone=request.is_alone,
        floor_steps=0 if request.is_alone else plan.floor_steps or 0,
        is_judged=request.is_judged,
        is_best_effort=request.is_best_effort,
        preview_every=message.delivery.preview_every,
        is_watched=message.delivery.progress or message.delivery.preview_every > 0,
    )


def _due(request: Request, plan: Plan) -> tuple[float, float]:
    """Return when the images are due, and by when they were promised (or 0.0).

    Served in the order in which they would be done one after the other, requests come when they were told
    to, and whoever is late keeps its place, or light work would go ahead of heavy for ever. Where the
    policy has an order, the stated latencies are it. A best effort has until its deadline.
    """
    if request.is_best_effort:
        return request.deadline, 0.0
    latest = request.held_to
    if latest is None:
        return request.due, 0.0
    return min(request.due, latest) if request.order is not None else request.due, latest


def _metadata(message: Generate, plan: Plan) -> str:
    """Return the JSON that stands under our own key in an image file; empty when not wanted."""
    if message.delivery.format == "raw" or not message.delivery.metadata:
        return ""
    return plan.describe(message.requirements)


# ---- ends ---------------------------------------------------------------------------------------


def fail(books: Books, request: Request, error: Error, now: float) -> None:
    """End a request with a typed error."""
    _end(books, request, Cause.FAILED, error, now)


def cancel(books: Books, request: Request, why: str, now: float) -> None:
    """End a request because its client gave it up."""
    error = admission.refusal("cancelled", why, request_id=request.message.request_id)
    if not request.is_best_effort:
        shares.withdrew(books, request, now)
    _end(books, request, Cause.CANCELLED, error, now)


def expire(books: Books, request: Request, now: float) -> None:
    """End a request because its deadline passed."""
    waited = " while it was queued" if request.state is RequestState.QUEUED else ""
    held = sum(1 for h in books.holds.values())
    slots = f"; {held} shared-memory slots are held by clients" if waited and held else ""
    error = admission.refusal(
        "expired",
        f"timeout_s {request.message.timeout_s:g} passed{waited}{slots}",
        request_id=request.message.request_id,
    )
    _end(books, request, Cause.EXPIRED, error, now)


def _end(books: Books, request: Request, cause: Cause, error: Error, now: float) -> None:
    attempt = request.attempt
    route = request.client.route
    if attempt is not None and attempt.state is AttemptState.RUNNING:
        books.abort(attempt)
        request.attempt = None
        books.effects.append(TellActor(attempt.actor.route, Abort(attempt.number)))
    books.move(request, cause, now, error.code)  # not its words: they may repeat a prompt
    books.effects.append(TellClient(route, error))


# ---- loss ---------------------------------------------------------------------------------------


def lose_actor(
    books: Books, actor: Actor, reason: str, now: float, *, kill: bool = False, died: bool = True
) -> None:
    """Take an incarnation off the books; its requests are dispatched again or fail.

    `kill`: ask the supervisor to end the process, so that it can write no more. `died`: it did not
    leave on purpose, so what it had may be the cause.
    """
    books.change_actor(actor, Cause.LOST)
    books.counts["actors_lost"] += 1
    books.chronicle.note(now, "actor lost", device=actor.device, detail=reason)
    if kill and books.supervisor is not None:
        killing = KillActor(actor.device, actor.pid, reason)
        books.effects.append(TellSupervisor(books.supervisor, killing))
    orphans = books.queued_on(actor)
    for attempt in list(actor.attempts.values()):
        was_wanted = attempt.state is AttemptState.RUNNING
        books.free_slots(attempt)
        books.end(attempt, Cause.LOST)
        request = attempt.request
        if not request.is_open or request.attempt is not None:
            continue  # nobody waits for it any more, or it is at work elsewhere
        if died:
            request.died_on.append(actor.device)
        if request.deaths >= books.rules.max_attempts:
            fail(books, request, _exhausted(request, reason), now)
            if attempt.is_suspect:  # it was alone with it: nobody else can be to blame
                _quarantine(books, request, reason, now)
        elif was_wanted:
            books.move(request, Cause.REQUEUED, now, reason)
            request.actor = None
            orphans.append(request)
    for request in sorted(orphans, key=lambda r: r.rank):
        if request.is_open:  # what was recalled stood in the queue, and may have died too often
            replan(books, request, now)


def _quarantine(books: Books, request: Request, reason: str, now: float) -> None:
    """Have the content of a request not tried again for a while, by those that wait with it either."""
    case = books.quarantine.put(request.message, request.deaths, reason, now)
    if case is None:
        return
    books.counts["quarantined"] += 1
    if books.supervisor is not None:
        excuse = Excuse(tuple(sorted(set(request.died_on))))
        books.effects.append(TellSupervisor(books.supervisor, excuse))
    books.chronicle.note(
        now, "quarantined", request_id=case.request_id, detail=f"{case.digest}: {reason}"
    )
    for other in [r for r in books.requests.values() if r.state is RequestState.QUEUED]:
        if (refused := admission.check_quarantine(books, other.message, now)) is not None:
            fail(books, other, refused, now)


def _exhausted(request: Request, reason: str) -> Error:
    return admission.refusal(
        "actor_lost",
        f"{request.deaths} attempts ended with the loss of their actor; the last: {reason}",
        request_id=request.message.request_id,
    )
