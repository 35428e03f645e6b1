"""The broker's process: the real heart, and a shell that does what `difs.broker.loop` does."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from difs.broker.effects import Effect, Exit, ForgetClient, TellActor, TellClient, TellSupervisor
from difs.broker.events import (
    ActorSaid,
    ActorUnreachable,
    ClientLost,
    ClientSaid,
    Delivered,
    Event,
    Peer,
    Ticked,
)
from difs.broker.state import BrokerState
from difs.messages import Result
from difs.shm.reader import SegmentReader
from tests.model.lossy.links import Link
from tests.model.lossy.timeline import Timeline

NOTICE_S = (0.0, 0.01)
"""So soon does a ROUTER know that a process of this machine is gone;"""
REMOTE_NOTICE_S = (0.0, 1.0)
"""and that one of another is."""


@dataclass(frozen=True, slots=True)
class Painted:
    """A result with the bytes that travel behind it."""

    result: Result
    payloads: tuple[bytes, ...]


class Broker:
    """One life of the broker."""

    def __init__(
        self,
        time: Timeline,
        dice: Random,
        state: BrokerState,
        readers: dict[str, SegmentReader],
        ended: Callable[["Broker"], None],
    ) -> None:
        """Begin at once. `ended` is called when it exits by itself."""
        self._time, self._dice, self.state, self._readers = time, dice, state, readers
        self._ended = ended
        self._links: dict[bytes, Link] = {}
        self._inbox: deque[Event] = deque()
        self._is_handling = False
        self._wake_at = float("inf")
        self.is_dead = False
        self.is_stopped = False
        self._watch()

    # ---- connections ----------------------------------------------------------------------------

    def join(self, link: Link, peer: Peer | None) -> None:
        """Let a peer connect: a client with its `peer`, or one on the actors' socket."""
        if peer is None:
            link.connect(lambda route, message: self.hear(ActorSaid(route, message)))
        else:
            link.connect(lambda route, message: self.hear(ClientSaid(route, message, peer)))
        self._links[link.route] = link

    def part(self, link: Link, *, is_remote: bool) -> None:
        """Let a connection be gone; that is noticed a little later."""
        route = link.route
        seconds = self._dice.uniform(*(REMOTE_NOTICE_S if is_remote else NOTICE_S))
        self._time.after(seconds, lambda: self._forget(route))

    def _forget(self, route: bytes) -> None:
        self._links.pop(route, None)

    def die(self) -> None:
        """End as by SIGKILL."""
        self.is_dead = True
        self._inbox.clear()

    def stop(self, seconds: float) -> None:
        """Do nothing for so long, as after SIGSTOP; what comes waits."""
        self.is_stopped = True
        self._time.after(seconds, self._go_on)

    def _go_on(self) -> None:
        self.is_stopped = False
        self._handle()
        self._watch()

    # ---- events ---------------------------------------------------------------------------------

    def hear(self, event: Event) -> None:
        """Take what came."""
        if not self.is_dead:
            self._inbox.append(event)
            self._handle()

    def _handle(self) -> None:
        if self._is_handling or self.is_stopped:
            return
        self._is_handling = True
        while self._inbox and not self.is_dead:
            for effect in self.state.handle(self._inbox.popleft(), self._time.now):
                self._perform(effect)
        self._is_handling = False
        self._watch()

    def _watch(self) -> None:
        """Have a `Ticked` come when it is due."""
        due = self.state.next_wake()
        if due < self._wake_at and not self.is_dead:
            self._wake_at = due
            self._time.at(due, lambda: self._tick(due))

    def _tick(self, due: float) -> None:
        if self.is_dead or self._wake_at != due:
            return
        self._wake_at = float("inf")
        if not self.is_stopped:
            if self._time.now >= self.state.next_wake():
                self._inbox.append(Ticked())
            self._handle()

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, TellClient):
            self._tell_client(effect)
        elif isinstance(effect, (TellActor, TellSupervisor)):
            if not self._tell(effect.route, effect.message):
                self._inbox.append(ActorUnreachable(effect.route))
        elif isinstance(effect, ForgetClient):
            pass  # nothing is owed: links take everything
        elif isinstance(effect, Exit):
            self._ended(self)
        else:
            raise AssertionError(effect.words)

    def _tell_client(self, effect: TellClient) -> None:
        message: Any = effect.message
        if isinstance(message, Result):
            payloads = [
                bytes(self._readers[p.device].bytes_at(p.offset, p.nbytes)) for p in effect.payloads
            ]
            message = Painted(message, tuple(payloads))
        if effect.leases:
            self._inbox.append(Delivered(effect.leases))
        if not self._tell(effect.route, message):
            self._inbox.append(ClientLost(effect.route))

    def _tell(self, route: bytes, message: Any) -> bool:
        link = self._links.get(route)
        if link is not None and link.route == route:
            link.tell(message)
        return link is not None
