"""Results -> the text of docs/BENCHMARKS.md. Pure: no file is read here, nothing is drawn.

Ratios are told, not bare absolutes: a figure from a shared machine says little, two of one run say much.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench import report_gpu
from bench.report_tables import number, table, times
from bench.results_kept import Result

SERIAL = "serial diffusers"
OURS = "DIFS"
PERCENTILES = ("p50_s", "p95_s", "p99_s")
FIRST = ("beside", "engine", "policy", "promises", "transport", "overhead", "http")
"""What a reader wants first; the others follow by name."""
GPU = {
    "gpu-engine": "engine, memory modes, switching, parking and the hand-over of pixels",
    "gpu-promises": "what is predicted and promised there",
    "neighbour": "another program that takes and frees the GPU's memory meanwhile",
}
HEAD = """# Benchmarks

Made by `python -m bench.write_report` from the dated results in [bench/results](../bench/results); not
written by hand. `make bench` measures again and writes it anew, `make bench-gpu` does so on a machine
with a GPU.

How to read it: two figures of one run on one machine can be compared, so ratios are told; an absolute
figure from a shared machine is worth little. Every section names its command, its date and its machine. A
goal that was missed says so. Where the machine was busy with other work, the section says so: those
figures are to be measured again."""
Plots = Mapping[str, str]
"""Name of a result -> its picture, as a path from docs/."""


def page(results: Sequence[Result], purposes: Mapping[str, str], plots: Plots) -> str:
    """Return the whole page; `purposes` by command, `plots` by the name of a result."""
    told = sorted((r for r in results if r.name not in GPU), key=_rank)
    parts = [HEAD, _machines(results)]
    if "goals" in plots:
        parts.append(f"![What was measured beside its goal]({plots['goals']})")
    parts += [section(result, purposes.get(result.command, ""), plots) for result in told]
    parts.append(_gpu(results, purposes, plots))
    return "\n\n".join(part for part in parts if part) + "\n"


def _rank(result: Result) -> tuple[int, tuple[str, ...]]:
    return (FIRST.index(result.name) if result.name in FIRST else len(FIRST), result.subject)


def _machines(results: Sequence[Result]) -> str:
    rows: dict[tuple[str, ...], None] = {}
    for result in results:
        machine = result.machine
        packages = ", ".join(f"{n} {v}" for n, v in sorted(machine["packages"].items()))
        rows[machine["processor"], str(machine["cores"]), machine["python"], packages] = None
    return "## Machines\n\n" + table(("processor", "cores", "Python", "packages"), sorted(rows))


def section(result: Result, purpose: str, plots: Plots) -> str:
    """Return what is told of one result."""
    title = " ".join(result.subject).replace("-", " ", 1)
    parts = [f"## {title[0].upper()}{title[1:]}", purpose, _origin(result)]
    if result.name in plots:
        parts.append(f"![{title}]({plots[result.name]})")
    body = BODIES.get(result.name)
    parts += [body(result.figures) if body else "", _goals(result)]
    return "\n\n".join(part for part in parts if part)


def _origin(result: Result) -> str:
    machine = result.machine
    link = f"[{result.path.name}](../bench/results/{result.path.name})"
    where = f"{machine['processor']} with {machine['cores']} cores"
    words = f"`{result.command}`, {result.date}, {where}, {link}."
    if result.was_busy:
        words += f" **The machine was busy** (load {machine['load_1min']:g}): to be measured again."
    return words


def _goals(result: Result) -> str:
    rows = [
        (g["name"], number(g["value"]), g["goal"], "kept" if g["kept"] else "**missed**")
        for g in result.goals
    ]
    return table(("goal", "measured", "wanted", ""), rows) if rows else ""


# ---- beside its peers -----------------------------------------------------------------------------


def beside(figures: dict[str, Any]) -> str:
    """Return the tables of `bench.beside`: everything as a multiple of serial diffusers."""
    systems: dict[str, dict[str, Any]] = figures["systems"]
    base = systems.get(SERIAL) or (next(iter(systems.values())) if systems else {})
    parts = []
    if systems:
        unit = base["loads"]["0.3"].get("p50_s")
        parts += [_resources(systems, base), _latencies(systems, unit), _settings(systems)]
    missing = [(name, reason.split("\n")[0]) for name, reason in figures["not_measured"].items()]
    if missing:
        parts.append(table(("not measured", "why"), missing))
    return "\n\n".join(parts)


def _resources(systems: dict[str, dict[str, Any]], base: dict[str, Any]) -> str:
    best = min(base["first_picture_s"])
    pss = base["memory"]["pss_bytes"]
    rows = [
        (
            name,
            times(found["flood"]["per_s"], base["flood"]["per_s"]),
            times(min(found["first_picture_s"]), best),
            times(found["memory"]["pss_bytes"], pss),
            str(found["memory"]["processes"]),
            number(found["moved_bytes"]),
            str(
                found["flood"].get("failed", 0) + sum(c.get("failed", 0) for c in found["loads"].values())
            ),
        )
        for name, found in systems.items()
    ]
    words = (
        f"1x is {number(base['flood']['per_s'])} pictures a second, a first picture after "
        f"{number(best)} s, and {number(pss / 2**20)} MiB (PSS)."
    )
    head = (
        "system",
        "throughput",
        "first picture",
        "memory",
        "processes",
        "bytes moved a picture",
        "failed",
    )
    return table(head, rows) + "\n\n" + words


def _latencies(systems: dict[str, dict[str, Any]], unit: float | None) -> str:
    rows = [
        (
            name,
            *(
                " / ".join(times(cell.get(p), unit) for p in PERCENTILES)
                for cell in found["loads"].values()
            ),
            " / ".join(str(cell["done"]) for cell in found["loads"].values()),
        )
        for name, found in systems.items()
    ]
    shares = next(iter(systems.values()))["loads"]
    head = ("p50 / p95 / p99 at", *(f"{share} of own capacity" for share in shares), "pictures")
    words = f"1x is {number(unit)} s: one picture on an idle machine." if unit else ""
    return table(head, rows) + "\n\n" + words


def _settings(systems: dict[str, dict[str, Any]]) -> str:
    rows = [
        (name, found.get("version", "-"), found.get("batching", "-"), found.get("advice", "-"))
        for name, found in systems.items()
    ]
    return table(("system", "version", "batching kept", "tuned by"), rows)


# ---- others ---------------------------------------------------------------------------------------


def engine(figures: dict[str, Any]) -> str:
    """Return what `bench.engine` found at each load, DIFS as a multiple of the others."""
    systems: dict[str, dict[str, Any]] = figures["systems"]
    ours = systems.get(OURS)
    if ours is None:
        return ""
    others = [name for name in systems if name != OURS]
    rows = []
    for load, cell in ours.items():
        theirs = [systems[name].get(load, {}) for name in others]
        rates = [times(cell["per_s"], t.get("per_s")) for t in theirs]
        tails = [times(cell.get("p95_s"), t.get("p95_s")) for t in theirs]
        rows.append((load, *rates, *tails))
    head = ("load", *(f"throughput / {n}" for n in others), *(f"p95 / {n}" for n in others))
    return table(head, rows)


def policy(figures: dict[str, Any]) -> str:
    """Return how the default policy stands in each setting of `bench.policy`."""
    rows = [
        (s["setting"], f"{s['ours']:.3f}", f"{s['theirs']:.3f} ({s['best_other']})", f"{s['ahead']:+.3f}")
        for s in figures["standing"]
    ]
    return table(("setting", "modelless", "best other", "ahead"), rows)


def promises(figures: dict[str, Any]) -> str:
    """Return the errors of the predictions at each load, beside what of them is the machine's."""
    rows = [
        (
            load,
            number(cell["error_p50"]),
            number(cell["error_p90"]),
            number(cell["own_p90"]),
            number(cell.get("own_best_p90")),
            ", ".join(map(number, cell["floor_p90"])),
            number(figures["all_cores"][load]["error_p90"]),
            number(figures["scripted"][load]["error_p90"]),
            number(figures["varied"][load]["error_p90"]),
            f"{cell['kept']:.0%} of {cell['promised']}",
        )
        for load, cell in figures["loads"].items()
    ]
    head = (
        "load",
        "error p50",
        "p90",
        "p90 of unshared work",
        "as well as that could be told",
        "of the bare pipeline",
        "with all cores",
        "as scripted",
        "of several sizes and numbers",
        "kept",
    )
    return table(head, rows)


def runtime_options(figures: dict[str, Any]) -> str:
    """Return the gain of each option over plain eager calls, by rows of a call."""
    options: dict[str, dict[str, Any]] = figures["options"]
    rows = [
        (name, ", ".join(f"{gain:.2f}x at {n}" for n, gain in found["gain"].items()), found["pays"])
        for name, found in options.items()
    ]
    left = [
        (name, str(reason), "not measured") for name, reason in figures.get("not_measured", {}).items()
    ]
    return table(("option", "faster by, at rows", "pays"), rows + left)


def _gpu(results: Sequence[Result], purposes: Mapping[str, str], plots: Plots) -> str:
    parts = ["# On a GPU"]
    for name, what in GPU.items():
        found = [result for result in results if result.name == name]
        if found:
            parts.append(section(found[0], purposes.get(found[0].command, ""), plots))
        else:
            words = (
                "*Not measured*: no result from a machine with a GPU is here. `make bench-gpu` measures "
            )
            words += f"{what}."
            parts.append(f"## {name.replace('-', ' ').capitalize()}\n\n{words}")
    return "\n\n".join(parts)


BODIES: dict[str, Callable[[dict[str, Any]], str]] = {
    "beside": beside,
    "engine": engine,
    "gpu-engine": report_gpu.engine,
    "gpu-promises": report_gpu.promises,
    "policy": policy,
    "promises": promises,
    "runtime-options": runtime_options,
}
