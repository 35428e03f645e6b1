"""What a resident's costs become with every call that is seen: pure arithmetic.

A call may be slower than it was told because the device is (interference, thermal throttling; see
`difs.drift`), because all calls of its size are, or only those with its number of rows. Nobody sees
which, so each of the three takes its part of what was wrong. Where a table is wrong in one place only,
the others move back what it moved, and in the end it is moved alone; where the device is slow, all are
moved at once. Logarithms are moved: so what one call moved too far comes back everywhere, as the next
ones take what they should.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter

from msgspec.structs import replace

from difs.actor_messages import Costs, RowCost, SizeCost
from difs.profiles import decode_seconds, slowed, step_seconds
from difs.sizes import at, grid

RATE = 0.25
"""What was told moves by so much of the way to what was seen,"""
DEVICE, SIZE, ROWS = 0.7, 0.15, 0.15
"""of which the device takes so much, the size, and the number of rows. Of 300 recorded pictures of mixed
sizes a third to seven tenths for the device told the next equally well; all of it, as if nothing else
could be wrong, missed a fifth more where sizes were told by count, 2.5 times as much where by pixels."""
APART = 1.25
"""A size whose pixels differ by less than this factor from one that is known is taken for that one."""
FARTHEST = 3.0
"""A call that takes more than so many times what was told, or less than that part, counts as that: hosts
stop their guests for a tenth of a second now and then, ten of the embedded family's steps."""
MOST_SIZES = 12
"""So many sizes are told apart; what else is asked for is taken for the nearest."""


def encode(costs: Costs, seconds: float) -> Costs:
    """Return `costs` moved towards the seconds that one prompt took."""
    return replace(costs, encode_s=_towards(costs.encode_s, seconds))


def step(costs: Costs, pixels: int, rows: int, seconds: float) -> Costs:
    """Return `costs` moved towards the seconds of one UNet evaluation with `rows` rows of `pixels`."""
    predicted_s = step_seconds(costs, pixels, rows)
    if predicted_s <= 0:
        return costs
    error = _error(seconds, predicted_s)
    known, own = _with_size(costs, pixels)
    sizes = grid(moved(known, DEVICE * error))
    return _joined(known, [_called(size, error, rows) if size.pixels == own else size for size in sizes])


def common(costs: Costs, pixels: int, rows: int, seconds: float) -> float:
    """Return by how much the logarithm of every resident's seconds moves after such a call.

    `rows` 0: a decoding. Only calls of the size for which a resident was loaded, and measured, say
    something of the others.
    """
    if max(pixels, costs.pixels) >= APART * min(pixels, costs.pixels):
        return 0.0
    told_s = step_seconds(costs, pixels, rows) if rows else decode_seconds(costs, pixels)
    return DEVICE * _error(seconds, told_s) if told_s > 0 else 0.0


def decode(costs: Costs, pixels: int, seconds: float) -> Costs:
    """Return `costs` moved towards the seconds that decoding one image of `pixels` pixels took."""
    predicted_s = decode_seconds(costs, pixels)
    if predicted_s <= 0:
        return replace(costs, decode_s=_towards(0.0, seconds * costs.pixels / pixels))
    error = _error(seconds, predicted_s)
    known, own = _with_size(costs, pixels)
    rest = math.exp((SIZE + ROWS) * error)
    sizes = grid(moved(known, DEVICE * error))
    return _joined(
        known, [replace(s, decode_s=s.decode_s * rest) if s.pixels == own else s for s in sizes]
    )


def moved(costs: Costs, by: float) -> Costs:
    """Return what a resident costs whose device has moved `by` so much, in logarithms: all calls."""
    times = math.exp(by)
    return slowed(costs, steps=times, decode=times)


def _towards(old: float, seen: float) -> float:
    return old + RATE * (seen - old)


def _error(seconds: float, predicted_s: float) -> float:
    """Return how far the logarithm of what was told is to move."""
    return RATE * math.log(min(FARTHEST, max(1.0 / FARTHEST, seconds / predicted_s)))


# ---- sizes ----------------------------------------------------------------------------------------


def _joined(costs: Costs, sizes: Sequence[SizeCost]) -> Costs:
    """Return `costs` with other seconds at each size, which stand as in their grid."""
    own, *others = sizes
    return replace(costs, steps=own.steps, decode_s=own.decode_s, sizes=tuple(others))


def _with_size(costs: Costs, pixels: int) -> tuple[Costs, int]:
    """Return costs that know a size such as this, and the pixels of that one."""
    known = [size.pixels for size in grid(costs)]
    nearest = min(known, key=lambda other: abs(math.log(other / pixels)))
    is_known = max(nearest, pixels) < APART * min(nearest, pixels)
    if is_known or len(known) >= MOST_SIZES:
        return costs, nearest
    new, *_ = grid(at(costs, pixels))
    sizes = sorted([*costs.sizes, new], key=attrgetter("pixels"))
    return replace(costs, sizes=tuple(sizes)), pixels


# ---- rows -----------------------------------------------------------------------------------------


def _called(size: SizeCost, error: float, rows: int) -> SizeCost:
    """Return the size of a call of `rows` rows after such an error, the device's part of it left out."""
    steps = [
        RowCost(cost.rows, cost.seconds * math.exp((SIZE + ROWS * share) * error))
        for cost, share in zip(size.steps, _shares(size.steps, rows), strict=True)
    ]
    return replace(size, steps=tuple(steps), is_measured=True)


def _shares(table: Sequence[RowCost], rows: int) -> list[float]:
    """Return for each line of a table how much of `rows` rows is read there; see `sizes.in_table`."""
    shares = [0.0] * len(table)
    at_or_above = bisect_left(table, rows, key=attrgetter("rows"))
    if at_or_above in (0, len(table)):
        shares[min(at_or_above, len(table) - 1)] = 1.0
        return shares
    low, high = table[at_or_above - 1].rows, table[at_or_above].rows
    shares[at_or_above] = (rows - low) / (high - low)
    shares[at_or_above - 1] = 1.0 - shares[at_or_above]
    return shares
