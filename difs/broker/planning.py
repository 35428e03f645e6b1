"""Asking the policy: what it sees, what is made of its answer, and the queue that a plan leads to."""

import math
import traceback
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from difs import captions, profiles
from difs.broker import admission, demand, outlooks
from difs.broker.books import Books
from difs.broker.effects import Complain
from difs.broker.records import Actor, Request, class_of
from difs.messages import MAX_POINTS, Alternative, Error, Generate, Plan, Requirements, VariantInfo
from difs.policy import states
from difs.policy.activity import Activity
from difs.policy.base import (
    Admit,
    Decision,
    Deliver,
    DeviceView,
    Judged,
    Reject,
    Reviewer,
    View,
    Wait,
)
from difs.profiles import Work

Variants = Mapping[str, VariantInfo]
PATIENCE = 0.5
"""What cannot keep its latency lets those that can go first, for so much of its timeout."""


def decide(books: Books, message: Generate, now: float, variants: Variants) -> Decision:
    """Decide where and how to serve `message` with one of `variants`.

    A device whose slots are all in others' hands is passed over while another has room.
    """
    decision = decide_among(books, message, now, variants, books.ready)
    if isinstance(decision, Admit):
        nbytes = admission.slot_bytes(message, decision.plan)
        if not books.pools[decision.plan.device].can_lease(message.n, nbytes):
            roomy = with_room(books, message.n, nbytes, books.ready)
            instead = decide_among(books, message, now, variants, roomy) if roomy else decision
            return instead if isinstance(instead, Admit) else decision
    return decision


def with_room(books: Books, n: int, nbytes: int, actors: Iterable[Actor]) -> list[Actor]:
    """Return those of `actors` that have `n` free slots of `nbytes`."""
    return [a for a in actors if books.pools[a.device].can_lease(n, nbytes)]


def variants_for(books: Books, request: Request) -> Variants:
    """Return the variants that may serve `request`.

    That is the one that paints it again, or those lighter than one that ran out of memory, or all.
    """
    again, limit = request.repainted_with, request.below_bytes
    if again is not None and again in books.variants:
        return {again: books.variants[again]}
    if limit is None:
        return books.variants
    return {name: info for name, info in books.variants.items() if info.bytes < limit}


def decide_among(
    books: Books, message: Generate, now: float, variants: Variants, actors: Sequence[Actor]
) -> Decision:
    """Ask the policy to serve `message` with one of `variants` on one of `actors`."""
    view = _view(books, message, now, variants, actors)
    books.decisions += 1
    try:
        decision = books.policy.decide(view, message)
    except Exception:  # a policy may be another's code: its bug costs one request, not the broker
        books.effects.append(Complain(f"the policy failed:\n{traceback.format_exc()}"))
        return Reject("internal", f"the policy {books.policy.name} failed")
    return _sound(books, decision, variants, actors, message.prompt)


def survey(books: Books, message: Generate, now: float) -> tuple[Alternative, ...]:
    """Return the points among which the policy would choose for `message`, where it can tell."""
    if books.surveyor is None:
        return ()
    view = _view(books, message, now, books.variants, books.ready)
    return books.surveyor.survey(view, message)[:MAX_POINTS]


def view_of(books: Books, now: float) -> View:
    """Return what a policy sees of everything, nothing being asked."""
    return _view(books, states.PLAIN, now, books.variants, books.ready)


def _view(
    books: Books, message: Generate, now: float, variants: Variants, actors: Sequence[Actor]
) -> View:
    needs = message.requirements
    return View(
        now=now,
        devices=tuple([_device_view(actor, now, needs) for actor in actors]),
        variants=variants,
        decisions=books.decisions,
        adapters=books.adapters,
        memory=books.memory,
    )


def _device_view(actor: Actor, now: float, needs: Requirements) -> DeviceView:
    is_best_effort = needs.best_effort
    outlook = outlooks.believed(actor, now, is_best_effort=is_best_effort)
    if outlook is not None and actor.queue.up_to(class_of(needs) - 1):
        outlook = outlook.without_turns()  # a higher class waits: nobody goes before that
    waits_s = actor.wait_s(is_best_effort=is_best_effort)
    if outlook is not None and outlook.firm < outlook.ends:  # who is late anyhow lets it go first
        waits_s = min(waits_s, max(0.0, outlook.firm - now))
    return DeviceView(
        device=actor.device,
        residents=actor.residents,
        backlog_s=waits_s,
        queued=len(actor.queue),
        free_credits=actor.free_credits,
        parked=actor.parked,
        wants=actor.wants,
        activity=actor.activity,
        profiled=actor.offers,
        estimated=actor.estimated,
        room_bytes=actor.room_bytes,
        outlook=outlook,
        now=now,
        lateness=actor.lateness.factors,
        way_s=actor.lateness.way_s,
    )


def review(books: Books, request: Request, judged: Judged, now: float) -> Admit | Deliver:
    """Ask the policy whether pictures that were judged are good enough; where it fails they are."""
    message, variants = request.message, variants_for(books, request)
    view = _view(books, message, now, variants, books.ready)
    verdict: object
    try:
        assert isinstance(books.policy, Reviewer), "it has pictures judged and no review"
        verdict = books.policy.review(view, message, judged)
    except Exception:
        books.effects.append(Complain(f"the policy failed:\n{traceback.format_exc()}"))
        return Deliver()
    if isinstance(verdict, Deliver):
        _remember(books, verdict)
        return verdict
    decision = _sound(books, verdict, variants, books.ready, message.prompt)
    if isinstance(decision, Admit) and refusal_of(books, message, decision) is None:
        return decision
    return Deliver()


def _remember(books: Books, decision: Decision | Deliver) -> None:
    if decision.memory is not None:
        books.memory = decision.memory


def _sound(
    books: Books, decision: object, variants: Variants, actors: Sequence[Actor], prompt: str
) -> Decision:
    """Return a decision that can be carried out; another's policy may answer anything."""
    if isinstance(decision, (Admit, Reject, Wait)):
        _remember(books, decision)
    if isinstance(decision, Admit) and _exists(books, decision.plan):
        if decision.plan.device not in [actor.device for actor in actors]:
            return Wait("the policy insists on a device that was not offered")
        if decision.plan.variant not in variants:
            return Wait("the policy insists on a variant that was not offered")
        return _with_note(decision, variants[decision.plan.variant], prompt)
    if isinstance(decision, (Reject, Wait)):
        return decision
    books.effects.append(Complain(f"the policy {books.policy.name} decided {decision!r}"))
    return Reject("internal", f"the policy {books.policy.name} failed")


def _with_note(decision: Admit, info: VariantInfo, prompt: str) -> Admit:
    """Return a decision that says so when the variant knows nothing of what the prompt names."""
    note = captions.note(info.name, info.captions, prompt)
    if note is None:
        return decision
    return replace(decision, plan=replace(decision.plan, notes=(*decision.plan.notes, note)))


def _exists(books: Books, plan: Plan) -> bool:
    return plan.device in books.by_device and plan.variant in books.variants


def refusal_of(books: Books, message: Generate, decision: Decision) -> Error | None:
    """Return the refusal that a decision means for `message`, by the policy or at the door."""
    if isinstance(decision, Admit):
        return admission.check_plan(books, message, decision.plan)
    if isinstance(decision, Reject):
        return admission.from_reject(decision, message.request_id)
    return None


def place(books: Books, request: Request, decision: Decision, now: float) -> None:
    """Put a queued request into the queue of its plan's device; without a plan it goes on waiting."""
    if isinstance(decision, Admit):
        books.unassign(request)
        plan = decision.plan
        actor = books.by_device[plan.device]
        if request.plan is None:
            demand.note_arrival(books, request, plan.variant, now)
        known = actor.known_in(plan.variant, plan.memory_mode)
        costs, work = known.costs if known else None, work_of(request, plan)
        request.plan = replace(plan, notes=plan.notes + request.notes) if request.notes else plan
        request.order = decision.order
        request.is_judged = decision.is_judged
        others = actor.wants.get(plan.variant, 0)
        request.work_s = profiles.shared_seconds(work, costs, others)
        request.step_s = profiles.shared_step_seconds(work, costs, others)
        request.work, request.task, request.bounds = work, None, None
        request.planned_at = now
        _foresee(request, actor, decision, now)
        _go_ahead(request, actor, decision, now)
        actor.activity[plan.variant] = actor.activity.get(plan.variant, Activity()).wanted(now)
        books.assign(request, actor)


def _foresee(request: Request, actor: Actor, decision: Admit, now: float) -> None:
    """Note when a request's turn on its device is, and what was foreseen of it."""
    plan, told = decision.plan, decision.plan.prediction
    outlook = outlooks.believed(actor, now, is_best_effort=request.is_best_effort)
    if outlook is None or plan.variant not in actor.residents:
        before_s = actor.wait_s(is_best_effort=request.is_best_effort)
    else:
        before_s = max(0.0, outlook.firm - now)
    turn = now + before_s + told.total_s - told.queue_s
    if request.told == "late":
        turn = max(turn, request.arrived_at + PATIENCE * request.message.timeout_s)
    # What is painted again keeps its turn, it has waited for it once, unless that cost others theirs.
    keeps = request.repainted_with is not None and not decision.waits_again
    request.turn = min(request.turn, turn) if keeps else turn
    is_foreseen = not request.is_best_effort and not told.load_s
    request.foreseen_s = told.total_s - told.later_s if is_foreseen else 0.0


def _go_ahead(request: Request, actor: Actor, decision: Admit, now: float) -> None:
    """Give a request the first turn that others leave it, where its latency needs that.

    That is where its policy has chosen so, and where it is only in time if it rides along with others: by
    its own turn it would be late. Not what may be painted twice: it would push others aside for both.
    """
    request.goes_ahead = False
    plan, latest = decision.plan, request.latest
    rides = plan.keeps_latency is True and latest is not None and request.turn > latest
    request.is_in_haste = rides and not request.is_best_effort
    is_twice = request.is_judged or request.repainted_with is not None
    may_ride = rides and (decision.waits_again or not is_twice)
    if request.is_best_effort or not (decision.goes_ahead or may_ride):
        return
    told = plan.prediction
    seconds = told.total_s - told.queue_s
    turn = outlooks.of(actor, now).turn_before(seconds, now, latest or math.inf)
    if turn is not None:
        request.turn = min(request.turn, turn.due)
        request.goes_ahead = request.is_in_haste = True


def work_of(request: Request, plan: Plan) -> Work:
    """Return what `request` asks of a device under `plan`."""
    return work_for(request.message, plan, is_alone=request.is_alone)


def work_for(message: Generate, plan: Plan, *, is_alone: bool) -> Work:
    """Return what `message` asks of a device under `plan`; `is_alone`: its images share no call."""
    return Work(
        pixels=plan.width * plan.height,
        steps=plan.steps,
        sampler=plan.sampler,
        guidance_scale=plan.guidance_scale,
        n=message.n,
        is_alone=is_alone,
        size=(plan.width, plan.height),
    )
