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
from difs.profiling.cells import Cell, Key, Profile
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

    def measure(self, unit: Unit, pains: Pains) -> Cell:
        """Return a unit's cell; raises DifsError where its memory mode cannot be entered."""
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
    left = grid.pending(wanted, profile)
    return [unit for unit in left if not grid.needless(unit, profile, pains)]


def _measure(
    variant: Variant, profile: Profile, meter: Meter, modes: Sequence[MemoryMode], pains: Pains
) -> Iterator[Report]:
    profile = replace(profile, peaks_are=meter.peaks_are, is_solo=meter.is_solo)
    before, lost = len(profile.cells), set[MemoryMode]()
    while True:
        left = [unit for unit in _lacking(profile, variant, modes, pains) if unit.memory_mode not in lost]
        if not left:
            break
        left_s = grid.left_s(left, profile, pains)
        done = len(profile.cells)
        yield Doing(variant.name, left[0].words, done, done + len(left), left_s)
        try:
            cell = meter.measure(left[0], pains)
        except DifsError as error:
            lost.add(left[0].memory_mode)
            yield Noted(variant.name, error.message)
            continue
        profile = _with(profile, cell)
        store.keep(variant, profile)
    profile = curves.with_errors(profile)
    unsteady = curves.unsteady(profile)
    if unsteady * TOLERATED > len(profile.cells):
        words = (
            f"{unsteady} of {len(profile.cells)} cells were disturbed: something else used the machine"
        )
        yield Noted(variant.name, f"{words}; --fresh measures anew")
    yield _whole(variant, profile, len(profile.cells) - before)


def _with(profile: Profile, cell: Cell) -> Profile:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return replace(profile, cells=(*profile.cells, cell), measured_at=now)


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
