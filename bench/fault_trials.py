"""Faults that need no processes: many trials in this one, for `python -m bench.faults`.

Decisions are made by the real broker's heart in virtual time, or on files; each prints what it found.
"""

import itertools
import random
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import psutil
from msgspec.structs import replace

from bench.report import percentile
from difs import repository
from difs.actor_messages import Slot
from difs.broker.effects import Effect
from difs.errors import DifsError, RepositoryError
from difs.messages import Error, Result
from difs.registration import headers
from difs.shm import layout, segment
from difs.shm.layout import HEADER_BYTES
from difs.shm.reader import SegmentReader, matches
from difs.shm.writer import SegmentWriter
from tests.builders import generate, pulse, served, told
from tests.unit.test_overload import ALONE_S, Shop

MIB = 2**20


def scribbles(trials: int) -> None:
    """Whether a picture that was scribbled over is ever taken for one."""
    chance = random.Random(1)
    plan = layout.plan([(64 * 1024, 4)])
    leased = Slot(1, plan.slots[1].offset, 64 * 1024, 5)
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        path = segment.create(Path(folder), plan)
        with SegmentWriter(path) as writer, path.open("r+b", 0) as file:
            for _ in range(trials):
                nbytes = 64 * 64 * 3
                sealed = writer.write(leased, memoryview(chance.randbytes(nbytes)), (64, 64, 3))
                view = SegmentReader(path).image(leased.offset, nbytes, leased.generation)
                assert matches(view, sealed.crc32)
                at, count = chance.randrange(nbytes), chance.choice([1, 2, 16, 4096])
                before = bytes(view)
                file.seek(leased.offset + HEADER_BYTES + at)
                file.write(chance.randbytes(min(count, nbytes - at)))
                missed += bytes(view) != before and matches(view, sealed.crc32)
    print(f"{trials} pictures scribbled over: {missed} taken for right ones; goal 0", flush=True)


def submits(count: int) -> None:
    """Growth of the broker's heart under submits that it has no room for."""
    house = served(credits=1, max_queued=1000, policy="modelless")
    house.state.books.rules = replace(house.state.books.rules, validate=False)
    process = psutil.Process()

    def flood(first: int, number: int) -> int:
        refused = 0
        for i in range(first, first + number):
            house.now += 1e-5
            asked = generate(f"r{i}", prompt=f"a prompt of a thousand bytes {i}" * 30, timeout_s=3600.0)
            refused += len(told(house.ask(asked, b"client-%d" % (i % 5000)), Error))
        return refused

    flood(0, 5000)
    before = process.memory_info().rss
    refused = flood(5000, count)
    now = process.memory_info().rss
    print(
        f"{count} submits of 5 000 clients, {refused} refused: {(now - before) / MIB:.1f} MiB more,"
        f" {now / MIB:.0f} MiB in all (libraries of the bench among them); goal <= 300 MB",
        flush=True,
    )


class Street(Shop):
    """Nine clients who ask now and then, and perhaps one who asks a hundred times as often."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.latencies: dict[str, list[float]] = defaultdict(list)

    def note(self, effects: list[Effect]) -> None:
        """Keep how long each client waited."""
        for result in told(effects, Result):
            who = result.request_id.partition("-")[0]
            self.latencies[who].append(self.house.now - self._arrived[result.request_id])
        super().note(effects)

    def live(self, seconds: float, rates: dict[str, float], seed: int) -> None:
        """Let each client ask at his rate, at random; nobody is in a hurry."""
        asks = []
        for who, rate in rates.items():
            chance, at = random.Random(f"{who} {seed}"), 0.0
            while (at := at + chance.expovariate(rate)) < seconds:
                asks.append((at, who))
        for number, (at, who) in enumerate(sorted(asks)):
            self.until(at)
            name = f"{who}-{number}"
            self._arrived[name] = at
            self.note(self.house.ask(name, who.encode(), timeout_s=60.0))
            if number % 10 == 0:
                self.note(self.house.wait(0.0))
                pulse(self.house, number)
        self.until(seconds + 100.0)


def beside_greedy(seconds: float, seeds: Iterable[int]) -> tuple[list[float], list[float]]:
    """Return how long each request of nine clients took, alone, and beside a greedy tenth."""
    others = {f"c{i}": 0.5 / ALONE_S / 9 for i in range(9)}  # half of the device together
    alone: list[float] = []
    beside: list[float] = []
    for seed in seeds:
        for kept, rates in ((alone, others), (beside, others | {"greedy": 100 * others["c0"]})):
            street = Street(seed)
            street.live(seconds, rates, seed)
            kept.extend(itertools.chain(*(street.latencies[who] for who in others)))
    return alone, beside


def greedy(trials: int) -> None:
    """What nine clients notice of a tenth who asks a hundred times as often."""
    alone, beside = beside_greedy(100.0, range(trials))
    p95 = percentile(alone, 0.95), percentile(beside, 0.95)
    print(
        f"a greedy client: the others' p95 {p95[1]:.2f} s, alone {p95[0]:.2f} s:"
        f" {p95[1] / p95[0]:.2f} times; goal <= 1.5; {len(beside)} and {len(alone)} of theirs done",
        flush=True,
    )


def truncated(trials: int) -> None:
    """Whether weights that were cut off at any place are ever taken for whole."""
    shipped, typed = Path("model_repo"), 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "repo"
        for name in ("emoji-base", "emoji-small"):  # the second takes its text encoder from the first
            shutil.copytree(shipped / name, root / name)
        variant = repository.scan(root).variant("emoji-small")
        (weights,) = (root / "emoji-small").rglob("*.safetensors")
        whole = weights.read_bytes()
        chance = random.Random(1)
        offsets = [
            *range(trials // 4),
            *(chance.randrange(len(whole)) for _ in range(trials - trials // 4)),
        ]
        for offset in offsets:
            weights.write_bytes(whole[:offset])
            for read in (lambda: headers.read(weights), variant.verify):
                try:
                    read()
                except RepositoryError:
                    typed += 1
                except DifsError as error:
                    print(f"cut at {offset}: {error!r}")
    print(
        f"{variant.name} ({len(whole)} bytes) cut off at {len(offsets)} places: {typed} typed errors of"
        f" {2 * len(offsets)} (header, digest); goal all",
        flush=True,
    )
