"""Which cells a profile gets, which of them are not worth their time, and how long the rest takes. Pure.

A unit is a cell that is to be visited. Units come in the order in which they are measured: mode by mode,
in a mode the native size first, in a size few rows first, so that each tells what the next takes. Then
all are visited again, round by round: a machine that is slow for some seconds spoils a visit, not a cell.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from msgspec import Struct

from difs.messages import MAX_SIDE, MIN_SIDE, SIDE_MULTIPLE, MemoryMode
from difs.profiles import SATURATED
from difs.profiling import cells
from difs.profiling.cells import Cell, DecodeCell, ModeCell, Profile, StepCell, visits_of

Effort = Literal["quick", "default", "full"]


class Pains(Struct, frozen=True):
    """How much is measured, and how patiently."""

    sides: tuple[float, ...]
    """Of the native sides: which sizes are measured."""
    max_rows: int
    rows_must_pay: bool
    """More rows are tried only while a row gets cheaper."""
    call_s: float
    """A call that takes longer than this is not measured."""
    visits: tuple[int, int]
    """How often each cell is visited: at least, and at most where too few visits were calm."""
    visit_s: float
    """Each visit takes about so long."""
    samples: tuple[int, int]
    """Calls of a visit, at least and at most; one more warms up."""


PAINS: dict[Effort, Pains] = {
    "quick": Pains((1.0,), 4, True, 5.0, (3, 9), 0.1, (1, 10)),
    "default": Pains((1.0, 0.5, 0.75, 1.25, 1.5, 2.0), 16, True, 20.0, (6, 24), 0.15, (1, 15)),
    "full": Pains((1.0, 0.5, 0.75, 1.25, 1.5, 1.75, 2.0, 3.0), 32, False, 120.0, (8, 32), 0.3, (1, 30)),
}
DISTINCT = 1.05
"""Sizes whose pixels differ by less than this factor are one size to the cost model."""


class Unit(Struct, frozen=True):
    """A cell to be visited."""

    kind: Literal["mode", "step", "decode"]
    memory_mode: MemoryMode
    width: int = 0
    height: int = 0
    rows: int = 0

    @property
    def words(self) -> str:
        """Return what it is, for people."""
        if self.kind == "mode":
            return f"{self.memory_mode}: load, encode"
        rows = f" x{self.rows}" if self.kind == "step" else ""
        return f"{self.memory_mode}: {self.kind} {self.width}x{self.height}{rows}"


def unit_of(cell: Cell) -> Unit:
    """Return the unit that a cell was."""
    match cell:
        case ModeCell():
            return Unit("mode", cell.memory_mode)
        case StepCell():
            return Unit("step", cell.memory_mode, cell.width, cell.height, cell.rows)
        case DecodeCell():
            return Unit("decode", cell.memory_mode, cell.width, cell.height)


def failed(unit: Unit, why: str) -> Cell:
    """Return the cell of a unit that broke; `why` for people."""
    if unit.kind == "step":
        return StepCell(unit.memory_mode, unit.width, unit.height, unit.rows, missing=why)
    return DecodeCell(unit.memory_mode, unit.width, unit.height, missing=why)


def sizes(native: Sequence[tuple[int, int]], pains: Pains) -> list[tuple[int, int]]:
    """Return the sizes to measure: the native ones, then the first of them smaller and larger."""
    width, height = native[0]
    wanted = [*native, *((_side(width * f), _side(height * f)) for f in pains.sides)]
    found: list[tuple[int, int]] = []
    for w, h in wanted:
        if all(_differ(w * h, a * b) for a, b in found):
            found.append((w, h))
    return found


def _side(wanted: float) -> int:
    whole = round(wanted / SIDE_MULTIPLE) * SIDE_MULTIPLE
    return min(MAX_SIDE, max(MIN_SIDE, whole))


def _differ(one: int, other: int) -> bool:
    return max(one, other) >= DISTINCT * min(one, other)


def units(
    modes: Sequence[MemoryMode], native: Sequence[tuple[int, int]], pains: Pains, *, is_solo: bool
) -> list[Unit]:
    """Return all cells of a profile; `is_solo`: images of the family share no call."""
    most = 2 if is_solo else pains.max_rows
    rows = [1 << i for i in range(most.bit_length())]
    found = []
    for mode in modes:
        found.append(Unit("mode", mode))
        for width, height in sizes(native, pains):
            found += [Unit("step", mode, width, height, r) for r in rows]
            found.append(Unit("decode", mode, width, height))
    return found


def pending(wanted: Sequence[Unit], profile: Profile, pains: Pains) -> list[Unit]:
    """Return the visits that a profile lacks: units, each as often as it is still to be visited."""
    least, most = pains.visits
    lacks = {unit_of(cell): _lacks(cell, pains) for cell in profile.cells}
    worth = [unit for unit in wanted if unit in lacks or not needless(unit, profile, pains)]
    new = range(least)
    return [unit for nth in range(most) for unit in worth if nth in lacks.get(unit, new)]


def _lacks(cell: Cell, pains: Pains) -> range:
    """Return which visits a cell lacks, from 0; what broke, or is hardly worth one, lacks none."""
    visits, (least, most) = visits_of(cell), pains.visits
    if not visits or visits[0].median_s >= pains.call_s or len(visits) >= most:
        return range(0)
    is_steady = cells.calm_of(visits) >= min(cells.STEADY, least)
    return range(len(visits), max(least, len(visits) + (not is_steady)))


# ---- what is known of a unit before it is measured ----------------------------------------------


def needless(unit: Unit, profile: Profile, pains: Pains) -> str:
    """Return why a unit is not to be measured; empty: it is."""
    if unit.kind == "mode":
        return ""
    expected_s = call_seconds(unit, profile)
    if expected_s is not None and expected_s > pains.call_s:
        return f"a call would take about {expected_s:.0f} s"
    if unit.kind == "step" and unit.rows > 2:
        return _no_gain(unit, profile, pains)
    return ""


def _no_gain(unit: Unit, profile: Profile, pains: Pains) -> str:
    """Return why more rows are not tried: memory did not suffice for fewer, or they did not pay."""
    same = [
        c for c in _steps(profile, unit.memory_mode) if (c.width, c.height) == (unit.width, unit.height)
    ]
    fewer = sorted((c for c in same if c.rows < unit.rows), key=lambda c: c.rows)
    if fewer and fewer[-1].missing:
        return f"with {fewer[-1].rows} rows already: {fewer[-1].missing}"
    timed = [(c.rows, c.timing.median_s) for c in fewer if c.timing is not None]
    if pains.rows_must_pay and len(timed) > 1:
        (less, less_s), (more, more_s) = timed[-2:]
        if more_s / more * SATURATED >= less_s / less and more > 2:
            return f"a row costs no less with {more} rows than with {less}"
    return ""


def call_seconds(unit: Unit, profile: Profile) -> float | None:
    """Return about what one call of a unit takes, in proportion to one that was measured."""
    weight = unit.width * unit.height * max(1, unit.rows)
    if unit.kind == "decode":
        known = {c.width * c.height: c.timing.median_s for c in _decodes(profile) if c.timing is not None}
    else:  # of several modes the own one counts
        both = [*_steps(profile), *_steps(profile, unit.memory_mode)]
        known = {c.width * c.height * c.rows: c.timing.median_s for c in both if c.timing is not None}
    if not known:
        return None
    nearest = min(known, key=lambda other: max(other, weight) / min(other, weight))
    return known[nearest] * weight / nearest


def seconds(unit: Unit, profile: Profile, pains: Pains) -> float:
    """Return about what a visit takes: as long as it may, a slow call its fewest samples."""
    if unit.kind == "mode":
        known = [c.load_cold_s + c.load_parked_s for c in profile.cells if isinstance(c, ModeCell)]
        return (min(known) if known else 0.0) / pains.visits[0] + pains.visit_s
    call_s = call_seconds(unit, profile) or 0.0
    warms_up = call_s <= pains.visit_s
    return max(pains.visit_s, pains.samples[0] * call_s) + warms_up * call_s


def left_s(left: Sequence[Unit], profile: Profile, pains: Pains) -> float:
    """Return about what the visits of `left` take."""
    return sum(times * seconds(unit, profile, pains) for unit, times in Counter(left).items())


def _steps(profile: Profile, mode: MemoryMode | None = None) -> list[StepCell]:
    found = (c for c in profile.cells if isinstance(c, StepCell))
    return [c for c in found if mode is None or c.memory_mode == mode]


def _decodes(profile: Profile) -> Iterator[DecodeCell]:
    return (c for c in profile.cells if isinstance(c, DecodeCell))
