"""Pictures of a trial, drawn with matplotlib where it is installed: `difs.charts.check` tells whether."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from difs.trials.figures import is_good
from difs.trials.records import PHASES, Look, Request, Trial

What = Literal["all", "latency", "timeline", "tradeoff"]
WHATS: tuple[str, ...] = get_args(What)

INK, FAINT, MISSED = "#22262b", "#c9ced6", "#d1495b"
WHOLE = "#22262b"
PHASE_COLOURS = dict(
    zip(
        PHASES, ("#e07a9b", "#8d99ae", "#2a9d8f", "#1d6fb8", "#e9a23b", "#b8a9d9", "#7a5c43"), strict=True
    )
)
VARIANT_COLOURS = ("#1d6fb8", "#e07b39", "#2a9d8f", "#8e5bb5", "#c0a020", "#5f6b7a", "#b5485d", "#4a8f3c")
SHORTEST_S = 1e-4
"""Where a logarithmic axis of seconds begins: below, a phase took no time worth a look."""
BINS = 60
GIB = 2**30

Axes = Any


def draw(path: Path, trial: Trial, what: str) -> None:
    """Draw one picture of a trial, or all of them on one sheet."""
    from matplotlib import rc_context  # noqa: PLC0415 -- an extra, and slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    with rc_context(STYLE):
        size = {"all": (13, 12.5), "timeline": (12, 8.2)}.get(what, (8.5, 5.2))
        figure = Figure(figsize=size, layout="constrained")
        parts = {"latency": _latency, "tradeoff": _tradeoff, "timeline": _timeline}
        if what == "all":
            sheets: Any = figure.subfigures(2, 1, height_ratios=(4.6, 7.4), hspace=0.02)
            top, bottom = sheets
            left, right = top.subfigures(1, 2)
            for place, part in ((left, _latency), (right, _tradeoff), (bottom, _timeline)):
                part(place, trial)
        else:
            parts[what](figure, trial)
        figure.suptitle(_title(trial), fontsize=10, color=INK)
        figure.savefig(path, dpi=140)


STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": "#e7eaee",
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "difs",
}


def _title(trial: Trial) -> str:
    arrivals, service = trial.header.workload.arrivals, trial.header.service
    count = len(trial.counted)
    devices = ", ".join(device.device for device in service.devices)
    rate_hz = count / max(trial.window_s, 1e-9)
    return (
        f"{trial.name}: {count} requests, {arrivals.pattern}, {rate_hz:.2f} a second,"
        f" policy {service.policy} on {devices}"
    )


def _colours(trial: Trial) -> dict[str, str]:
    """Return a colour for each variant that painted or was loaded, by name."""
    names = {r.variant for r in trial.requests if r.variant}
    names |= {name for look in trial.looks for seen in look.devices for name in seen.residents}
    return {n: VARIANT_COLOURS[i % len(VARIANT_COLOURS)] for i, n in enumerate(sorted(names))}


# ---- latency -------------------------------------------------------------------------------------


def _latency(figure: Any, trial: Trial) -> None:
    """Draw which part of the requests took at most so long, whole and by phase."""
    axes = figure.subplots()
    done = [r for r in trial.counted if r.is_delivered]
    axes.set_title("How long it took, and what took it")
    if not done:
        _nothing(axes, "nothing was delivered")
        return
    for name in PHASES:
        seconds = sorted(r.phases()[name] for r in done)
        if seconds[-1] > SHORTEST_S:
            _steps(axes, seconds, color=PHASE_COLOURS[name], lw=1.3, label=name)
    whole = sorted(r.latency_s for r in done)
    _steps(axes, whole, color=WHOLE, lw=2.6, label="whole latency")
    goals = {w.latency_s for w in trial.header.workload.mix if w.latency_s is not None}
    for goal in sorted(goals)[:5]:
        axes.axvline(goal, color=MISSED, ls=":", lw=1)
        axes.annotate(
            f"{goal:g} s", (goal, 1.005), fontsize=7, color=MISSED, ha="center", annotation_clip=False
        )
    low = max(SHORTEST_S, whole[0] / 300)
    axes.set(
        xscale="log",
        xlim=(low, whole[-1] * 1.3),
        ylim=(0, 1.0),
        xlabel="seconds (dotted: latencies that were asked for)",
        ylabel="part of the delivered requests",
    )
    _plain_seconds(axes.xaxis)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0)


def _plain_seconds(axis: Any) -> None:
    """Label a logarithmic axis 0.1, 0.2, 0.5, 1: not as powers of ten, and no more than have room."""
    from matplotlib.ticker import LogLocator, NullFormatter  # noqa: PLC0415

    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low)
    subs = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 1.5 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _steps(axes: Axes, seconds: Sequence[float], **style: Any) -> None:
    xs = [max(SHORTEST_S / 10, value) for value in seconds]
    shares = [(i + 1) / len(xs) for i in range(len(xs))]
    axes.plot([xs[0], *xs], [0.0, *shares], drawstyle="steps-post", **style)


# ---- trade-off -----------------------------------------------------------------------------------


def _tradeoff(figure: Any, trial: Trial) -> None:
    """Draw quality against seconds: what came, and as ticks below, what was first predicted."""
    from matplotlib.transforms import ScaledTranslation  # noqa: PLC0415

    axes = figure.subplots()
    axes.set_title("Quality against latency")
    done = [r for r in trial.counted if r.is_delivered and r.quality is not None]
    if not done:
        _nothing(axes, "of nothing that was delivered the quality is known")
        return
    colours = _colours(trial)
    below = axes.transData + ScaledTranslation(0, -0.12, figure.dpi_scale_trans)
    for name in sorted({r.variant for r in done}):
        own = [r for r in done if r.variant == name]
        told = [r for r in own if r.predicted_s]
        axes.plot(
            [r.predicted_s for r in told],
            [r.quality for r in told],
            "|",
            ms=7,
            mew=0.8,
            alpha=0.6,
            color=colours[name],
            transform=below,
        )
        axes.plot(
            [r.latency_s for r in own],
            [r.quality for r in own],
            "o",
            ms=4,
            mew=0,
            alpha=0.7,
            color=colours[name],
            label=name,
        )
        _steps_told(axes, own, colours[name])
    axes.plot([], [], "|", ms=7, color=INK, label="predicted")
    axes.set(xscale="log", xlabel="seconds", ylabel="expected quality of what was painted")
    axes.margins(x=0.14, y=0.12)
    _plain_seconds(axes.xaxis)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0)


def _steps_told(axes: Axes, own: Sequence[Request], colour: str) -> None:
    """Write the number of steps above the left end of each level of quality, where levels are apart."""
    lowest = min(r.quality or 0.0 for r in own) - 1.0
    for steps in sorted({r.steps for r in own}):
        these = [r for r in own if r.steps == steps]
        level = max(r.quality or 0.0 for r in these)
        if level - lowest < 0.02:
            continue
        lowest = level
        first = min(min(r.latency_s, r.predicted_s or r.latency_s) for r in these)
        axes.annotate(
            f"{steps} step{'s' if steps > 1 else ''}",
            (first, level),
            textcoords="offset points",
            xytext=(-2, 5),
            ha="left",
            va="bottom",
            fontsize=7,
            color=colour,
        )


# ---- timeline ------------------------------------------------------------------------------------


def _timeline(figure: Any, trial: Trial) -> None:
    """Draw the whole trial over time: each request, the load, who was loaded, and memory."""
    rows = residents(trial.looks)
    heights = (2.6, 1.5, max(0.5, 0.26 * len(rows)), 1.3)
    requests, load, loaded, memory = figure.subplots(4, 1, sharex=True, height_ratios=heights)
    _requests(requests, trial)
    _load(load, trial)
    _bars(loaded, rows, _colours(trial))
    _memory(memory, trial.looks)
    warmup_s = trial.header.workload.warmup_s
    for axes in (requests, load, loaded, memory):
        if warmup_s:
            axes.axvspan(-warmup_s, 0, color="#f3f4f6", zorder=-5)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper left", bbox_to_anchor=(1.005, 1.02), borderaxespad=0)
    memory.set(xlabel="seconds (grey: warm-up, not counted)", xlim=(-warmup_s, max(trial.span_s, 1e-3)))


def _requests(axes: Axes, trial: Trial) -> None:
    """Draw each request at the moment when it was due."""
    axes.set_title("Each request, when it was due")
    mix, colours = trial.header.workload.mix, _colours(trial)
    done = [r for r in trial.requests if r.is_delivered]
    for name in sorted({r.variant for r in done}):
        own = [r for r in done if r.variant == name]
        axes.plot(
            [r.due_s for r in own],
            [r.latency_s for r in own],
            "o",
            ms=3.5,
            mew=0,
            alpha=0.75,
            color=colours[name],
            label=name,
        )
    late = [r for r in done if not is_good(r, mix)]
    if late:
        places = [r.due_s for r in late], [r.latency_s for r in late]
        axes.plot(*places, "o", ms=7, mfc="none", mec=MISSED, mew=1.0, label="later than asked for")
    lost = [r for r in trial.requests if r.code]
    if lost:
        floor = min((r.latency_s for r in done), default=0.1) * 0.7
        axes.plot(
            [r.due_s for r in lost], [floor] * len(lost), "x", ms=5, color=MISSED, label="not delivered"
        )
    axes.set(yscale="log", ylabel="latency, s")
    _plain_seconds(axes.yaxis)


def _load(axes: Axes, trial: Trial) -> None:
    """Draw arrivals a second, and how many requests were open and running."""
    axes.set_title("Load")
    workload = trial.header.workload
    begin, end = -workload.warmup_s, max(trial.span_s, 1e-3)
    width = (end - begin) / BINS
    counts = [0] * BINS
    for request in trial.requests:
        counts[min(BINS - 1, max(0, int((request.due_s - begin) / width)))] += 1
    axes.bar(
        [begin + (i + 0.5) * width for i in range(BINS)],
        [count / width for count in counts],
        width * 0.92,
        color=FAINT,
        label="arrivals a second",
    )
    times = [look.at_s for look in trial.looks]
    for label, colour, of in (
        ("open at the client", INK, _open),
        ("running on devices", "#1d6fb8", _running),
    ):
        axes.plot(times, [of(look) for look in trial.looks], color=colour, lw=1.3, label=label)
    axes.set(ylim=(0, None), ylabel="requests")


def _open(look: Look) -> int:
    return look.open


def _running(look: Look) -> int:
    return look.running


Stretch = tuple[float, float]


def residents(looks: Sequence[Look]) -> dict[tuple[str, str], dict[str, list[Stretch]]]:
    """Return for each (device, variant) the stretches in which it was loaded, loading or parked."""
    found: dict[tuple[str, str], dict[str, list[Stretch]]] = {}
    for look, until_s in _until(looks):
        for seen in look.devices:
            for state, names in (
                ("loaded", seen.residents),
                ("loading", seen.loading),
                ("parked", seen.parked),
            ):
                for name in names:
                    stretches = found.setdefault((seen.device, name), {}).setdefault(state, [])
                    if stretches and abs(stretches[-1][1] - look.at_s) < 1e-6:
                        stretches[-1] = stretches[-1][0], until_s
                    else:
                        stretches.append((look.at_s, until_s))
    return dict(sorted(found.items()))


def _until(looks: Sequence[Look]) -> Iterator[tuple[Look, float]]:
    """Yield each look with the moment of the next."""
    for i, look in enumerate(looks):
        yield look, looks[i + 1].at_s if i + 1 < len(looks) else look.at_s


def _bars(
    axes: Axes, rows: Mapping[tuple[str, str], Mapping[str, list[Stretch]]], colours: Mapping[str, str]
) -> None:
    axes.set_title("Residents (hatched: loading; pale: parked in host memory)")
    looks: dict[str, dict[str, Any]] = {
        "loaded": {"alpha": 0.9},
        "loading": {"alpha": 0.45, "hatch": "////"},
        "parked": {"alpha": 0.25},
    }
    for y, ((_, name), states) in enumerate(rows.items()):
        for state, stretches in states.items():
            spans = [(begin, max(0.05, end - begin)) for begin, end in stretches]
            colour = colours.get(name, FAINT)
            axes.broken_barh(spans, (y - 0.36, 0.72), facecolor=colour, edgecolor="white", **looks[state])
    axes.set(yticks=range(len(rows)), yticklabels=[f"{name} on {device}" for device, name in rows])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)


def _memory(axes: Axes, looks: Sequence[Look]) -> None:
    axes.set_title("Memory of the devices")
    axes.set_ylabel("GiB")
    read = [look for look in looks if any(seen.total_bytes for seen in look.devices)]
    if not read:
        _nothing(axes, "no device told of its memory")
        return
    times = [look.at_s for look in read]
    own, other, total = (_bytes(read, of) for of in ("own_bytes", "other_bytes", "total_bytes"))
    axes.stackplot(
        times, own, other, colors=("#1d6fb8", "#d9dde3"), alpha=0.85, labels=("DIFS", "other programs")
    )
    axes.plot(times, total, color=INK, lw=1, ls="--", label="there is")
    axes.set_ylim(0, max(total) * 1.08)


def _bytes(looks: Sequence[Look], field: str) -> list[float]:
    """Return a field's sum over all devices, in GiB, at each look."""
    return [sum(getattr(seen, field) for seen in look.devices) / GIB for look in looks]


def _nothing(axes: Axes, words: str) -> None:
    axes.annotate(words, (0.5, 0.5), xycoords="axes fraction", ha="center", va="center", color=INK)
    axes.grid(visible=False)
