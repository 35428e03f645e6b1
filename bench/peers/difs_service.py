"""DIFS itself: a private service with default settings, pictures through shared memory."""

from itertools import cycle

from bench.load import Ask, Pixels
from bench.peers.base import System
from difs import AsyncClient
from difs.private import PrivateService

CLIENTS = 4
"""One client may have 64 requests open (`broker.max_outstanding`): a flood comes from several."""


class Difs(System):
    """See the module."""

    name = "DIFS"

    async def start(self) -> None:
        """See System.start."""
        self._clients: list[AsyncClient] = []
        self._service = PrivateService()
        self._service.start()
        self._clients = [AsyncClient(self._service.address) for _ in range(CLIENTS)]
        self._turns = cycle(self._clients)

    async def paint(self, ask: Ask) -> Pixels:
        """See System.paint."""
        result = await next(self._turns).generate(
            ask.prompt,
            variant=self.model.name,
            seed=ask.seed,
            steps=ask.steps,
            guidance_scale=ask.guidance_scale,
        )
        with result:
            return result.images[0].copy()

    async def stop(self) -> None:
        """See System.stop."""
        for client in self._clients:
            await client.aclose()
        self._service.stop()
