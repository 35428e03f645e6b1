"""Admission where clients share a device: nobody is promised time that is others' share. Pure.

What waits is served by fair shares, not by arrival (`difs.broker.fair`), so others' requests that come
later may go ahead of one that was accepted. One that would then be late is refused at the door. How much
will come is foretold by how much the others asked for of late: who is alone is held up by nobody.
"""

from msgspec.structs import replace

from difs import profiles
from difs.broker import admission, planning
from difs.broker.books import Books
from difs.broker.records import Client, Request, class_of
from difs.messages import Error, Generate
from difs.policy.base import Admit, Decision, Reject

SLACK = 1.5
"""So many times its fair share may be promised to a client: it is an average over some seconds."""
BEYOND = "latency_s is not promised: of late this client was promised more than its share of the devices"
CAUTION = (1.0, 2.0)
"""So many times as much is reckoned with as was asked for of late, as chance comes in heaps: least where
the devices can do what is asked for, most where they are asked for half as much again."""


def note(books: Books, client: Client, message: Generate, decision: Decision, now: float) -> None:
    """Enter what a client asks for, whether it will be accepted or not, and what it is promised."""
    if isinstance(decision, Admit) and not message.requirements.best_effort:
        seconds = _seconds(books, message, decision)
        books.crowd.asked(client.payer, seconds, now)
        if decision.plan.keeps_latency is True:
            books.promised.asked(client.payer, seconds, now)


def withdrew(books: Books, request: Request, now: float) -> None:
    """Enter that a client gave up a request: he will not ask for its like again."""
    who, seconds = request.client.payer, request.work_s
    books.crowd.withdrew(who, seconds, request.arrived_at, now)
    if request.told == "promised":
        books.promised.withdrew(who, seconds, request.arrived_at, now)


def within(books: Books, client: Client, message: Generate, decision: Decision, now: float) -> Decision:
    """Return a decision without its promise where the client was promised more than its share of late.

    What is promised goes before what is not: nobody is promised what others could not have as well.
    """
    if not isinstance(decision, Admit) or decision.order is not None or message.requirements.best_effort:
        return decision
    plan, devices = decision.plan, max(1, len(books.ready))
    if plan.keeps_latency is not True or books.crowd.rate_since(now) <= devices:
        return decision
    if books.promised.rate_of(client.payer, now) <= SLACK * books.crowd.level(devices, now):
        return decision
    if message.requirements.on_infeasible == "reject":
        return Reject("overloaded", BEYOND, field="requirements.latency_s", retry_after_s=1.0)
    plan = replace(plan, keeps_latency=False, notes=(*plan.notes, BEYOND))
    return replace(decision, plan=plan, goes_ahead=False)


def refusal(
    books: Books, client: Client, message: Generate, decision: Decision, now: float
) -> Error | None:
    """Refuse a request that is late once the others, too, have taken their shares."""
    if not isinstance(decision, Admit) or decision.order is not None or message.requirements.best_effort:
        return None
    predicted, allowed_s = decision.plan.prediction, message.timeout_s
    rate, devices = books.crowd.rate(now), max(1, len(books.ready))
    to_come = _caution(books.crowd.rate_since(now) / devices) * allowed_s / devices
    if predicted.source != "measured" or predicted.total_s + to_come * rate <= allowed_s:
        return None
    late_s = (
        predicted.total_s
        - allowed_s
        + books.by_device[decision.plan.device].queue.held_up_s(
            class_of(message.requirements),
            flow=client.payer,
            seconds=_seconds(books, message, decision),
            to_come={who: to_come * rate for who, rate in books.crowd.rates(now).items()},
        )
    )
    if late_s <= 0:
        return None
    return admission.refusal(
        "overloaded",
        f"{allowed_s + late_s:.1f} s predicted beside the other clients, timeout_s is {allowed_s:g}",
        request_id=message.request_id,
        field="timeout_s",
        retry_after_s=max(0.1, min(late_s, allowed_s)),  # by then all that was accepted has ended
    )


def _caution(load: float) -> float:
    """Return with how many times as much is reckoned; `load`: what is asked for, of what can be done."""
    least, most = CAUTION
    return min(most, max(least, least + 2 * (load - 1.0)))


def _seconds(books: Books, message: Generate, decision: Admit) -> float:
    """Return what a request will take of its device, as it will be charged for it."""
    plan = decision.plan
    actor = books.by_device[plan.device]
    known = actor.known_in(plan.variant, plan.memory_mode)
    work = planning.work_for(message, plan, is_alone=message.deterministic)
    costs = known.costs if known else None
    return profiles.shared_seconds(work, costs, actor.wants.get(plan.variant, 0))
