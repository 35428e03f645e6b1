"""`python -m tests.model.lossy --seeds 10000 --from 0`: many lives, one after the other."""

import argparse
import logging
import sys
import time
from collections import Counter

from tests.model.lossy.faults import draw
from tests.model.lossy.world import World, studio


def main() -> int:
    """Run and report; returns 1 when a promise was broken."""
    options = argparse.ArgumentParser(prog="python -m tests.model.lossy", description=__doc__)
    options.add_argument("--seeds", type=int, default=1000)
    options.add_argument("--from", type=int, default=0, dest="first")
    options.add_argument("--stop", action="store_true", help="after the first that breaks a promise")
    asked = options.parse_args()
    logging.disable()  # what goes wrong on purpose
    counts: Counter[str] = Counter()
    broken, events, seconds, seed = 0, 0, 0.0, asked.first
    started = time.process_time()
    with studio() as made:
        for seed in range(asked.first, asked.first + asked.seeds):
            plan = draw(seed)
            world = World(plan, made)
            problems = world.run()
            counts += world.ledger.counts
            events, seconds = events + world.time.events, seconds + world.time.now
            if problems:
                broken += 1
                print(plan)
                for problem in problems:
                    print(f"  BROKEN: {problem}")
                if asked.stop:
                    break
    used = time.process_time() - started
    lived = seed + 1 - asked.first
    print(f"{lived} seeds, {seconds:.0f} simulated s, {events} events in {used:.1f} s of one core")
    print("ends: " + ", ".join(f"{how} {n}" for how, n in counts.most_common()))
    print(f"{broken} seeds broke a promise" if broken else "every promise was kept")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
