"""What is measured before the systems meet: the serial capacity, and the best knobs of each peer."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bench.load import Ask, Outcome, Pixels, arrivals, offer
from bench.peers.base import Batching, BatchingSystem, System

UNSWEPT = Batching(16, 0.0)
"""The knobs of the peers in a quick run."""
SIZES = (8, 16, 32)
FLOOD = 48
AS_GOOD = 0.97
"""Of two sizes with as good a throughput the smaller one is kept: it delays less."""

Asks = Callable[[int], list[Ask]]
"""Returns so many new asks."""


async def serial_capacity(system: System, asks: list[Ask]) -> float:
    """Return the pictures per second of a system that is always busy with one at a time."""
    started = time.perf_counter()
    for ask in asks:
        await system.paint(ask)
    return len(asks) / (time.perf_counter() - started)


async def warm_up(system: System, asks: list[Ask]) -> None:
    """Let a system see one request alone and several together, as they will come; nothing is kept."""
    await system.paint(asks[0])
    await asyncio.gather(*(system.paint(ask) for ask in asks))


async def paint_together(system: System, asks: list[Ask]) -> list[Pixels]:
    """Return the pictures of asks that are sent at once."""
    return await asyncio.gather(*(system.paint(ask) for ask in asks))


def largest_difference(ours: list[Pixels], theirs: list[Pixels]) -> int:
    """Return by how many of 255 levels a value differs at most."""
    pairs = zip(ours, theirs, strict=True)
    return max(int(np.abs(a.astype(np.int16) - b.astype(np.int16)).max()) for a, b in pairs)


async def best_batching(
    system: BatchingSystem, asks: Asks, capacity: float | None, seconds: float, say: Callable[[str], None]
) -> Batching:
    """Return the knobs for a running peer, and leave it with them.

    First the size, by the throughput of a flood; then the wait, if it has a choice of waits, by the 95th
    percentile at 0.7 of `capacity`, or of the peer's own, just found, in `seconds` each.
    """
    waits_s = system.waits_s
    flood = asks(FLOOD)
    by_size: dict[int, Outcome] = {}
    for size in SIZES:
        await system.tune(Batching(size, waits_s[len(waits_s) // 2]))
        by_size[size] = await offer(system.paint, flood, [0.0] * len(flood))
        say(f"{system.name}: at most {size}: {by_size[size].figures()['per_s']} pictures/s")
    most = max(outcome.figures()["per_s"] for outcome in by_size.values())
    size = next(s for s in SIZES if by_size[s].figures()["per_s"] >= AS_GOOD * most)
    times = arrivals(0.7 * (capacity or most), seconds, seed=0)
    best, best_p95 = Batching(size, waits_s[0]), float("inf")
    for wait_s in waits_s if len(waits_s) > 1 else ():
        candidate = replace(best, wait_s=wait_s)
        await system.tune(candidate)
        p95 = (await offer(system.paint, asks(len(times)), times)).figures().get("p95_s", float("inf"))
        say(f"{system.name}: {candidate}: p95 {p95} s at 0.7x")
        if p95 < best_p95:
            best, best_p95 = candidate, p95
    await system.tune(best)
    return best
