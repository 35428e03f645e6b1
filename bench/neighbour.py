"""A neighbour on the same GPU takes and frees memory at random while DIFS serves: does anything break?

    python -m bench.neighbour [--models FOLDER] [--device cuda:0] [--seconds 120] [--seed 1]

A second process takes and frees the device's memory, every second time all that is free but half of the
headroom; a customer asks for one picture after the other, of each variant in turns. FOLDER is what
`bench.gpu_engine --folder` made: variants of real size, which have to make room. Goals: no request lost,
no out-of-memory error, and DIFS leaves the headroom within 2 s wherever the neighbour found less than
that free.
"""

import argparse
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from bench import gpu_promises
from bench.promises import wait_until_loaded
from bench.report import keep, need_gpu, percentile, verdict
from difs import Client
from difs.messages import StatusReport
from difs.private import PrivateService

HEADROOM_BYTES = 2**30
LOOK_S = 0.1
NEIGHBOUR = f"""
import sys, torch
held = None
for line in sys.stdin:
    held = None
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(sys.argv[1])
    wanted = max(0, int(float(line) * (free - {HEADROOM_BYTES // 2})))
    try:
        held = torch.empty(wanted, dtype=torch.uint8, device=sys.argv[1])
        print(wanted, flush=True)
    except torch.OutOfMemoryError:
        print(0, flush=True)
"""


class Customer(threading.Thread):
    """Asks until it is told to stop; keeps only what is told, not the pictures."""

    def __init__(self, address: str, variants: Sequence[str]) -> None:
        """Prepare to ask the service at `address` for pictures of each of `variants` in turns."""
        super().__init__(daemon=True)
        self.seconds: list[float] = []
        self.noted = 0
        self.failures: list[str] = []
        self.stopping = threading.Event()
        self._address = address
        self._variants = variants

    def run(self) -> None:
        """Ask for one picture after the other."""
        with Client(self._address) as client:
            for variant in cycle(self._variants):
                if self.stopping.is_set():
                    return
                started = time.monotonic()
                try:
                    result = client.generate("red apple", variant=variant, timeout_s=120)
                except Exception as error:
                    self.failures.append(f"{type(error).__name__}: {error}")
                else:
                    self.seconds.append(time.monotonic() - started)
                    self.noted += any("memory mode" in note for note in result.notes)
                    result.release()


def short_s(client: Client, seconds: float) -> float:
    """Watch for so long; return the longest time that less than the headroom was free."""
    longest, since = 0.0, None
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        now, report = time.monotonic(), client.status()
        if _is_short(report):
            since = now if since is None else since
            longest = max(longest, now - since)
        else:
            since = None
        time.sleep(LOOK_S)
    return longest


def _is_short(report: StatusReport) -> bool:
    readings = [d.reading for d in report.devices if d.reading is not None]
    return any(r.memory_free_bytes < HEADROOM_BYTES for r in readings)


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """Let neighbour and customer be beside each other; return what came of it."""
    chance, waits, taken = random.Random(asked.seed), [], 0
    options = ["--set", f'actors.devices=["{asked.device}"]', "--set", 'autoscaler.headroom="1GiB"']
    if asked.models is not None:
        options += gpu_promises.of(asked.models)
    with PrivateService(options) as service, Client(service.address) as client:
        wait_until_loaded(service.address)
        customer = Customer(service.address, sorted(info.name for info in client.variants()))
        customer.start()
        command = [sys.executable, "-c", NEIGHBOUR, asked.device]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as neighbour:
            assert neighbour.stdin is not None
            assert neighbour.stdout is not None
            until = time.monotonic() + asked.seconds
            while time.monotonic() < until:
                share = 1.0 if chance.random() < 0.5 else chance.random()
                print(share, file=neighbour.stdin, flush=True)
                taken = max(taken, int(neighbour.stdout.readline()))
                waits.append(short_s(client, chance.uniform(3.0, 12.0)))
            neighbour.kill()
        customer.stopping.set()
        customer.join(130)
        report = client.status()
    return {
        "device": asked.device,
        "pictures": len(customer.seconds),
        "pictures_that_say_so": customer.noted,
        "p50_s": round(percentile(customer.seconds or [0.0], 0.5), 3),
        "failures": customer.failures,
        "longest_short_s": round(max(waits), 2),
        "neighbours_most_gb": round(taken / 1e9, 1),
        "actors_lost": report.counts.get("actors_lost", 0),
        "decisions": {n: c for n, c in report.counts.items() if n.startswith("scaled_")},
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=Path, help="what bench.gpu_engine --folder made")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    need_gpu()
    figures = measure(asked)
    print(f"  {figures}")
    goals = [
        verdict("pictures", figures["pictures"], 1, at_least=True),
        verdict("requests lost", len(figures["failures"]), 0),
        verdict("actors lost", figures["actors_lost"], 0),
        verdict("longest time without the headroom, s", figures["longest_short_s"], 2.0),
    ]
    command = f"python -m bench.neighbour --device {asked.device} --seconds {asked.seconds:g}"
    command += gpu_promises.named(asked.models)
    print(keep("neighbour", command, {**figures, "goals": goals}))


if __name__ == "__main__":
    main()
