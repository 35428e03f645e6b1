"""What previews cost the others: steps of a batch in which an image is previewed after every other step.

    python -m bench.previews [--rounds 20]

What the engine pays: the embedded model in this process, four images, as many of them in a step as the
engine finds worth it (`images`), one of them watched. A step with a preview is compared with the two
around it, which have none: nothing is nearer in time. CPU seconds of this process, one thread, the
hand-over to the broker's socket among them: what others do on the machine hardly counts.
`slower_percent` is the median over all such steps, with its 95 % interval (batches are drawn again, for
their steps are alike); `noise_percent` is the same where nothing was previewed.
`own_percent` is what the calls took that make a preview, as a share of a step, rare dear ones
among them; each further image that is watched costs as much again. A preview is one thread's work and a
step is shared by all, so with n threads the share is up to n times as large. On a GPU: not measured.

What the door pays for a preview: a PNG of it in base64, in the door's own process, on another core where
there is one; `door_percent` is that as a share of the engine's step.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from bench.lone_engine import loaded, order
from bench.report import keep, verdict
from difs.actor_messages import Stepped
from difs.actors.jobs import Painting
from difs.actors.link import Link
from difs.actors.torch_engine import TorchEngine
from difs.clock import MonotonicClock
from difs.doors.service import Service
from difs.messages import Preview

BATCH, STEPS, EVERY = 4, 24, 2
WARM = 2
RESAMPLES = 2000
DOOR_ROUNDS = 300
SINK = """
import sys, zmq
socket = zmq.Context().socket(zmq.ROUTER)
socket.bind(sys.argv[1])
while True:
    socket.recv_multipart()
"""
"""Who takes what the engine hands over, as the broker does: a process of its own."""


class Timed(TorchEngine):
    """An engine that notes the CPU seconds of its previews."""

    preview_s = 0.0
    previews = 0

    def preview(self, painting: Painting) -> Preview | None:
        """See Engine.preview."""
        began = time.process_time()
        found = super().preview(painting)
        self.preview_s += time.process_time() - began
        self.previews += 1
        return found


@contextmanager
def sink(folder: Path) -> Iterator[Link]:
    """Lend a link as an actor's, to a process that takes what is sent."""
    address = f"ipc://{folder}/sink"
    taker = subprocess.Popen([sys.executable, "-c", SINK, address])
    try:
        yield Link(address)
    finally:
        taker.kill()
        taker.wait()


class Bench:
    """An engine, and where it tells of its steps."""

    def __init__(self, engine: Timed, link: Link) -> None:
        """Nothing was painted yet."""
        self.engine, self._link = engine, link
        self._attempts = 1
        self.images = 0
        """That most steps of the last batch had."""
        self.last: Preview | None = None
        """The last preview."""

    def batch(self, preview_every: int) -> dict[int, float]:
        """Return the CPU seconds of each step of one batch; the first of its images may have previews.

        Left out are steps that fewer or more images shared than most did.
        """
        watched, self._attempts = self._attempts, self._attempts + BATCH
        for i in range(BATCH):
            self.engine.submit(order(watched + i, STEPS, watched + i, preview_every if i == 0 else 0))
        taken: dict[int, tuple[int, float]] = {}
        while self.engine.is_busy or not self.engine.is_idle:
            began = time.process_time()
            told = [report for report in self.engine.turn() if isinstance(report, Stepped)]
            mine = [report for report in told if report.attempt == watched]
            for report in mine:
                self._link.send(report)
                self.last = report.preview or self.last
            if mine:
                taken[mine[0].step] = (len(told), time.process_time() - began)
        self.images = statistics.mode(images for images, _ in taken.values())
        return {step: seconds for step, (images, seconds) in taken.items() if images == self.images}


def excesses(steps: Mapping[int, float]) -> list[float]:
    """Return by which share each EVERY-th step took more than the two around it."""
    shown = [i for i in steps if i % EVERY == 0 and {i - 1, i + 1} <= steps.keys()]
    return [steps[i] / ((steps[i - 1] + steps[i + 1]) / 2) - 1 for i in shown]


def interval(batches: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Return the median of all values and its 95 % interval, in percent: batches are drawn again."""
    values, chance = [np.array(batch) * 100 for batch in batches], np.random.default_rng(1)
    drawn = chance.integers(0, len(values), (RESAMPLES, len(values)))
    medians = [np.median(np.concatenate([values[i] for i in rows])) for rows in drawn]
    low, high = np.percentile(medians, [2.5, 97.5])
    middle = float(np.median(np.concatenate(values)))
    return round(middle, 3), round(float(low), 3), round(float(high), 3)


def measure_engine(bench: Bench, rounds: int) -> dict[str, Any]:
    """Return what previews cost the engine."""
    found: dict[int, list[dict[int, float]]] = {EVERY: [], 0: []}
    for i in range(rounds + WARM):
        if i == WARM:
            found[EVERY], found[0] = [], []
            bench.engine.preview_s, bench.engine.previews = 0.0, 0
        for every in (EVERY, 0) if i % 2 else (0, EVERY):
            found[every].append(bench.batch(every))
    own_s = bench.engine.preview_s / bench.engine.previews
    step_s = statistics.fmean(seconds for steps in found[0] for seconds in steps.values())
    slower, noise = (interval([excesses(steps) for steps in found[every]]) for every in (EVERY, 0))
    return {
        "images": bench.images,
        "step_ms": round(step_s * 1e3, 3),
        "previews": bench.engine.previews,
        "slower_percent": slower[0],
        "slower_interval": slower[1:],
        "noise_percent": noise[0],
        "noise_interval": noise[1:],
        "own_us": round(own_s * 1e6, 1),
        "own_percent": round(own_s / step_s * 100, 3),
    }


def door_s(preview: Preview) -> float:
    """Return the CPU seconds that a preview costs the door's process, the median of many."""

    def nobody() -> NoReturn:
        raise AssertionError("nothing is asked of a broker")

    async def encode() -> list[float]:
        door, taken = Service(nobody, MonotonicClock()), []
        for _ in range(DOOR_ROUNDS):
            began = time.process_time()
            await door.preview(preview)
            taken.append(time.process_time() - began)
        return taken

    return statistics.median(asyncio.run(encode()))


def measure(rounds: int) -> dict[str, Any]:
    """Return the figures."""
    with loaded(Timed) as engine, tempfile.TemporaryDirectory() as home, sink(Path(home)) as link:
        bench = Bench(engine, link)
        figures = measure_engine(bench, rounds)
        assert bench.last is not None
        door = door_s(bench.last)
        figures |= {
            "preview_side": bench.last.width,
            "door_us": round(door * 1e6, 1),
            "door_percent": round(door * 1e5 / figures["step_ms"], 3),
        }
        link.close()
    return figures


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="batches with previews, and without any")
    asked = parser.parse_args()
    figures = measure(asked.rounds)
    for name, value in figures.items():
        print(f"  {name:>16} {value}")
    name = "a step of a batch is slower by a preview of one, percent, upper end of 95 %"
    goals = [verdict(name, figures["slower_interval"][1], 1.0)]
    print(
        keep("previews", f"python -m bench.previews --rounds {asked.rounds}", {**figures, "goals": goals})
    )


if __name__ == "__main__":
    main()
