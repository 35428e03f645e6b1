"""Draws what docs/BENCHMARKS.md shows, from results; needs matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bench.report_page import OURS, SERIAL
from bench.results_kept import Result

DPI = 120
TICKS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20)
OWN, OTHER, BAD = "#d1495b", "#8d99ae", "#222222"


def draw_beside(figures: dict[str, Any], path: Path) -> None:
    """Draw throughput, tail, first picture and memory of every system, as multiples of serial's."""
    systems: dict[str, dict[str, Any]] = figures["systems"]
    base = systems.get(SERIAL) or next(iter(systems.values()))
    unit = base["loads"]["0.3"].get("p50_s") or 1.0
    panels = {
        "throughput of a flood (more is better)": {
            n: s["flood"]["per_s"] / base["flood"]["per_s"] for n, s in systems.items()
        },
        "p99 at 0.9 of own capacity (less is better)": {
            n: s["loads"]["0.9"].get("p99_s", 0.0) / unit for n, s in systems.items()
        },
        "first picture from a cold start (less is better)": {
            n: min(s["first_picture_s"]) / min(base["first_picture_s"]) for n, s in systems.items()
        },
        "memory of all processes (less is better)": {
            n: s["memory"]["pss_bytes"] / base["memory"]["pss_bytes"] for n, s in systems.items()
        },
    }
    figure = Figure(figsize=(10.5, 5.6), layout="constrained")
    for axes, (title, values) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        names = list(values)[::-1]
        colors = [OWN if name == OURS else OTHER for name in names]
        bars = axes.barh(names, [values[n] for n in names], color=colors)
        axes.bar_label(bars, fmt="%.2fx", padding=3, fontsize=8)
        axes.set_title(title, fontsize=10, loc="left")
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.suptitle(
        f"{figures['model']}: serial diffusers = 1x (latency: its median on an idle machine)", fontsize=10
    )
    figure.savefig(path, dpi=DPI)


def draw_goals(results: Sequence[Result], path: Path) -> None:
    """Draw every goal with how far it is kept: right of the line is better than wanted."""
    rows = [
        row for result in results for goal in result.goals if (row := margin(result, goal)) is not None
    ]
    rows.sort(key=lambda row: row[1])
    figure = Figure(figsize=(10.5, 1.2 + 0.19 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for i, (_, factor) in enumerate(rows):
        axes.plot([1.0, factor], [i, i], color=OTHER, lw=1)
        axes.plot(factor, i, "o", ms=4, color=OWN if factor < 1 else BAD)
    axes.axvline(1.0, color=BAD, lw=0.8)
    axes.set(
        xscale="log", ylim=(-1, len(rows)), xlabel="times better than wanted (left of 1: missed, in red)"
    )
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=6.5)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=DPI)


def margin(result: Result, goal: dict[str, Any]) -> tuple[str, float] | None:
    """Return a goal's name and how many times better than wanted it is, from 0.05 to 20.

    None where a ratio says nothing: goals of zero, and values that are not positive.
    """
    sign, _, bound = str(goal["goal"]).partition(" ")
    value, wanted = float(goal["value"]), float(bound)
    if value <= 0 or wanted <= 0:
        return None
    factor = value / wanted if sign == ">=" else wanted / value
    return f"{result.name}: {goal['name']}"[:80], min(20.0, max(0.05, factor))
