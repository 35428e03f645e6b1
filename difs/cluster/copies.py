"""Which variant is worth being copied to which node. Pure.

A node's forecast tells how many requests it expects for a variant. They would wait for its backlog; on
a node with less of it they would wait less, once the variant is there. Where that saves more seconds than
the copy takes, it is made; and where a variant stands on fewer nodes than it shall.
"""

from collections.abc import Collection, Iterable, Sequence

from msgspec import Struct

from difs.cluster.states import NodeState


class Copy(Struct, frozen=True):
    """A variant that is to be copied."""

    variant: str
    source: str
    target: str
    reason: str


class Rules(Struct, frozen=True):
    """When a copy is worth its while."""

    least: int = 1
    """Nodes on which every variant shall stand."""
    bytes_per_s: float = 1e8
    refused: frozenset[tuple[str, str]] = frozenset()
    """(variant, node) pairs that failed before."""


def next_copy(nodes: Sequence[NodeState], rules: Rules) -> Copy | None:
    """Return the copy that is worth most now; None: none is."""
    ready = sorted((node for node in nodes if node.is_ready), key=lambda node: node.node)
    names = sorted({name for node in ready for name in node.variants})
    found = [one for name in names for one in _copies(name, ready, rules)]
    return max(found, key=lambda one: one[0], default=(0.0, None))[1]


def _copies(
    variant: str, ready: Collection[NodeState], rules: Rules
) -> Iterable[tuple[float, Copy | None]]:
    """Yield what could be done for a variant, with the seconds that it is worth."""
    holders = [node for node in ready if variant in node.variants]
    others = [n for n in ready if variant not in n.variants and (variant, n.node) not in rules.refused]
    if not others:
        return
    source = min(holders, key=lambda node: (node.backlog_s, node.node))
    target = min(others, key=lambda node: (node.backlog_s, node.node))
    if len(holders) < min(rules.least, len(ready)):
        words = f"on {len(holders)} node(s), wanted on {rules.least}"
        yield float("inf"), Copy(variant, source.node, target.node, words)
        return
    uses = sum(f.uses for node in holders for f in node.forecast if f.variant == variant)
    saved_s = uses * (source.backlog_s - target.backlog_s)
    takes_s = source.variants[variant] / rules.bytes_per_s
    if uses >= 1 and saved_s > takes_s:
        words = f"{uses:.1f} uses expected; saves {saved_s:.1f} s of waiting, takes {takes_s:.1f} s"
        yield saved_s - takes_s, Copy(variant, source.node, target.node, words)
