"""What previews cost the others: steps of a batch in which one image is previewed at every step.

    python -m bench.previews [--rounds 40]

The embedded model in this process, four images in a batch, two batches in turn: in one of them, one
image asks for a preview after every step. The figure is what a previewed batch takes more, in percent
of the plain one's time, by the medians; `noise` is the same for two plain batches.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from bench.report import keep, verdict
from difs import config, repository
from difs.actor_messages import Execute, Slot, Stepped
from difs.actors.delivery import Easel
from difs.actors.torch_engine import TorchEngine
from difs.clock import MonotonicClock
from difs.shm import layout, segment
from difs.shm.writer import SegmentWriter

PLACES = layout.plan([(64 * 1024, 4)])
BATCH, STEPS = 4, 6


def order(attempt: int, preview_every: int) -> Execute:
    """Return one image of a batch."""
    place = PLACES.slots[attempt % BATCH]
    return Execute(
        attempt=attempt,
        request_id="bench",
        variant="emoji-base",
        prompt="red apple",
        negative_prompt="",
        width=64,
        height=64,
        steps=STEPS,
        guidance_scale=2.5,
        sampler="ddim",
        seeds=(attempt,),
        deadline=MonotonicClock().now() + 600,
        slots=(Slot(place.index, place.offset, place.capacity_bytes, attempt),),
        format="raw",
        metadata="",
        preview_every=preview_every,
    )


def seconds_of(engine: TorchEngine, first: int, preview_every: int) -> float:
    """Return the seconds of one batch; the first of its images has the previews."""
    for i in range(BATCH):
        engine.submit(order(first + i, preview_every if i == 0 else 0))
    started = time.perf_counter()
    shown = 0
    while engine.is_busy or not engine.is_idle:
        shown += sum(isinstance(r, Stepped) and r.preview is not None for r in engine.turn())
    assert shown == (STEPS - 1 if preview_every else 0)
    return time.perf_counter() - started


def measure(rounds: int) -> dict[str, float]:
    """Return the figures in percent and milliseconds."""
    with tempfile.TemporaryDirectory() as home:
        writer = SegmentWriter(segment.create(Path(home), PLACES))
        found = repository.scan(repository.locate("model_repo"))
        engine = TorchEngine("cpu-0", found, Easel(writer), MonotonicClock(), config.Actors())
        engine.load("emoji-base")
        while engine.is_busy or not engine.is_idle:
            engine.turn()
        taken: dict[str, list[float]] = {"plain": [], "shown": [], "again": []}
        for i in range(rounds + 2):
            for j, (name, every) in enumerate((("plain", 0), ("shown", 1), ("again", 0))):
                taken[name].append(seconds_of(engine, 1 + (3 * i + j) * BATCH, every))
        engine.close()
        writer.close()
    plain, shown, again = (statistics.median(taken[name][2:]) for name in ("plain", "shown", "again"))
    base = (plain + again) / 2
    return {
        "plain_ms": round(base * 1e3, 2),
        "shown_ms": round(shown * 1e3, 2),
        "slower_percent": round((shown / base - 1) * 100, 3),
        "noise_percent": round(abs(plain - again) / base * 100, 3),
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=40)
    asked = parser.parse_args()
    figures = measure(asked.rounds)
    for name, value in figures.items():
        print(f"  {name:>16} {value}")
    goals = [verdict("a previewed batch is slower by, percent", figures["slower_percent"], 1.0)]
    print(
        keep("previews", f"python -m bench.previews --rounds {asked.rounds}", {**figures, "goals": goals})
    )


if __name__ == "__main__":
    main()
