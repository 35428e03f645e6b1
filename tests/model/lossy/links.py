"""What happens to messages between a peer and the broker.

`TRUE` is what ZeroMQ does over ipc and TCP. While two ends are connected no message is lost, doubled or
overtaken by a later one of the same connection; it may only be late. The end of a connection loses what
had left the sender's pipe and had not arrived: of a DEALER's messages the oldest, however many; the rest
is sent over its next connection. All that the broker's ROUTER has sent is for one connection, and lost
with it. Between two connections, so between two peers, and between an actor's reports and its heartbeat,
there is no order.

`HARSH` is worse than any real link: beyond that, messages between clients and the broker are dropped and
doubled, and so are an actor's heartbeats and its reports of steps; what ends an attempt and the broker's
greetings are doubled. Nothing else between the broker and actors is: there the protocol relies on ZeroMQ.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from difs.actor_messages import Ended, Finished, Pulse, Stepped, Welcome
from tests.model.lossy.timeline import Timeline


class Nature(NamedTuple):
    """How bad links are: shares of the messages, and seconds."""

    drop: float = 0.0
    double: float = 0.0
    late: float = 0.0
    """Share of the messages that take up to `late_s` more, and all behind them too."""
    late_s: float = 0.0


LATENCY_S = (0.0001, 0.004)
TRUE = Nature(late=0.01, late_s=0.4)
HARSH = Nature(drop=0.08, double=0.08, late=0.08, late_s=1.5)
MAY_DROP = (Pulse, Stepped)
MAY_DOUBLE = (*MAY_DROP, Welcome, Finished, Ended)
MOST_PULSES = 4
"""The heartbeat's socket keeps so many while the broker is away."""


@dataclass(slots=True)
class _Way:
    """One direction of a connection: first in, first out."""

    deliver: Callable[[Any], None]
    flight: deque[tuple[float, Any]]
    last_due: float = 0.0


class Link:
    """A peer's connection to the broker, one after the other."""

    def __init__(
        self,
        time: Timeline,
        dice: Random,
        nature: Nature,
        *,
        name: str,
        is_actors: bool = False,
        keeps_route: bool = False,
        for_peer: Callable[[Any], None] = lambda _: None,
    ) -> None:
        """Not connected yet. `keeps_route`: the peer names itself, as actors do; else each connection is
        a stranger to the broker.
        """
        self._time, self._dice, self._nature = time, dice, nature
        self._name, self._is_actors, self._keeps_route = name, is_actors, keeps_route
        self._count = 0
        self._unsent: deque[Any] = deque()
        self._held_until = 0.0
        self._for_peer = for_peer
        self._up: _Way | None = None
        self._down: _Way | None = None
        self.route = name.encode()
        self.is_closed = False
        self.lost = self.doubled = 0

    @property
    def is_up(self) -> bool:
        """Whether it is connected."""
        return self._up is not None

    def connect(self, for_broker: Callable[[bytes, Any], None]) -> None:
        """Begin a connection, and send what could not be sent."""
        if not self._keeps_route:
            self.route = f"{self._name}/{self._count}".encode()
        self._count += 1
        route = self.route
        self._up = _Way(lambda message: for_broker(route, message), deque())
        self._down = _Way(self._for_peer, deque())
        unsent, self._unsent = self._unsent, deque()
        for message in unsent:
            self.send(message)

    def disconnect(self) -> None:
        """End the connection; see the module for what that loses."""
        if self._up is None or self._down is None:
            return
        flight = [message for _, message in self._up.flight]
        arrived = self._dice.randint(0, len(flight))
        self.lost += arrived + len(self._down.flight)
        self._up.flight.clear()
        self._down.flight.clear()
        self._unsent.extend(flight[arrived:])
        self._up = self._down = None

    def close(self) -> None:
        """The peer is dead: what it had not yet handed over is gone with it."""
        self.is_closed = True
        self.disconnect()
        self._unsent.clear()

    def hold(self, seconds: float) -> None:
        """Let nothing arrive for so long: what is sent meanwhile is late, not lost."""
        self._held_until = max(self._held_until, self._time.now + seconds)

    def mend(self, nature: Nature) -> None:
        """Be better from now on."""
        self._nature, self._held_until = nature, 0.0

    def send(self, message: Any) -> None:
        """Send to the broker; kept while there is no connection."""
        if self.is_closed:
            return
        if self._up is not None:
            self._post(self._up, message)
        elif not (isinstance(message, Pulse) and len(self._unsent) >= MOST_PULSES):
            self._unsent.append(message)

    def tell(self, message: Any) -> None:
        """Send from the broker, over this connection or never."""
        if self._down is not None:
            self._post(self._down, message)

    def _post(self, way: _Way, message: Any) -> None:
        dice, nature = self._dice, self._nature
        if nature.drop and dice.random() < nature.drop and self._may(message, MAY_DROP):
            self.lost += 1
            return
        self._fly(way, message)
        if nature.double and dice.random() < nature.double and self._may(message, MAY_DOUBLE):
            self.doubled += 1
            self._fly(way, message)

    def _may(self, message: Any, which: tuple[type, ...]) -> bool:
        return not self._is_actors or isinstance(message, which)

    def _fly(self, way: _Way, message: Any) -> None:
        dice, nature = self._dice, self._nature
        seconds = dice.uniform(*LATENCY_S)
        if dice.random() < nature.late:
            seconds += dice.uniform(0.0, nature.late_s)
        way.last_due = max(way.last_due, self._time.now + seconds)
        way.flight.append((way.last_due, message))
        self._time.at(way.last_due, lambda: self._land(way))

    def _land(self, way: _Way) -> None:
        now = self._time.now
        if way.flight and now < self._held_until:
            self._time.at(self._held_until, lambda: self._land(way))
            return
        while way.flight and way.flight[0][0] <= now:
            way.deliver(way.flight.popleft()[1])
