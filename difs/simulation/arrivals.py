"""When requests come: read from a file, or drawn. Seconds from the start of a run, ascending.

Chance enters as a `random.Random` that the caller seeds; nothing else is drawn from.
"""

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

from difs.errors import ConfigError

MAX_ARRIVALS = 5_000_000
"""A run of more is refused: its records would not fit in memory."""


def poisson(rate_hz: float, seconds: float, dice: Random) -> Iterator[float]:
    """Yield the times of a Poisson process."""
    now = dice.expovariate(rate_hz)
    while now < seconds:
        yield now
        now += dice.expovariate(rate_hz)


def burst(rate_hz: float, seconds: float, cv: float, dice: Random) -> Iterator[float]:
    """Yield the times of a renewal process with gamma gaps, whose coefficient of variation is `cv`.

    1 is Poisson; above, requests come in bursts (AlpaServe, Li et al., OSDI 2023, section 6.1).
    """
    shape, scale = 1.0 / cv**2, cv**2 / rate_hz
    now = dice.gammavariate(shape, scale)
    while now < seconds:
        yield now
        now += dice.gammavariate(shape, scale)


def diurnal(
    low_hz: float, high_hz: float, period_s: float, seconds: float, dice: Random
) -> Iterator[float]:
    """Yield the times of a Poisson process whose rate swings between two, beginning with the low one.

    By thinning (Lewis and Shedler 1979, "Simulation of nonhomogeneous Poisson processes by thinning").
    """

    def rate(at: float) -> float:
        return low_hz + (high_hz - low_hz) * (1 - math.cos(2 * math.pi * at / period_s)) / 2

    for at in poisson(high_hz, seconds, dice):
        if dice.random() * high_hz < rate(at):
            yield at


def read(path: Path, speed: float = 1.0) -> list[float]:
    """Return the times that a file tells, sorted and from 0 on, `speed` times as fast.

    A line is `milliseconds,prompt`, as DiffServe's traces are, or seconds alone; or a CSV whose header
    names a column arrival_ms or arrival_s. Raises ConfigError.
    """
    try:
        rows = [row for row in csv.reader(path.read_text("utf-8-sig").splitlines()) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"{path.name} cannot be read as a trace: {error}") from None
    column, unit_s, body = _columns(path, rows)
    times = [_number(path, number, row, column) * unit_s for number, row in body]
    first = min(times, default=0.0)
    return sorted((at - first) / speed for at in times)


Body = Sequence[tuple[int, list[str]]]


def _columns(path: Path, rows: list[list[str]]) -> tuple[int, float, Body]:
    """Return where a trace's times stand, their unit in seconds, and its numbered lines."""
    if not rows:
        raise ConfigError(f"{path.name}: no arrivals in it")
    numbered = list(enumerate(rows, 1))
    header = [name.strip().lower() for name in rows[0]]
    for name, unit_s in (("arrival_ms", 1e-3), ("arrival_s", 1.0)):
        if name in header:
            return header.index(name), unit_s, numbered[1:]
    return 0, (1e-3 if len(rows[0]) > 1 else 1.0), numbered


def _number(path: Path, line: int, row: list[str], column: int) -> float:
    try:
        value = float(row[column])
    except (ValueError, IndexError):
        value = math.nan
    if not math.isfinite(value):
        words = "expected an arrival time (milliseconds,prompt or seconds; or a column arrival_ms)"
        raise ConfigError(f"{path.name}, line {line}: {','.join(row)[:60]!r}: {words}")
    return value


def bounded(make: Callable[[], Iterator[float]]) -> list[float]:
    """Return all times; raises ConfigError when there are too many to simulate."""
    found: list[float] = []
    for at in make():
        found.append(at)
        if len(found) > MAX_ARRIVALS:
            raise ConfigError(f"arrivals: more than {MAX_ARRIVALS}; lower the rate or the seconds")
    return found
