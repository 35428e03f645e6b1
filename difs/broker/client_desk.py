"""What clients ask: one function a message, from a valid message to entries in the books."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from difs import memory_modes
from difs.actor_messages import Stop
from difs.broker import admission, dispatch, operator_desk, planning, scaling, shares
from difs.broker.books import Books
from difs.broker.effects import ForgetClient, TellActor, TellClient
from difs.broker.events import LOCAL, Peer
from difs.broker.records import Actor, Client, Request
from difs.broker.states import Cause, RequestState
from difs.errors import DifsError
from difs.messages import (
    Beat,
    BrokerMessage,
    Cancel,
    ClearQuarantine,
    ClientMessage,
    DeviceStatus,
    Done,
    Drain,
    Error,
    Evict,
    Explain,
    Explanation,
    Generate,
    Load,
    Metrics,
    Pin,
    Ping,
    Pong,
    Quarantine,
    Release,
    SetMode,
    Status,
    StatusReport,
    Story,
    VariantList,
    Variants,
)
from difs.policy.base import Admit
from difs.version import __version__

ADMIN_DRAIN_S = 30.0


def serve(books: Books, route: bytes, message: ClientMessage, now: float, peer: Peer = LOCAL) -> None:
    """Do what a client's message asks, if its sender may ask for it."""
    books.peer = peer
    client = books.clients.get(route)
    if client is not None and client.peer != peer:
        _lost_unheard(books, route, now)
    refused = admission.check_peer(peer, message)
    if refused is not None:
        tell(books, route, refused)
        return
    _HANDLERS[type(message)](books, route, message, now)


def tell(books: Books, route: bytes, message: BrokerMessage) -> None:
    """Send a message to a client."""
    books.effects.append(TellClient(route, message))


def too_slow(books: Books, route: bytes, now: float) -> None:
    """Give up a client that is there and does not read: one message tells it, whatever it had open."""
    _lost_unheard(books, route, now)
    words = "messages were not read in time: what was open was cancelled, what had ended was dropped"
    tell(books, route, admission.refusal("too_slow", words))


def _lost_unheard(books: Books, route: bytes, now: float) -> None:
    """Give up a client, as under whose routing id another connected, saying nothing of its requests."""
    lost(books, route, now)
    books.effects = [e for e in books.effects if not (isinstance(e, TellClient) and e.route == route)]


def misspoke(books: Books, route: bytes, error: DifsError, request_id: str | None) -> None:
    """Answer a message that the protocol forbids."""
    books.counts["protocol_errors"] += 1
    books.tally.misspoke(error.code)
    reply = admission.refusal(
        error.code, error.message, request_id=request_id, field=error.field, limit=error.limit
    )
    tell(books, route, reply)


def lost(books: Books, route: bytes, now: float) -> None:
    """Cancel and take back everything of a client that is gone."""
    client = books.clients.get(route)
    if client is None:
        return
    books.counts["clients_lost"] += 1
    if any(hold.is_owed for hold in client.leases.values()):
        books.effects.append(ForgetClient(route))  # before its slots are anybody else's
    for hold in list(client.leases.values()):
        books.drop(hold)
    for request in list(client.open.values()):
        dispatch.cancel(books, request, "the client is gone", now)


def delivered(books: Books, leases: tuple[int, ...]) -> None:
    """Free the slots whose pictures were copied; those of a client that is gone are free already."""
    for lease in leases:
        hold = books.holds.get(lease)
        if hold is not None and hold.is_owed:
            books.drop(hold)


def revoked(books: Books, names: frozenset[str], now: float) -> None:
    """Cancel everything of the clients that came with keys that are no longer allowed."""
    for client in [c for c in books.clients.values() if c.peer.account in names]:
        lost(books, client.route, now)


# ---- generate -----------------------------------------------------------------------------------


def _generate(books: Books, route: bytes, message: Generate, now: float) -> None:
    known = books.requests.get(message.request_id)
    if known is not None:
        _join(books, route, known, message, now)
        return
    client = books.client(route)
    refused = admission.check_entry(books, client, message, now)
    if refused is None:
        decision = planning.decide(books, message, now, books.variants)
        decision = shares.within(books, client, message, decision, now)
        refused = planning.refusal_of(books, message, decision)
        refused = refused or shares.refusal(books, client, message, decision, now)
        shares.note(books, client, message, decision, now)
        if refused is None:
            request = books.open(message, client, now)
            planning.place(books, request, decision, now)
            _dispatch_and_announce(books, request, now)
            return
    books.counts["rejected"] += 1
    books.tally.rejected(refused.code)
    tell(books, route, refused)
    books.forget_if_idle(client)


def _dispatch_and_announce(books: Books, request: Request, now: float) -> None:
    """Hand on what can begin now that a request stands in its line, then tell its client the plan."""
    dispatch.dispatch(books, now)  # first: the device's way is longer than the client's
    if request.is_open:
        dispatch.announce(books, request)


def _join(books: Books, route: bytes, known: Request, message: Generate, now: float) -> None:
    """Let a repeated `generate` share the open request of its id, if it asks for the same."""
    if known.message != message or known.client.peer != books.peer:
        words = "this request_id belongs to an open request with other content"
        tell(
            books,
            route,
            admission.refusal("id_conflict", words, request_id=message.request_id, field="request_id"),
        )
        return
    books.adopt(known, books.client(route))
    _dispatch_and_announce(books, known, now)  # among the other's, another may be next


def _explain(books: Books, route: bytes, message: Explain, now: float) -> None:
    asked = message.request
    turn, memory = books.decisions, books.memory
    decision = planning.decide(books, asked, now, books.variants)
    books.decisions, books.memory = turn, memory  # an explanation changes nothing
    asker = books.clients.get(route) or Client(route, peer=books.peer)
    decision = shares.within(books, asker, asked, decision, now)
    entry = admission.check_entry(books, asker, asked, now)
    refused = entry or planning.refusal_of(books, asked, decision)
    refused = refused or shares.refusal(books, asker, asked, decision, now)
    plan = decision.plan if refused is None and isinstance(decision, Admit) else None
    points = planning.survey(books, asked, now) if message.survey else ()
    tell(books, route, Explanation(asked.request_id, plan, refused, points))


def _cancel(books: Books, route: bytes, message: Cancel, now: float) -> None:
    request = books.requests.get(message.request_id)
    if request is None or request.client.route != route:
        words = "no open request of this client has this id"
        tell(books, route, _not_found(words, message.request_id))
        return
    dispatch.cancel(books, request, "cancelled by its client", now)


def _not_found(words: str, request_id: str | None = None) -> Error:
    return admission.refusal("not_found", words, request_id=request_id)


def _release(books: Books, route: bytes, message: Release, now: float) -> None:
    client = books.clients.get(route)
    for lease in message.leases:
        hold = client.leases.get(lease) if client is not None else None
        if hold is not None and not hold.is_owed:
            books.drop(hold)


# ---- questions ----------------------------------------------------------------------------------


def _ping(books: Books, route: bytes, message: Ping, now: float) -> None:
    client = books.clients.get(route)
    if client is not None:
        for hold in client.leases.values():
            if not hold.is_owed:
                hold.expires_at = now + books.rules.lease
    ready = bool(books.ready) and books.draining_until is None
    tell(books, route, Pong(books.epoch, ready))


def _variants(books: Books, route: bytes, message: Variants, now: float) -> None:
    residents: dict[str, list[str]] = {}
    for actor in books.ready:
        for name in actor.residents:
            residents.setdefault(name, []).append(actor.device)
    infos = tuple(
        replace(info, resident_on=tuple(residents.get(info.name, ()))) for info in books.variants.values()
    )
    tell(books, route, VariantList(infos, tuple(books.adapters.values())))


def _status(books: Books, route: bytes, message: Status, now: float) -> None:
    actors = sorted(books.actors.values(), key=lambda a: a.device)
    report = StatusReport(
        epoch=books.epoch,
        version=__version__,
        policy=books.policy.name,
        ready=bool(books.ready),
        draining=books.draining_until is not None,
        uptime_s=now - books.started_at,
        queued=books.queued,
        running=len(books.attempts),
        clients=len(books.clients),
        devices=tuple(_device_status(books, actor) for actor in actors),
        counts=dict(books.counts),
    )
    if books.scaling is not None:
        report = replace(report, **scaling.facts(books.scaling, now))
    if message.request_id is not None:
        report = replace(report, position=_position(books, route, message.request_id))
    tell(books, route, report)


def _position(books: Books, route: bytes, request_id: str) -> int | None:
    """Return where a request of this client waits: 1 is next on its device; None: it does not wait."""
    request = books.requests.get(request_id)
    if request is None or request.client.route != route:
        return None
    if request_id in books.waiting:
        return 1 + sum(other.rank < request.rank for other in books.waiting.values())
    actor = request.actor
    return actor.queue.position(request) if actor is not None and request in actor.queue else None


def _device_status(books: Books, actor: Actor) -> DeviceStatus:
    pool = books.pools[actor.device]
    return DeviceStatus(
        device=actor.device,
        state=actor.state.value,
        residents=tuple(sorted(actor.residents)),
        queued=len(actor.queue),
        running=len(actor.attempts),
        credits=actor.credits,
        backlog_s=actor.backlog_s,
        slots_free=pool.free,
        slots_total=pool.total,
        reading=actor.reading,
        memory_modes={name: found.memory_mode for name, found in sorted(actor.residents.items())},
        loading=tuple(sorted(filter(actor.is_loading, actor.loading))),
        parked=tuple(sorted(actor.parked)),
        states=dict(actor.states),
        pinned=scaling.pinned(books, actor),
        pressure_bytes=scaling.pressure_of(books, actor),
    )


# ---- admin --------------------------------------------------------------------------------------


def _admin(
    act: Callable[[Books, bytes, Any, float], None],
) -> Callable[[Books, bytes, Any, float], None]:
    """Refuse an admin message of who is no administrator, and where the configuration forbids it."""

    def guarded(books: Books, route: bytes, message: Any, now: float) -> None:
        if not books.peer.is_admin:
            words = "only this user's own programs and keys made with --admin may do that"
            tell(books, route, admission.refusal("denied", words))
        elif books.rules.admin:
            act(books, route, message, now)
        else:
            tell(books, route, admission.refusal("unsupported", "broker.admin is off"))

    return guarded


def _targets(books: Books, route: bytes, message: Load | Evict | SetMode | Pin) -> list[Actor]:
    """Return the actors that an admin message means; answers with an error when there are none."""
    for name, known in ((message.variant, books.variants), (message.device, books.pools)):
        if name is not None and name not in known:
            words = f"no {name!r}; there is: {', '.join(sorted(known))}"
            tell(books, route, admission.refusal("unknown_name", words))
            return []
    found = [a for a in books.ready if message.device in (None, a.device)]
    if not found:
        words = "the device is not ready; it may be starting"
        tell(books, route, admission.refusal("unavailable", words, retry_after_s=1.0))
    return found


def _load(books: Books, route: bytes, message: Load, now: float) -> None:
    targets = _targets(books, route, message)
    for actor in targets:
        scaling.bring(books, actor, message.variant, now, is_asked=True)
    if targets:
        tell(books, route, Done(f"{message.variant} is loaded or loading"))


def _evict(books: Books, route: bytes, message: Evict, now: float) -> None:
    targets = _targets(books, route, message)
    for actor in targets:
        is_used = any(a.plan.variant == message.variant for a in actor.attempts.values())
        if is_used or message.variant in actor.wants or message.variant in actor.loading:
            words = f"{message.variant} is busy on {actor.device}"
            tell(books, route, admission.refusal("overloaded", words, retry_after_s=1.0))
            return
    for actor in targets:
        _unpin(books, actor, message.variant)
        if message.variant in actor.residents:
            scaling.send_away(books, actor, message.variant, now)
    if targets:
        tell(books, route, Done(f"{message.variant} is evicted"))


def _set_mode(books: Books, route: bytes, message: SetMode, now: float) -> None:
    targets = _targets(books, route, message)
    residing = [actor for actor in targets if message.variant in actor.residents]
    if targets and not residing:
        where = message.device or "any device that is ready"
        tell(books, route, _not_found(f"{message.variant} is not loaded on {where}; load it first"))
    for actor in residing:
        usable = memory_modes.available(actor.device.partition("-")[0])
        if message.memory_mode not in usable:
            words = f"{actor.device} has no mode {message.memory_mode}; it has: {', '.join(usable)}"
            tell(books, route, admission.refusal("unsupported", words, field="memory_mode"))
            return
    for actor in residing:
        actor.chosen.add(message.variant)
        scaling.switch(books, actor, message.variant, message.memory_mode, now)
    if residing:
        tell(books, route, Done(f"{message.variant} switches to {message.memory_mode}"))


def _pin(books: Books, route: bytes, message: Pin, now: float) -> None:
    targets = _targets(books, route, message)
    scaler = books.scaling
    if targets and scaler is None:
        words = "nobody plans what is loaded: autoscaler.planner is off"
        tell(books, route, admission.refusal("unsupported", words))
        return
    for actor in targets:
        if not message.pinned:
            _unpin(books, actor, message.variant)
        elif scaler is not None:
            scaler.pins.add((actor.device, message.variant))
            scaling.bring(books, actor, message.variant, now, is_asked=True)
    if targets:
        tell(books, route, Done(f"{message.variant} {'stays' if message.pinned else 'may leave'}"))


def _unpin(books: Books, actor: Actor, variant: str) -> None:
    if books.scaling is not None:
        books.scaling.pins.discard((actor.device, variant))


def _drain(books: Books, route: bytes, message: Drain, now: float) -> None:
    start_draining(books, now + ADMIN_DRAIN_S)
    tell(books, route, Done("draining"))


def start_draining(books: Books, until: float) -> None:
    """Accept nothing new; `finish_draining` ends the rest at `until`."""
    books.draining_until = until if books.draining_until is None else min(until, books.draining_until)


def finish_draining(books: Books, now: float) -> bool:
    """End what the drain's time does not suffice for; returns whether nothing is left to do."""
    if books.draining_until is None:
        return False
    if now >= books.draining_until:
        for request in list(books.requests.values()):
            words = "the service shut down before this request was done"
            error = admission.refusal("draining", words, request_id=request.message.request_id)
            dispatch.fail(books, request, error, now)
    if books.requests or (now < books.draining_until and any(h.is_owed for h in books.holds.values())):
        return False
    for actor in books.ready:
        books.change_actor(actor, Cause.DRAINED)
        books.effects.append(TellActor(actor.route, Stop()))
    return not books.actors


# ---- time ---------------------------------------------------------------------------------------


def beat(books: Books) -> None:
    """Send a sign of life to every client that waits or holds; finds out who is gone."""
    for client in books.clients.values():
        tell(books, client.route, Beat(books.epoch))


def reclaim(books: Books, now: float) -> None:
    """Take back the leases whose time is over."""
    for hold in [h for h in books.holds.values() if h.expires_at <= now]:
        books.counts["leases_timed_out"] += 1
        books.drop(hold)


def expire_overdue(books: Books, now: float) -> None:
    """End the open requests whose deadline has passed."""
    for request in list(books.overdue(now)):
        assert request.state in (RequestState.QUEUED, RequestState.RUNNING)
        dispatch.expire(books, request, now)


_HANDLERS: dict[type, Callable[[Books, bytes, Any, float], None]] = {
    Generate: _generate,
    Explain: _explain,
    Cancel: _cancel,
    Release: _release,
    Variants: _variants,
    Status: _status,
    Ping: _ping,
    Load: _admin(_load),
    Evict: _admin(_evict),
    SetMode: _admin(_set_mode),
    Pin: _admin(_pin),
    Drain: _admin(_drain),
    Metrics: operator_desk.metrics,
    Story: _admin(operator_desk.story),
    Quarantine: _admin(operator_desk.quarantine),
    ClearQuarantine: _admin(operator_desk.clear_quarantine),
}
