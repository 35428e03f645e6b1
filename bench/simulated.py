"""The simulator against the service that it simulates: the same requests in real and in virtual time.

    python -m bench.simulated [--requests 60] [--loads 0.5 0.9 1.3] [--seed 1]

A private service with the embedded family on this CPU and policy `modelless`. What the simulator takes
for true are the profiles that `difs profile` made here, else those of bench/tables. How fast the machine
is now is measured in the same run: before and after each load some requests come alone, in real and in
virtual time, and all seconds of the profiles are stretched by the mean of the two ratios. So what keeps
the machine busy all the time cancels; what came and went within a load does not: `stretch` tells it
(before, after). A load of 1 is one request in the seconds of one alone. Goals: attainment within 3
points, mean quality within 0.03; where the two stretches differ by more than UNSTEADY, the machine was no
fit judge.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from msgspec.structs import replace

from bench import embedded
from bench.load import ALL_CORES, arrivals, wait_until_quiet
from bench.promises import wait_until_loaded
from bench.replay import Replay
from bench.report import keep, percentile, verdict
from difs import AsyncClient, catalogue, config, errors, processes, profiles
from difs.clock import MonotonicClock
from difs.private import PrivateService
from difs.profiling import store
from difs.simulation import figures, tables
from difs.simulation.ledger import Ledger
from difs.simulation.scenario import Fleet, Scenario, Wish
from difs.simulation.tables import Mode, Model
from difs.trials import openloop

DEVICE = "cpu-0"
LATENCIES_S = (1.0, 2.0, 4.0)
ALONE = 6
"""Requests before and after each load, of which the first is not counted."""
ALONE_S = 4.0
"""Their latency, and the seconds from one to the next."""
UNSTEADY = 0.15


@dataclass(frozen=True)
class Got:
    """What came of a request; `quality` None: no picture."""

    latency_s: float
    seconds: float
    quality: float | None


async def ask(client: AsyncClient, prompt: str, latency_s: float, seed: int) -> Got:
    """Ask for one picture."""
    started = time.perf_counter()
    try:
        result = await client.generate(prompt, latency_s=latency_s, seed=seed, format="raw", retries=0)
    except errors.DifsError:
        return Got(latency_s, time.perf_counter() - started, None)
    with result:
        return Got(latency_s, time.perf_counter() - started, result.plan.expected_quality or 0.0)


async def offer(
    address: str, times: Sequence[float], latencies: Sequence[float], prompt: str
) -> list[Got]:
    """Send each request at its time; returns what came, in the order of the requests."""
    got: dict[int, Got] = {}
    async with AsyncClient(address) as client:

        async def one(i: int) -> None:
            got[i] = await ask(client, prompt, latencies[i], i)

        clock = MonotonicClock()
        await openloop.offer(times, one, clock, clock.now())
    return [got[i] for i in range(len(times))]


def told(got: Sequence[Got]) -> dict[str, float]:
    """Return the figures of what was measured."""
    done = [g for g in got if g.quality is not None]
    seconds = sorted(g.seconds for g in done)
    return {
        "attainment": sum(g.seconds <= g.latency_s for g in done) / len(got),
        "mean_quality": statistics.fmean(g.quality or 0.0 for g in done) if done else 0.0,
        "mean_s": statistics.fmean(seconds) if done else 0.0,
        "p95_s": percentile(seconds, 0.95) if done else 0.0,
    }


def replay(models: Mapping[str, Model], times: Sequence[float], latencies: Sequence[float]) -> Ledger:
    """Return what came of requests that state the latencies of the real ones, in order."""
    wishes = [Wish(latency_s=latency_s) for latency_s in latencies]
    return Replay(Scenario(fleet=Fleet(devices=1)), models, times, wishes).run()


def stretched(models: Mapping[str, Model], times: float) -> dict[str, Model]:
    """Return variants that take so many times as long."""

    def mode_of(mode: Mode) -> Mode:
        costs = profiles.slowed(mode.resident.costs, steps=times, decode=times)
        costs = replace(costs, encode_s=mode.resident.costs.encode_s * times)
        return replace(mode, resident=replace(mode.resident, costs=costs))

    return {
        name: replace(model, modes={key: mode_of(mode) for key, mode in model.modes.items()})
        for name, model in models.items()
    }


def alone_times() -> list[float]:
    """Return when requests come of which none meets another."""
    return [ALONE_S * i for i in range(ALONE)]


def real_alone_s(address: str, prompt: str) -> float:
    """Return the seconds that a request takes alone, now."""
    got = asyncio.run(offer(address, alone_times(), [ALONE_S] * ALONE, prompt))
    return statistics.median(g.seconds for g in got[1:])


def simulated_alone_s(models: Mapping[str, Model]) -> float:
    """Return what the profiles say of that."""
    ledger = replay(models, alone_times(), [ALONE_S] * ALONE)
    return statistics.median([fate.seconds for fate in ledger.fates.values()][1:])


def models_here() -> tuple[dict[str, Model], str]:
    """Return the variants profiled on this machine, else those of bench/tables; and which they are."""
    known = catalogue.open_for(config.load(None)).found
    facts = store.device_facts(DEVICE, processes.cores())
    try:
        return tables.here(known.variants.values(), facts), "profiled here"
    except errors.ConfigError:
        infos = {name: variant.info() for name, variant in known.variants.items()}
        return tables.read(embedded.TABLES, infos), "bench/tables"


def main() -> None:
    """Measure, simulate, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=60, help="for each load")
    parser.add_argument("--loads", type=float, nargs="*", default=[0.5, 0.9, 1.3])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--patience", type=float, default=60.0, help="seconds to wait for a quiet machine"
    )
    asked = parser.parse_args()
    models, source = models_here()
    profiled_s = simulated_alone_s(models)
    busy = wait_until_quiet(asked.patience)
    prompt = "red apple"
    found: dict[str, Any] = {}
    goals = []
    with PrivateService(["--device", "cpu", *ALL_CORES]) as service:
        wait_until_loaded(service.address)
        before_s = real_alone_s(service.address, prompt)
        for load in asked.loads:
            times = arrivals(load / before_s, asked.requests * before_s / load, asked.seed)
            dice = Random(f"latencies {asked.seed}")
            latencies = [dice.choice(LATENCIES_S) for _ in times]
            real = told(asyncio.run(offer(service.address, times, latencies, prompt)))
            after_s = real_alone_s(service.address, prompt)
            stretch = [before_s / profiled_s, after_s / profiled_s]
            as_now = stretched(models, statistics.fmean(stretch))
            simulated = figures.of_run(replay(as_now, times, latencies))
            cell: dict[str, Any] = {key: [round(real[key], 4), simulated[key]] for key in real}
            cell["stretch"] = [round(times, 3) for times in stretch]
            cell["is_steady"] = abs(stretch[1] / stretch[0] - 1.0) <= UNSTEADY
            found[f"{load:g}"] = cell
            print(f"  load {load:g} (measured, simulated): {cell}", flush=True)
            for key in ("attainment", "mean_quality"):
                off = abs(real[key] - (simulated[key] or 0.0))
                goals.append(verdict(f"{key} at load {load:g}, off by", off, 0.03))
            before_s = after_s
    command = f"python -m bench.simulated --requests {asked.requests} --seed {asked.seed}"
    facts = {
        "busy_before": round(busy, 3),
        "tables": source,
        "profiled_alone_s": round(profiled_s, 4),
        "loads": found,
        "goals": goals,
    }
    print(keep("simulated", command, facts))


if __name__ == "__main__":
    main()
