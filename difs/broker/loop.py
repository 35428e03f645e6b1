"""The broker's shell: two ROUTER sockets, one poll loop. It performs effects and decides nothing."""

import logging
import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import zmq

from difs import sockets, wire
from difs.actor_messages import KillActor, Leaving, Ready
from difs.broker.effects import (
    Complain,
    Effect,
    Exit,
    ForgetClient,
    TellActor,
    TellClient,
    TellSupervisor,
)
from difs.broker.events import (
    LOCAL,
    ActorSaid,
    ActorUnreachable,
    ClientLost,
    ClientMisspoke,
    ClientSaid,
    ClientTooSlow,
    Delivered,
    Event,
    Peer,
    Ticked,
)
from difs.broker.outbox import Letter, Outbox
from difs.broker.remote import RemoteDoor
from difs.broker.state import BrokerState
from difs.broker.watcher import Watcher
from difs.clock import Clock
from difs.errors import Denied, DifsError, TooSlow
from difs.messages import MAX_HEADER_BYTES, Accepted, Beat, Error, Happening, Progress
from difs.shm.reader import SegmentReader
from difs.sockets import DONTWAIT

log = logging.getLogger(__name__)

MAX_FRAME_BYTES = 16 * MAX_HEADER_BYTES
"""A frame above this ends the peer's connection; one above MAX_HEADER_BYTES is refused in words."""
BURST = 64
"""Messages taken from one socket before the other has its turn."""
SEND_HIGH_WATER = 256
CLIENT_HIGH_WATER = 16
"""Messages that libzmq keeps for a client that does not read: it cannot be bounded by bytes."""
ACCEPTED_DELAY_S = 0.001
"""How long an `accepted` may wait for company; a woken client would compete with the actor."""
LINGER_MS = 500
ROUTINE = frozenset({"accepted", "dispatched", "finished", "cancelled"})
"""What is logged at level debug only."""


class BrokerLoop:
    """Moves frames between the sockets and the state."""

    def __init__(
        self,
        state: BrokerState,
        clock: Clock,
        *,
        clients: str,
        actors: str,
        segments: dict[str, Path],
        patience_s: float,
        watcher: Watcher | None = None,
        door: RemoteDoor | None = None,
    ) -> None:
        """Bind all sockets; the addresses are ZeroMQ's. `door`: for clients of other machines."""
        self._watcher = watcher
        self._state = state
        self._clock = clock
        self._context = zmq.Context()
        self._readers = {device: SegmentReader(path) for device, path in segments.items()}
        self._frontend = self._bind(clients, MAX_FRAME_BYTES, CLIENT_HIGH_WATER)
        self._backend = self._bind(actors, -1, SEND_HIGH_WATER)
        self._door = door
        if door is not None:
            door.open(self._context, self._router(MAX_FRAME_BYTES, CLIENT_HIGH_WATER))
        self._outbox = Outbox(patience_s)
        self._flush_due = math.inf
        self._pending: deque[Event] = deque()
        self._later: list[TellClient] = []
        self._later_due = math.inf
        self._running = True

    def _bind(self, address: str, max_frame_bytes: int, high_water: int) -> "zmq.Socket[bytes]":
        socket = self._router(max_frame_bytes, high_water)
        socket.bind(address)
        return socket

    def _router(self, max_frame_bytes: int, high_water: int) -> "zmq.Socket[bytes]":
        socket = self._context.socket(zmq.ROUTER)
        socket.router_mandatory = True
        socket.linger = LINGER_MS
        socket.sndhwm = high_water
        socket.maxmsgsize = max_frame_bytes
        return socket

    def run(self) -> None:
        """Serve until the state says Exit."""
        poller = zmq.Poller()
        poller.register(self._frontend, zmq.POLLIN)
        poller.register(self._backend, zmq.POLLIN)
        if self._door is not None:
            poller.register(self._door.questions, zmq.POLLIN)
            poller.register(self._door.socket, zmq.POLLIN)
        try:
            while self._running:
                due = min(self._state.next_wake(), self._later_due, self._flush_due)
                wait_s = max(0.0, due - self._clock.now())
                ready = dict(poller.poll(math.ceil(wait_s * 1000)))
                if self._backend in ready:
                    self._take_from_actors()
                if self._frontend in ready:
                    self._take_from_clients()
                self._take_from_afar()
                now = self._clock.now()
                if now >= self._later_due:
                    self._tell_later()
                if now >= self._flush_due:
                    self._flush()
                    self._settle()
                if now >= self._state.next_wake():
                    self._take_from_clients()  # what one said before it went away still counts
                    self._take_from_afar()
                    self._flush()
                    for event in self._news():
                        self._happen(event)
                    self._happen(Ticked())
            self._tell_later()
        finally:
            if self._watcher is not None:
                self._watcher.close()
            self._context.destroy(linger=LINGER_MS)

    # ---- in -----------------------------------------------------------------------------------

    def _take_from_clients(self) -> None:
        for _ in range(BURST):
            try:
                route, *frames = sockets.receive(self._frontend, DONTWAIT)
            except zmq.Again:
                return
            self._hear(route, LOCAL, frames)

    def _take_from_afar(self) -> None:
        """Let in who may come in, and hear those who are in."""
        door = self._door
        if door is None:
            return
        door.answer()
        for _ in range(BURST):
            try:
                route, peer, frames = door.receive()
            except zmq.Again:
                return
            if peer is None:
                denied = Denied("this key is not allowed by the service, or no longer")
                self._happen(ClientMisspoke(route, denied, None))
            else:
                self._hear(route, peer, frames)

    def _news(self) -> Iterator[Event]:
        """Yield what changed on the disk since the last time: the repository, the allowed keys."""
        if self._watcher is not None:
            yield from self._watcher.news()
        if self._door is not None:
            yield from self._door.news()

    def _hear(self, route: bytes, peer: Peer, frames: list[bytes]) -> None:
        try:
            event: Event = ClientSaid(route, wire.decode_from_client(frames), peer)
        except DifsError as error:
            # its traceback leads here and back to it: such a ring would keep the frames for long
            plain = error.with_traceback(None)
            event = ClientMisspoke(route, plain, wire.request_id_of(frames))
        self._happen(event)

    def _take_from_actors(self) -> None:
        for _ in range(BURST):
            try:
                route, *frames = sockets.receive(self._backend, DONTWAIT)
            except zmq.Again:
                return
            try:
                message = wire.decode_from_actor(frames)
            except DifsError as error:
                log.error("an actor broke the protocol: %s", error)
                continue
            if isinstance(message, (Ready, Leaving)):
                log.info("%s", type(message).__name__.lower())
            self._happen(ActorSaid(route, message))

    def _happen(self, event: Event) -> None:
        """Give an event to the state and perform its effects, and those of what they cause."""
        self._pending.append(event)
        self._settle()

    def _settle(self) -> None:
        while self._pending:
            for effect in self._state.handle(self._pending.popleft(), self._clock.now()):
                self._perform(effect)
            for happening in self._state.news():
                self._log(happening)

    def _log(self, happening: Happening) -> None:
        """Log what happened, with its ids."""
        level = logging.DEBUG if happening.what in ROUTINE else logging.INFO
        if not log.isEnabledFor(level):
            return
        ids = {
            "request_id": happening.request_id,
            "attempt": happening.attempt,
            "actor": happening.device,
        }
        words = " ".join(filter(None, (happening.request_id, happening.device, happening.what)))
        log.log(level, "%s", ": ".join(filter(None, (words, happening.detail))), extra=ids)

    # ---- out ----------------------------------------------------------------------------------

    def _perform(self, effect: Effect) -> None:
        if type(effect) is TellClient:
            if type(effect.message) is Accepted:
                self._postpone(effect)
            else:
                self._tell_later()
                self._tell_client(effect)
        elif type(effect) is TellActor:
            self._tell_backend(effect.route, wire.encode(effect.message))
        elif type(effect) is TellSupervisor:
            if isinstance(effect.message, KillActor):
                log.warning("%s: %s", effect.message.device, effect.message.reason)
            self._tell_backend(effect.route, wire.encode(effect.message))
        elif type(effect) is ForgetClient:
            self._outbox.forget(effect.route)
        elif type(effect) is Complain:
            log.error("%s", effect.words)
        elif type(effect) is Exit:
            self._running = False

    def _postpone(self, effect: TellClient) -> None:
        """Let the actor's start overtake an `accepted`: it is news, and nobody computes with it."""
        if not self._later:
            self._later_due = self._clock.now() + ACCEPTED_DELAY_S
        self._later.append(effect)

    def _tell_later(self) -> None:
        """Send what was postponed; always before anything newer to a client."""
        if self._later:
            later, self._later, self._later_due = self._later, [], math.inf
            for effect in later:
                self._tell_client(effect)

    def _tell_client(self, effect: TellClient) -> None:
        message = effect.message
        is_last = type(message) is Error and message.code == TooSlow.code
        letter = Letter(wire.encode(message), effect.payloads, effect.leases, is_last)
        if self._outbox.owes(effect.route):
            if not isinstance(message, (Progress, Beat)):
                self._owe(effect.route, letter)
            return
        try:
            self._post(effect.route, letter)
        except zmq.Again:
            self._owe(effect.route, letter)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._pending.append(ClientLost(effect.route))

    def _post(self, route: bytes, letter: Letter) -> None:
        """Hand a message to libzmq, its pictures copied; raises zmq.Again when it must wait."""
        if not self._outbox.lets(route, letter):
            raise zmq.Again
        is_large = letter.is_large
        pictures = [self._readers[p.device].bytes_at(p.offset, p.nbytes) for p in letter.payloads]
        frames = [*letter.frames, *map(bytes, pictures)]
        if self._door is not None and self._door.owns(route):
            passage = self._door.send(route, frames, is_tracked=is_large)
        else:
            passage = sockets.send(self._frontend, [route, *frames], DONTWAIT, is_tracked=is_large)
        if is_large:
            self._outbox.went(route, letter, passage)
        if letter.leases:
            self._pending.append(Delivered(letter.leases))

    def _owe(self, route: bytes, letter: Letter) -> None:
        now = self._clock.now()
        is_kept = self._outbox.put(route, letter, now) or self._hand_on(route)
        if not is_kept and self._outbox.owes(route):
            log.warning("a client is owed too much and is given up")
            self._give_up(route)
        self._flush_due = min(self._flush_due, now + self._outbox.rest_s(now))

    def _flush(self) -> None:
        """Try again what full pipes did not take; give up the clients that take nothing."""
        for route in self._outbox.routes():
            self._hand_on(route)
        now = self._clock.now()
        for route in self._outbox.overdue(now):
            log.warning("a client took nothing for too long and is given up")
            self._give_up(route)
        self._flush_due = now + self._outbox.rest_s(now)

    def _hand_on(self, route: bytes) -> bool:
        """Hand on what is owed to a client as far as its pipe takes it; returns whether it took any."""
        has_taken = False
        try:
            for letter in self._outbox.waiting(route):
                self._post(route, letter)
                has_taken = True
        except zmq.Again:
            pass
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            log.info("a client went away that was owed messages")
            self._outbox.forget(route)
            self._pending.append(ClientLost(route))
        return has_taken

    def _give_up(self, route: bytes) -> None:
        self._outbox.forget(route)
        self._pending.append(ClientTooSlow(route))

    def _tell_backend(self, route: bytes, frames: list[wire.Frame]) -> None:
        try:
            sockets.send(self._backend, [route, *frames], DONTWAIT)
        except zmq.Again:
            self._pending.append(ActorUnreachable(route))
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._pending.append(ActorUnreachable(route))
