"""What DIFS predicts and promises on a GPU, for SD 1.5 and SDXL of real size and for the embedded family.

    python -m bench.gpu_promises [--models FOLDER] [--requests 60] [--loads 0 0.5 0.8] [--seed 1]

The requests, loads and figures of `bench.promises`, on the first GPU alone, each set of variants in a
service of its own. FOLDER is what `bench.gpu_engine --folder` made: random weights of the true
architectures, so seconds are real and pictures are noise; without it only the embedded ones are asked.
Latencies of the large ones are twice as long.
"""

import argparse
from pathlib import Path

from bench import promises
from bench.report import keep, need_gpu, verdict

DEVICE = ("--set", 'actors.devices=["cuda:0"]')
SLOWER = 2.0


def of(models: Path) -> tuple[str, ...]:
    """Return the options of a service that has these variants and no others."""
    return ("--set", f"service.model_repo={models.absolute()}")


def named(models: Path | None) -> str:
    """Return what a command says of these variants: its figures are of them."""
    return "" if models is None else f" --models {models}"


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", type=Path, help="what bench.gpu_engine --folder made")
    parser.add_argument("--requests", type=int, default=60, help="for each load")
    parser.add_argument("--loads", type=float, nargs="*", default=[0.0, 0.5, 0.8])
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    need_gpu()
    runs = {"embedded": promises.serve(DEVICE, asked)}
    if asked.models is not None:
        print("  of real size:")
        runs["real"] = promises.serve((*DEVICE, *of(asked.models)), asked, slower=SLOWER)
    goals = []
    for name, cells in runs.items():
        for load, cell in cells.items():
            goals.append(verdict(f"error p90 {promises.at(load)}, {name}", cell["error_p90"], 0.15))
            goals.append(verdict(f"kept {promises.at(load)}, {name}", cell["kept"], 0.95, at_least=True))
    command = f"python -m bench.gpu_promises --requests {asked.requests} --seed {asked.seed}"
    command += named(asked.models)
    print(keep("gpu-promises", command, {"runs": runs, "goals": goals}))


if __name__ == "__main__":
    main()
