"""Asking the policy: what it sees, what is made of its answer, and the queue that a plan leads to."""

import traceback
from collections.abc import Sequence

from difs.broker import admission
from difs.broker.books import Books
from difs.broker.effects import Complain
from difs.broker.records import Actor, Request
from difs.messages import Error, Generate
from difs.policy.base import Admit, Decision, DeviceView, Reject, View, Wait


def decide(books: Books, message: Generate, now: float) -> Decision:
    """Decide where and how to serve `message`.

    A device whose slots are all in others' hands is passed over while another has room.
    """
    decision = decide_among(books, message, now, books.ready)
    if isinstance(decision, Admit):
        nbytes = admission.slot_bytes(message, decision.plan)
        if not books.pools[decision.plan.device].can_lease(message.n, nbytes):
            roomy = with_room(books, message.n, nbytes)
            instead = decide_among(books, message, now, roomy) if roomy else decision
            return instead if isinstance(instead, Admit) else decision
    return decision


def with_room(books: Books, n: int, nbytes: int) -> list[Actor]:
    """Return the ready actors that have `n` free slots of `nbytes`."""
    return [a for a in books.ready if books.pools[a.device].can_lease(n, nbytes)]


def decide_among(books: Books, message: Generate, now: float, actors: Sequence[Actor]) -> Decision:
    """Ask the policy to serve `message` with one of `actors`."""
    view = View(
        now=now,
        devices=tuple(
            [DeviceView(a.device, a.residents, a.backlog_s, a.queued, a.free_credits) for a in actors]
        ),
        variants=books.variants,
        decisions=books.decisions,
    )
    books.decisions += 1
    try:
        decision = books.policy.decide(view, message)
    except Exception:  # a policy may be another's code: its bug costs one request, not the broker
        books.effects.append(Complain(f"the policy failed:\n{traceback.format_exc()}"))
        return Reject("internal", f"the policy {books.policy.name} failed")
    return _sound(books, decision, actors)


def _sound(books: Books, decision: Decision, actors: Sequence[Actor]) -> Decision:
    """Return a decision that can be carried out; another's policy may answer anything."""
    if isinstance(decision, Admit) and decision.plan.device in books.by_device:
        offered = decision.plan.device in [actor.device for actor in actors]
        return decision if offered else Wait("the policy insists on a device that was not offered")
    if isinstance(decision, (Reject, Wait)):
        return decision
    books.effects.append(Complain(f"the policy {books.policy.name} decided {decision!r}"))
    return Reject("internal", f"the policy {books.policy.name} failed")


def refusal_of(books: Books, message: Generate, decision: Decision) -> Error | None:
    """Return the refusal that a decision means for `message`, by the policy or at the door."""
    if isinstance(decision, Admit):
        return admission.check_plan(books, message, decision.plan)
    if isinstance(decision, Reject):
        return admission.from_reject(decision, message.request_id)
    return None


def place(books: Books, request: Request, decision: Decision) -> None:
    """Put a queued request into the queue of its plan's device; without a plan it goes on waiting."""
    if isinstance(decision, Admit):
        request.plan = decision.plan
        predicted = decision.plan.prediction
        request.work_s = predicted.total_s - predicted.queue_s
        books.assign(request, books.by_device[decision.plan.device])
