"""The last things that happened, for `difs story` and the log. Pure; never a prompt.

What happened to one request is kept with it, too, so that its story is whole however much else
happens.
"""

from collections import deque

from difs.messages import Happening

MAX_KEPT = 10_000


class Chronicle:
    """A ring of happenings."""

    def __init__(self, started_at: float) -> None:
        """Start empty; times are told from `started_at` on."""
        self._started_at = started_at
        self._ring: deque[Happening] = deque(maxlen=MAX_KEPT)
        self._fresh: deque[Happening] = deque(maxlen=MAX_KEPT)

    def note(
        self,
        now: float,
        what: str,
        *,
        request_id: str = "",
        attempt: int = 0,
        device: str = "",
        detail: str = "",
    ) -> Happening:
        """Enter what happened now, and return it."""
        happening = Happening(now - self._started_at, what, request_id, attempt, device, detail)
        self._ring.append(happening)
        self._fresh.append(happening)
        return happening

    def last(self, count: int) -> tuple[Happening, ...]:
        """Return the last happenings, the oldest first."""
        return tuple(self._ring)[-count:]

    def take_fresh(self) -> list[Happening]:
        """Return what has happened since the last time."""
        fresh = list(self._fresh)
        self._fresh.clear()
        return fresh
