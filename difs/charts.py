"""Pictures of what a service would do: drawn from its answers with matplotlib, where it is installed.

No questions to a service here, and no command line.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any

from difs import quality
from difs.errors import Unsupported
from difs.messages import Alternative

FORMS = (".png", ".svg")


def front(points: Sequence[Alternative]) -> list[Alternative]:
    """Return the points of known quality that none beats in seconds and quality, the soonest first."""
    known = [p for p in points if p.expected_quality is not None]
    return quality.front(known, attrgetter("total_s", "expected_quality"))


def check(path: Path) -> None:
    """Refuse what cannot be drawn before anything is asked; raises Unsupported."""
    if path.suffix.lower() not in FORMS:
        raise Unsupported(f"{path.name}: a chart is one of {', '.join(FORMS)}", field="out")
    if find_spec("matplotlib") is None:
        raise Unsupported("charts need matplotlib: pip install 'difs[plot]'")


def tradeoff(path: Path, prompt: str, points: Sequence[Alternative], latency_s: float | None) -> None:
    """Draw latency against quality of all points, with the front and the chosen point.

    Points whose quality nobody measured stand on a line of their own below the others.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 -- an extra, and slow to import

    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.subplots()
    names = sorted({p.variant for p in points})
    for name in names:
        own = [p for p in points if p.variant == name]
        known = [p for p in own if p.expected_quality is not None]
        if known:
            (dots,) = axes.plot(*_places(known), "o", ms=4, alpha=0.6, label=name)
        else:
            axes.plot(
                [p.total_s for p in own], [0.0] * len(own), "|", label=f"{name} (quality not known)"
            )
            continue
        for p in front(known):
            axes.annotate(
                f"{p.steps}",
                (p.total_s, p.expected_quality or 0.0),
                textcoords="offset points",
                xytext=(3, -9),
                fontsize=7,
                color=dots.get_color(),
            )
    best = front(points)
    axes.plot(*_places(best), drawstyle="steps-post", lw=1, color="black", label="Pareto front", zorder=0)
    for chosen in [p for p in points if not p.why_not]:
        label = f"chosen: {chosen.variant}, {chosen.steps} step{'s' if chosen.steps > 1 else ''}"
        axes.plot(*_places([chosen]), "*", ms=16, color="crimson", label=label)
    if latency_s is not None:
        axes.axvline(latency_s, color="crimson", ls=":", lw=1, label=f"latency {latency_s:g} s")
    axes.set(xscale="log", xlabel="predicted seconds until the picture", ylabel="expected quality")
    axes.set_title(f"“{prompt}” (numbers: steps)", fontsize=10)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=130)


def _places(points: Sequence[Alternative]) -> tuple[list[float], list[Any]]:
    return [p.total_s for p in points], [p.expected_quality or 0.0 for p in points]
