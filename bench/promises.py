"""What DIFS predicts and promises, against what comes: mixed goals at three loads.

    python -m bench.promises [--requests 100] [--loads 0 0.5 0.8] [--seed 1]

A private service with the embedded family and policy `modelless`. At load 0 one request waits for the
other; that gives the mean seconds of a request, hence the rate of a load. Above, arrivals are Poisson and
do not wait (see `bench.load`). A quarter of the requests state nothing, a quarter a named quality, half a
latency between 0.2 and 4 s, of which every second one would rather be refused than late. Half of all pin
a variant, so that the work differs. Reported for each load, and for all of them together: the error of
the predicted finish as a share of it, how many of the latencies that were accepted as kept were kept, and
what of the error is the machine's. That is told in five ways: the floor, how well the bare pipeline's
next call can be told from its last ones, painting at the same times just before and just after (see
`bench.floor`); the error of the seconds of pictures that shared no call, their waiting left out; how well
the seconds of the very same pictures can be told, each from those before it, by who knows afterwards what
is usual and which mean was best; the same requests to a service that leaves no core to its broker and its
clients (`actors.threads`), with loads of its own mean seconds; and to an engine that sleeps as its script
says, where all else is as it is, clocks and processes and sockets. These are all for one picture of the
native size. A last service is asked for one to four, of three sizes: what was never measured is told
then, and several pictures wait for each other.
"""

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from bench import embedded, floor, overhead
from bench.load import ALL_CORES, SETTLE_S, arrivals, awake, wait_until_quiet
from bench.report import keep, percentile, verdict
from difs import AsyncClient, Client, errors
from difs.clock import MonotonicClock
from difs.private import PrivateService
from difs.trials import openloop

ALL = "all"
"""The name of the figures of all loads together."""
LEVELS = ("draft", "low", "medium", "high", "best")
SHORTEST_S, LONGEST_S = 0.2, 4.0
PATIENCE_S = 120.0
ALIKE = 3
"""Of fewer pictures with the same variant, steps and size nobody says what is usual."""
SCRIPT = """
encode_s = 0.002
step_s = 1.28
row_share = 0.35
decode_s = 0.448
"""
"""Near what the small ones take here: 10 ms for a row of 64 x 64, 7 for a decoding."""
SCRIPTED = ("--device", "simulated", "--set", f"actors.script={json.dumps(SCRIPT)}")


@dataclass(frozen=True)
class Ended:
    """What came of a request."""

    predicted_s: float = 0.0
    measured_s: float = 0.0
    latency_s: float | None = None
    promised: bool | None = None
    """Whether `latency_s` was accepted as one that is kept."""
    variant: str = ""
    steps: int = 0
    shape: tuple[int, ...] = ()
    """Width and height of its pictures, and how many."""
    queue_s: float = 0.0
    refusal: str = ""
    own_s: tuple[float, float] | None = None
    """Predicted and measured seconds without the waiting; None: it shared calls."""


SIZES = ((64, 64), (64, 64), (64, 128), (128, 128))
NUMBERS = (1, 1, 2, 4)


def wishes(
    count: int, seed: int, variants: Sequence[str], *, slower: float = 1.0, is_varied: bool = False
) -> list[dict[str, Any]]:
    """Return so many requests; `is_varied`: of several sizes, and for several pictures.

    `slower`: how many times as long as the embedded ones they may take.
    """
    dice = random.Random(f"wishes {seed}")
    captions = embedded.captions("emoji-base")
    found = []
    for i in range(count):
        wish: dict[str, Any] = {"prompt": dice.choice(captions), "seed": seed * 100_000 + i}
        if i % 4 == 1:
            wish["quality"] = dice.choice(LEVELS)
        elif i % 2 == 0:
            wish["latency_s"] = slower * SHORTEST_S * (LONGEST_S / SHORTEST_S) ** dice.random()
            wish["on_infeasible"] = "reject" if i % 4 == 0 else "degrade"
        if dice.random() < 0.5:
            wish["variant"] = dice.choice(variants)
        found.append(wish)
    dice.shuffle(found)
    for wish in found if is_varied else ():
        wish["width"], wish["height"] = dice.choice(SIZES)
        wish["n"] = dice.choice(NUMBERS)
    return found


async def ask(client: AsyncClient, wish: dict[str, Any]) -> Ended:
    """Ask for one picture; the seconds are the client's own."""
    started = time.perf_counter()
    try:
        result = await client.generate(**wish, retries=0)
    except errors.DifsError as error:
        return Ended(latency_s=wish.get("latency_s"), refusal=error.code)
    seconds = time.perf_counter() - started
    with result:
        plan, timings = result.plan, result.timings
    own_s = timings.encode_s + timings.steps_s + timings.decode_s
    told = plan.prediction
    return Ended(
        predicted_s=told.total_s,
        measured_s=seconds,
        latency_s=wish.get("latency_s"),
        promised=plan.keeps_latency,
        variant=plan.variant,
        steps=plan.steps,
        shape=(plan.width, plan.height, wish.get("n", 1)),
        queue_s=told.queue_s,
        own_s=(told.total_s - told.queue_s, own_s) if timings.shared_by == 1 else None,
    )


async def offer(
    client: AsyncClient, asked: Sequence[dict[str, Any]], times: Sequence[float]
) -> list[Ended]:
    """Send the requests at their times; all at 0: one after the other."""
    if not any(times):
        return [await ask(client, wish) for wish in asked]
    ended: list[Ended] = []

    async def one(i: int) -> None:
        ended.append(await ask(client, asked[i]))

    clock = MonotonicClock()
    await openloop.offer(times, one, clock, clock.now())
    return ended


def figures(ended: Sequence[Ended]) -> dict[str, Any]:
    """Return what is printed and kept of one load."""
    done = [e for e in ended if not e.refusal]
    shares = [abs(e.measured_s - e.predicted_s) / e.predicted_s for e in done]
    own = [abs(e.own_s[1] - e.own_s[0]) / e.own_s[0] for e in done if e.own_s is not None]
    promised = [e for e in done if e.promised]
    kept = [e for e in promised if e.latency_s is not None and e.measured_s <= e.latency_s]
    chosen: dict[str, int] = {}
    for e in done:
        name = f"{e.variant}@{e.steps}"
        chosen[name] = chosen.get(name, 0) + 1
    return {
        "requests": len(ended),
        "refused": len(ended) - len(done),
        "mean_s": round(statistics.mean(e.measured_s for e in done), 4),
        "error_p50": round(percentile(shares, 0.50), 4),
        "error_p90": round(percentile(shares, 0.90), 4),
        "late_mean": round(
            statistics.mean((e.measured_s - e.predicted_s) / e.predicted_s for e in done), 4
        ),
        "own_p90": round(percentile(own, 0.90), 4) if own else None,
        "own_best_p90": best_told(done),
        "promised": len(promised),
        "kept": round(len(kept) / max(1, len(promised)), 4),
        "chosen": dict(sorted(chosen.items(), key=lambda item: -item[1])),
    }


def wait_until_loaded(address: str) -> int:
    """Wait until a service has loaded and measured what it loads at its start; returns how many."""
    with Client(address) as client:
        wanted = len(client.variants())
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if all(len(d.residents) == wanted for d in client.status().devices):
                break
            time.sleep(0.5)
    time.sleep(SETTLE_S)
    return wanted


def best_told(done: Sequence[Ended]) -> float | None:
    """Return how well the seconds of unshared pictures can be told from those before, with hindsight.

    Their order is that of their ends. None: too few were alike.
    """
    alone = [(e.variant, e.steps, e.shape, e.own_s[1]) for e in done if e.own_s is not None]
    usual: dict[tuple[Any, ...], list[float]] = {}
    for *kind, seconds in alone:
        usual.setdefault(tuple(kind), []).append(seconds)
    shares = [
        seconds / statistics.median(found)
        for *kind, seconds in alone
        if len(found := usual[tuple(kind)]) >= ALIKE
    ]
    return round(floor.error(shares), 4) if len(shares) > ALIKE else None


Painted = Callable[[Sequence[float]], float]
"""What the bare pipeline's error is when it paints at these times."""


def painted(times: Sequence[float]) -> float:
    """See Painted."""
    with awake():
        return round(floor.error(floor.seconds_at(_bare(), times)), 4)


@cache
def _bare() -> Any:
    return overhead.load_bare()


async def measure(
    address: str, asked: argparse.Namespace, paint: Painted | None, **how: Any
) -> dict[str, Any]:
    """Return the figures of each load, and of all."""
    found: dict[str, Any] = {}
    everything: list[Ended] = []
    count, seed = asked.requests, asked.seed
    async with AsyncClient(address) as client:
        names = sorted(info.name for info in await client.variants())
        await offer(client, wishes(12, 0, names), [0.0] * 12)  # warm up
        mean_s = 0.0
        for load in sorted({0.0, *asked.loads}):
            rate = load / mean_s if load else 0.0
            times = arrivals(rate, count / rate, seed) if load else [0.0] * count
            before = paint(times) if paint else None
            wanted = wishes(count, seed + round(100 * load), names, **how)
            ended = await offer(client, wanted, times)
            everything += ended
            cell = figures(ended)
            mean_s = mean_s or cell["mean_s"]
            floors = [before, paint(times)] if paint else []
            found[f"{load:g}"] = {"rate_hz": round(rate, 3), "floor_p90": floors, **cell}
            print(f"  load {load:g}: {found[f'{load:g}']}", flush=True)
    found[ALL] = {"floor_p90": [], **figures(everything)}
    print(f"  all loads: {found[ALL]}", flush=True)
    return found


def at(load: str) -> str:
    """Return what a goal says of the load of its figures."""
    return "of all loads together" if load == ALL else f"at load {load}"


def serve(
    options: Sequence[str], asked: argparse.Namespace, paint: Painted | None = None, **how: Any
) -> dict[str, Any]:
    """Return the figures of each load with a service of its own; `how`: see wishes."""
    with PrivateService(options) as service:
        wait_until_loaded(service.address)
        return asyncio.run(measure(service.address, asked, paint, **how))


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=100, help="for each load")
    parser.add_argument("--loads", type=float, nargs="*", default=[0.0, 0.5, 0.8])
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    busy = wait_until_quiet()
    found = serve((), asked, painted)
    print("  with all cores:")
    all_cores = serve(ALL_CORES, asked)
    print("  as scripted:")
    scripted = serve(
        (*SCRIPTED, "--set", f"actors.preload={json.dumps(sorted(embedded.models()))}"), asked
    )
    print("  of several sizes and numbers:")
    varied = serve((), asked, is_varied=True)
    runs = {", as scripted": scripted, ", with all cores": all_cores, ", varied": varied, "": found}
    goals = [
        verdict(f"error p90 {at(load)}{how}", cell["error_p90"], 0.15)
        for how, cells in runs.items()
        for load, cell in cells.items()
    ]
    for how, cells in (("", found), (", with all cores", all_cores), (", varied", varied)):
        if "0.8" in cells:
            name = f"latencies kept at load 0.8{how}"
            goals.append(verdict(name, cells["0.8"]["kept"], 0.95, at_least=True))
    command = f"python -m bench.promises --requests {asked.requests} --seed {asked.seed}"
    parts = {"loads": found, "all_cores": all_cores, "scripted": scripted, "varied": varied}
    print(keep("promises", command, {"busy_before": round(busy, 3), **parts, "goals": goals}))


if __name__ == "__main__":
    main()
