"""BrokerState: event in, effects out, time passed in. No sockets, no clock, no chance.

    state.handle(event, now) -> list of effects
    state.next_wake()        -> when `Ticked` is due at the latest

Everything that the broker knows stands in its `books`; the desks and `dispatch` write there.
"""

import math
from collections.abc import Mapping

from difs import config
from difs.actor_messages import Counted, Pulse, Stepped
from difs.broker import actor_desk, client_desk, dispatch, fleet_desk, loads, repository_desk, scaling
from difs.broker.audit import check
from difs.broker.books import Books, Segment
from difs.broker.effects import Effect, Exit
from difs.broker.events import (
    ActorSaid,
    ActorUnreachable,
    ClientLost,
    ClientMisspoke,
    ClientSaid,
    ClientTooSlow,
    Delivered,
    Event,
    KeysRevoked,
    RepositoryChanged,
)
from difs.broker.scaler import Scaling
from difs.errors import InternalError
from difs.messages import AdapterInfo, Generate, Happening, VariantInfo
from difs.policy.base import Policy

BEAT_S = 0.5
"""Seconds between heartbeats to clients, actors and the supervisor."""


AWAITED_BY_NOBODY = (Stepped, Counted, Pulse)
"""Most of what actors say: it makes nothing possible, and nothing needless."""


class BrokerState:
    """The broker's heart."""

    def __init__(
        self,
        *,
        rules: config.Broker,
        policy: Policy,
        variants: Mapping[str, VariantInfo],
        adapters: Mapping[str, AdapterInfo],
        segments: Mapping[str, Segment],
        epoch: int,
        now: float,
        scaler: Scaling | None = None,
    ) -> None:
        """Start empty: no clients, no actors. See `Books` for the arguments."""
        self.books = Books(
            rules=rules,
            policy=policy,
            variants=variants,
            adapters=adapters,
            segments=segments,
            epoch=epoch,
            now=now,
            scaling=scaler,
        )
        self._next_beat = now
        self._silence = math.inf
        """No actor is silent for too long before that: of what is heard since then none knows."""

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event and return the effects to perform, in order."""
        books = self.books
        books.effects = []
        if isinstance(event, ClientSaid):
            client_desk.serve(books, event.route, event.message, now, event.peer)
        elif isinstance(event, ActorSaid):
            actor_desk.serve(books, event.route, event.message, now)
            if isinstance(event.message, AWAITED_BY_NOBODY):
                return books.effects
            self._silence = min(self._silence, now + books.rules.actor_silence)  # it may be a new one
        elif isinstance(event, ClientLost):
            client_desk.lost(books, event.route, now)
        elif isinstance(event, ClientTooSlow):
            client_desk.too_slow(books, event.route, now)
        elif isinstance(event, Delivered):
            client_desk.delivered(books, event.leases)
        elif isinstance(event, ClientMisspoke):
            client_desk.misspoke(books, event.route, event.error, event.request_id)
        elif isinstance(event, KeysRevoked):
            client_desk.revoked(books, event.names, now)
        elif isinstance(event, ActorUnreachable):
            actor_desk.unreachable(books, event.route, now)
        elif isinstance(event, RepositoryChanged):
            repository_desk.changed(books, event, now)
        else:
            self._tick(now)
        self._follow_up(event, now)
        return books.effects

    def _follow_up(self, event: Event, now: float) -> None:
        """Do what an event has made possible, or needless."""
        books = self.books
        repository_desk.evict_outdated(books, now)
        if not (isinstance(event, ClientSaid) and isinstance(event.message, Generate)):
            dispatch.dispatch(books, now)  # a new request has been, before its client was told
        loads.cancel_unwanted(books, now)
        if books.rules.validate:
            self.validate()

    def _tick(self, now: float) -> None:
        books = self.books
        client_desk.expire_overdue(books, now)
        is_due = now >= self._next_beat
        if is_due or now >= self._silence:
            actor_desk.watch(books, now)
            self._silence = actor_desk.next_silence(books)
        if is_due:
            self._next_beat = now + BEAT_S
            client_desk.reclaim(books, now)
            fleet_desk.tell_fleet(books)
            client_desk.beat(books)
            scaling.mark(books, now)
        scaling.tick(books, now)
        if client_desk.finish_draining(books, now):
            books.effects.append(Exit())

    def next_wake(self) -> float:
        """Return the time by which `Ticked` must come."""
        deadline, scaler = self.books.next_deadline(), self.books.scaling
        soonest = min(self._next_beat, self._silence)
        soonest = soonest if scaler is None else min(soonest, scaler.next_at)
        return soonest if deadline is None else min(deadline, soonest)

    def validate(self) -> None:
        """Raise InternalError where the books contradict themselves."""
        check(self.books)
        if self._silence > actor_desk.next_silence(self.books):
            raise InternalError(f"an actor may be silent for too long before {self._silence}")

    def story(self, request_id: str) -> list[Happening]:
        """Return what happened to an open or recently ended request; [] if unknown."""
        return self.books.story(request_id)

    def news(self) -> list[Happening]:
        """Return what has happened since the last time, for the log."""
        return self.books.chronicle.take_fresh()
