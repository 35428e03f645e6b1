"""The autoscaler's place in the broker: what its planner sees, and what is made of its plans.

Decisions stand in `difs.autoscaler`; here views are made from the books and actions become messages. Who
makes room for a variant that is wanted is decided here, too, before it is loaded; an actor has only its
last resorts (the ladder out of an out-of-memory error, the limit of its parking lot).
"""

import traceback
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from difs.actor_messages import EvictVariant, SwitchMode
from difs.autoscaler import forms, room
from difs.autoscaler.base import (
    Action,
    DeviceView,
    Evict,
    Form,
    Load,
    Park,
    Plan,
    Replicate,
    ResidentView,
    SetMode,
    Stream,
    View,
)
from difs.broker import loads, planning
from difs.broker.books import Books
from difs.broker.effects import Complain, TellActor
from difs.broker.records import NO_OUTLOOK, Actor
from difs.broker.scaler import Decided, Scaling
from difs.messages import Expected, MemoryMode, Scaled
from difs.policy import states

TICK_S = 0.25
"""How often the planner is asked;"""
FAILED_REST_S = 15.0
"""and how long not, after it failed."""


# ---- views --------------------------------------------------------------------------------------


def view_of(books: Books, scaling: Scaling, now: float) -> View:
    """Return what the planner sees: the devices whose last reading is of what is loaded now."""
    devices = [_device(books, scaling, a, now) for a in books.ready if a.read_at >= a.changed_at]
    return View(
        now=now,
        devices=tuple([d for d in devices if d is not None]),
        families={name: info.family for name, info in books.variants.items()},
        streams=tuple(
            [
                Stream(want, trace.rhythm_hz(now), trace.uses(now))
                for want, trace in scaling.traces.items()
            ]
        ),
        options=scaling.options,
        memory=scaling.memory,
    )


def _device(books: Books, scaling: Scaling, actor: Actor, now: float) -> DeviceView | None:
    reading = actor.reading
    if reading is None:
        return None
    known = _forms(books, actor)
    resting = _resting_bytes(actor, known)
    others = reading.memory_total_bytes - reading.memory_free_bytes
    others -= max(reading.memory_own_bytes, resting)
    coming = {name: found[-1].mode for name, found in actor.loading.items() if not found[-1].is_cancelled}
    return DeviceView(
        device=actor.device,
        total_bytes=reading.memory_total_bytes,
        others_bytes=max(0, others) + (actor.overhead_bytes or 0),
        residents={name: _resident(scaling, actor, name, now) for name in actor.residents},
        forms=known,
        parked={name: found.weight_bytes for name, found in actor.parked.items()},
        moving=frozenset({*coming, *actor.leaving, *actor.switching}),
        arriving={
            name: mode or known[name][0].memory_mode for name, mode in coming.items() if name in known
        },
    )


def _forms(books: Books, actor: Actor) -> dict[str, tuple[Form, ...]]:
    kind = actor.device.partition("-")[0]
    found = {
        name: forms.of(
            info,
            kind,
            here=actor.residents.get(name),
            parked=actor.parked.get(name),
            profiled=actor.profiled.get(name, ()),
            estimated=actor.estimated.get(name),
        )
        for name, info in books.variants.items()
        if name not in actor.outdated
    }
    return {name: known for name, known in found.items() if known}


def _resting_bytes(actor: Actor, known: Mapping[str, tuple[Form, ...]]) -> int:
    return sum(
        form.rest_bytes
        for name, resident in actor.residents.items()
        for form in known.get(name, ())
        if form.memory_mode == resident.memory_mode
    )


def _resident(scaling: Scaling, actor: Actor, name: str, now: float) -> ResidentView:
    activity = actor.activity.get(name)
    wanted_at = max(actor.arrived_at.get(name, float("-inf")), activity.at if activity else float("-inf"))
    return ResidentView(
        memory_mode=actor.residents[name].memory_mode,
        is_busy=is_busy(actor, name),
        is_awaited=name in actor.wants and not _runs(actor, name),
        is_pinned=(actor.device, name) in scaling.pins,
        is_chosen=name in actor.chosen,
        state=actor.states.get(name, "active"),
        wanted_at=wanted_at,
        rate_hz=activity.rate(now) if activity else 0.0,
    )


def is_busy(actor: Actor, variant: str) -> bool:
    """Whether requests run with a variant, queue for it, or are being given up."""
    return variant in actor.wants or _runs(actor, variant)


def _runs(actor: Actor, variant: str) -> bool:
    return any(a.plan.variant == variant for a in actor.attempts.values())


def has_read(books: Books, actor: Actor, now: float) -> None:
    """Note that a reading came, and what the process holds beyond its residents at the least."""
    actor.read_at = now
    if books.scaling is None or actor.reading is None or actor.loading or actor.leaving:
        return
    beyond = max(0, actor.reading.memory_own_bytes - _resting_bytes(actor, _forms(books, actor)))
    known = actor.overhead_bytes
    actor.overhead_bytes = beyond if known is None else min(known, beyond)


# ---- the tick -----------------------------------------------------------------------------------


def tick(books: Books, now: float) -> None:
    """Ask the planner, and do what it says."""
    scaling = books.scaling
    if scaling is None or now < scaling.next_at:
        return
    scaling.next_at = now + TICK_S
    if books.draining_until is not None:
        return
    view = view_of(books, scaling, now)
    try:
        plan = scaling.planner.plan(view)
        assert isinstance(plan, Plan), f"it answered {plan!r}"
    except Exception:  # a planner may be another's code: its bug must not cost the broker
        books.effects.append(Complain(f"the planner failed:\n{traceback.format_exc()}"))
        scaling.next_at = now + FAILED_REST_S
        return
    scaling.pressure = plan.pressure
    scaling.memory = scaling.memory if plan.memory is None else plan.memory
    _do(books, scaling, plan.actions, now)


def mark(books: Books, now: float) -> None:
    """Note INFaaS's state of each resident."""
    view = planning.view_of(books, now)
    for actor, device in zip(books.ready, view.devices, strict=True):
        before, actor.states = actor.states, {}
        for name in sorted(actor.residents.keys() & books.variants.keys()):
            was_marked = before.get(name, "active") != "active"
            is_marked = states.is_marked(view, device, books.variants[name], was_marked)
            actor.states[name] = states.state(view, device, name, is_marked=is_marked)


def _do(
    books: Books, scaling: Scaling, actions: Iterable[Action], now: float, *, is_next: bool = False
) -> None:
    """Do what may be done; `is_next`: for the next request, to which what later ones want gives way."""
    for action in actions:
        actor = books.by_device.get(action.device)
        if actor is None or actor not in books.ready:
            continue
        stays = _runs(actor, action.variant) if is_next else is_busy(actor, action.variant)
        if _act(books, scaling, actor, action, now, stays=stays):
            scaling.decisions.append(Decided(now, action))
            books.counts[f"scaled_{name_of(action)}"] += 1


def name_of(action: Action) -> str:
    """Return an action's name as `status` tells it."""
    return "set_mode" if isinstance(action, SetMode) else type(action).__name__.lower()


def _act(
    books: Books, scaling: Scaling, actor: Actor, action: Action, now: float, *, stays: bool
) -> bool:
    """Do what a planner wants, where it can and may be done; returns whether it was.

    `stays`: the variant is at work, so it does not leave.
    """
    variant = action.variant
    if variant not in books.variants:
        return False
    match action:
        case Load() | Replicate():
            if variant in actor.residents or actor.is_loading(variant):
                return False
            loads.ask(books, actor, variant, action.memory_mode, is_asked=True, is_settled=True)
            actor.forced.pop(variant, None)
        case Park() | Evict():
            may_leave = not (stays or (actor.device, variant) in scaling.pins)
            is_final = isinstance(action, Evict)
            is_here = variant in actor.residents or (is_final and variant in actor.parked)
            if not (may_leave and is_here) or variant in actor.loading:
                return False
            send_away(books, actor, variant, now, is_final=is_final)
        case SetMode():
            if variant not in actor.residents:
                return False
            switch(books, actor, variant, action.memory_mode, now)
            _tell_of_mode(actor, action)
    return True


def send_away(books: Books, actor: Actor, variant: str, now: float, *, is_final: bool = False) -> None:
    """Have a variant leave its device, parked in host memory unless `is_final`."""
    gone = actor.residents.pop(variant, None)
    if gone is not None and variant in actor.wants:  # it comes back for those that wait
        actor.load_s[variant], actor.outlook = gone.costs.load_s, NO_OUTLOOK
    if is_final:
        actor.parked.pop(variant, None)
    actor.forced.pop(variant, None)
    actor.chosen.discard(variant)
    actor.leaving[variant] = actor.leaving.get(variant, 0) + 1
    actor.changed_at = now
    books.effects.append(TellActor(actor.route, EvictVariant(variant, is_final)))


def switch(books: Books, actor: Actor, variant: str, mode: MemoryMode, now: float) -> None:
    """Have a resident change its memory mode."""
    actor.switching[variant] = actor.switching.get(variant, 0) + 1
    actor.changed_at = now
    books.effects.append(TellActor(actor.route, SwitchMode(variant, mode)))


def settle(owed: dict[str, int], variant: str) -> None:
    """Take an answer that was owed of a variant off the count."""
    if owed.get(variant, 0) > 1:
        owed[variant] -= 1
    else:
        owed.pop(variant, None)


def _tell_of_mode(actor: Actor, action: SetMode) -> None:
    """Let the replies of what runs, and of what comes until it is over, say that memory is short."""
    if not action.is_forced:
        actor.forced.pop(action.variant, None)
        return
    note = actor.forced[action.variant] = f"memory mode {action.memory_mode}: {action.reason}"
    for attempt in actor.attempts.values():
        if attempt.plan.variant == action.variant:
            attempt.notes += (note,)


# ---- room ---------------------------------------------------------------------------------------


class Brought(Enum):
    """What came of a wish to have a variant on a device."""

    COMES = "comes"
    """It is there, or on its way."""
    WAITS = "waits"
    """Something busy must end first, or what the last change left of the memory is not known yet."""
    DIFFERS = "differs"
    """There is room for it in another memory mode than the one that was planned; see `Actor.settled`."""


def bring(
    books: Books,
    actor: Actor,
    variant: str,
    now: float,
    *,
    mode: MemoryMode | None = None,
    may_differ: bool = True,
    is_asked: bool = False,
) -> Brought:
    """Have a variant loaded that is wanted on a device, and others leave for it, if it is not there.

    `mode`: the memory mode of the request's plan; where it `may_differ` another one will do. An
    administrator's wish (`is_asked`) waits for nothing.
    """
    if variant in actor.residents or actor.is_loading(variant):
        loads.ask(books, actor, variant, is_asked=is_asked)
        return Brought.COMES
    is_known = actor.reading is not None and actor.read_at >= actor.changed_at
    if books.scaling is not None and not (is_known or is_asked):
        return Brought.WAITS
    made = _room_for(books, actor, variant, now, is_next=not is_asked)
    if made.fits and made.memory_mode not in (None, mode) and not may_differ:
        actor.settled[variant] = made.memory_mode
        return Brought.DIFFERS
    if books.scaling is not None:
        _do(books, books.scaling, made.leaving, now, is_next=not is_asked)
    if not (made.fits or is_asked) and actor.attempts:  # they hold residents, or wait for what comes
        return Brought.WAITS
    mode = made.memory_mode or mode
    loads.ask(books, actor, variant, mode, is_asked=is_asked, is_settled=made.memory_mode is not None)
    return Brought.COMES


def _room_for(books: Books, actor: Actor, variant: str, now: float, *, is_next: bool) -> room.Room:
    scaling = books.scaling
    if scaling is None:
        return room.UNKNOWN
    view = view_of(books, scaling, now)
    device = next((d for d in view.devices if d.device == actor.device), None)
    return room.UNKNOWN if device is None else room.make(view, device, variant, is_next=is_next)


# ---- telling ------------------------------------------------------------------------------------


def pinned(books: Books, actor: Actor) -> tuple[str, ...]:
    """Return the variants that an administrator wants to stay on a device."""
    pins = books.scaling.pins if books.scaling is not None else set()
    return tuple(sorted(variant for device, variant in pins if device == actor.device))


def pressure_of(books: Books, actor: Actor) -> int:
    """Return how many bytes a device had too few at the last plan."""
    return books.scaling.pressure.get(actor.device, 0) if books.scaling is not None else 0


def facts(scaling: Scaling, now: float) -> dict[str, Any]:
    """Return what a status report says of the planner."""
    return {
        "planner": scaling.planner.name,
        "expected": expected(scaling, now),
        "decisions": told(scaling, now),
    }


def told(scaling: Scaling, now: float) -> tuple[Scaled, ...]:
    """Return the last decisions, the latest first."""
    return tuple(
        Scaled(
            age_s=now - at,
            action=name_of(action),
            device=action.device,
            variant=action.variant,
            reason=action.reason,
            memory_mode=getattr(action, "memory_mode", None),
        )
        for at, action in reversed(scaling.decisions)
    )


EXPECTED_TOLD = 20


def expected(scaling: Scaling, now: float) -> tuple[Expected, ...]:
    """Return what is forecast, the most expected first."""
    found = [
        Expected(
            rate_hz=trace.rhythm_hz(now),
            uses=trace.uses(now),
            variant=want.variant,
            family=want.family,
            latency_s=want.latency_s,
            next_s=trace.next_s(now),
        )
        for want, trace in scaling.traces.items()
    ]
    return tuple(sorted(found, key=lambda e: -e.uses)[:EXPECTED_TOLD])
