"""Draws what `bench.engine` measured, where matplotlib is installed."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any


def draw(path: Path, title: str, systems: dict[str, dict[str, Any]]) -> bool:
    """Draw latency and throughput against the offered load; False without matplotlib.

    `systems`: name -> load ("0.7x") -> figures with `per_s`, `p50_s`, `p95_s`; other loads are left out.
    """
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, by_load in systems.items():
        shown = {load: cell for load, cell in by_load.items() if load.endswith("x") and cell["done"]}
        loads = [float(load.removesuffix("x")) for load in shown]
        cells = list(shown.values())
        (line,) = left.plot(loads, [c["p95_s"] for c in cells], marker="o", label=f"{name}, p95")
        left.plot(loads, [c["p50_s"] for c in cells], ls="--", color=line.get_color())
        right.plot(loads, [c["per_s"] for c in cells], marker="o", label=name)
    left.set(yscale="log", ylabel="latency from the scheduled arrival, s (dashed: median)")
    right.set(ylabel="pictures per second", ylim=(0, None))
    for axes in (left, right):
        axes.set(xlabel="offered load, in serial capacities")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)
    return True
