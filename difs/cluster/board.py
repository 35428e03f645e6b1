"""What a router knows of its nodes: what they told, what went there since. Pure; time is passed in."""

from collections.abc import Callable, Mapping

from difs.cluster import choosing, states
from difs.cluster.choosing import Seen
from difs.cluster.states import Label, NodeState, Wanted


class _Heard:
    """What is known of one node."""

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


class Board:
    """All nodes that a router can reach."""

    def __init__(self, stale_s: float, lag_s: float) -> None:
        """`stale_s`: how long a report counts; `lag_s`: how old what it tells may be when it is heard."""
        self._stale_s, self._lag_s = stale_s, lag_s
        self._heard: dict[str, _Heard] = {}

    def hear(self, reports: Mapping[str, bytes | None], now: float) -> None:
        """Take the last report of each node that there is; the others are forgotten."""
        self._heard = {name: self._heard.get(name) or _Heard() for name in reports}
        for name, data in reports.items():
            self._heard[name].hear(data, now, self._lag_s)

    def order(self, label: Label, now: float, draw: Callable[[int], int]) -> list[str]:
        """Return the nodes in the order in which to try them; see `choosing.order`."""
        if label.only:
            return [label.only] if label.only in self._heard else []
        seen = {name: heard.seen(now) for name, heard in self._heard.items()}
        return choosing.order(label.wanted, seen, label.avoid, self._stale_s, draw)

    def book(self, request_id: str, wanted: Wanted, name: str, now: float) -> None:
        """Add what a request takes to one node's work, and to no other's."""
        self.unbook(request_id)
        heard = self._heard.get(name)
        found = choosing.prospect(wanted, heard.seen(now)) if heard is not None else None
        if heard is not None and found is not None:
            heard.sent[request_id] = (now, found.own_s)

    def unbook(self, request_id: str) -> None:
        """Take a request off every node's work."""
        for heard in self._heard.values():
            heard.sent.pop(request_id, None)

    def opened(self, name: str) -> None:
        """Count a call that a node took."""
        if name in self._heard:
            self._heard[name].open_requests += 1

    def closed(self, name: str) -> None:
        """Count a call that a node has ended."""
        if name in self._heard:
            self._heard[name].open_requests = max(0, self._heard[name].open_requests - 1)
