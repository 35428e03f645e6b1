"""What a rest between two pictures costs on a CPU, and what keeping its cores awake meanwhile saves.

    python -m bench.rests [--pictures 240] [--load 0.5]

The bare pipeline paints one picture again and again, at Poisson times, in turns with cores that sleep as
the system lets them and with cores that are kept awake as an actor keeps them (`actors.awake`). Reported
for both: seconds of a picture as a multiple of those without any rest, and how well the next one can be
told from the last ones (see `bench.floor`). Nothing is measured where the kernel may not be asked.
"""

import argparse
import sys
from contextlib import nullcontext

from bench import floor, overhead
from bench.load import arrivals, awake, wait_until_quiet
from bench.report import keep, percentile, verdict
from difs.actors.awake import REQUEST

ROUNDS = 6
WAYS = ("without rests", "asleep", "awake")


def measure(pictures: int, load: float) -> dict[str, list[list[float]]]:
    """Return the seconds of each picture, by way and round."""
    pipe = overhead.load_bare()
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    each = pictures // ROUNDS
    for i in range(ROUNDS):
        for way in WAYS:
            times = [0.0] * each
            if way != "without rests":
                rate = load / percentile(found["without rests"][-1], 0.5)
                times = arrivals(rate, each / rate, i)
            with awake() if way == "awake" else nullcontext():
                found[way].append(floor.seconds_at(pipe, times))
        medians = {way: round(percentile(rounds[-1], 0.5) * 1e3, 1) for way, rounds in found.items()}
        print(f"  round {i + 1} of {ROUNDS}: median ms {medians}", flush=True)
    return found


def figures(found: dict[str, list[list[float]]]) -> dict[str, dict[str, float]]:
    """Return what is kept of each way."""
    unit = percentile([s for seconds in found["without rests"] for s in seconds], 0.5)
    cells = {}
    for way, rounds in found.items():
        every = [s for seconds in rounds for s in seconds]
        cells[way] = {
            "p50": round(percentile(every, 0.5) / unit, 3),
            "p90": round(percentile(every, 0.9) / unit, 3),
            "error_p90": round(percentile([floor.error(seconds) for seconds in rounds], 0.5), 3),
        }
    return cells


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=240, help="of each way")
    parser.add_argument("--load", type=float, default=0.5)
    asked = parser.parse_args()
    with awake() as is_allowed:
        if not is_allowed:
            sys.exit(f"not measured: {REQUEST} may not be written; docs/guides/GOALS.md says how it may")
    busy = wait_until_quiet()
    cells = figures(measure(asked.pictures, asked.load))
    for way, cell in cells.items():
        print(f"  {way:>14} {cell}")
    gain = cells["awake"]["p50"] / cells["asleep"]["p50"]
    goals = [verdict("a picture after a rest, cores awake against asleep", gain, 1.0)]
    command = f"python -m bench.rests --pictures {asked.pictures} --load {asked.load:g}"
    print(keep("rests", command, {"busy_before": round(busy, 3), "ways": cells, "goals": goals}))


if __name__ == "__main__":
    main()
