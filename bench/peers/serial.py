"""Serial diffusers: one process, one pipeline, one request at a time, first come first served.

The least that anybody could do, and the least overhead that anybody could have: no server, no socket.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.load import Ask, Pixels
from bench.peers import pipeline
from bench.peers.base import System


class Serial(System):
    """See the module."""

    name = "serial diffusers"

    async def start(self) -> None:
        """See System.start."""
        self._worker = ThreadPoolExecutor(max_workers=1)  # its queue is the FIFO
        self._pipe: Any = await self._call(pipeline.load, self.model)

    async def paint(self, ask: Ask) -> Pixels:
        """See System.paint."""
        pictures: list[Pixels] = await self._call(pipeline.paint, self._pipe, [ask])
        return pictures[0]

    async def stop(self) -> None:
        """See System.stop."""
        self._worker.shutdown()
        self._pipe = None

    async def _call(self, act: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._worker, act, *arguments)
