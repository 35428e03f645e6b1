"""Which node gets a request: a pure function of what the nodes told, however old that is.

A node whose report is fresh is judged by its own predictions: the best quality within the deadline, else
the earliest finish. What was sent there since the report is added, so that a burst does not all go to
the node that was idle when it told. Nodes that have told nothing for a while come after them, by the
power of two choices (Mitzenmacher, IEEE TPDS 2001): of two drawn at random the one with less open.
"""

from collections.abc import Callable, Collection, Mapping

from msgspec import Struct

from difs.cluster.states import NodeState, Point, Wanted
from difs.quality import SHARES

SAME_QUALITY = 0.02
"""Qualities that differ by less are the same: the earlier finish counts."""


class Seen(Struct, frozen=True):
    """A node, as the router sees it."""

    state: NodeState | None = None
    age_s: float = 0.0
    """Since the report was heard."""
    sent_s: float = 0.0
    """Predicted seconds of what was sent there since."""
    open_requests: int = 0
    """What the router itself has open there."""


class Prospect(Struct, frozen=True):
    """What a request would get on a node."""

    finish_s: float
    quality: float
    own_s: float
    """What the request adds to the node's work."""
    keeps: bool
    """Whether the deadline is kept."""
    is_resident: bool


def order(
    wanted: Wanted,
    nodes: Mapping[str, Seen],
    avoid: Collection[str],
    stale_s: float,
    draw: Callable[[int], int],
) -> list[str]:
    """Return the nodes in the order in which to try them.

    `avoid`: nodes that were tried; they come last, and are left out where another one is left.
    `draw(n)` is a random number from 0 to n - 1.
    """
    names = sorted(name for name in nodes if name not in avoid) or sorted(nodes)
    known = [name for name in names if is_fresh(nodes[name], stale_s)]
    found = {name: prospect(wanted, nodes[name]) for name in known}
    judged = {name: one for name, one in found.items() if one is not None}
    ranked = sorted(judged, key=lambda name: _key(judged[name]))
    unable = [name for name in known if name not in judged]
    unknown = [name for name in names if name not in known]
    return ranked + two_choices(unknown, nodes, draw) + two_choices(unable, nodes, draw)


def is_fresh(node: Seen, stale_s: float) -> bool:
    """Whether what a node told can be believed still."""
    return node.state is not None and node.age_s <= stale_s


def _key(found: Prospect) -> tuple[bool, float, float, bool]:
    worth = -round(found.quality / SAME_QUALITY) if found.keeps else 0.0
    return (not found.keeps, worth, found.finish_s, not found.is_resident)


def prospect(wanted: Wanted, node: Seen) -> Prospect | None:
    """Return what a request would get on a node; None where the node cannot serve it, or cannot tell."""
    state = node.state
    if state is None or not state.is_ready:
        return None
    fitting = [p for p in state.points if _fits(p, wanted)]
    if not fitting:
        return None
    extra_s = node.sent_s / max(1, state.devices)
    return _chosen(wanted, [_prospect(p, wanted, extra_s, state) for p in fitting])


def _chosen(wanted: Wanted, found: list[Prospect]) -> Prospect:
    """Return what the node would make of it: the best that keeps the deadline, else the soonest."""
    keeping = [p for p in found if p.keeps]
    if not keeping:
        return min(found, key=lambda p: p.finish_s)
    good = [p for p in keeping if p.quality >= _enough(wanted, found)]
    if good and wanted.latency_s is None and wanted.quality is not None:
        return min(good, key=lambda p: p.finish_s)
    return max(good or keeping, key=lambda p: (p.quality, -p.finish_s))


def _fits(point: Point, wanted: Wanted) -> bool:
    return wanted.variant in (None, point.variant) and wanted.family in (None, point.family)


def _prospect(point: Point, wanted: Wanted, extra_s: float, state: NodeState) -> Prospect:
    scale = wanted.n * (wanted.pixels / point.pixels if wanted.pixels else 1.0)
    own_s = point.own_s * scale
    finish_s = point.wait_s + extra_s + own_s
    keeps = wanted.latency_s is None or finish_s <= wanted.latency_s
    return Prospect(finish_s, point.quality or 0.0, own_s, keeps, point.variant in state.residents)


def _enough(wanted: Wanted, found: list[Prospect]) -> float:
    """Return the quality that suffices; 0.0 where nothing is said of it."""
    if wanted.quality is None:
        return 0.0
    best = max(p.quality for p in found)
    if isinstance(wanted.quality, str):
        return SHARES[wanted.quality] * best
    return min(wanted.quality, best)


def two_choices(names: list[str], nodes: Mapping[str, Seen], draw: Callable[[int], int]) -> list[str]:
    """Return the nodes, first the one with less open of two that are drawn."""
    if len(names) < 2:
        return names
    first = draw(len(names))
    second = (first + 1 + draw(len(names) - 1)) % len(names)
    pair = sorted(
        (names[first], names[second]), key=lambda name: (nodes[name].open_requests, name != names[first])
    )
    return pair + [name for name in names if name not in pair]
