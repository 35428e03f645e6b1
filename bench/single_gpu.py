"""One GPU with 12, 8 or 6 GB, SD 1.5, SDXL and their quick ones in all memory modes, in virtual time.

    python -m bench.single_gpu [--seconds 240] [--seeds 1 2] [--traces PATH]

Policy `modelless` and planner `utility` under a day and under bursts; requests want their picture within
3, 8 or 20 s. A load of 1 is what the device does of SD 1.5 in full calls ("full"), or of the quickest
variant ("quick": above it, there is no way to serve all). Where the tables come from: `bench.cards`; none
of it is measured on such a card.

Goals: up to a load of 0.9, 95 % of the latencies that were accepted are kept; at 1.3 the goodput is 0.9
of the most that was reached at any load.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bench import cards
from bench.policy import TRACES, capacity_hz, means
from bench.report import keep, verdict
from difs import config
from difs.simulation import figures
from difs.simulation.scenario import Arrivals, Fleet, Scenario, Wish
from difs.simulation.tables import Model
from difs.simulation.world import World

MEMORIES_GB = (12, 8, 6)
PATTERNS: tuple[Literal["diurnal", "burst"], ...] = ("diurnal", "burst")
LOADS = (0.5, 0.7, 0.9, 1.3)
LIGHT = 0.9
"""Up to this load accepted latencies are to be kept."""
MIX = (Wish(latency_s=3.0), Wish(latency_s=8.0), Wish(latency_s=20.0))
KINDS = {"full": "sd15", "quick": "sd-turbo"}
"""What a load of 1 is full of."""
KEPT = ("requests", "promises_kept", "attainment", "goodput_hz", "mean_quality", "p95_s", "hit_rate")


class Case(NamedTuple):
    """One row of the table."""

    memory_gb: int
    pattern: Literal["diurnal", "burst"]
    kind: str
    load: float

    def scenario(self, rate_hz: float, seconds: float, seed: int, planner: str) -> Scenario:
        """Return the run."""
        wanted = Arrivals(self.pattern, rate_hz=rate_hz, seconds=seconds, cv=4.0, period_s=seconds)
        fleet = Fleet(kind="cuda", memory_bytes=self.memory_gb * cards.GB, parking_bytes=16 * cards.GB)
        scaler = config.Autoscaler(planner=planner)
        return Scenario(seed=seed, arrivals=wanted, mix=MIX, fleet=fleet, autoscaler=scaler)


def cases(memories: Sequence[int]) -> Iterator[Case]:
    """Yield all rows, the loads of a table after each other."""
    for memory_gb in memories:
        for pattern in PATTERNS:
            for kind in KINDS:
                yield from (Case(memory_gb, pattern, kind, load) for load in LOADS)


def measure(
    case: Case,
    models: Mapping[str, Model],
    seconds: float,
    seeds: Sequence[int],
    planner: str = "utility",
) -> dict[str, Any]:
    """Return the figures of a row, means over the seeds."""
    rate_hz = case.load * capacity_hz(models[KINDS[case.kind]])
    runs = [
        figures.of_run(World(case.scenario(rate_hz, seconds, seed, planner), models).run())
        for seed in seeds
    ]
    return means(runs, KEPT) | {
        key: runs[0][key] for key in ("variants", "refused", "failed", "log_hash")
    }


def goals_of(found: Mapping[Case, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what is to hold of each table: accepted latencies, and the goodput beyond its peak."""
    goals = []
    for memory_gb, pattern, kind in dict.fromkeys(case[:3] for case in found):
        rows = {case.load: row for case, row in found.items() if case[:3] == (memory_gb, pattern, kind)}
        name = f"{memory_gb} GB {pattern} {kind}"
        least = min(row["promises_kept"] or 0.0 for load, row in rows.items() if load <= LIGHT)
        most = max(row["goodput_hz"] for row in rows.values())
        goals.append(verdict(f"{name}: accepted latencies kept", least, 0.95, at_least=True))
        beyond = rows[max(rows)]["goodput_hz"] / most
        goals.append(verdict(f"{name}: goodput at {max(rows)}, of the peak", beyond, 0.9, at_least=True))
    return goals


def main() -> None:
    """Simulate, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--memories", type=int, nargs="*", default=list(MEMORIES_GB), help="GB")
    parser.add_argument("--seconds", type=float, default=240.0, help="of arrivals")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--traces", type=Path, default=TRACES, help="the folder of DiffServe's artifact")
    asked = parser.parse_args()
    models = cards.models(asked.traces)
    found: dict[Case, dict[str, Any]] = {}
    for case in cases(asked.memories):
        seconds = asked.seconds if case.kind == "full" else asked.seconds / 4
        row = found[case] = measure(case, models, seconds, asked.seeds)
        told = " ".join(f"{key} {row[key]}" for key in KEPT)
        print(f"  {case.memory_gb:2} GB {case.pattern:7} {case.kind:5} {case.load:g}: {told}", flush=True)
    goals = goals_of(found)
    rows = [{**case._asdict(), **row} for case, row in found.items()]
    seeds, memories = (" ".join(map(str, values)) for values in (asked.seeds, asked.memories))
    words = f"--memories {memories} --seconds {asked.seconds:g} --seeds {seeds}"
    print(keep("single-gpu", f"python -m bench.single_gpu {words}", {"rows": rows, "goals": goals}))


if __name__ == "__main__":
    main()
