"""What a profile's file says: for which device, software and weights, and what was measured. Pure.

A cell is one measurement that is kept as soon as it is done. Where the files lie is `store`'s, what
follows from the cells `curves`'.
"""

import statistics
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from difs.messages import MAX_SIDE, MemoryMode

VERSION = 2
"""Of the file's form and of the way in which is measured: another one is another profile."""

Seconds = Annotated[float, Meta(ge=0, le=1e6)]
Nbytes = Annotated[int, Meta(ge=0)]
Pixels = Annotated[int, Meta(ge=1, le=MAX_SIDE)]


class DeviceFacts(Struct, frozen=True):
    """What of a device decides how fast it is."""

    kind: Literal["cuda", "cpu", "simulated"]
    name: str
    memory_bytes: int
    cores: int
    """Of the machine's processor, as this process may use them; 0 for a GPU."""
    threads: int
    """That compute; 0 for a GPU."""


class Software(Struct, frozen=True):
    """The versions that decide it, too."""

    torch: str
    diffusers: str
    difs: str


class Key(Struct, frozen=True):
    """What a profile is valid for: all of it, or it is stale."""

    variant: str
    fingerprint: str
    """Of the variant's weights and of how they are run; see `Variant.fingerprint`."""
    precision: str
    device: DeviceFacts
    software: Software
    version: int = VERSION

    @property
    def slug(self) -> str:
        """Return a name for files: 16 hexadecimal digits."""
        return sha256(msgspec.json.encode(self)).hexdigest()[:16]


class Visit(Struct, frozen=True):
    """Seconds of a thing that was done some times in a row, warm."""

    median_s: Seconds
    p90_s: Seconds
    samples: Annotated[int, Meta(ge=1)]


STEADY = 3
"""So many visits of a cell are to be calm, as far as it is visited so often."""
CALM = 1.1
"""A visit that took longer than the quickest of its cell by more than this factor was disturbed."""


class Timing(Struct, frozen=True):
    """Seconds of a thing that was visited again and again; what disturbed visits took is not in them."""

    median_s: Seconds
    p90_s: Seconds
    samples: Annotated[int, Meta(ge=1)]
    """Of the calm visits."""
    visits: tuple[Visit, ...] = ()
    """Empty: it was visited once, in an older way."""

    @property
    def seen(self) -> tuple[Visit, ...]:
        """Return all visits."""
        return self.visits or (Visit(self.median_s, self.p90_s, self.samples),)


def timing_of(visits: tuple[Visit, ...]) -> Timing:
    """Return what some visits of a cell show together.

    A neighbour on the same machine slows whole stretches of seconds down and speeds nothing up: the
    quickest visit and those near it tell what the thing costs.
    """
    calm = _calm(visits)
    return Timing(
        statistics.median(visit.median_s for visit in calm),
        statistics.median(visit.p90_s for visit in calm),
        sum(visit.samples for visit in calm),
        visits,
    )


def calm_of(visits: Sequence[Visit]) -> int:
    """Return how many visits were not disturbed."""
    return len(_calm(visits))


def _calm(visits: Iterable[Visit]) -> list[Visit]:
    ordered = sorted(visits, key=lambda visit: visit.median_s)
    return [visit for visit in ordered if visit.median_s <= CALM * ordered[0].median_s]


class ModeCell(Struct, frozen=True, tag="mode"):
    """A memory mode as a whole."""

    memory_mode: MemoryMode
    load_cold_s: Seconds
    """From the disk, whatever of it the system has in its cache, into this mode."""
    load_parked_s: Seconds
    """From host memory into this mode."""
    encode: Timing | None
    """One prompt; None: the family does not encode apart from its steps."""
    weight_bytes: Nbytes
    rest_bytes: Nbytes
    """On the device between two calls."""


class StepCell(Struct, frozen=True, tag="step"):
    """One UNet evaluation, and the scheduler steps of the images in it."""

    memory_mode: MemoryMode
    width: Pixels
    height: Pixels
    rows: Annotated[int, Meta(ge=1)]
    timing: Timing | None = None
    peak_bytes: Nbytes | None = None
    """Most that it takes beyond `rest_bytes`; None: not measured."""
    missing: str = ""
    """Why there is no timing."""


class DecodeCell(Struct, frozen=True, tag="decode"):
    """From one latent to an image's bytes in host memory."""

    memory_mode: MemoryMode
    width: Pixels
    height: Pixels
    timing: Timing | None = None
    peak_bytes: Nbytes | None = None
    missing: str = ""


Cell = ModeCell | StepCell | DecodeCell


def visits_of(cell: Cell) -> tuple[Visit, ...]:
    """Return the visits of a cell; none where nothing was timed."""
    timing = cell.encode if isinstance(cell, ModeCell) else cell.timing
    return timing.seen if timing is not None else ()


def joined(before: Cell, again: Cell) -> Cell:
    """Return a cell with the visits that were made again; all else stays as it was seen first."""
    timing = timing_of((*visits_of(before), *visits_of(again)))
    if isinstance(before, ModeCell):
        return replace(before, encode=timing)
    return replace(before, timing=timing)


class ErrorOf(Struct, frozen=True):
    """How far predictions of left-out cells were off, as shares of what was measured."""

    cells: int
    median: float
    p90: float
    worst: float


class Profile(Struct, frozen=True):
    """A profile's file."""

    key: Key
    native: tuple[Pixels, Pixels]
    """Width and height; predictions are anchored there."""
    default_mode: MemoryMode
    is_solo: bool = False
    """Images of its family share no call."""
    peaks_are: str = ""
    """What the peaks count, for people."""
    measured_at: str = ""
    """When the last cell was measured: ISO 8601."""
    cells: Annotated[tuple[Cell, ...], Meta(max_length=4096)] = ()
    left_out_cell: ErrorOf | None = None
    """Each cell predicted from all others of its mode."""
    left_out_size: ErrorOf | None = None
    """Each size predicted from the other sizes of its mode, the smallest and the largest included."""

    @property
    def modes(self) -> dict[MemoryMode, ModeCell]:
        """Return the memory modes that were entered, the default one first."""
        found = {cell.memory_mode: cell for cell in self.cells if isinstance(cell, ModeCell)}
        return dict(sorted(found.items(), key=lambda item: item[0] != self.default_mode))


def encode(profile: Profile) -> bytes:
    """Return a profile as JSON, a line a cell."""
    return msgspec.json.format(msgspec.json.encode(profile), indent=1)


def decode(data: bytes) -> Profile:
    """Return what `encode` wrote; raises ValueError."""
    try:
        return msgspec.json.decode(data, type=Profile)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
