"""Policies against each other in virtual time: `modelless` and every baseline, on the same requests.

    python -m bench.policy [--devices 16] [--seconds 120] [--seeds 1 2 3] [--traces PATH] [--only a]
                           [--speeds 1 1.35 3 6] [--policies modelless cascade]

Three settings. (a) DiffServe's: 16 devices, its run times of SD-Turbo and SD 1.5, its trace at four
speeds, 5 s for each request (with fewer devices, as many fewer requests of the trace); `dial` with fewer
steps of SD 1.5 to choose from, `fixed` without, as its authors have it. (b) The same run times under
generated arrivals: Poisson, bursts, a day. (c) The embedded family as it was profiled on a CPU, two
devices, 0.1, 0.2 or 0.6 s. A load of 1 is what one variant of the best quality could just do in full
calls.

The headline is `quality_attainment`: the mean delivered quality of all requests, where what is refused,
fails or comes late counts 0. Qualities in (a) and (b) are declared, not measured (see
`difs.simulation.tables`): which policy is ahead rests on their order, by how much on their size. All
policies have the same engine, with shared calls and none that is tuned to one of them. One small GPU in
all memory modes: `bench.single_gpu`; planners: `bench.oracle`.
"""

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

from msgspec.structs import replace

from bench import embedded
from bench.report import RESULTS, keep, verdict
from difs.policy import registry
from difs.simulation import arrivals, figures, tables
from difs.simulation.scenario import Arrivals, Fleet, Scenario, Wish, changed
from difs.simulation.tables import Model
from difs.simulation.world import World

TRACES = Path(__file__).parents[1].parent / "shared" / "traces" / "diffserve"
LATENCY_S = 5.0
WORKERS = 16
"""For so many devices the trace was made."""
HEAVY_HZ = 1 / 0.805
"""What a device can do of SD 1.5 in calls of 16 images."""
LOADS = (0.5, 0.9, 1.3, 2.0)
SPEEDS = (1.0, 1.35, 3.0, 6.0)
"""Of the trace: as it is (in the mean about what the devices can do of SD 1.5), and so much faster that
violations occur."""
FEWER = 2.0
"""How many times fewer violations than the best of the others are the goal in (a), at no less quality."""
BUSY = (0.9, 1.3)
KEPT = (
    "quality_attainment",
    "attainment",
    "promises_kept",
    "mean_quality",
    "mean_s",
    "p95_s",
    "p99_s",
    "goodput_hz",
    "busy",
)
OURS = "modelless"


class Setting(NamedTuple):
    """One row of the table: requests, devices and variants."""

    name: str
    scenario: Scenario
    models: Mapping[str, Model]
    load: float
    times: tuple[float, ...] | None = None
    """Instead of the scenario's arrivals."""


def diffserve(traces: Path, devices: int, seconds: float, speeds: Sequence[float]) -> Iterator[Setting]:
    """Yield (a) and (b)."""
    file = traces / "stable_diffusion_runtimes_sdturbo.csv"
    text = file.read_text("utf-8")
    trace = traces / "trace_4to32qps.txt"
    base = Scenario(mix=(Wish(latency_s=LATENCY_S),), fleet=Fleet(devices=devices))
    for has_dial in (True, False):
        models = tables.diffserve(file.name, text, has_dial=has_dial)
        kind = "dial" if has_dial else "fixed"
        for speed in speeds:
            times = tuple(arrivals.read(trace, speed)[:: max(1, WORKERS // devices)])
            load = round(len(times) / times[-1] / HEAVY_HZ / devices, 2)
            yield Setting(f"a trace {kind} {load:g}", base, models, load, times)
    models = tables.diffserve(file.name, text, has_dial=False)
    patterns: dict[Literal["poisson", "burst", "diurnal"], tuple[float, ...]]
    patterns = {"poisson": LOADS, "burst": BUSY, "diurnal": BUSY}
    for pattern, loads in patterns.items():
        for load in loads:
            rate = load * HEAVY_HZ * devices
            wanted = Arrivals(pattern, rate_hz=rate, seconds=seconds, cv=4.0, period_s=seconds)
            yield Setting(f"b {pattern} {load:g}", replace(base, arrivals=wanted), models, load)


def emoji(seconds: float) -> Iterator[Setting]:
    """Yield (c): the embedded family on two devices, with latencies of three kinds."""
    models = embedded.models()
    mix = (Wish(latency_s=0.1), Wish(latency_s=0.2), Wish(latency_s=0.6))
    base = Scenario(mix=mix, fleet=Fleet(devices=2))
    for load in LOADS:
        rate = load * 2 * capacity_hz(models["emoji-base"])
        wanted = Arrivals("poisson", rate_hz=rate, seconds=seconds)
        yield Setting(f"c emoji {load:g}", replace(base, arrivals=wanted), models, load)


def capacity_hz(model: Model) -> float:
    """Return the pictures a second that a device does of a variant as it is by default, calls full."""
    costs = next(iter(model.modes.values())).resident.costs
    rows = model.info.steps_default * (2 if model.info.guidance_scale > 1 else 1)
    row_s = min(cost.seconds / cost.rows for cost in costs.steps)
    return 1.0 / (costs.encode_s + rows * row_s + costs.decode_s)


def means(runs: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, Any]:
    """Return the mean of each figure over the runs that have it; None: none has."""
    known = {key: [run[key] for run in runs if run[key] is not None] for key in keys}
    return {key: round(statistics.fmean(values), 4) if values else None for key, values in known.items()}


def measure(setting: Setting, policy: str, seeds: list[int]) -> dict[str, Any]:
    """Return the figures of one policy, means over the seeds, and how far these lie apart."""
    found = []
    for seed in seeds:
        scenario = changed(setting.scenario, {"policy.name": policy, "seed": seed})
        found.append(figures.of_run(World(scenario, setting.models, times=setting.times).run()))
    told = means(found, KEPT)
    worths = [run["quality_attainment"] for run in found]
    told["between_seeds"] = round(max(worths) - min(worths), 4)
    told["variants"] = found[0]["variants"]
    told["log_hash"] = found[0]["log_hash"]
    return told


COLUMNS = {
    "quality*": "quality_attainment",
    "in time": "attainment",
    "quality": "mean_quality",
    "mean s": "mean_s",
    "p95 s": "p95_s",
    "busy": "busy",
}


def tell(name: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a setting's table, the best first."""
    print(f"\n{name}\n  {'':14}" + "".join(f"{column:>9}" for column in COLUMNS))
    for policy, row in sorted(rows.items(), key=lambda item: -item[1]["quality_attainment"]):
        cells = [row[key] for key in COLUMNS.values()]
        print(
            f"  {policy:14}" + "".join(f"{'-' if c is None else f'{c:.3f}':>9}" for c in cells),
            flush=True,
        )


def standing(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return, for each setting, ours beside the best of the others."""
    rows = []
    for name, by_policy in found.items():
        ours = by_policy[OURS]
        others = {p: row for p, row in by_policy.items() if p != OURS}
        best = max(others, key=lambda p: others[p]["quality_attainment"])
        theirs = others[best]
        rows.append(
            {
                "setting": name,
                "ours": ours["quality_attainment"],
                "best_other": best,
                "theirs": theirs["quality_attainment"],
                "ahead": round(ours["quality_attainment"] - theirs["quality_attainment"], 4),
                "misses_ours": round(1 - ours["attainment"], 4),
                "misses_theirs": round(1 - theirs["attainment"], 4),
                "quality_ours": ours["mean_quality"],
                "quality_theirs": theirs["mean_quality"],
            }
        )
    return rows


def violations(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each setting of (a) where the best other has violations, whether the goal is kept."""
    found = []
    for row in rows:
        if row["setting"].startswith("a ") and row["misses_theirs"] > 0:
            share = row["misses_ours"] / row["misses_theirs"]
            is_as_good = row["quality_ours"] >= row["quality_theirs"]
            told = verdict(f"{row['setting']}: violations, of {row['best_other']}'s", share, 1 / FEWER)
            qualities = {key: row[key] for key in ("quality_ours", "quality_theirs")}
            found.append({**told, **qualities, "is_as_good": is_as_good})
    return found


def draw(
    path: Path, found: Mapping[str, Mapping[str, Mapping[str, Any]]], loads: Mapping[str, float]
) -> None:
    """Draw the headline against the load, a panel for each kind of requests."""
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(name.rpartition(" ")[0] for name in found))
    figure = Figure(figsize=(4.4 * len(kinds), 4.2), layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        names = [name for name in found if name.rpartition(" ")[0] == kind]
        for policy in found[names[0]]:
            worths = [found[name][policy]["quality_attainment"] for name in names]
            is_ours = policy == OURS
            style = {"lw": 2.5, "color": "black", "zorder": 5} if is_ours else {"lw": 1.0, "alpha": 0.8}
            axes.plot([loads[name] for name in names], worths, marker="o", ms=3, label=policy, **style)
        axes.set(title=kind, xlabel="load", ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("mean quality of all requests, late ones 0")
    panels[-1].legend(fontsize=7)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Simulate, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, default=WORKERS, help="in (a) and (b)")
    parser.add_argument("--seconds", type=float, default=120.0, help="of generated arrivals")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--traces", type=Path, default=TRACES, help="the folder of DiffServe's artifact")
    parser.add_argument(
        "--speeds", type=float, nargs="*", default=list(SPEEDS), help="of the trace in (a)"
    )
    parser.add_argument("--only", choices=["a", "b", "c"], help="one of the settings")
    parser.add_argument("--policies", nargs="*", default=sorted(registry.OURS))
    asked = parser.parse_args()
    settings = list(emoji(asked.seconds))
    if (asked.traces / "trace_4to32qps.txt").is_file():
        settings = [*diffserve(asked.traces, asked.devices, asked.seconds, asked.speeds), *settings]
    else:
        print(f"  {asked.traces} has no traces of DiffServe: (a) and (b) are left out")
    settings = [s for s in settings if asked.only is None or s.name.startswith(f"{asked.only} ")]
    policies = sorted({OURS, *asked.policies})
    if len(policies) < 2:
        parser.error(f"--policies: name one besides {OURS}, to compare with")
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for setting in settings:
        # a trace is the same with every seed; what is drawn besides matters little
        seeds = asked.seeds[:1] if setting.times is not None else asked.seeds
        found[setting.name] = {name: measure(setting, name, seeds) for name in policies}
        tell(setting.name, found[setting.name])
    rows = standing(found)
    print("\n  setting                modelless   best other")
    for row in rows:
        print(f"  {row['setting']:22} {row['ours']:.3f}       {row['theirs']:.3f} {row['best_other']}")
    goals = violations(rows)
    seeds, speeds = (" ".join(f"{v:g}" for v in values) for values in (asked.seeds, asked.speeds))
    words = f"--devices {asked.devices} --seconds {asked.seconds:g} --seeds {seeds} --speeds {speeds}"
    if asked.only is not None:
        words += f" --only {asked.only}"
    if len(policies) < len(registry.OURS):
        words += f" --policies {' '.join(policies)}"
    name = "policy" if asked.only is None else f"policy-{asked.only}"
    kept = {"standing": rows, "goals": goals, "settings": found}
    path = keep(name, f"python -m bench.policy {words}", kept)
    print(path)
    if find_spec("matplotlib") is not None:
        draw(path.with_suffix(".png"), found, {s.name: s.load for s in settings})
        print(RESULTS / path.with_suffix(".png").name)


if __name__ == "__main__":
    main()
