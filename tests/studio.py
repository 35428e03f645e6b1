"""An engine with scripted times, its clock and its segment: for tests of engines without torch."""

import math
import time
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from difs.actor_messages import Ended, Execute, Finished, Slot, Stepped
from difs.actors.delivery import Easel
from difs.actors.simulated import Script, SimulatedEngine
from difs.actors.units import Report
from difs.clock import ManualClock
from difs.manifests import Manifest, StepRange
from difs.repository import Repository
from difs.shm import layout
from difs.shm.reader import SegmentReader
from difs.shm.writer import SegmentWriter
from difs.variants import Variant
from tests import builders

KIB = 1024
PLAN = layout.plan([(64 * KIB, 32), (1024 * KIB, 2)])
MANIFEST = Manifest(
    name="tiny",
    task="text-to-image",
    family="sd15",
    path=".",
    precision="fp16",
    sampler="ddim",
    steps=StepRange(4, 20, 50),
    guidance_scale=2.5,
    native_sizes=((64, 64),),
    licence="Apache-2.0",
    digests={},
)


class Studio:
    """An engine with the variants `tiny` and `wide`, its time and its segment."""

    def __init__(self, path: Path, writer: SegmentWriter, script: Script, **options: Any) -> None:
        self.reader = SegmentReader(path)
        self.clock = ManualClock()
        variants = {
            name: Variant(replace(MANIFEST, name=name), path.parent, 1000) for name in ("tiny", "wide")
        }
        repository = Repository(MappingProxyType(variants))
        self.engine = SimulatedEngine(
            script, repository, Easel(writer), self.clock, self.sleep, **options
        )
        self.generation = 0
        self.places = 0

    def sleep(self, seconds: float) -> None:
        """Let the time pass at once."""
        self.clock.advance(seconds)

    def order(self, attempt: int = 1, **changes: Any) -> Execute:
        """Return an order with slots of its own for its seeds."""
        seeds = changes.setdefault("seeds", (5,))
        nbytes = changes.get("height", 64) * changes.get("width", 64) * 3
        fitting = [p for p in PLAN.slots if p.capacity_bytes >= nbytes]
        slots = []
        for _ in seeds:
            place = fitting[self.places % len(fitting)]
            self.places += 1
            self.generation += 1
            slots.append(Slot(place.index, place.offset, place.capacity_bytes, self.generation))
        changes.setdefault("deadline", 1e6)
        return builders.execute(attempt=attempt, slots=tuple(slots), **changes)

    def load(self, variant: str = "tiny") -> list[Report]:
        """Load a variant; returns the reports."""
        self.engine.load(variant)
        return self.run()

    def run(self, *orders: Execute) -> list[Report]:
        """Submit orders and work until nothing is left; returns the reports."""
        for order in orders:
            self.engine.submit(order)
        reports: list[Report] = []
        for _ in range(100_000):
            if self.engine.is_idle:
                return reports
            reports += self.turn()
        raise AssertionError("the engine never comes to an end")

    def turn(self) -> list[Report]:
        """Do one turn; where nothing can be done now, time passes until something can."""
        if not self.engine.is_busy:
            wait_s = self.engine.wait_s()
            if math.isfinite(wait_s):
                self.clock.advance(max(0.0, wait_s))
            else:
                time.sleep(0.001)  # a file is being compressed in the background
        return self.engine.turn()

    def pixels(self, order: Execute, image: int = 0) -> bytes:
        """Return what lies in the slot of an image."""
        slot = order.slots[image]
        nbytes = order.height * order.width * 3
        return bytes(self.reader.image(slot.offset, nbytes, slot.generation))


def ends(reports: list[Report]) -> list[int]:
    """Return the attempts that ended, with or without images, in order."""
    return [r.attempt for r in reports if isinstance(r, (Finished, Ended))]


def stepped(reports: list[Report]) -> list[tuple[int, int]]:
    """Return (attempt, step) of each step, in order."""
    return [(r.attempt, r.step) for r in reports if isinstance(r, Stepped)]
