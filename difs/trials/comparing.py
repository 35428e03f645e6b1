"""Whether two trials differ by more than chance: bootstrap intervals of ratios and differences. Pure.

Requests of one trial wait for each other, so they are drawn again in blocks of neighbours, not one by
one: the moving-block bootstrap (Kuensch 1989, "The jackknife and the bootstrap for general stationary
observations"). Two trials of the same schedule are drawn alike: what is common to both falls out.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from difs.trials.figures import ENOUGH, is_good
from difs.trials.records import Trial

Floats = NDArray[np.float64]
RESAMPLES, LEVEL, SEED = 2000, 0.95, 1
FEWEST = 20
"""Requests that a trial must have for a word about chance."""
MOST_RESAMPLED = 20_000_000
"""Values that are drawn again for one comparison; of long trials fewer resamples are taken."""


class Compared(Struct, frozen=True):
    """One figure of two trials."""

    name: str
    a: float
    b: float
    change: float
    """b / a, or b - a."""
    is_ratio: bool
    low: float
    high: float
    """The interval of `change` at LEVEL."""

    @property
    def is_beyond_chance(self) -> bool:
        """Whether the interval leaves out "no change"."""
        none = 1.0 if self.is_ratio else 0.0
        return not self.low <= none <= self.high


class Comparison(Struct, frozen=True):
    """Two trials beside each other."""

    figures: tuple[Compared, ...]
    paired: bool
    """Whether both asked the same at the same times."""
    block: int
    """Neighbours that were drawn together."""
    warnings: tuple[str, ...]
    """What differs besides that which is to be compared, in words."""


class _Sample(Struct, frozen=True):
    """What the figures are made of, a value a request in order of time; nan: it has none."""

    latency: Floats
    delivered: Floats
    good: Floats
    kept: Floats
    quality: Floats
    rate_hz: float


def compare(a: Trial, b: Trial, *, seed: int = SEED) -> Comparison:
    """Return all figures that both trials have, with their intervals; the same seed, the same answer."""
    left, right = _sample(a), _sample(b)
    sizes = len(left.latency), len(right.latency)
    paired = a.header.digest == b.header.digest and sizes[0] == sizes[1]
    block = max(block_length(left.latency), block_length(right.latency))
    figures = [] if min(sizes) < FEWEST else _figures(left, right, block, paired, seed)
    return Comparison(tuple(figures), paired, block, tuple(_warnings(a, b)))


def _sample(trial: Trial) -> _Sample:
    told, mix, window_s = trial.counted, trial.header.workload.mix, trial.window_s
    goals = [mix[r.kind].latency_s for r in told]
    good = [is_good(r, mix) for r in told]
    return _Sample(
        latency=np.array([r.latency_s if r.is_delivered else math.nan for r in told]),
        delivered=np.array([r.is_delivered and r.ended_s <= window_s for r in told], float),
        good=np.array([g and r.ended_s <= window_s for g, r in zip(good, told, strict=True)], float),
        kept=np.array([math.nan if goal is None else g for goal, g in zip(goals, good, strict=True)]),
        quality=np.array(
            [math.nan if r.quality is None or not r.is_delivered else r.quality for r in told]
        ),
        rate_hz=len(told) / window_s if window_s else 0.0,
    )


Figure = Callable[[_Sample, NDArray[np.intp]], float]


def _percentile(part: int) -> Figure:
    def of(sample: _Sample, rows: NDArray[np.intp]) -> float:
        values = sample.latency[rows]
        values = values[~np.isnan(values)]
        return float(np.percentile(values, part)) if len(values) >= ENOUGH[part] else math.nan

    return of


def _mean(name: str, *, hz: bool = False) -> Figure:
    def of(sample: _Sample, rows: NDArray[np.intp]) -> float:
        values: Floats = getattr(sample, name)[rows]
        values = values[~np.isnan(values)]
        return float(values.mean()) * (sample.rate_hz if hz else 1.0) if len(values) else math.nan

    return of


FIGURES: dict[str, tuple[Figure, bool]] = {
    "mean_s": (_mean("latency"), True),
    "p50_s": (_percentile(50), True),
    "p95_s": (_percentile(95), True),
    "p99_s": (_percentile(99), True),
    "throughput_hz": (_mean("delivered", hz=True), True),
    "goodput_hz": (_mean("good", hz=True), True),
    "attainment": (_mean("kept"), False),
    "mean_quality": (_mean("quality"), False),
}
"""Each, and whether it is told as a ratio."""


def _figures(a: _Sample, b: _Sample, block: int, paired: bool, seed: int) -> list[Compared]:
    whole_a, whole_b = np.arange(len(a.latency)), np.arange(len(b.latency))
    had: dict[str, tuple[float, float]] = {}
    for name, (figure, is_ratio) in FIGURES.items():
        here, there = figure(a, whole_a), figure(b, whole_b)
        if not (math.isnan(here) or math.isnan(there) or (is_ratio and not here)):
            had[name] = here, there
    drawn: dict[str, list[float]] = {name: [] for name in had}
    for i, j in _draws(len(whole_a), len(whole_b), block, paired, seed):
        for name, changes in drawn.items():
            figure, is_ratio = FIGURES[name]
            changes.append(_change(figure(a, i), figure(b, j), is_ratio))
    found = []
    for name, (here, there) in had.items():
        known = np.array(drawn[name])[~np.isnan(drawn[name])]
        if len(known) < len(drawn[name]) / 2:
            continue  # too few values in most of the draws to say anything
        low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        is_ratio = FIGURES[name][1]
        change = _change(here, there, is_ratio)
        found.append(Compared(name, here, there, change, is_ratio, float(low), float(high)))
    return found


def _change(a: float, b: float, is_ratio: bool) -> float:
    if not is_ratio:
        return b - a
    return b / a if a else math.nan


def _draws(
    n: int, m: int, block: int, paired: bool, seed: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield which requests of either trial each resample has: the same for every figure."""
    dice = np.random.default_rng(seed)
    count = min(RESAMPLES, max(200, MOST_RESAMPLED // (n + m)))
    for _ in range(count):
        rows = _blocks(n, block, dice)
        yield rows, rows if paired else _blocks(m, block, dice)


def _blocks(n: int, block: int, dice: np.random.Generator) -> NDArray[np.intp]:
    """Draw n of 0..n-1 in runs of `block` neighbours, those at the end going on at the beginning."""
    starts = dice.integers(0, n, math.ceil(n / block))
    rows: NDArray[np.intp] = ((starts[:, None] + np.arange(block)) % n).ravel()[:n]
    return rows


def block_length(values: Floats) -> int:
    """Return how many neighbours hang together: twice the lag from which on they look independent.

    That is where the autocorrelation first falls below 2 / sqrt(n); at least n^(1/3), at most n / 10.
    """
    known = values[~np.isnan(values)]
    n = len(known)
    if n < FEWEST or not known.std():
        return 1
    ranks = np.argsort(np.argsort(known)).astype(float)  # one long wait must not hide the others
    ranks -= ranks.mean()
    power = float(ranks @ ranks)
    most = max(1, n // 10)
    lag = next((k for k in range(1, most) if ranks[:-k] @ ranks[k:] / power < 2 / math.sqrt(n)), most)
    return int(max(1, min(most, max(2 * lag, round(n ** (1 / 3))))))


def _warnings(a: Trial, b: Trial) -> list[str]:
    """Return what differs that was perhaps not meant to, and what the trials themselves doubt."""
    found = []
    here, there = a.header, b.header
    if here.digest != there.digest:
        found.append("not the same requests at the same times: compared as two separate samples")
    if here.generator.get("processor") != there.generator.get("processor"):
        found.append("not the same machine")
    if here.generator.get("packages") != there.generator.get("packages"):
        found.append("not the same versions of packages: " + _changed(here.generator, there.generator))
    for trial in (a, b):
        count = len(trial.counted)
        if count < FEWEST:
            found.append(f"{trial.name} has {count} requests: too few to tell anything from chance")
    return found


def _changed(a: dict[str, Any], b: dict[str, Any]) -> str:
    here, there = a.get("packages", {}), b.get("packages", {})
    names = sorted({*here, *there})
    return ", ".join(
        f"{n} {here.get(n, 'none')} -> {there.get(n, 'none')}"
        for n in names
        if here.get(n) != there.get(n)
    )
