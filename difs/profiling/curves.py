"""From a profile's cells to the costs that predict, and how well they do. Pure.

The error is stated by leaving out: one cell at a time, and one size at a time, predicted from the rest
of its memory mode (Stone 1974, "Cross-validatory choice and assessment of statistical predictions").
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec.structs import replace

from difs.actor_messages import Costs, Resident, Room, RowCost, SizeCost
from difs.messages import MemoryMode
from difs.profiles import decode_seconds, step_seconds
from difs.profiling import cells
from difs.profiling.cells import DecodeCell, ErrorOf, ModeCell, Profile, StepCell, Timing

Steps = Mapping[int, Mapping[int, float]]
"""Pixels -> rows -> seconds of a call."""
Decodes = Mapping[int, float]
"""Pixels -> seconds of a decoding."""


def residents(profile: Profile) -> tuple[Resident, ...]:
    """Return what the variant would be on the device, a memory mode each, the default one first.

    A mode whose native size was not measured is left out: nothing could be said of it.
    """
    found = []
    for mode, cell in profile.modes.items():
        costs = costs_of(profile, mode)
        if costs is not None:
            key, room = profile.key, room_of(profile, cell)
            found.append(Resident(key.variant, mode, key.precision, cell.weight_bytes, costs, room=room))
    return tuple(found)


def room_of(profile: Profile, cell: ModeCell) -> Room:
    """Return the device memory that a mode takes."""
    width, height = profile.native
    at_native = [
        c
        for c in profile.cells
        if not isinstance(c, ModeCell)
        and (c.memory_mode, c.width, c.height) == (cell.memory_mode, width, height)
    ]
    steps = [c.peak_bytes for c in at_native if isinstance(c, StepCell) and c.rows <= 2]
    decodes = [c.peak_bytes for c in at_native if isinstance(c, DecodeCell)]
    return Room(cell.rest_bytes, _most(steps), _most(decodes))


def _most(peaks: Iterable[int | None]) -> int | None:
    return max((peak for peak in peaks if peak is not None), default=None)


def costs_of(profile: Profile, mode: MemoryMode) -> Costs | None:
    """Return a mode's costs at all sizes; None where the native size was not measured."""
    entered = profile.modes.get(mode)
    if entered is None:
        return None
    steps, decodes = tables(profile, mode)
    width, height = profile.native
    costs = assemble(steps, decodes, width * height)
    if costs is None:
        return None
    encode_s = entered.encode.median_s if entered.encode is not None else 0.0
    return replace(costs, encode_s=encode_s, load_s=entered.load_cold_s)


def tables(profile: Profile, mode: MemoryMode) -> tuple[dict[int, dict[int, float]], dict[int, float]]:
    """Return the measured medians of a mode by pixels."""
    steps: dict[int, dict[int, float]] = {}
    decodes: dict[int, float] = {}
    for cell in profile.cells:
        if isinstance(cell, ModeCell) or cell.memory_mode != mode or cell.timing is None:
            continue
        pixels = cell.width * cell.height
        if isinstance(cell, StepCell):
            steps.setdefault(pixels, {})[cell.rows] = cell.timing.median_s
        else:
            decodes[pixels] = cell.timing.median_s
    return steps, decodes


def assemble(steps: Steps, decodes: Decodes, native: int) -> Costs | None:
    """Return costs anchored at `native` pixels, else at the measured size that is nearest.

    Every size gets all rows: what one lacks is taken from the size next to it, in proportion.
    """
    whole = [pixels for pixels in sorted(steps) if pixels in decodes]
    if not whole:
        return None
    anchor = min(whole, key=lambda pixels: abs(math.log(pixels / native)))
    rows = sorted({r for pixels in whole for r in steps[pixels]})
    full = {p: tuple(RowCost(r, _filled(steps, whole, p, r)) for r in rows) for p in whole}
    others = tuple(SizeCost(p, full[p], decodes[p]) for p in whole if p != anchor)
    return Costs(anchor, 0.0, full[anchor], decodes[anchor], 0.0, others)


def _filled(steps: Steps, whole: Sequence[int], pixels: int, rows: int) -> float:
    """Return a cell of the grid, an unmeasured one from its measured neighbours.

    A line through its own size's rows, bent as at the other sizes: what one row leaves unused of a
    device, or many saturate, differs little between sizes. The median of them: one may be odd.
    """
    own = steps[pixels]
    if rows in own:
        return own[rows]
    line_s, bends = _in_line(own, rows), []
    for theirs in (steps[other] for other in whole):
        if rows in theirs and own.keys() <= theirs.keys():
            straight_s = _in_line({r: theirs[r] for r in own}, rows)
            bends.append(theirs[rows] / straight_s if straight_s > 0 else 1.0)
    return line_s * statistics.median(bends or [1.0])


def _in_line(own: Mapping[int, float], rows: int) -> float:
    """Return the seconds on the line through the measured rows next to `rows`, none of which it is."""
    known = sorted(own)
    if len(known) == 1:
        return own[known[0]] * max(1.0, rows / known[0])
    below = [r for r in known if r < rows]
    low, high = (known[0], known[1]) if not below else (known[-2], known[-1])
    if below and below[-1] != known[-1]:
        low, high = below[-1], known[len(below)]
    slope = (own[high] - own[low]) / (high - low)
    return max(own[low] + slope * (rows - low), own[low] * min(1.0, rows / low))


UNSTEADY = 1.5
"""A cell whose 90th percentile is above its median by more than this factor was disturbed, too."""


def unsteady(profile: Profile) -> int:
    """Return how many of a profile's timings were disturbed: hardly a visit was calm, if any."""
    timings = [c.timing for c in profile.cells if not isinstance(c, ModeCell) and c.timing is not None]
    return sum(map(_is_unsteady, timings))


def _is_unsteady(timing: Timing) -> bool:
    wanted = min(cells.STEADY, len(timing.seen))
    return timing.p90_s > UNSTEADY * timing.median_s or cells.calm_of(timing.seen) < wanted


# ---- the error ------------------------------------------------------------------------------------


def with_errors(profile: Profile) -> Profile:
    """Return a profile that states how far its predictions of left-out cells are off."""
    native = profile.native[0] * profile.native[1]
    by_cell: list[float] = []
    by_size: list[float] = []
    for mode in profile.modes:
        steps, decodes = tables(profile, mode)
        by_cell += leave_out_cells(steps, decodes, native)
        by_size += leave_out_sizes(steps, decodes, native)
    return replace(profile, left_out_cell=summary(by_cell), left_out_size=summary(by_size))


def leave_out_cells(steps: Steps, decodes: Decodes, native: int) -> Iterator[float]:
    """Yield the relative error of each cell, predicted from all others."""
    for pixels, table in steps.items():
        for rows, seconds in table.items():
            left = {p: {r: s for r, s in t.items() if (p, r) != (pixels, rows)} for p, t in steps.items()}
            costs = assemble({p: t for p, t in left.items() if t}, decodes, native)
            if costs is not None and seconds > 0 and (len(table) > 1 or len(steps) > 1):
                yield abs(step_seconds(costs, pixels, rows) - seconds) / seconds
    for pixels, seconds in decodes.items():
        costs = assemble(steps, {p: s for p, s in decodes.items() if p != pixels}, native)
        if costs is not None and seconds > 0:
            yield abs(decode_seconds(costs, pixels) - seconds) / seconds


def leave_out_sizes(steps: Steps, decodes: Decodes, native: int) -> Iterator[float]:
    """Yield the relative errors of each size's cells, predicted from the other sizes."""
    if len(steps) < 3:  # from a single size nothing can be said of another
        return
    for pixels, table in steps.items():
        rest = {p: t for p, t in steps.items() if p != pixels}
        costs = assemble(rest, {p: s for p, s in decodes.items() if p != pixels}, native)
        if costs is None:
            continue
        for rows, seconds in table.items():
            if seconds > 0:
                yield abs(step_seconds(costs, pixels, rows) - seconds) / seconds
        if decodes.get(pixels, 0.0) > 0:
            yield abs(decode_seconds(costs, pixels) - decodes[pixels]) / decodes[pixels]


def summary(errors: Iterable[float]) -> ErrorOf | None:
    """Return the error in short; None where nothing could be left out."""
    found = sorted(errors)
    if not found:
        return None
    p90 = found[max(0, math.ceil(0.9 * len(found)) - 1)]
    return ErrorOf(len(found), *(round(x, 4) for x in (statistics.median(found), p90, found[-1])))
