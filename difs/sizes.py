"""What a resident costs at a size that was not measured: pure arithmetic between the sizes that were.

The seconds of a call grow as `a + b pixels + c pixels^2` (an overhead, convolutions, attention) with
nothing negative in it. Such a sum is convex, and convex in logarithms too: it is a posynomial (Boyd et
al. 2007, "A tutorial on geometric programming"). Two measured sizes give a chord in each of the two
scales. Between them both chords lie above the sum and the lower one is nearer; outside both lie below it
and the higher one is. So what attention makes superlinear stays so beyond the largest size.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from operator import attrgetter

from msgspec.structs import replace

from difs.actor_messages import Costs, RowCost, SizeCost

MOST_GROWTH = 2.0
"""The highest power of the pixels: attention's. Steeper than that is noise."""


def grid(costs: Costs) -> tuple[SizeCost, ...]:
    """Return what is known of each size, the one that was loaded for first, the others ascending."""
    return (SizeCost(costs.pixels, costs.steps, costs.decode_s), *costs.sizes)


@lru_cache(maxsize=2048)  # a policy asks for the same few sizes with every request
def at(costs: Costs, pixels: int) -> Costs:
    """Return what a resident costs at `pixels` pixels: `steps` and `decode_s` are those of this size.

    Beside a size that was not measured, or where only one was, they are estimated.
    """
    if pixels == costs.pixels:
        return costs
    known = sorted(grid(costs), key=attrgetter("pixels"))
    found = _find(known, pixels) if costs.sizes else _scaled(known[0], pixels)
    source = "estimated" if costs.source == "measured" and not found.is_measured else costs.source
    return replace(
        costs, pixels=pixels, steps=found.steps, decode_s=found.decode_s, sizes=(), source=source
    )


def _scaled(size: SizeCost, pixels: int) -> SizeCost:
    factor = pixels / size.pixels
    steps = tuple(RowCost(cost.rows, cost.seconds * factor) for cost in size.steps)
    return SizeCost(pixels, steps, size.decode_s * factor, is_measured=False)


def _find(sizes: Sequence[SizeCost], pixels: int) -> SizeCost:
    """Return the costs at `pixels` pixels from those at two or more numbers of them."""
    known = next((size for size in sizes if size.pixels == pixels), None)
    if known is not None:
        return known
    low, high = next(
        (pair for pair in pairwise(sizes) if pixels <= pair[1].pixels), (sizes[-2], sizes[-1])
    )
    rows = sorted({cost.rows for size in (low, high) for cost in size.steps})
    steps, least = [], 0.0
    for r in rows:
        own = _along(low.pixels, in_table(low.steps, r), high.pixels, in_table(high.steps, r), pixels)
        least = max(least, own)  # outside the chords of noisy rows may cross
        steps.append(RowCost(r, least))
    decode_s = _along(low.pixels, low.decode_s, high.pixels, high.decode_s, pixels)
    return SizeCost(pixels, tuple(steps), decode_s, low.is_measured and high.is_measured)


def _along(low: int, low_s: float, high: int, high_s: float, pixels: int) -> float:
    """Return the seconds at `pixels` from those at two sizes: of both chords the one that is nearer."""
    slope = (high_s - low_s) / (high - low)
    if low_s <= 0 or high_s <= 0:
        return max(0.0, low_s + slope * (pixels - low))
    # the seconds' quotient may be beyond what a float holds; its logarithm is not
    power = (math.log(high_s) - math.log(low_s)) / math.log(high / low)
    if low <= pixels <= high:
        curved = math.exp(math.log(low_s) + power * math.log(pixels / low))
        return min(low_s + slope * (pixels - low), curved)
    edge, edge_s = (low, low_s) if pixels < low else (high, high_s)
    chord = edge_s + max(0.0, slope) * (pixels - edge)
    return float(max(chord, edge_s * (pixels / edge) ** min(MOST_GROWTH, max(0.0, power))))


def in_table(table: Sequence[RowCost], rows: int) -> float:
    """Return the seconds of one UNet evaluation with `rows` rows, from a table by rows.

    Linear between measured rows. Outside, the nearest measured point scaled by rows: never less than
    proportional above, and at least the least measured below.
    """
    if rows <= table[0].rows:
        return table[0].seconds
    for low, high in pairwise(table):
        if rows <= high.rows:
            share = (rows - low.rows) / (high.rows - low.rows)
            return low.seconds + share * (high.seconds - low.seconds)
    return table[-1].seconds * rows / table[-1].rows
