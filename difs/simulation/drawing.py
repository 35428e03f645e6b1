"""A picture of one run, or of several beside each other; drawn with matplotlib, where it is installed."""

from collections.abc import Mapping
from pathlib import Path

from difs.simulation import figures
from difs.simulation.ledger import Ledger

GIB = 2**30


def draw(path: Path, title: str, runs: Mapping[str, Ledger]) -> None:
    """Draw how soon pictures came, what was kept at which quality, and memory over time.

    Whether it can be drawn is told by `difs.charts.check`.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 -- an extra, and slow to import

    figure = Figure(figsize=(13, 4.4), layout="constrained")
    soon, kept, memory = figure.subplots(1, 3)
    for name, ledger in runs.items():
        told = figures.of_run(ledger)
        seconds = figures.sooner(list(ledger.fates.values()))
        shares = [(i + 1) / len(ledger.fates) for i in range(len(seconds))]
        soon.plot(seconds, shares, drawstyle="steps-post", label=name)
        kept.plot([told["attainment"] or 0.0], [told["quality_attainment"]], "o", label=name)
        kept.annotate(
            name,
            (told["attainment"] or 0.0, told["quality_attainment"]),
            textcoords="offset points",
            xytext=(4, 4),
            fontsize=7,
        )
        rows = figures.memory(ledger)
        times = [row[0] for row in rows]
        (line,) = memory.plot(times, [row[1] / GIB for row in rows], label=name)
        if any(row[2] for row in rows):
            others = [(row[1] + row[2]) / GIB for row in rows]
            memory.plot(times, others, ls=":", color=line.get_color(), label=f"{name} and other programs")
    latencies = {
        f.asked.requirements.latency_s for ledger in runs.values() for f in ledger.fates.values()
    }
    for latency_s in sorted(x for x in latencies if x is not None)[:5]:
        soon.axvline(latency_s, color="grey", ls=":", lw=1)
    soon.set(
        xlabel="seconds (dotted: latencies asked for)", ylabel="part of all requests", ylim=(0, 1.02)
    )
    kept.set(xlabel="latencies kept", ylabel="quality delivered in time, mean of all")
    memory.set(xlabel="simulated seconds", ylabel="GiB of all devices", ylim=(0, None))
    for axes in (soon, memory):
        axes.legend(fontsize=7)
    for axes in (soon, kept, memory):
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=120)
