"""How cost grows with what there is: queued requests, clients, variants, devices.

    python -m bench.scale [--rounds 100]

The broker's heart alone, with policy `modelless`, in this thread: microseconds of CPU of one request from
its arrival to its end (one step report between), of one decision and of one tick, and the bytes that a
waiting request takes (`tracemalloc`). One number grows, the others stay: 100 requests wait of 16 clients,
8 variants, one device. Of each figure the tenth percentile counts: others' work on the machine slows the
rest. Sockets are `bench.house`'s.
"""

import argparse
import tracemalloc
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from bench.report import RESULTS, keep, verdict
from bench.scale_books import Heart
from difs import processes

QUEUED, CLIENTS = (0, 100, 1000, 10_000), (1, 10, 100, 1000)
VARIANTS, DEVICES = (1, 8, 64, 256, 1000), (1, 2, 4, 8, 16)
USUAL = 100
"""Requests that wait where something else grows."""
Row = dict[str, float]


def measured(heart: Heart, queued: int, rounds: int) -> Row:
    """Return the costs with so many waiting."""
    heart.fill(queued)
    return heart.costs(rounds)


def bytes_a_request(queued: int) -> int:
    """Return the bytes of Python objects that a waiting request takes."""
    heart = Heart()
    heart.fill(10)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    heart.fill(queued)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return round((after - before) / (queued - 10))


def sweep(rounds: int) -> dict[str, dict[int, Row]]:
    """Return every curve: what grows -> how many -> costs."""
    few = max(10, rounds // 5)
    return {
        "queued": {n: measured(Heart(), n, rounds) for n in QUEUED},
        "clients": {n: measured(Heart(clients=n), max(USUAL, n), rounds) for n in CLIENTS},
        "variants": {n: measured(Heart(variants=n), USUAL, rounds if n < 100 else few) for n in VARIANTS},
        "devices": {n: measured(Heart(devices=n), USUAL, rounds) for n in DEVICES},
    }


def growth(curve: dict[int, Row], key: str) -> float:
    """Return the last cost of a curve as a multiple of the first."""
    first, *_, last = curve.values()
    return round(last[key] / first[key], 2)


def draw(path: Path, curves: dict[str, dict[int, Row]]) -> bool:
    """Draw the curves beside each other; False without matplotlib."""
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.6), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True)
    labels = {"request_us": "one request", "decision_us": "one decision", "tick_us": "one tick (0.5 s)"}
    for axes, (name, curve) in zip(panels, curves.items(), strict=True):
        for key, label in labels.items():
            axes.plot(list(curve), [row[key] for row in curve.values()], marker="o", label=label)
        axes.set(xlabel=f"{name} (log)", xscale="symlog", yscale="log")
        axes.set_xticks(list(curve), [f"{n:,}" for n in curve])
        axes.minorticks_off()
        axes.grid(alpha=0.3, which="both")
    panels[0].set(ylabel="microseconds of the broker's CPU (log)")
    panels[0].legend(fontsize=8)
    figure.suptitle("What a request costs the broker's heart as the house grows (policy modelless)")
    figure.savefig(path, dpi=110)
    return True


def judged(curves: dict[str, dict[int, Row]]) -> Sequence[dict[str, object]]:
    """Print and return what must hold: what waits, and who asks, cost the next one nothing."""
    return [
        verdict(
            f"a request with 10 000 waiting, of one with {QUEUED[0]}",
            growth(curves["queued"], "request_us"),
            1.5,
        ),
        verdict(
            "a request of 1 000 clients, of one of a single client",
            growth(curves["clients"], "request_us"),
            1.5,
        ),
        verdict(
            "a decision among 1 000 variants, ms", curves["variants"][1000]["decision_us"] / 1e3, 10.0
        ),
    ]


def main() -> None:
    """Measure, print, draw, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=100)
    asked = parser.parse_args()
    processes.collect_rarely()  # as the broker does
    curves = sweep(asked.rounds)
    for name, curve in curves.items():
        for number, row in curve.items():
            print(f"  {name:>8} {number:>6} {row}")
    nbytes = bytes_a_request(QUEUED[-1])
    print(f"  a waiting request takes {nbytes} bytes")
    goals = judged(curves)
    told = {name: {str(n): row for n, row in curve.items()} for name, curve in curves.items()}
    command = f"python -m bench.scale --rounds {asked.rounds}"
    path = keep("scale", command, {**told, "bytes_a_request": nbytes, "goals": goals})
    print(path)
    if draw(RESULTS / f"{path.stem}.png", curves):
        print(path.with_suffix(".png"))


if __name__ == "__main__":
    main()
