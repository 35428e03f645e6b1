"""Asks a node's service how it stands, for no more than what can have changed. No Ray here."""

import math

from difs.client.aio import AsyncClient
from difs.clock import Clock
from difs.cluster import states
from difs.cluster.states import NodeState
from difs.errors import DifsError
from difs.messages import (
    Explain,
    Explanation,
    Status,
    StatusReport,
    VariantInfo,
    VariantList,
    Variants,
)

LISTED_S = 5.0
"""How long a list of variants counts; one that a plan names and the list does not ends it."""


class Reports:
    """A node's reports, one after the other."""

    def __init__(self, name: str, clock: Clock) -> None:
        """`name` is the node's."""
        self._now = clock.now
        self._variants: tuple[VariantInfo, ...] = ()
        self._listed_at = -math.inf
        self.last = NodeState(name, 0, is_ready=False)

    async def ask(self, client: AsyncClient) -> NodeState:
        """Return how the service stands now, and remember it."""
        name, serial = self.last.node, self.last.serial + 1
        try:
            variants = await self._list(client)
            status = await client.ask(Status(), StatusReport)
            explained = await client.ask(Explain(states.probe(variants), survey=True), Explanation)
        except DifsError:  # its broker is being restarted
            self.last = NodeState(name, serial, is_ready=False)
        else:
            if _named(explained) - {info.name for info in variants}:
                self._listed_at = -math.inf
            self.last = states.report(name, serial, status, explained, variants)
        return self.last

    async def _list(self, client: AsyncClient) -> tuple[VariantInfo, ...]:
        if self._now() - self._listed_at >= LISTED_S:
            self._variants = (await client.ask(Variants(), VariantList)).variants
            self._listed_at = self._now()
        return self._variants


def _named(explained: Explanation) -> set[str]:
    plan = {explained.plan.variant} if explained.plan is not None else set()
    return plan | {point.variant for point in explained.points}
