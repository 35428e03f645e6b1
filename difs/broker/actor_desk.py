"""What actors and the supervisor report: one function a message."""

from collections.abc import Callable
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from difs import estimates, profiles
from difs.actor_messages import (
    Abort,
    ActorExited,
    Costs,
    DrainAll,
    Ended,
    Evicted,
    Finished,
    Fleet,
    FromActor,
    Leaving,
    Loaded,
    LoadFailed,
    Pulse,
    Ready,
    Retiring,
    Stepped,
    Supervise,
    Switched,
    SwitchFailed,
    Welcome,
)
from difs.broker import admission, client_desk, dispatch, loads, planning, scaling
from difs.broker.books import Books
from difs.broker.effects import Payload, TellActor, TellClient, TellSupervisor
from difs.broker.records import Actor, ActorState, Attempt, AttemptState, Cause, Request
from difs.broker.tally import Loss
from difs.errors import BY_CODE, without_paths
from difs.messages import MAX_SEED, Error, Image, Progress, Result, Timings
from difs.policy.base import Admit, Deliver, Judged
from difs.samplers import evaluations
from difs.shm.layout import HEADER_BYTES

CHANNELS = admission.CHANNELS


def serve(books: Books, route: bytes, message: FromActor, now: float) -> None:
    """Enter what an actor or the supervisor reports."""
    _HANDLERS[type(message)](books, route, message, now)


# ---- life ---------------------------------------------------------------------------------------


def _ready(books: Books, route: bytes, message: Ready, now: float) -> None:
    if message.device not in books.pools:
        books.counts["strange_actors"] += 1
        return
    old = books.actors.get(route)
    if old is None:
        old = books.by_device.get(message.device)
        if old is not None:
            dispatch.lose_actor(books, old, "another incarnation took over", now)
        actor = Actor(
            route=route,
            device=message.device,
            incarnation=message.incarnation,
            pid=message.pid,
            credits=message.credits,
            last_heard=now,
            progressed_at=now,
            residents={r.variant: r for r in message.residents},
            arrived_at={r.variant: now for r in message.residents},
        )
        actor.first_costs = {name: found.costs for name, found in actor.residents.items()}
        for found in message.profiled:
            actor.profiled[found.variant] = (*actor.profiled.get(found.variant, ()), found)
        estimate(books, actor)
        books.add_actor(actor)
        books.chronicle.note(now, "actor ready", device=actor.device)
    books.effects.append(TellActor(route, Welcome(books.epoch)))
    for number in message.attempts:  # before anything new: they write into slots that are free again
        if number not in books.attempts:
            books.effects.append(TellActor(route, Abort(number)))
    tell_fleet(books)
    for request in sorted(books.waiting.values(), key=lambda r: r.rank):
        dispatch.replan(books, request, now)


def _pulse(books: Books, route: bytes, message: Pulse, now: float) -> None:
    """Note a heartbeat; it comes on a socket of its own, so the incarnation names the actor."""
    for actor in books.actors.values():
        if actor.incarnation == message.incarnation:
            actor.last_heard = now
            actor.read(message.reading)
            scaling.has_read(books, actor, now)
            if message.progress != actor.progress:
                actor.progress, actor.progressed_at = message.progress, now


def _retiring(books: Books, route: bytes, message: Retiring, now: float) -> None:
    actor = books.actors.get(route)
    if actor is not None and actor.state is ActorState.READY:
        books.change_actor(actor, Cause.DRAINED)
        for request in books.queued_on(actor):
            dispatch.replan(books, request, now)
        tell_fleet(books)


def _leaving(books: Books, route: bytes, message: Leaving, now: float) -> None:
    actor = books.actors.get(route)
    if actor is not None:
        dispatch.lose_actor(books, actor, "it left", now, died=False)
        tell_fleet(books)


def watch(books: Books, now: float) -> None:
    """Give up the actors that are silent or make no progress; greet the others."""
    for actor in list(books.actors.values()):
        silence = now - actor.last_heard
        if silence > books.rules.actor_silence:
            _lose(books, actor, f"no heartbeat for {silence:.1f} s", now, "silent")
        elif actor.attempts and now - actor.progressed_at > _patience(books, actor):
            _lose(books, actor, f"no step for {now - actor.progressed_at:.1f} s", now, "stalled")
        else:
            books.effects.append(TellActor(actor.route, Welcome(books.epoch)))


LOAD_PATIENCE_S = 600.0


def _patience(books: Books, actor: Actor) -> float:
    """Return how long an actor may work without a sign of progress.

    A load goes on beside the steps, so it excuses only the attempts that wait for it. One call may
    hold the images of all others, and its cost is that of the memory mode in which they are now.
    """
    working = [attempt for attempt in actor.attempts.values() if not actor.waits(attempt)]
    if not working:
        return LOAD_PATIENCE_S
    call_s = longest = 0.0
    for attempt in working:
        request, plan = attempt.request, attempt.plan
        resident = actor.residents.get(plan.variant)
        costs = resident.costs if resident is not None else None
        predicted = profiles.predict(planning.work_of(request, plan), costs)
        call_s += predicted.steps_s / evaluations(plan.sampler, plan.steps)
        longest = max(longest, predicted.encode_s, predicted.decode_s)
    return max(books.rules.stall_floor, books.rules.stall_steps * max(call_s, longest))


def _lose(books: Books, actor: Actor, reason: str, now: float, why: Loss | None = None) -> None:
    """Have an actor killed; without a `why` it may be dead already, and its exit tells how it died."""
    if why is not None and books.supervisor is not None:
        books.killed[actor.pid] = why
    dispatch.lose_actor(books, actor, reason, now, kill=True)
    tell_fleet(books)


def unreachable(books: Books, route: bytes, now: float) -> None:
    """Give up an actor that a message could not be delivered to."""
    actor = books.actors.get(route)
    if actor is not None:
        _lose(books, actor, "its connection is gone", now)
    elif route == books.supervisor:
        books.supervisor = None


# ---- residents ----------------------------------------------------------------------------------


def _loaded(books: Books, route: bytes, message: Loaded, now: float) -> None:
    actor = books.actors.get(route)
    if actor is not None:
        variant = message.resident.variant
        loads.answered(actor, variant)
        actor.residents[variant] = message.resident
        actor.first_costs[variant] = message.resident.costs
        actor.arrived_at[variant] = actor.changed_at = now
        actor.parked.pop(variant, None)
        actor.load_s.pop(variant, None)
        actor.progressed_at = now
        estimate(books, actor)


def estimate(books: Books, actor: Actor) -> None:
    """Say anew what the variants would cost an actor that were never measured there."""
    everything = {name: actor.measured(name) for name in books.variants}
    measured = {name: found for name, found in everything.items() if found is not None}
    actor.estimated = estimates.of_all(books.variants, measured)


def _load_failed(books: Books, route: bytes, message: LoadFailed, now: float) -> None:
    """Note that a load ended without a resident; the attempts that wait for it are ended by its actor."""
    actor = books.actors.get(route)
    if actor is not None:
        load = loads.answered(actor, message.variant)
        was_cancelled = load is not None and load.is_cancelled
        books.counts["loads_cancelled" if was_cancelled else "loads_failed"] += 1
        actor.progressed_at = now


def _evicted(books: Books, route: bytes, message: Evicted, now: float) -> None:
    """Note what left a device, and for where; what was asked to load since then is still on its way."""
    actor = books.actors.get(route)
    if actor is None:
        return
    scaling.settle(actor.leaving, message.variant)
    actor.changed_at = now
    actor.residents.pop(message.variant, None)
    for variant in message.dropped:
        actor.parked.pop(variant, None)
    if message.parked is not None:
        actor.parked[message.variant] = message.parked
    estimate(books, actor)


def _switched(books: Books, route: bytes, message: Switched, now: float) -> None:
    """Enter a resident as it is now, unless it was told to leave meanwhile."""
    actor = books.actors.get(route)
    if actor is not None:
        scaling.settle(actor.switching, message.resident.variant)
        actor.changed_at = now
    if actor is not None and message.resident.variant in actor.residents:
        actor.residents[message.resident.variant] = message.resident
        actor.first_costs[message.resident.variant] = message.resident.costs
        actor.progressed_at = now


def _switch_failed(books: Books, route: bytes, message: SwitchFailed, now: float) -> None:
    actor = books.actors.get(route)
    if actor is not None:
        scaling.settle(actor.switching, message.variant)
        books.counts["switches_failed"] += 1
        actor.progressed_at = now


def _learn(actor: Actor, variant: str, costs: Costs | None) -> None:
    """Enter the costs of a resident as its actor knows them now."""
    resident = actor.residents.get(variant)
    if costs is not None and resident is not None:
        actor.residents[variant] = replace(resident, costs=costs)


# ---- attempts -----------------------------------------------------------------------------------


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
    attempt.actor.last_heard = attempt.actor.progressed_at = now
    if attempt.state is not AttemptState.RUNNING:
        return
    books.credit(attempt)
    attempt.stepped_at = now
    request = attempt.request
    asked = request.message.delivery
    preview = message.preview if asked.preview_every else None
    if asked.progress or preview is not None:
        name = request.message.request_id
        progress = Progress(name, message.image, message.step, message.steps, preview)
        books.effects.append(TellClient(request.client.route, progress))


def _finished(books: Books, route: bytes, message: Finished, now: float) -> None:
    attempt = _attempt(books, route, message.attempt)
    if attempt is None:
        return
    attempt.actor.last_heard = attempt.actor.progressed_at = now
    request = attempt.request
    wanted = attempt.state is AttemptState.RUNNING
    _learn(attempt.actor, attempt.plan.variant, message.costs)
    if not wanted or not _matches(attempt, message):
        books.free_slots(attempt)
        books.end(attempt, Cause.ENDED)
        if wanted:
            dispatch.fail(books, request, _broken(request), now)
        return
    books.end(attempt, Cause.ENDED, _used_s(message))
    _note_activity(attempt, now)
    _note_lateness(attempt, now)
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
    result, payloads = _result(books, attempt, message, verdict, now)
    books.effects.append(TellClient(request.client.route, result, payloads))
    books.move(request, Cause.FINISHED, now)


def _result(
    books: Books, attempt: Attempt, message: Finished, verdict: Deliver, now: float
) -> tuple[Result, tuple[Payload, ...]]:
    """Return what a finished request's client gets: the result, and the bytes that travel inline."""
    request, plan = attempt.request, attempt.plan
    images, payloads = _hand_over(books, attempt, message, now)
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
    return result, payloads


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


def _note_lateness(attempt: Attempt, now: float) -> None:
    """Enter what came of a prediction, where nothing but the device's work can have belied it."""
    request, plan = attempt.request, attempt.plan
    if request.foreseen_s > 0 and request.attempts == 1:
        calls = evaluations(plan.sampler, plan.steps)
        attempt.actor.lateness.saw(calls, (now - request.arrived_at) / request.foreseen_s)


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
) -> tuple[tuple[Image, ...], tuple[Payload, ...]]:
    """Seal the slots for the client, or name the bytes that travel inline and free them."""
    request, plan, device = attempt.request, attempt.plan, attempt.actor.device
    asked = request.message.delivery
    shared = asked.mode == "shm"
    images, payloads = [], []
    for i, (slot, sealed) in enumerate(zip(attempt.slots, message.images, strict=True)):
        if shared:
            hold = books.hold(request.client, device, slot.index, now)
        else:
            payloads.append(Payload(device, slot.offset + HEADER_BYTES, sealed.nbytes))
            books.pools[device].give_back(slot.index)
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
    return tuple(images), tuple(payloads)


def _ended(books: Books, route: bytes, message: Ended, now: float) -> None:
    attempt = _attempt(books, route, message.attempt)
    if attempt is None:
        return
    attempt.actor.last_heard = attempt.actor.progressed_at = now
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


# ---- the supervisor -----------------------------------------------------------------------------


def tell_fleet(books: Books) -> None:
    """Tell the supervisor which devices are ready."""
    if books.supervisor is not None:
        ready = tuple(a.device for a in books.ready)
        proven = tuple(a.device for a in books.ready if a.is_proven)
        books.effects.append(TellSupervisor(books.supervisor, Fleet(books.epoch, ready, proven)))


def _supervise(books: Books, route: bytes, message: Supervise, now: float) -> None:
    books.supervisor = route
    tell_fleet(books)


def _exited(books: Books, route: bytes, message: ActorExited, now: float) -> None:
    why = books.killed.pop(message.pid, None)
    books.tally.exited(message.device, message.how if why is None else why)
    actor = books.by_device.get(message.device)
    if actor is not None and actor.pid == message.pid:
        dispatch.lose_actor(books, actor, message.reason, now)
        tell_fleet(books)


def _drain_all(books: Books, route: bytes, message: DrainAll, now: float) -> None:
    client_desk.start_draining(books, now + message.grace_s)


_HANDLERS: dict[type, Callable[[Books, bytes, Any, float], None]] = {
    Ready: _ready,
    Pulse: _pulse,
    Retiring: _retiring,
    Leaving: _leaving,
    Stepped: _stepped,
    Finished: _finished,
    Ended: _ended,
    Loaded: _loaded,
    LoadFailed: _load_failed,
    Evicted: _evicted,
    Switched: _switched,
    SwitchFailed: _switch_failed,
    Supervise: _supervise,
    ActorExited: _exited,
    DrainAll: _drain_all,
}
