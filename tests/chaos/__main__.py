"""`python -m tests.chaos --seconds 600 --seed 1`: one run, or one after the other until told to stop."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tests.chaos import means, storm
from tests.chaos.plan import Kind


def main() -> int:
    """Run and report; returns 1 when a promise was broken."""
    options = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    options.add_argument("--seconds", type=float, default=60.0)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--gentle", action="store_true", help="end no process: for memory over hours")
    options.add_argument("--devices", type=int, default=3)
    options.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    asked = options.parse_args()
    if asked.inside is None and means.can_mount():
        with tempfile.TemporaryDirectory(prefix="difs-chaos-") as folder:
            again = [sys.executable, "-m", "tests.chaos", *sys.argv[1:], "--inside", folder]
            return os.spawnvp(os.P_WAIT, "unshare", ["unshare", "-rm", *again])
    if asked.inside is not None:
        means.mount_tmpfs(asked.inside)
    with means.memory_group() as group:
        for kind, there in ((Kind.FILL_SHM, asked.inside), (Kind.SQUEEZE_ACTOR, group)):
            if there is None:
                print(f"left out, for want of the right to it: {kind.value}")
        found = storm.run(
            asked.seconds,
            asked.seed,
            devices=asked.devices,
            shm=asked.inside,
            group=group,
            is_gentle=asked.gentle,
        )
    print(f"seed {asked.seed}, {asked.seconds:g} s, {sum(found.ends.values())} calls")
    for title, counts in (("blows", found.blows), ("ends", found.ends), ("starts", found.restarts)):
        print(f"{title}: " + ", ".join(f"{name} {n}" for name, n in sorted(counts.items())))
    print(f"slowest call: {found.slowest_s:.1f} s")
    print("memory: " + ", ".join(map(str, found.trends)))
    for problem in found.problems:
        print(f"BROKEN: {problem}")
    print("broken" if found.problems else "every promise was kept")
    return bool(found.problems)


if __name__ == "__main__":
    sys.exit(main())
