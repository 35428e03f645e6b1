"""The requests of `bench.promises` in virtual time: what of the predictions' error is no noise.

    python -m bench.predictions [--requests 300] [--loads 0 0.5 0.8] [--seeds 1 2 3]

One simulated CPU that takes exactly what `bench/tables` says, the embedded family, policy `modelless`. A
load of 1 is one request in the mean seconds of one alone. What is left of the error is what later
arrivals do to those that are here, and what the model of sharing does not know. Then the same with
requests of several sizes and numbers of pictures.
"""

import argparse
from collections.abc import Mapping
from typing import Any

from bench import embedded
from bench.load import arrivals
from bench.promises import Ended, figures, wishes
from bench.replay import Replay
from bench.report import keep, verdict
from difs.simulation.ledger import Fate
from difs.simulation.scenario import Fleet, Scenario, Wish
from difs.simulation.tables import Model

APART_S = 30.0
"""Between two requests at load 0."""
WARM = 0.1
"""This share of each run is not counted: what is learned online is learned then."""


def ended(fate: Fate) -> Ended:
    """Return what came of a simulated request, as `bench.promises` tells it of a real one."""
    latency_s, plan = fate.asked.requirements.latency_s, fate.plan
    if not fate.is_delivered or plan is None:
        return Ended(latency_s=latency_s, refusal=fate.code or "lost")
    told = plan.prediction
    return Ended(
        predicted_s=told.total_s,
        measured_s=fate.seconds,
        latency_s=latency_s,
        promised=fate.promised,
        variant=plan.variant,
        steps=plan.steps,
        queue_s=told.queue_s,
    )


def run(
    models: Mapping[str, Model],
    count: int,
    rate: float,
    seed: int,
    load: float,
    *,
    is_varied: bool = False,
) -> list[Ended]:
    """Return what came of `count` requests; rate 0: far apart."""
    times = arrivals(rate, count / rate, seed) if rate else [APART_S * i for i in range(count)]
    wanted = wishes(count, seed + round(100 * load), sorted(models), is_varied=is_varied)
    asked = [_simulated(wish) for wish in wanted]
    ledger = Replay(Scenario(fleet=Fleet(devices=1)), models, times, asked).run()
    fates = sorted(ledger.fates.values(), key=lambda fate: fate.arrived_at)
    return [ended(fate) for fate in fates[int(WARM * count) :]]


def _simulated(wish: dict[str, Any]) -> Wish:
    """Return the arguments of `generate` as a simulation takes them."""
    size = (wish["width"], wish["height"]) if "width" in wish else None
    unknown = ("prompt", "seed", "width", "height")
    return Wish(size=size, **{key: value for key, value in wish.items() if key not in unknown})


def cells(
    models: Mapping[str, Model], asked: argparse.Namespace, *, is_varied: bool
) -> dict[str, dict[str, Any]]:
    """Return the figures of each load, of all seeds together."""
    found: dict[str, dict[str, Any]] = {}
    mean_s = 0.0
    for load in sorted({0.0, *asked.loads}):
        rate = load / mean_s if load else 0.0
        ended = [
            e
            for seed in asked.seeds
            for e in run(models, asked.requests, rate, seed, load, is_varied=is_varied)
        ]
        cell = figures(ended)
        mean_s = mean_s or cell["mean_s"]
        found[f"{load:g}"] = {"rate_hz": round(rate, 3), **cell}
        print(f"  load {load:g}: {found[f'{load:g}']}", flush=True)
    return found


def main() -> None:
    """Simulate, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=300, help="for each load and seed")
    parser.add_argument("--loads", type=float, nargs="*", default=[0.0, 0.5, 0.8])
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    asked = parser.parse_args()
    models = embedded.models()
    found = cells(models, asked, is_varied=False)
    print("  of several sizes and numbers:")
    varied = cells(models, asked, is_varied=True)
    goals = [
        verdict(f"error p90 at load {load}{how}", cell["error_p90"], 0.15)
        for how, loads in (("", found), (", varied", varied))
        for load, cell in loads.items()
    ]
    command = f"python -m bench.predictions --requests {asked.requests}"
    print(keep("predictions", command, {"loads": found, "varied": varied, "goals": goals}))


if __name__ == "__main__":
    main()
