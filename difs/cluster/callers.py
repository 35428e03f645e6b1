"""A node's connections to its service: one a caller, while it is used and for a while after. No Ray here.

The door gives every connection of its own a new name, so names come for ever; what a connection had open
ends with the calls that came for it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from difs.client.aio import AsyncClient
from difs.clock import Clock

IDLE_S = 60.0
"""How long a connection is kept that nobody uses: making one anew costs a few milliseconds."""


class _Held:
    """A connection, and who uses it."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self.uses = 0
        self.left_at = 0.0

    def is_idle(self, now: float) -> bool:
        return self.uses == 0 and now - self.left_at >= IDLE_S


class Callers:
    """The connections, by caller."""

    def __init__(self, connect: Callable[[], AsyncClient], clock: Clock) -> None:
        """`connect` makes a connection of its own account with the broker."""
        self._connect = connect
        self._now = clock.now
        self._held: dict[str, _Held] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Return how many connections there are."""
        return len(self._held)

    @asynccontextmanager
    async def connection(self, caller: str) -> AsyncIterator[AsyncClient]:
        """Lend a caller's connection; those that nobody used for IDLE_S are closed meanwhile."""
        if caller not in self._held:
            self._held[caller] = _Held(self._connect())
        held = self._held[caller]
        held.uses += 1
        self._close_idle()
        try:
            yield held.client
        finally:
            held.uses -= 1
            held.left_at = self._now()

    def _close_idle(self) -> None:
        now = self._now()
        for caller in [name for name, held in self._held.items() if held.is_idle(now)]:
            # a task of its own: who asks now does not wait for it, and cannot leave it half done
            closing = asyncio.get_running_loop().create_task(self._held.pop(caller).client.aclose())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
