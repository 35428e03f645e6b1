"""All benches of a kind, one after the other, then the report: for `make bench` and `make bench-gpu`.

    python -m bench.suite cpu [--fresh]     half an hour: transport, overhead, doors, decisions, the peers
    python -m bench.suite gpu [--fresh]     engine, memory modes, hand-over, promises, a neighbour

A run that was cut short goes on with the bench that was not finished, unless `--fresh` is given; so does
`bench.beside` within itself. A bench that fails does not keep the others from running. What takes longer
has a command of its own: `bench.engine`, `bench.policy`, `bench.quality`; docs/BENCHMARKS.md names all.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence

from bench.progress import PLACE, Progress
from bench.report import need_gpu

CPU = (
    "bench.transport",
    "bench.overhead",
    "bench.previews",
    "bench.house",
    "bench.scale",
    "bench.http",
    "bench.decisions",
    "bench.estimates",
    "bench.planner",
    "bench.promises",
    "bench.beside",
)
MODELS = PLACE / "models"
"""Nine gigabytes of random weights, which the first bench makes for the others."""
GPU = (
    f"bench.gpu_engine --folder {MODELS}",
    f"bench.gpu_promises --models {MODELS}",
    f"bench.neighbour --models {MODELS}",
)
REPORT = "bench.write_report"


def run(steps: Sequence[str], progress: Progress, call: Callable[[str], int]) -> list[str]:
    """Call what is not done yet, then write the report; return what failed."""
    failed = []
    for step in steps:
        if step in progress:
            print(f"== {step}: done before", flush=True)
        elif call(step) == 0:
            progress.keep(step, True)
        else:
            failed.append(step)
    if call(REPORT) != 0:
        failed.append(REPORT)
    if not failed:
        progress.forget()
    return failed


def _call(step: str) -> int:
    print(f"== python -m {step}", flush=True)
    return subprocess.run([sys.executable, "-m", *step.split()], check=False).returncode


def main() -> None:
    """Run a suite; the exit status says whether all of it was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("kind", choices=("cpu", "gpu"))
    parser.add_argument(
        "--fresh", action="store_true", help="measure again what an earlier run has measured"
    )
    asked = parser.parse_args()
    steps: tuple[str, ...] = CPU if asked.kind == "cpu" else GPU
    if asked.kind == "gpu":
        need_gpu()
    progress = Progress(PLACE / f"suite-{asked.kind}.json", {"steps": steps})
    if asked.fresh:
        progress.forget()
        steps = tuple(f"{step} --fresh" if step == "bench.beside" else step for step in steps)
    if failed := run(steps, progress, _call):
        sys.exit(f"failed: {', '.join(failed)}; run the same command again to go on with these")
    if asked.kind == "gpu":
        shutil.rmtree(MODELS, ignore_errors=True)


if __name__ == "__main__":
    main()
