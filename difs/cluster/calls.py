"""Calls to nodes over Ray Serve: `difs.cluster.client.Calls`, performed. No decisions."""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, WorkerCrashedError
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError

from difs.cluster.client import NodeLost
from difs.cluster.frames import Frames

_LOST = (
    RayActorError,
    NodeDiedError,
    ObjectLostError,
    WorkerCrashedError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)
"""What Ray raises where a node went; an object that was lost is a picture that lay in its memory."""


class RayCalls:
    """The way to the replicas of the deployment of nodes."""

    def __init__(self, handle: Any) -> None:
        """`handle` is the deployment's."""
        self._handle = handle
        self.nodes = 1
        """How many answered when all were asked last."""

    def count(self) -> int:
        """See Calls."""
        return self.nodes

    async def exchange(self, label: bytes, frames: Frames) -> AsyncGenerator[tuple[str, Frames], None]:
        """See Calls."""
        items = self._handle.options(stream=True).exchange.remote(label, frames)
        node, is_whole = "", False
        try:
            async for node, found in items:
                yield node, found
            is_whole = True
        except _LOST:
            is_whole = True
            raise NodeLost(node) from None
        finally:
            if not is_whole:
                items.cancel()

    async def ask_one(self, label: bytes, frames: Frames) -> tuple[str, Frames]:
        """See Calls."""
        try:
            found: tuple[str, Frames] = await self._handle.ask.remote(label, frames)
        except _LOST:
            raise NodeLost("") from None
        return found

    async def ask_all(self, label: bytes, frames: Frames, within_s: float) -> dict[str, Frames]:
        """See Calls."""
        return dict(await self.everywhere("ask", label, frames, within_s=within_s))

    async def everywhere(self, method: str, *arguments: Any, within_s: float) -> list[Any]:
        """Return what every node answers in time to a call of `method`."""
        asked = self._handle.broadcast(method, *arguments)
        found: list[Any] = []
        with contextlib.suppress(TimeoutError):
            found = await asked.results_async(timeout_s=within_s, return_exceptions=True)
        good = [one for one in found if not isinstance(one, BaseException)]
        if found:
            self.nodes = max(1, len(good))
        return good
