"""What a UNet call must do for the LoRA adapters of its rows: a pure decision. No tensors and no files.

Any requests may share a call, whatever their adapters and weights: every adapter is computed for its
own rows only, with a weight for each row (see `difs.actors.adapters`).
"""

from collections.abc import Sequence
from typing import NamedTuple

from difs.messages import Adapter


class Use(NamedTuple):
    """One adapter in one call."""

    name: str
    weights: tuple[float, ...]
    """One for each of `rows`; a single one for all."""
    rows: tuple[int, ...] | None
    """None: all rows alike, however many there are."""


def uses(rows: Sequence[Sequence[Adapter]]) -> tuple[Use, ...]:
    """Return what to add to a call whose row i has the adapters `rows[i]`, in the order of their naming.

    A weight of 0 adds nothing; an adapter that a row names twice has the sum of both weights.
    """
    found: dict[str, dict[int, float]] = {}
    for row, adapters in enumerate(rows):
        for adapter in adapters:
            weights = found.setdefault(adapter.name, {})
            weights[row] = weights.get(row, 0.0) + adapter.weight
    every = [_use(name, weights, len(rows)) for name, weights in found.items()]
    return tuple(use for use in every if use.weights)


def _use(name: str, weights: dict[int, float], count: int) -> Use:
    kept = {row: weight for row, weight in weights.items() if weight}
    if len(kept) == count and len(set(kept.values())) == 1:
        return Use(name, (kept[0],), None)
    return Use(name, tuple(kept.values()), tuple(kept))
