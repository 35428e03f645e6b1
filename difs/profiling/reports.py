"""What the process that measures is told, and what it tells: a JSON object a line. Pure."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from difs.messages import MemoryMode, QualityKind
from difs.profiling.cells import ErrorOf
from difs.profiling.grid import Effort

Way = Literal["auto", "none", "reference", "clip", "agreement"]
"""How quality is measured; `auto`: by CLIP where one is named, else agreement where nothing is known."""


class Order(Struct, frozen=True):
    """What to measure. Names are those of the model repository."""

    model_repo: str
    user_repo: str
    variants: tuple[str, ...]
    device: str
    threads: int
    effort: Effort = "default"
    modes: tuple[MemoryMode, ...] = ()
    """Empty: all that the device has."""
    is_fresh: bool = False
    """Measure again what was measured."""
    quality: Way = "auto"
    clip: str = ""
    """The folder of a CLIP model."""
    seeds: Annotated[int, Meta(ge=1, le=100)] = 1
    """Pictures of each prompt."""


class Doing(Struct, frozen=True, tag="doing"):
    """The next thing begins."""

    variant: str
    what: str
    done: int
    total: int
    left_s: float | None = None
    """About how long all that is left of this variant takes; None: nothing is known yet."""


class Timed(Struct, frozen=True, tag="timed"):
    """A variant's profile is whole."""

    variant: str
    path: str
    cells: int
    fresh_cells: int
    """Those that were measured now."""
    left_out_cell: ErrorOf | None
    left_out_size: ErrorOf | None


class Judged(Struct, frozen=True, tag="judged"):
    """A variant's quality curve is whole."""

    variant: str
    path: str
    kind: QualityKind
    source: str
    is_used: bool
    """The manifest has no curve, and no better one was measured."""


class Noted(Struct, frozen=True, tag="noted"):
    """Something that a person should know."""

    variant: str
    words: str


class Broken(Struct, frozen=True, tag="broken"):
    """A variant could not be measured; the others go on."""

    variant: str
    words: str


Report = Doing | Timed | Judged | Noted | Broken

_decoder = msgspec.json.Decoder(Report)


def decode(line: bytes) -> Report:
    """Return what a line says; raises ValueError."""
    report: Report = _decoder.decode(line)
    return report
