"""What every bench does with its figures: describe the machine, print a table, keep dated JSON."""

import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from difs.simulation.figures import percentile as of_sorted
from difs.trials import surroundings

RESULTS = Path(__file__).parent / "results"
TOLD = ("processor", "cores", "python", "load_1min")


_started = time.monotonic()


def say(line: str) -> None:
    """Print progress with the seconds since the start."""
    print(f"[{time.monotonic() - _started:5.0f} s] {line}", flush=True)


def machine() -> dict[str, Any]:
    """Return what a reader must know to judge a figure."""
    known = surroundings.generator()
    return {**{name: known[name] for name in TOLD}, "packages": surroundings.versions()}


def need_gpu() -> None:
    """End with a plain word where there is no GPU."""
    import torch

    if not torch.cuda.is_available():
        sys.exit(
            "not measured: torch finds no CUDA device here. It takes a machine with an NVIDIA GPU and a "
            "build of torch for it (TORCH_FLAGS in the Makefile); make bench runs without one."
        )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie (nearest rank); they need not be sorted."""
    return of_sorted(sorted(values), share)


def keep(name: str, command: str, figures: dict[str, Any]) -> Path:
    """Write a dated result."""
    RESULTS.mkdir(exist_ok=True)
    day = datetime.now(UTC).date().isoformat()
    path = RESULTS / f"{day}-{name}.json"
    facts = {"date": day, "command": command, "machine": machine(), "figures": figures}
    path.write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    return path


def verdict(name: str, value: float, bound: float, *, at_least: bool = False) -> dict[str, Any]:
    """Print a figure beside its goal and return it for the record."""
    holds = value >= bound if at_least else value <= bound
    sign = ">=" if at_least else "<="
    print(f"  {'kept  ' if holds else 'MISSED'}  {name}: {value:.2f} (goal {sign} {bound:g})")
    return {"name": name, "value": round(value, 4), "goal": f"{sign} {bound:g}", "kept": holds}
