"""Ray Serve's request router for nodes: gathers what `difs.cluster.choosing` needs, and asks it.

Ray brings the reports here (its routing stats) and says who lives; a node that is full is passed over.
"""

import random
import time
from collections import defaultdict

from ray.serve.request_router import (
    PendingRequest,
    ReplicaID,
    ReplicaResult,
    RequestRouter,
    RunningReplica,
)

from difs.cluster import choosing, states
from difs.cluster.choosing import Seen
from difs.cluster.states import Label, NodeState

STATE = "state"
"""Where a report stands in Ray's routing stats."""
WORK = "exchange"
"""The method of a node that makes pictures."""


class _Heard:
    """What the router knows of one replica."""

    def __init__(self) -> None:
        self.data: bytes | None = None
        self.state: NodeState | None = None
        self.heard_at = 0.0
        self.sent: dict[str, tuple[float, float]] = {}
        """Of each request that was sent there: when, and its predicted seconds."""
        self.open_requests = 0

    def hear(self, data: bytes | None, now: float, lag_s: float) -> None:
        """Take a report; it may not know yet what was sent within the last `lag_s`."""
        if data is None or data == self.data:
            return
        self.data, self.heard_at = data, now
        self.state = states.decode_state(data)
        self.sent = {name: one for name, one in self.sent.items() if one[0] > now - lag_s}

    def seen(self, now: float) -> Seen:
        """Return this as `choosing` has it."""
        sent_s = sum(own_s for _, own_s in self.sent.values())
        return Seen(self.state, now - self.heard_at, sent_s, self.open_requests)


class NodeRouter(RequestRouter):  # type: ignore[misc]  # ray is not typed
    """Tries nodes in the order that `choosing.order` says."""

    def initialize_state(self, stale_s: float = 5.0, lag_s: float = 0.5) -> None:
        """See RequestRouter; the arguments are `routing.stale` and `routing.report_every`."""
        self._stale_s, self._lag_s = stale_s, lag_s
        self._heard: dict[str, _Heard] = defaultdict(_Heard)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """See RequestRouter: one replica a group, the best first."""
        now, label = time.monotonic(), _label(pending_request)
        by_name = {_name(replica): replica for replica in candidate_replicas}
        for name in self._heard.keys() - by_name.keys():
            del self._heard[name]
        for name, replica in by_name.items():
            self._heard[name].hear(replica.routing_stats.get(STATE), now, self._lag_s)
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # else Ray asks again without a rest
        if label.only:
            return [[by_name[label.only]]] if label.only in by_name else []
        seen = {name: self._heard[name].seen(now) for name in by_name}
        names = choosing.order(label.wanted, seen, label.avoid, self._stale_s, random.randrange)
        if names and pending_request is not None:
            self._book(pending_request, names[0], now)  # others are routed before this one is taken
        return [[by_name[name]] for name in names]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult
    ) -> None:
        """See RequestRouter: count what a node took."""
        replica = self.curr_replicas.get(replica_id)
        if replica is not None:
            self._heard[_name(replica)].open_requests += 1
            self._book(pending_request, _name(replica), time.monotonic())

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """See RequestRouter."""
        replica = self.curr_replicas.get(replica_id)
        if replica is not None:
            heard = self._heard[_name(replica)]
            heard.open_requests = max(0, heard.open_requests - 1)
            heard.sent.pop(internal_request_id, None)

    def _book(self, pending_request: PendingRequest, name: str, now: float) -> None:
        """Add what a request takes to one node's work, and to no other's."""
        request_id = pending_request.metadata.internal_request_id
        for heard in self._heard.values():
            heard.sent.pop(request_id, None)
        if pending_request.metadata.call_method != WORK:
            return
        heard = self._heard[name]
        found = choosing.prospect(_label(pending_request).wanted, heard.seen(now))
        if found is not None:
            heard.sent[request_id] = (now, found.own_s)


def _name(replica: RunningReplica) -> str:
    return states.name_of(replica.node_id or str(replica.replica_id))


def _label(pending_request: PendingRequest | None) -> Label:
    """Return what stands on a call; its first argument."""
    first = pending_request.args[0] if pending_request is not None and pending_request.args else b""
    return states.decode_label(first) if isinstance(first, bytes) else Label()
