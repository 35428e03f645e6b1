"""The ladder out of an out-of-memory error: what to try next, and when to give the process up. Pure.

Latents are kept on every rung; each rung that was taken is told in the reply.
"""

from collections import deque
from typing import Literal

from msgspec import Struct

from difs import memory_modes
from difs.messages import MemoryMode

Phase = Literal["encode", "step", "decode"]
INCIDENTS, WITHIN_S = 2, 60.0
"""So many incidents within so many seconds, and the process is started anew: after an error, memory is
not reliably freed (pytorch issues 18853, 27600)."""


ROWS_REST_S = 60.0
"""After so many seconds without an error, twice as many rows may share a call again."""


class Tile(Struct, frozen=True):
    """Decode in tiles."""


class Shrink(Struct, frozen=True):
    """Let at most `rows` rows share a call."""

    rows: int


class Lighten(Struct, frozen=True):
    """Switch the resident to a lighter memory mode."""

    memory_mode: MemoryMode


Rung = Tile | Shrink | Lighten


def next_rung(
    phase: Phase, *, images: int, rows: int, is_tiled: bool, mode: MemoryMode, kind: str
) -> Rung | None:
    """Return what to try after memory did not suffice; None: nothing is left.

    `images` and `rows` shared the call that failed; `kind` is the device's ("cuda", "cpu").
    """
    if phase == "decode" and not is_tiled:
        return Tile()
    if phase == "step" and images > 1:
        return Shrink(max(1, rows // 2))
    lighter = memory_modes.lighter(mode, kind)
    return Lighten(lighter) if lighter is not None else None


def describe(rung: Rung, phase: Phase) -> str:
    """Return the note that tells a client which rung was taken."""
    match rung:
        case Tile():
            what = "decoded in tiles"
        case Shrink(rows):
            what = f"at most {rows} rows share a step"
        case Lighten(mode):
            what = f"memory mode {mode}"
    return f"out of memory at {phase}: {what}"


class RowLimits:
    """How many rows may share a call of each variant after it ran out of memory."""

    def __init__(self, most: int) -> None:
        """`most`: where there was no error."""
        self._most = most
        self._limits: dict[str, tuple[int, float]] = {}

    def shrink(self, variant: str, rows: int, now: float) -> None:
        """Allow at most so many from now on."""
        self._limits[variant] = (rows, now)

    def allowed(self, variant: str, now: float) -> int:
        """Return how many may share a call now."""
        if variant not in self._limits:
            return self._most
        rows, since = self._limits[variant]
        if now - since > ROWS_REST_S:
            rows *= 2
            self.shrink(variant, rows, now)
        if rows >= self._most:
            del self._limits[variant]
        return min(rows, self._most)

    def clear(self) -> None:
        """Forget all errors."""
        self._limits.clear()


class Incidents:
    """Counts out-of-memory incidents; the errors of one climb of the ladder are one incident."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=INCIDENTS)
        self._climbing: set[tuple[str, Phase]] = set()

    def happened(self, variant: str, phase: Phase, now: float) -> None:
        """Enter an error."""
        if (variant, phase) not in self._climbing:
            self._climbing.add((variant, phase))
            self._times.append(now)

    def over(self, variant: str, phase: Phase) -> None:
        """Enter a unit that went well, or was given up: the climb, if there was one, is over."""
        self._climbing.discard((variant, phase))

    def are_too_many(self, now: float) -> bool:
        """Whether the process should be started anew."""
        return len(self._times) == INCIDENTS and now - self._times[0] <= WITHIN_S
