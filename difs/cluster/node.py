"""One node: a complete DIFS service of its own, and what is asked of it. No Ray here.

The service is a process as `difs serve` makes it; it dies with this one. What comes and goes are the
frames of the protocol, so that whatever the cluster's transport does, bytes enter through `difs.wire`.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from difs import catalogue, config, wire
from difs.client import core
from difs.client.aio import AsyncClient
from difs.clock import MonotonicClock
from difs.cluster import carrying, states
from difs.cluster.callers import Callers
from difs.cluster.frames import Frames, framed
from difs.cluster.reports import Reports
from difs.cluster.settings import Settings
from difs.cluster.states import NodeState
from difs.errors import DifsError, InternalError, Unsupported
from difs.messages import Done, Generate
from difs.private import PrivateService
from difs.variants import Variant

CONFIG = "node.toml"
KEEPER = "difs-cluster"
"""The caller that asks for reports: a client of its own."""


class _Service(PrivateService):
    """A private service with a configuration of its own."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(wait_s=settings.nodes.start_timeout)
        self.file = self.home.path / CONFIG
        self._options += ["--config", str(self.file)]
        self._text = settings.node

    def start(self) -> None:
        """See PrivateService."""
        self.home.make()
        self.file.write_text(self._text, "utf-8")
        super().start()


class Node:
    """A node's service."""

    def __init__(self, settings: Settings, name: str) -> None:
        """Start the service and wait until it is ready; raises Unavailable."""
        self.name = name
        self._service = _Service(settings)
        self._service.start()
        self._config = config.load(self._service.file)
        self._catalogue = catalogue.open_for(self._config)
        self._looking = asyncio.Lock()
        clock = MonotonicClock()
        self._callers = Callers(lambda: AsyncClient(self._service.address), clock)
        self._reports = Reports(name, clock)

    def stop(self) -> None:
        """End the service, as a terminated `difs serve` ends."""
        self._service.stop()

    def check(self) -> None:
        """Raise InternalError where the service has ended."""
        process = self._service.process
        if process is None or process.poll() is not None:
            raise InternalError(f"the service of node {self.name} has ended")

    # ---- requests -------------------------------------------------------------------------------

    async def exchange(self, label: bytes, frames: Frames) -> AsyncGenerator[tuple[str, Frames], None]:
        """Serve a request: the name alone at once, then the messages; see `difs.cluster.client.Calls`."""
        yield self.name, []
        try:
            request = wire.decode_from_client(frames)
            if not isinstance(request, Generate):
                raise Unsupported("exchange: is for generate")
            caller = states.decode_label(label).caller
            async with self._callers.connection(caller) as client:
                # not tried again here: another node may have room
                events = client.exchange(request, retries=0)
                async with contextlib.aclosing(events):
                    async for message, payloads in events:
                        yield self.name, framed(message, payloads)
        except DifsError as error:
            yield self.name, _error(error)

    async def ask(self, label: bytes, frames: Frames) -> tuple[str, Frames]:
        """Answer a question."""
        try:
            message = wire.decode_from_client(frames)
            async with self._callers.connection(states.decode_label(label).caller) as client:
                answer: Any = await client.ask(message, core.ANSWERS.get(type(message), Done))
        except DifsError as error:
            return self.name, _error(error)
        return self.name, framed(answer)

    # ---- reports --------------------------------------------------------------------------------

    @property
    def state(self) -> NodeState:
        """Return the last report."""
        return self._reports.last

    async def report(self) -> NodeState:
        """Return how the node stands now, and remember it."""
        async with self._callers.connection(KEEPER) as client:
            return await self._reports.ask(client)

    # ---- variants -------------------------------------------------------------------------------

    async def offer(self, variant: str) -> bytes:
        """Return what is to be carried for a variant; raises RepositoryError, UnknownName."""
        return carrying.encode(await asyncio.to_thread(carrying.offer, await self._variant(variant)))

    async def send(self, variant: str, relative: str) -> AsyncGenerator[bytes, None]:
        """Yield a file of a variant, in pieces; raises RepositoryError for one that was not offered."""
        path = carrying.path_of(await self._variant(variant), relative)
        with path.open("rb") as file:
            while piece := await asyncio.to_thread(file.read, carrying.PIECE_BYTES):
                yield piece

    async def take(self, offered: bytes, send: carrying.Send) -> None:
        """Bring a variant into this node's own repository; raises RepositoryError.

        `send` yields a file's pieces. The running service notices it by itself.
        """
        async with self._looking:
            await asyncio.to_thread(self._catalogue.refresh)
        user = config.user_repo(self._config)
        await carrying.take(carrying.decode(offered), self._catalogue.found, user, send)

    async def _variant(self, name: str) -> Variant:
        async with self._looking:  # a catalogue is one thread's at a time
            return await asyncio.to_thread(self._catalogue.variant, name)


def _error(error: DifsError) -> Frames:
    return framed(core.to_message(error))
