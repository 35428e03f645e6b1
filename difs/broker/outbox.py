"""Messages that a client's full pipe did not take, kept for a while. No sockets here.

Pictures stay in shared memory until their turn: only one large message of a client is with libzmq at a
time, so that a client that reads nothing costs the broker its small messages and one large one.
"""

import math
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from msgspec import Struct

from difs.broker.effects import Payload
from difs.wire import Frame

LARGE_BYTES = 32 * 1024
"""From here on a message is large."""
MAX_KEPT_BYTES = 512 * 1024
"""So much is kept for one client, pictures not counted; if there is more,"""
BRIEF_S = 1.0
"""and it has taken nothing for so long, it is given up; a busy machine alone is no reason;"""
MOST_KEPT_BYTES = 4 * 1024 * 1024
"""beyond this it is at once."""
MIN_RATE = 128 * 1024
"""Bytes per second that a client is trusted to take, however slow its network."""
MIN_REST_S, MAX_REST_S = 0.001, 0.1
"""How long to rest before full pipes are tried again; longer, the longer they are full already."""


class Passage(Protocol):
    """What tells whether libzmq is through with a message."""

    @property
    def done(self) -> bool:
        """Whether it is."""


class Letter(Struct, frozen=True):
    """A message for a client: its frames, and the pictures to copy behind them when it goes."""

    frames: list[Frame]
    payloads: tuple[Payload, ...] = ()
    leases: tuple[int, ...] = ()
    """What keeps the pictures in their slots until then."""
    is_last: bool = False
    """It tells a client that it was given up: nothing is owed before it, and it may be read late."""

    @property
    def kept_bytes(self) -> int:
        """Return what it costs to keep."""
        return sum(map(len, self.frames))

    @property
    def nbytes(self) -> int:
        """Return its size on the way."""
        return self.kept_bytes + sum(payload.nbytes for payload in self.payloads)

    @property
    def is_large(self) -> bool:
        """Whether it goes only when no other large one is under way."""
        return self.nbytes >= LARGE_BYTES


class Outbox:
    """What is owed to slow clients, and since when."""

    def __init__(self, patience_s: float) -> None:
        """Give a client up once it has taken nothing for `patience_s` seconds."""
        self._patience_s = patience_s
        self._owed: dict[bytes, deque[Letter]] = {}
        self._bytes: dict[bytes, int] = {}
        self._since: dict[bytes, float] = {}
        self._passing: dict[bytes, tuple[Passage, int]] = {}

    def owes(self, route: bytes) -> bool:
        """Whether messages to `route` wait."""
        return route in self._owed

    def put(self, route: bytes, letter: Letter, now: float) -> bool:
        """Keep a message; False when that is too much for one client that takes nothing now."""
        owed = self._owed.setdefault(route, deque())
        quiet_s = now - self._since.setdefault(route, now)
        owed.append(letter)
        self._bytes[route] = kept = self._bytes.get(route, 0) + letter.kept_bytes
        return kept <= (MAX_KEPT_BYTES if quiet_s > BRIEF_S else MOST_KEPT_BYTES)

    def routes(self) -> list[bytes]:
        """Return the clients that messages wait for."""
        return list(self._owed)

    def waiting(self, route: bytes) -> Iterator[Letter]:
        """Yield the messages for `route` in order; each is kept until the next is asked for."""
        owed = self._owed.get(route)
        while owed:
            yield owed[0]
            self._bytes[route] -= owed.popleft().kept_bytes
            self._since.pop(route, None)
        self._drop(route)

    # ---- large ones -----------------------------------------------------------------------------

    def lets(self, route: bytes, letter: Letter) -> bool:
        """Whether `letter` may be handed to libzmq now."""
        return not letter.is_large or self._under_way(route) == 0

    def went(self, route: bytes, letter: Letter, passage: Passage) -> None:
        """Note that a large message was handed over."""
        if len(self._passing) > 2 * len(self._owed) + 16:
            self._passing = {name: one for name, one in self._passing.items() if not one[0].done}
        self._passing[route] = (passage, letter.nbytes)

    def _under_way(self, route: bytes) -> int:
        """Return the bytes of the large message that libzmq has not sent yet."""
        passage, nbytes = self._passing.get(route, (None, 0))
        if passage is None or not passage.done:
            return nbytes
        del self._passing[route]
        return 0

    # ---- time -----------------------------------------------------------------------------------

    def rest_s(self, now: float) -> float:
        """Return how long to wait before full pipes are tried again; inf when nothing is owed."""
        if not self._owed:
            return math.inf
        full_s = min(now - self._since.get(route, now) for route in self._owed)
        return min(MAX_REST_S, max(MIN_REST_S, full_s / 10))

    def overdue(self, now: float) -> list[bytes]:
        """Return the clients that have taken nothing for too long, and were not told so yet."""
        for route in self._owed:
            self._since.setdefault(route, now)
        late = [route for route, since in self._since.items() if now - since > self._patience(route)]
        return [route for route in late if not self._owed[route][0].is_last]

    def _patience(self, route: bytes) -> float:
        return self._patience_s + self._under_way(route) / MIN_RATE

    def forget(self, route: bytes) -> None:
        """Drop everything for `route`."""
        self._drop(route)
        self._passing.pop(route, None)

    def _drop(self, route: bytes) -> None:
        self._owed.pop(route, None)
        self._bytes.pop(route, None)
        self._since.pop(route, None)
