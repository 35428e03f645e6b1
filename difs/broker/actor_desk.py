"""What actors report of themselves and of their residents: one function a message.

Their attempts are `attempt_desk`'s, the supervisor's reports `fleet_desk`'s.
"""

import math
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from difs import estimates, profiles
from difs.actor_messages import (
    Abort,
    Evicted,
    FromActor,
    Leaving,
    Loaded,
    LoadFailed,
    Pulse,
    Ready,
    Resident,
    Retiring,
    Switched,
    SwitchFailed,
    Welcome,
)
from difs.broker import attempt_desk, dispatch, fleet_desk, loads, planning, scaling
from difs.broker.books import Books
from difs.broker.effects import TellActor
from difs.broker.fleet_desk import tell_fleet
from difs.broker.records import Actor
from difs.broker.states import ActorState, Cause
from difs.broker.tally import Loss
from difs.samplers import evaluations


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
            actor.read(message.reading, books.scaling.options.headroom_bytes if books.scaling else 0)
            scaling.has_read(books, actor, now)
            if message.progress != actor.progress:
                actor.progress, actor.moved_at = message.progress, now


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
        if now >= _silent_at(books, actor):
            _lose(books, actor, f"no heartbeat for {now - actor.last_heard:.1f} s", now, "silent")
        elif actor.attempts and actor.still_s(now) > _patience(books, actor):
            _lose(books, actor, f"no step for {actor.still_s(now):.1f} s", now, "stalled")
        else:
            books.effects.append(TellActor(actor.route, Welcome(books.epoch)))


def next_silence(books: Books) -> float:
    """Return when the next actor is lost if none of them says anything; inf without actors."""
    return min((_silent_at(books, actor) for actor in books.actors.values()), default=math.inf)


def _silent_at(books: Books, actor: Actor) -> float:
    return actor.last_heard + books.rules.actor_silence


LOAD_PATIENCE_S = 600.0
"""How long a load may take of which nothing was measured;"""
LOAD_FLOOR_S, LOAD_FACTOR = 60.0, 10.0
"""and one of which something was: so many times that, and no less than this, for disks may be cold."""


def _patience(books: Books, actor: Actor) -> float:
    """Return how long an actor may work without a sign of progress.

    A load goes on beside the steps, so it excuses only the attempts that wait for it. One call may
    hold the images of all others, and its cost is that of the memory mode in which they are now.
    """
    working = [attempt for attempt in actor.attempts.values() if not actor.waits(attempt)]
    if not working:
        return _load_patience(actor)
    call_s = longest = 0.0
    for attempt in working:
        request, plan = attempt.request, attempt.plan
        resident = actor.residents.get(plan.variant)
        costs = resident.costs if resident is not None else None
        predicted = profiles.predict(planning.work_of(request, plan), costs)
        call_s += predicted.steps_s / evaluations(plan.sampler, plan.steps)
        longest = max(longest, predicted.encode_s, predicted.decode_s)
    return max(books.rules.stall_floor, books.rules.stall_steps * max(call_s, longest))


def _load_patience(actor: Actor) -> float:
    """Return how long an actor may load what all of its attempts wait for; loads go one by one."""
    known = [actor.measured(variant) for variant in actor.loading]
    if any(found is None for found in known):
        return LOAD_PATIENCE_S
    predicted_s = sum(found.costs.load_s for found in known if found is not None)
    return min(LOAD_PATIENCE_S, max(LOAD_FLOOR_S, LOAD_FACTOR * predicted_s))


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
    everything = {name: _from_disk(actor, name) for name in books.variants}
    measured = {name: found for name, found in everything.items() if found is not None}
    actor.estimated = estimates.of_all(books.variants, measured, actor.device.partition("-")[0])


def _from_disk(actor: Actor, variant: str) -> Resident | None:
    """Return what was measured of a variant; of what is parked, its way from the disk if that was."""
    found, first = actor.measured(variant), actor.first_costs.get(variant)
    if found is None or first is None or variant not in actor.parked:
        return found
    return replace(found, costs=replace(found.costs, load_s=first.load_s))


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


_HANDLERS: dict[type, Callable[[Books, bytes, Any, float], None]] = {
    Ready: _ready,
    Pulse: _pulse,
    Retiring: _retiring,
    Leaving: _leaving,
    Loaded: _loaded,
    LoadFailed: _load_failed,
    Evicted: _evicted,
    Switched: _switched,
    SwitchFailed: _switch_failed,
    **attempt_desk.HANDLERS,
    **fleet_desk.HANDLERS,
}
