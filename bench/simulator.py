"""How long a simulated hour takes: 32 requests a second on 16 devices, the real broker and planner.

    python -m bench.simulator [--seconds 600] [--rounds 3]

The embedded family as it was profiled on a CPU (bench/tables), pictures of 128x128 pixels, four tenths
of what the devices can do, latencies of three kinds, planner `utility`. CPU seconds of this thread, the
least of the rounds: others' work on the machine counts little. `log_hash` is of all that happened: two
versions that decide alike tell the same. Goal: 60 s of one core for an hour.
"""

import argparse
import time

from bench import embedded
from bench.report import keep, verdict
from difs import processes
from difs.simulation import figures
from difs.simulation.scenario import Arrivals, Fleet, Scenario, Wish
from difs.simulation.world import World

HOUR_S = 3600.0
GOAL_S = 60.0


def scenario(seconds: float) -> Scenario:
    """Return the run."""
    mix = [Wish(latency_s=latency_s, size=(128, 128)) for latency_s in (0.5, 1.0, 3.0)]
    wanted = Arrivals("poisson", rate_hz=32.0, seconds=seconds)
    return Scenario(arrivals=wanted, mix=tuple(mix), fleet=Fleet(devices=16))


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600.0, help="simulated in each round")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    models = embedded.models()
    times, told = [], {}
    processes.collect_rarely()
    for _ in range(asked.rounds):
        world = World(scenario(asked.seconds), models)
        started = time.thread_time()
        ledger = world.run()
        times.append((time.thread_time() - started) * HOUR_S / asked.seconds)
        told = figures.of_run(ledger)
    kept = {key: told[key] for key in ("requests", "attainment", "busy", "log_hash")}
    goals = [verdict("CPU seconds of a simulated hour", min(times), GOAL_S)]
    words = f"--seconds {asked.seconds:g} --rounds {asked.rounds}"
    measured = {"hour_s": [round(t, 2) for t in times], **kept, "goals": goals}
    print(keep("simulator", f"python -m bench.simulator {words}", measured))


if __name__ == "__main__":
    main()
