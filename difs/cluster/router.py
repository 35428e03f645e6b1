"""Ray Serve's request router for nodes: brings `difs.cluster.board` what Ray knows, and asks it.

Ray brings the reports here (its routing stats) and says who lives; a node that is full is passed over.
"""

import random
import time

from ray.serve.request_router import (
    PendingRequest,
    ReplicaID,
    ReplicaResult,
    RequestRouter,
    RunningReplica,
)

from difs.cluster import states
from difs.cluster.board import Board
from difs.cluster.states import Label

STATE = "state"
"""Where a report stands in Ray's routing stats."""
WORK = "exchange"
"""The method of a node that makes pictures."""


class NodeRouter(RequestRouter):  # type: ignore[misc]  # ray is not typed
    """Tries nodes in the order that the board says."""

    def initialize_state(self, stale_s: float = 5.0, lag_s: float = 0.5) -> None:
        """See RequestRouter; the arguments are `routing.stale` and `routing.report_every`."""
        self._board = Board(stale_s, lag_s)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """See RequestRouter: one replica a group, the best first."""
        now, label = time.monotonic(), _label(pending_request)
        by_name = {_name(replica): replica for replica in candidate_replicas}
        self._board.hear({name: r.routing_stats.get(STATE) for name, r in by_name.items()}, now)
        names = self._board.order(label, now, random.randrange)
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # else Ray asks again without a rest
            if names and not label.only:
                self._book(pending_request, names[0], now)  # others are routed before this one is taken
        return [[by_name[name]] for name in names]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult
    ) -> None:
        """See RequestRouter: count what a node took."""
        replica = self.curr_replicas.get(replica_id)
        if replica is not None:
            self._board.opened(_name(replica))
            self._book(pending_request, _name(replica), time.monotonic())

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """See RequestRouter."""
        self._board.unbook(internal_request_id)
        replica = self.curr_replicas.get(replica_id)
        if replica is not None:
            self._board.closed(_name(replica))

    def _book(self, pending_request: PendingRequest, name: str, now: float) -> None:
        request = pending_request.metadata
        if request.call_method == WORK:
            self._board.book(request.internal_request_id, _label(pending_request).wanted, name, now)


def _name(replica: RunningReplica) -> str:
    return states.name_of(replica.node_id or str(replica.replica_id))


def _label(pending_request: PendingRequest | None) -> Label:
    """Return what stands on a call; its first argument."""
    first = pending_request.args[0] if pending_request is not None and pending_request.args else b""
    return states.decode_label(first) if isinstance(first, bytes) else Label()
