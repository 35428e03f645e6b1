"""Open-loop load: what is asked and when, and what came of it. No system under test lives here.

Arrivals are a Poisson process given its count: n = rate x seconds times, uniform and sorted. They do
not wait for answers, and a latency counts from the scheduled arrival, so a system that stalls cannot
hide it (no coordinated omission). The same seed gives every system the same arrivals and the same asks.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.report import percentile
from difs import processes
from difs.actors.awake import Cores
from difs.clock import MonotonicClock
from difs.trials import openloop

PATIENCE_S = 120.0
"""An answer that takes longer counts as a failure."""

QUIET = 0.05
"""A machine of whose cores more than this share is busy is not measured on if that can be helped."""

SETTLE_S = 5.0
"""Before it is measured every system is left alone: DIFS measures batches when it is idle, as the others'
batch sizes were swept before."""

TEMPLATES = ("{}", "a {}", "{} emoji", "a picture of a {}", "a cute {}", "{} icon", "a drawing of a {}")

Pixels = NDArray[np.uint8]
Paint = Callable[["Ask"], Awaitable[Pixels]]


@dataclass(frozen=True)
class Ask:
    """One request, in words that every system understands."""

    prompt: str
    seed: int
    steps: int
    guidance_scale: float


@dataclass
class Outcome:
    """What one load did to one system; two of them add up."""

    offered: int = 0
    latencies: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    makespan_s: float = 0.0
    client_cpu_s: float = 0.0
    late_s: float = 0.0
    """The latest that an ask was sent after its scheduled time."""

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(
            self.offered + other.offered,
            self.latencies + other.latencies,
            self.failures + other.failures,
            self.makespan_s + other.makespan_s,
            self.client_cpu_s + other.client_cpu_s,
            max(self.late_s, other.late_s),
        )

    def figures(self) -> dict[str, Any]:
        """Return what is printed and kept; a load of which nothing came back has no latencies."""
        done = len(self.latencies)
        found: dict[str, Any] = {
            "offered": self.offered,
            "done": done,
            "per_s": round(done / self.makespan_s, 3) if done else 0.0,
        }
        if done:
            found["p50_s"] = round(percentile(self.latencies, 0.50), 4)
            found["p95_s"] = round(percentile(self.latencies, 0.95), 4)
            found["p99_s"] = round(percentile(self.latencies, 0.99), 4)
            found["max_s"] = round(max(self.latencies), 4)
        if self.failures:
            found |= {"failed": len(self.failures), "first_failure": self.failures[0]}
        found["client_cpu_share"] = round(self.client_cpu_s / self.makespan_s, 4)
        found["sent_late_max_s"] = round(self.late_s, 4)
        return found


def busy_share(seconds: float = 1.0) -> float:
    """Return which part of the cores' time was used by anyone in the next `seconds` (proc(5), stat)."""

    def read() -> tuple[int, int]:
        fields = [int(part) for part in Path("/proc/stat").read_text("ascii").split("\n")[0].split()[1:]]
        return sum(fields[:8]), fields[3] + fields[4]

    total, idle = read()
    time.sleep(seconds)
    later, idle_later = read()
    return 1.0 - (idle_later - idle) / max(1, later - total)


def wait_until_quiet(patience_s: float = 60.0) -> float:
    """Wait until nothing else computes, or for `patience_s`; returns the share that is busy then."""
    end = time.monotonic() + patience_s
    while (share := busy_share()) > QUIET and time.monotonic() < end:
        pass
    return share


ALL_CORES = ("--set", f"actors.threads={processes.cores()}")
"""For a service that is compared with what leaves no core to all else."""


@contextmanager
def awake() -> Iterator[bool]:
    """Keep the cores awake for all that is compared, as DIFS would; yields whether that is allowed."""
    cores = Cores(math.inf)
    cores.rouse(0.0)
    try:
        yield cores.are_held
    finally:
        cores.close()


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Return the times of `rate * seconds` arrivals, in seconds from the start."""
    dice = random.Random(f"arrivals {seed}")
    return sorted(dice.uniform(0, seconds) for _ in range(max(1, round(rate * seconds))))


def mix(
    captions: Sequence[str], guidances: Sequence[float], steps: Sequence[int], count: int, seed: int
) -> list[Ask]:
    """Return `count` asks: no prompt twice as long as there are enough, settings equally often."""
    dice = random.Random(f"mix {seed}")
    prompts = [template.format(caption) for template in TEMPLATES for caption in captions]
    dice.shuffle(prompts)
    settings = list(islice(cycle(product(steps, guidances)), count))
    dice.shuffle(settings)
    return [
        Ask(prompts[i % len(prompts)], seed * 100_000 + i, evaluations, scale)
        for i, (evaluations, scale) in enumerate(settings)
    ]


async def offer(paint: Paint, asks: Sequence[Ask], times: Sequence[float]) -> Outcome:
    """Send each ask at its time, whatever became of the others; wait for all."""
    outcome = Outcome(offered=len(times))
    cpu, clock = time.thread_time(), MonotonicClock()
    started = clock.now()

    async def one(i: int) -> None:
        outcome.late_s = max(outcome.late_s, clock.now() - started - times[i])
        try:
            async with asyncio.timeout(PATIENCE_S):
                await paint(asks[i])
            outcome.latencies.append(clock.now() - started - times[i])
        except Exception as error:  # a system under test may fail in its own ways: they are counted
            outcome.failures.append(f"{type(error).__name__}: {error}"[:300])

    await openloop.offer(times, one, clock, started)
    outcome.makespan_s = clock.now() - started
    outcome.client_cpu_s = time.thread_time() - cpu
    return outcome
