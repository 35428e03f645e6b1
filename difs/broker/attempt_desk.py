"""What actors report of attempts: steps, finished images, ends. One function a message."""

from collections.abc import Callable
from typing import Any

from msgspec import UNSET

from difs import profiles
from difs.actor_messages import Counted, Ended, Finished, Stepped
from difs.broker import admission, dispatch, planning
from difs.broker.books import Books
from difs.broker.effects import Payload, TellClient
from difs.broker.fleet_desk import tell_fleet
from difs.broker.records import Actor, Attempt, Request
from difs.broker.states import AttemptState, Cause
from difs.errors import BY_CODE, without_paths
from difs.messages import MAX_SEED, Error, Image, Progress, Result, Timings
from difs.policy.base import Admit, Deliver, Judged
from difs.samplers import evaluations
from difs.shm.layout import HEADER_BYTES

CHANNELS = admission.CHANNELS


def _learn(actor: Actor, variant: str, message: Finished) -> None:
    """Enter the costs of a resident as its actor knows them now, and what all of them have in common."""
    if message.costs is not None and variant in actor.residents:
        actor.drift.learned(actor.residents, variant, message.costs, message.drift)


def _attempt(books: Books, route: bytes, number: int) -> Attempt | None:
    """Return a living attempt of this actor; a late report of an old one is counted and dropped."""
    attempt = books.attempts.get(number)
    if attempt is None or attempt.actor.route != route:
        books.counts["late_reports"] += 1
        return None
    return attempt


def _stepped(books: Books, route: bytes, message: Stepped, now: float) -> None:
    attempt = _attempt(books, route, message.attempt)
    if attempt is None:
        return
    attempt.actor.has_told(now)
    if attempt.state is not AttemptState.RUNNING:
        return
    books.credit(attempt)
    request = attempt.request
    asked = request.message.delivery
    preview = message.preview if asked.preview_every else None
    if asked.progress or preview is not None:
        name = request.message.request_id
        progress = Progress(name, message.image, message.step, message.steps, preview)
        books.effects.append(TellClient(request.client.route, progress))


def _counted(books: Books, route: bytes, message: Counted, now: float) -> None:
    actor = books.actors.get(route)
    if actor is None:
        return
    actor.has_told(now)
    for number, calls in message.calls:
        attempt = _attempt(books, route, number)
        if attempt is not None and attempt.state is AttemptState.RUNNING:
            books.credit(attempt, calls)


def _finished(books: Books, route: bytes, message: Finished, now: float) -> None:
    attempt = _attempt(books, route, message.attempt)
    if attempt is None:
        return
    attempt.actor.has_told(now)
    request = attempt.request
    wanted = attempt.state is AttemptState.RUNNING
    _learn(attempt.actor, attempt.plan.variant, message)
    if not wanted or not _matches(attempt, message):
        books.free_slots(attempt)
        books.end(attempt, Cause.ENDED)
        if wanted:
            dispatch.fail(books, request, _broken(request), now)
        return
    books.end(attempt, Cause.ENDED, _used_s(message))
    _note_activity(attempt, now)
    _note_lateness(attempt, message, now)
    if not attempt.actor.is_proven:
        attempt.actor.is_proven = True
        tell_fleet(books)
    step_s = message.steps_s / evaluations(attempt.plan.sampler, attempt.plan.steps)
    books.tally.painted(books.model_of(request), step_s, message.shared_by)
    if request.deadline < now:
        books.free_slots(attempt)
        dispatch.expire(books, request, now)
        return
    verdict = Deliver()
    if request.is_judged:
        found = planning.review(books, request, _judged(attempt, message, now), now)
        if isinstance(found, Admit):
            books.free_slots(attempt)
            dispatch.repaint(books, request, found, now)
            return
        verdict = found
    result, payloads, leases = _result(books, attempt, message, verdict, now)
    books.effects.append(TellClient(request.client.route, result, payloads, leases))
    books.move(request, Cause.FINISHED, now)


def _result(
    books: Books, attempt: Attempt, message: Finished, verdict: Deliver, now: float
) -> tuple[Result, tuple[Payload, ...], tuple[int, ...]]:
    """Return what a finished request's client gets: the result; what travels inline, and keeps it."""
    request, plan = attempt.request, attempt.plan
    images, payloads, leases = _hand_over(books, attempt, message, now)
    told = [without_paths(note) for note in message.notes]
    timings = Timings(
        queue_s=attempt.started_at - request.arrived_at,
        encode_s=message.encode_s,
        steps_s=message.steps_s,
        decode_s=message.decode_s,
        deliver_s=message.deliver_s,
        total_s=now - request.arrived_at,
        shared_by=message.shared_by,
    )
    result = Result(
        request_id=request.message.request_id,
        epoch=books.epoch,
        attempt=request.attempts,
        images=images,
        plan=plan,
        timings=timings,
        seed_contract=message.seed_contract,
        lease_s=books.rules.lease,
        notes=(*plan.notes, *attempt.notes, *told, *([verdict.note] if verdict.note else [])),
        seed_bound=message.seed_bound,
    )
    return result, payloads, leases


def _judged(attempt: Attempt, message: Finished, now: float) -> Judged:
    return Judged(attempt.plan, message.score, now - attempt.request.arrived_at)


def _used_s(message: Finished) -> float:
    """Return the seconds that an attempt had of its device: its part of calls that it shared."""
    return message.encode_s + message.steps_s / max(1.0, message.shared_by) + message.decode_s


def _note_activity(attempt: Attempt, now: float) -> None:
    """Enter how an attempt fared that need not wait for a load."""
    actor, plan = attempt.actor, attempt.plan
    costs, activity = actor.first_costs.get(plan.variant), actor.activity.get(plan.variant)
    if costs is not None and activity is not None and not plan.prediction.load_s:
        profiled_s = profiles.predict(planning.work_of(attempt.request, plan), costs).total_s
        seen_s = now - attempt.started_at
        actor.activity[plan.variant] = activity.finished(seen_s, profiled_s, now)


def _note_lateness(attempt: Attempt, message: Finished, now: float) -> None:
    """Enter what came of a prediction, where nothing but the device's work can have belied it."""
    request, plan, lateness = attempt.request, attempt.plan, attempt.actor.lateness
    if request.foreseen_s <= 0 or request.attempts > 1:
        return
    seen_s, told = now - request.planned_at, plan.prediction
    was_alone = told.queue_s - told.later_s < 1e-6 and message.shared_by <= 1.0
    if was_alone and not request.is_judged:
        units_s = message.encode_s + message.steps_s + message.decode_s + message.deliver_s
        lateness.was_alone(seen_s - units_s)
    lateness.saw(evaluations(plan.sampler, plan.steps), request.foreseen_s, seen_s)


def _matches(attempt: Attempt, message: Finished) -> bool:
    """Whether the actor filled just the slots that were leased to it."""
    if len(attempt.slots) != len(message.images):
        return False
    for slot, image in zip(attempt.slots, message.images, strict=True):
        if image.index != slot.index or not 0 < image.nbytes <= slot.nbytes:
            return False
    return True


def _broken(request: Request) -> Error:
    words = "the actor's report does not match what it was asked"
    return admission.refusal("internal", words, request_id=request.message.request_id)


def _hand_over(
    books: Books, attempt: Attempt, message: Finished, now: float
) -> tuple[tuple[Image, ...], tuple[Payload, ...], tuple[int, ...]]:
    """Seal the slots for the client, or until the bytes that travel inline were copied."""
    request, plan, device = attempt.request, attempt.plan, attempt.actor.device
    asked = request.message.delivery
    shared = asked.mode == "shm"
    images, payloads, owed = [], [], []
    for i, (slot, sealed) in enumerate(zip(attempt.slots, message.images, strict=True)):
        if shared:
            hold = books.hold(request.client, device, slot.index, now)
        else:
            payloads.append(Payload(device, slot.offset + HEADER_BYTES, sealed.nbytes))
            owed.append(books.owe(request.client, device, slot.index).lease)
        image = Image(
            seed=(request.first_seed + i) & MAX_SEED,
            height=plan.height,
            width=plan.width,
            channels=CHANNELS,
            format=asked.format,
            nbytes=sealed.nbytes,
            crc32=sealed.crc32,
            frame=UNSET if shared else i,
            segment=books.segments[device].path if shared else UNSET,
            offset=slot.offset if shared else UNSET,
            generation=slot.generation if shared else UNSET,
            lease=hold.lease if shared else UNSET,
        )
        images.append(image)
    return tuple(images), tuple(payloads), tuple(owed)


def _ended(books: Books, route: bytes, message: Ended, now: float) -> None:
    attempt = _attempt(books, route, message.attempt)
    if attempt is None:
        return
    attempt.actor.has_told(now)
    wanted = attempt.state is AttemptState.RUNNING
    books.free_slots(attempt)
    books.end(attempt, Cause.ENDED)
    if not wanted:
        return
    request = attempt.request
    if message.code == "expired":
        dispatch.expire(books, request, now)
    elif message.code != "out_of_memory" or not dispatch.lighten(books, request, attempt.plan, now):
        code = message.code if message.code in BY_CODE else "internal"
        error = admission.refusal(code, message.message, request_id=request.message.request_id)
        dispatch.fail(books, request, error, now)


HANDLERS: dict[type, Callable[[Books, bytes, Any, float], None]] = {
    Stepped: _stepped,
    Counted: _counted,
    Finished: _finished,
    Ended: _ended,
}
