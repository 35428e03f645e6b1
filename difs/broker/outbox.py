"""Messages that a client's full pipe did not take, kept for a while. No sockets here."""

from collections import deque
from collections.abc import Iterator

from difs.wire import Frame

MAX_KEPT = 256
"""Messages kept for one client; more, and it is given up."""


class Outbox:
    """What is owed to slow clients, and since when."""

    def __init__(self, patience_s: float) -> None:
        """Give a client up once it has taken nothing for `patience_s` seconds."""
        self._patience_s = patience_s
        self._owed: dict[bytes, deque[list[Frame]]] = {}
        self._since: dict[bytes, float] = {}

    def owes(self, route: bytes) -> bool:
        """Whether messages to `route` wait."""
        return route in self._owed

    def put(self, route: bytes, frames: list[Frame], now: float) -> bool:
        """Keep a message; False when the client must be given up."""
        owed = self._owed.setdefault(route, deque())
        self._since.setdefault(route, now)
        owed.append(frames)
        return len(owed) <= MAX_KEPT

    def routes(self) -> list[bytes]:
        """Return the clients that messages wait for."""
        return list(self._owed)

    def waiting(self, route: bytes) -> Iterator[list[Frame]]:
        """Yield the messages for `route` in order; each is kept until the next is asked for."""
        owed = self._owed.get(route)
        while owed:
            yield owed[0]
            owed.popleft()
            self._since.pop(route, None)
        self.forget(route)

    def overdue(self, now: float) -> list[bytes]:
        """Return the clients that have taken nothing for too long."""
        for route in self._owed:
            self._since.setdefault(route, now)
        return [route for route, since in self._since.items() if now - since > self._patience_s]

    def forget(self, route: bytes) -> None:
        """Drop everything for `route`."""
        self._owed.pop(route, None)
        self._since.pop(route, None)
