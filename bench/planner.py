"""How long a plan of the autoscaler takes, and how near greedy is to the best: pure Python, no service.

    python -m bench.planner [--variants 64] [--devices 8] [--rounds 200]

Every variant has five memory modes on every device; there are 37 kinds of requests: five latencies
without a variant, 32 with one. `first`: all costs and wants are new; `next`: the same view again.
CPU seconds of this thread: others' work on the machine does not count.
"""

import argparse
import random
import time

from bench.report import keep, percentile, verdict
from difs import processes
from difs.autoscaler import search
from difs.autoscaler.base import DeviceView, Form, Options, ResidentView, Stream, View, Want
from difs.autoscaler.plan import Memory, Utility
from difs.autoscaler.search import Option, Problem, Site
from difs.autoscaler.worth import Offer
from difs.messages import MemoryMode

MODES: tuple[tuple[MemoryMode, float, float, float], ...] = (
    ("full", 1.0, 0.5, 1.0),
    ("sliced", 1.0, 0.3, 1.1),
    ("tiled", 1.0, 0.2, 1.15),
    ("model_offload", 0.5, 0.2, 1.6),
    ("group_offload", 0.15, 0.2, 2.2),
)
"""(mode, share of the weights at rest, share of the peak, seconds)."""
GB = 10**9


def forms(chance: random.Random) -> tuple[Form, ...]:
    size, seconds, best = chance.uniform(1, 8), chance.uniform(0.3, 8.0), chance.uniform(0.4, 0.95)
    return tuple(
        Form(
            mode,
            round(size * rest * GB),
            round(size * peak * GB),
            serve_s=seconds * slower,
            load_s=size * 1.5,
            quality=best,
            latency_s=seconds * slower,
            draft_quality=best / 2,
            draft_s=seconds * slower / 6,
        )
        for mode, rest, peak, slower in MODES
    )


def view(chance: random.Random, devices: int, variants: int) -> View:
    names = [f"variant-{i:03}" for i in range(variants)]
    wants = [Want(None, None, latency) for latency in (None, 1.0, 2.0, 4.0, 8.0)]
    wants += [Want(name, None, chance.choice([None, 3.0])) for name in chance.sample(names, 32)]
    rates = [chance.expovariate(10.0) for _ in wants]
    streams = [Stream(want, rate, 30 * rate) for want, rate in zip(wants, rates, strict=True)]
    found = []
    for number in range(devices):
        here = {name: forms(chance) for name in names}
        resident = {
            name: ResidentView("full", is_busy=chance.random() < 0.3) for name in chance.sample(names, 3)
        }
        found.append(DeviceView(f"cuda-{number}", 48 * GB, 2 * GB, resident, here))
    options = Options(parking_bytes=64 * GB, headroom_bytes=GB)
    return View(100.0, tuple(found), dict.fromkeys(names, "sd15"), tuple(streams), options, Memory())


def small(chance: random.Random) -> Problem:
    """Return a problem that can be solved exactly."""
    streams = tuple(Stream(Want(), r, 30 * r) for r in (0.05, 0.2, 1.0))
    sites = []
    for number in range(8):
        device = number % 2
        options = [
            Option(
                chance.randrange(1, 9),
                chance.randrange(3),
                chance.uniform(0, 0.3),
                Offer(device, chance.uniform(0.3, 3), [(s, chance.random()) for s in range(3)]),
            )
            for _ in range(3)
        ]
        sites.append(Site.of(device, (*options, Option(0, 0, 0.0, None)), 3))
    return Problem((12, 12), tuple(sites), streams)


def shares(rounds: int) -> list[float]:
    """Return what greedy reached of the best, problem by problem."""
    found = []
    for seed in range(rounds):
        problem = small(random.Random(seed))
        best = search.value(problem, search.exact(problem, search.current(problem)))
        found.append(search.value(problem, search.greedy(problem)) / best if best else 1.0)
    return found


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--variants", type=int, default=64)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=200)
    asked = parser.parse_args()
    processes.collect_rarely()  # as the broker does
    planner = Utility()
    first: list[float] = []
    later: list[float] = []
    for seed in range(asked.rounds):
        seen = view(random.Random(seed), asked.devices, asked.variants)
        for found in (first, later):
            started = time.thread_time()
            planner.plan(seen)
            found.append(time.thread_time() - started)
    reached = shares(60)
    figures = {
        "first_p50_ms": round(1e3 * percentile(first, 0.5), 2),
        "next_p50_ms": round(1e3 * percentile(later, 0.5), 2),
        "next_p99_ms": round(1e3 * percentile(later, 0.99), 2),
        "greedy_of_exact_mean": round(sum(reached) / len(reached), 4),
        "greedy_of_exact_least": round(min(reached), 4),
    }
    print(f"  {asked.devices} devices x {asked.variants} variants x {len(MODES)} modes: {figures}")
    goals = [
        verdict("a plan, median, ms", figures["next_p50_ms"], 10.0),
        verdict("a plan with new costs, median, ms", figures["first_p50_ms"], 10.0),
    ]
    command = f"python -m bench.planner --variants {asked.variants} --devices {asked.devices}"
    print(keep("planner", command, {**figures, "goals": goals}))


if __name__ == "__main__":
    main()
