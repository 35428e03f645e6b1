"""DIFS itself: a private service, pictures through shared memory.

Its settings are the default ones, but that it loads the model under test alone and computes with all
cores: so do its peers.
"""

from itertools import cycle

from bench.load import ALL_CORES, Ask, Pixels
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
        preload = f'actors.preload=["{self.model.name}"]'
        self._service = PrivateService(["--set", preload, *ALL_CORES])
        self._service.start()
        await self.approach(self.front)

    @property
    def root(self) -> int:
        """See System.root."""
        assert self._service.process is not None
        return self._service.process.pid

    @property
    def front(self) -> str:
        """See System.front."""
        return self._service.address

    async def approach(self, front: str) -> None:
        """See System.approach."""
        for client in self._clients:
            await client.aclose()
        self._clients = [AsyncClient(front) for _ in range(CLIENTS)]
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
