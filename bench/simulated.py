"""The simulator against the service that it simulates: the same requests in real and in virtual time.

    python -m bench.simulated [--requests 60] [--loads 0.5 0.9 1.3] [--seed 1]

A private service with the embedded family on this CPU and policy `modelless`. A request alone gives the
seconds of one; a load of 1 is one request in that time. What the simulator takes for true are the
profiles that `difs profile` made here: they must be there, and where the machine is busier than it was
then, the difference is the machine's. Goals: attainment within 3 points, mean quality within 0.03.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from bench.load import arrivals, wait_until_quiet
from bench.promises import wait_until_loaded
from bench.report import keep, percentile, verdict
from difs import AsyncClient, catalogue, config, errors, processes
from difs.private import PrivateService
from difs.profiling import store
from difs.simulation import figures, tables
from difs.simulation.scenario import Fleet, Scenario, Wish
from difs.simulation.tables import Model
from difs.simulation.world import World

DEVICE = "cpu-0"
LATENCIES_S = (1.0, 2.0, 4.0)
WARM = 6


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
    """Send each request at its time."""
    async with AsyncClient(address) as client:
        started = time.perf_counter()
        tasks = []
        for i, (due, latency_s) in enumerate(zip(times, latencies, strict=True)):
            await asyncio.sleep(max(0.0, started + due - time.perf_counter()))
            tasks.append(asyncio.create_task(ask(client, prompt, latency_s, i)))
        return list(await asyncio.gather(*tasks))


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


class Replay(World):
    """A run whose requests state the latencies of the real ones, in order."""

    def __init__(
        self, models: Mapping[str, Model], times: Sequence[float], latencies: Sequence[float]
    ) -> None:
        """See World."""
        self._latencies = latencies
        scenario = Scenario(mix=tuple(Wish(latency_s=s) for s in LATENCIES_S), fleet=Fleet(devices=1))
        super().__init__(scenario, models, times=times)

    def _wish(self, number: int) -> Wish:
        return Wish(latency_s=self._latencies[number])


def models_here() -> dict[str, Model]:
    """Return the profiled variants of this machine's CPU."""
    settings = config.load(None)
    threads = settings.actors.threads or processes.cores_share(1)
    known = catalogue.open_for(settings).found
    return tables.here(known.variants.values(), store.device_facts(DEVICE, threads))


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
    models = models_here()
    busy = wait_until_quiet(asked.patience)
    prompt = "red apple"
    found, goals = {}, []
    with PrivateService(["--device", "cpu"]) as service:
        wait_until_loaded(service.address)
        alone = asyncio.run(offer(service.address, [3.0 * i for i in range(WARM)], [4.0] * WARM, prompt))
        own_s = statistics.median(g.seconds for g in alone[1:])
        for load in asked.loads:
            times = arrivals(load / own_s, asked.requests * own_s / load, asked.seed)
            dice = Random(f"latencies {asked.seed}")
            latencies = [dice.choice(LATENCIES_S) for _ in times]
            real = told(asyncio.run(offer(service.address, times, latencies, prompt)))
            simulated = figures.of_run(Replay(models, times, latencies).run())
            cell = {key: [round(real[key], 4), simulated[key]] for key in real}
            found[f"{load:g}"] = cell
            print(f"  load {load:g} (measured, simulated): {cell}", flush=True)
            for key, name, bound in (
                ("attainment", "attainment", 0.03),
                ("mean_quality", "quality", 0.03),
            ):
                off = abs(real[key] - (simulated[key] or 0.0))
                goals.append(verdict(f"{name} at load {load:g}, off by", off, bound))
    command = f"python -m bench.simulated --requests {asked.requests} --seed {asked.seed}"
    facts = {"busy_before": round(busy, 3), "alone_s": round(own_s, 4), "loads": found, "goals": goals}
    print(keep("simulated", command, facts))


if __name__ == "__main__":
    main()
