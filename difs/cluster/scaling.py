"""How many nodes there should be, from the backlog that they predict. Pure; Ray Serve asks and acts."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

BACKLOG = "backlog_s"
"""A node's predicted backlog among the metrics that Ray Serve scales by."""
DOWN_SHARE = 0.5
"""A node may go when the others would then have no more than this share of the wanted backlog."""


def wanted_nodes(backlogs_s: Collection[float], now: int, backlog_s: float, least: int, most: int) -> int:
    """Return how many nodes there should be.

    `backlogs_s`: predicted seconds until each node is free; `now`: how many there are, or are coming;
    `backlog_s`: what a node may have. Between too much and too little nothing changes.
    """
    total_s = sum(max(0.0, one) for one in backlogs_s)
    wanted = now
    if total_s > backlog_s * now:
        wanted = int(-(-total_s // backlog_s))
    while wanted > 1 and total_s <= DOWN_SHARE * backlog_s * (wanted - 1) and wanted > least:
        wanted -= 1
    return max(least, min(most, wanted))


class ByBacklog:
    """Ray Serve's autoscaling policy: as many nodes as their predicted backlog wants."""

    def __init__(self, backlog_s: float) -> None:
        """`backlog_s`: seconds of backlog that a node may have."""
        self._backlog_s = backlog_s

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Return how many nodes there should be."""
        told = (context.aggregated_metrics or {}).get(BACKLOG, {})
        wanted = wanted_nodes(
            list(told.values()),
            context.target_num_replicas,
            self._backlog_s,
            context.capacity_adjusted_min_replicas,
            context.capacity_adjusted_max_replicas,
        )
        return wanted, {}


def machines_for(machines: Iterable[Mapping[str, float]], wanted: Mapping[str, float]) -> int:
    """Return how many machines have what a node is given; each is told by its resources in all."""
    return sum(all(m.get(name, 0.0) >= share for name, share in wanted.items()) for m in machines)
