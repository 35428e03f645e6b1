"""Goes through the cells of a variant's profile: what is missing is measured, and kept at once.

No torch: whoever measures is passed in. Stopped at any moment it goes on from there the next time.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import UTC, datetime
from typing import Protocol

from msgspec.structs import replace

from difs.errors import DifsError
from difs.messages import MemoryMode
from difs.profiling import curves, grid, store
from difs.profiling.cells import Cell, Key, Profile, joined, visits_of
from difs.profiling.grid import Pains, Unit
from difs.profiling.reports import Broken, Doing, Noted, Report, Timed
from difs.variants import Variant

TOLERATED = 10
"""One disturbed cell in so many is not worth a word."""


class Meter(Protocol):
    """What measures; see `difs.profiling.torch_meter`."""

    @property
    def is_solo(self) -> bool:
        """Whether images share no call."""
        ...

    @property
    def peaks_are(self) -> str:
        """Return what peaks count."""
        ...

    def measure(self, unit: Unit, pains: Pains, *, is_again: bool) -> Cell:
        """Return what a visit shows; raises DifsError where the unit's memory mode cannot be entered.

        `is_again`: there is a cell already, and only timings are asked for.
        """
        ...

    def close(self) -> None:
        """Let go of the variant."""
        ...


def run(
    variant: Variant,
    key: Key,
    open_meter: Callable[[], Meter],
    modes: Sequence[MemoryMode],
    pains: Pains,
    *,
    is_fresh: bool,
) -> Generator[Report, None, None]:
    """Measure what a variant's profile lacks; `open_meter` is called only if it lacks something."""
    known = None if is_fresh else store.find(variant, key)
    profile = known or store.blank(variant, key)
    if known is not None and not _lacking(profile, variant, modes, pains):
        yield _whole(variant, curves.with_errors(profile), 0)
        return
    yield Doing(variant.name, "loading", len(profile.cells), len(profile.cells) + 1)
    try:
        meter = open_meter()
    except DifsError as error:
        yield Broken(variant.name, error.message)
        return
    try:
        yield from _measure(variant, profile, meter, modes, pains)
    finally:
        meter.close()


def _lacking(profile: Profile, variant: Variant, modes: Sequence[MemoryMode], pains: Pains) -> list[Unit]:
    wanted = grid.units(modes, variant.manifest.native_sizes, pains, is_solo=profile.is_solo)
    return grid.pending(wanted, profile, pains)


def _measure(
    variant: Variant, profile: Profile, meter: Meter, modes: Sequence[MemoryMode], pains: Pains
) -> Iterator[Report]:
    profile = replace(profile, peaks_are=meter.peaks_are, is_solo=meter.is_solo)
    fresh, lost, spoilt = set[Unit](), set[MemoryMode](), set[Unit]()
    while True:
        lacking = _lacking(profile, variant, modes, pains)
        left = [u for u in lacking if u.memory_mode not in lost and u not in spoilt]
        if not left:
            break
        unit, known = left[0], {grid.unit_of(cell) for cell in profile.cells}
        done = sum(len(visits_of(cell)) for cell in profile.cells)
        yield Doing(variant.name, unit.words, done, done + len(left), grid.left_s(left, profile, pains))
        try:
            seen = meter.measure(unit, pains, is_again=unit in known)
        except DifsError as error:
            lost.add(unit.memory_mode)
            yield Noted(variant.name, error.message)
            continue
        if unit in known and not visits_of(seen):
            spoilt.add(unit)  # it was measured before: memory that others took since says nothing of it
            continue
        fresh.add(unit)
        profile = _with(profile, seen)
        store.keep(variant, profile)
    profile = curves.with_errors(profile)
    unsteady = curves.unsteady(profile)
    if unsteady * TOLERATED > len(profile.cells):
        words = (
            f"{unsteady} of {len(profile.cells)} cells were disturbed: something else used the machine"
        )
        yield Noted(variant.name, f"{words}; --fresh measures anew")
    yield _whole(variant, profile, len(fresh))


def _with(profile: Profile, seen: Cell) -> Profile:
    """Return a profile with what one visit showed."""
    found = {grid.unit_of(cell): cell for cell in profile.cells}
    unit = grid.unit_of(seen)
    found[unit] = joined(found[unit], seen) if unit in found else seen
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return replace(profile, cells=tuple(found.values()), measured_at=now)


def _whole(variant: Variant, profile: Profile, fresh_cells: int) -> Timed:
    path = store.keep(variant, profile) if fresh_cells else store.place(variant, profile.key)
    return Timed(
        variant.name,
        str(path),
        len(profile.cells),
        fresh_cells,
        profile.left_out_cell,
        profile.left_out_size,
    )
