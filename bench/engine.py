"""What step-level batching is worth: DIFS against serial diffusers, LitServe and Ray Serve, one model.

    python -m bench.engine [--model emoji-base] [--seconds 10] [--rounds 2] [--quick]

Open-loop Poisson arrivals at fractions of the serial capacity, which is measured first, in this run,
with bare diffusers. Every system gets the same prompts, seeds, settings and arrival times, the same
size, all cores for torch, which are kept awake, and returns bare pixels; every one has the machine for
itself while it is measured (the others are stopped); their order turns round from round to round. Each
latency counts from the scheduled arrival. The knobs of the peers are found by a short sweep first
(see `bench.calibration`). A peer that is not installed is named as not measured:
`pip install -e '.[bench]'` installs them.

- throughput: pictures per second from the first arrival until the last picture was back.
- saturated: at 3x, where nobody keeps up. At 1.5x a batching system may keep up; then its throughput
  is the offered load, and no other system can have more.
- steps alike, all alike: the same at 3x with one number of steps, and with one guidance scale too. The
  requests of the other loads differ in both, as users do; a call of diffusers' pipeline takes requests
  of one number of steps and one guidance, so a batch of the peers becomes several calls.
"""

import argparse
import asyncio
import os
from collections.abc import Coroutine
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Literal

from bench import chart, embedded
from bench.calibration import (
    UNSWEPT,
    best_batching,
    largest_difference,
    paint_together,
    serial_capacity,
    warm_up,
)
from bench.load import (
    QUIET,
    Ask,
    Outcome,
    Pixels,
    arrivals,
    awake,
    busy_share,
    mix,
    offer,
    wait_until_quiet,
)
from bench.peers.base import BatchingSystem, System
from bench.peers.difs_service import Difs
from bench.peers.over_http import LitServe, RayServe
from bench.peers.serial import Serial
from bench.report import RESULTS, keep, say, verdict
from difs import repository
from difs.processes import WAITING_THREADS

SYSTEMS: tuple[type[System], ...] = (Serial, LitServe, RayServe, Difs)


@dataclass(frozen=True)
class Load:
    """Arrivals at `rate` serial capacities, for `share` times `--seconds` in each round."""

    rate: float
    share: float
    alike: Literal["", "steps", "all"] = ""
    """What all requests have in common: their number of steps, or that and the guidance."""

    @property
    def name(self) -> str:
        """Return what it is called in results."""
        return f"{self.rate:g}x, {self.alike} alike" if self.alike else f"{self.rate:g}x"


LOADS = (
    Load(0.3, 0.5),
    Load(0.7, 2.0),
    Load(1.0, 1.0),
    Load(1.5, 1.0),
    Load(3.0, 0.5),
    Load(3.0, 0.5, "steps"),
    Load(3.0, 0.5, "all"),
)
STEPS_ALIKE = 12
GUIDANCE_ALIKE = 2.5
CHECKED = 8
CAPACITY_ASKS = 24
CALIBRATION_S = 10.0
QUICK = {"seconds": 2.0, "rounds": 1}


class Bench:
    """One run: what is asked, what was found."""

    def __init__(self, asked: argparse.Namespace) -> None:
        """Take the options; find the model and its captions."""
        self.model = repository.locate("model_repo") / asked.model
        self._captions = embedded.captions(asked.model)
        self._asked = asked
        self._seed = 0
        self.capacity = 0.0
        self.systems: list[System] = []
        self.not_measured: dict[str, str] = {}
        self.outcomes: dict[str, dict[str, Outcome]] = {}
        self.differences: dict[str, int] = {}
        self.batching: dict[str, str] = {}
        self._expected: list[Pixels] = []
        self.busy: list[tuple[float, float]] = []
        """The share of the machine that others used before and after each turn."""

    def asks(self, count: int, seed: int | None = None, load: Load = LOADS[0]) -> list[Ask]:
        """Return asks that no one has seen, or those of a seed, as alike as a load wants them."""
        self._seed += 1
        chosen = 100_000 + self._seed if seed is None else seed
        steps = [STEPS_ALIKE] if load.alike else self._asked.steps
        scales = [GUIDANCE_ALIKE] if load.alike == "all" else self._asked.guidance
        return mix(self._captions, scales, steps, count, chosen)

    async def prepare(self) -> None:
        """Choose the systems, measure the capacity, find the peers' knobs."""
        for cls in SYSTEMS:
            if missing := cls.missing():
                self.not_measured[cls.name] = f"{', '.join(missing)} is not installed"
                say(f"{cls.name}: not measured: {self.not_measured[cls.name]}")
            else:
                self.systems.append(cls(self.model))
        serial = self.systems[0]
        wait_until_quiet()
        await serial.start()
        await warm_up(serial, self.asks(4))
        self.capacity = await serial_capacity(serial, self.asks(CAPACITY_ASKS))
        self._expected = await paint_together(serial, self.asks(CHECKED, seed=1))
        await serial.stop()
        say(f"serial capacity: {self.capacity:.2f} pictures/s")
        for system in tuple(self.systems):
            if isinstance(system, BatchingSystem):
                await self._guarded(system, self._tune(system))
                self.batching[system.name] = str(system.batching)

    async def _tune(self, system: BatchingSystem) -> None:
        system.batching = UNSWEPT
        if self._asked.quick:
            return
        await system.start()
        await warm_up(system, self.asks(8))
        await best_batching(system, self.asks, self.capacity, CALIBRATION_S, say)
        say(f"{system.name}: kept: {system.batching}")

    async def _guarded(self, system: System, work: Coroutine[Any, Any, None]) -> None:
        """Do what a system is started for, and stop it; one that breaks is not measured any further."""
        try:
            await work
        except Exception as error:  # each system breaks in its own way
            self.not_measured[system.name] = f"{type(error).__name__}: {error}"[-2000:]
            self.systems.remove(system)
            say(f"{system.name}: NOT MEASURED: {self.not_measured[system.name]}")
        finally:
            await system.stop()

    async def _turn(self, system: System, number: int) -> None:
        """Measure one system at all loads in round `number`."""
        await system.start()
        await warm_up(system, self.asks(8))
        painted = await paint_together(system, self.asks(CHECKED, seed=1))
        self.differences[system.name] = largest_difference(self._expected, painted)
        for i, load in enumerate(LOADS):
            await self._cell(system, load, seed=10 + i + len(LOADS) * number)

    async def _cell(self, system: System, load: Load, seed: int) -> None:
        """Put one load on a system; the same seed is the same work for every system."""
        times = arrivals(load.rate * self.capacity, load.share * self._asked.seconds, seed)
        outcome = await offer(system.paint, self.asks(len(times), seed, load), times)
        known = self.outcomes.setdefault(system.name, {})
        known[load.name] = known.get(load.name, Outcome()) + outcome
        say(f"{system.name:>16} {load.name:>16} {_words(outcome)}")

    async def run(self) -> None:
        """Measure everything."""
        await self.prepare()
        for number in range(self._asked.rounds):
            for system in self.systems[:: 1 if number % 2 == 0 else -1]:
                before = wait_until_quiet()
                await self._guarded(system, self._turn(system, number))
                after = busy_share()
                self.busy.append((round(before, 3), round(after, 3)))
                if max(before, after) > QUIET:
                    say(f"WARNING: others used {max(before, after):.0%} of the machine: a spoilt turn")

    def figures(self) -> dict[str, Any]:
        """Return all that was found."""
        return {
            "model": self.model.name,
            "steps": self._asked.steps,
            "guidance": self._asked.guidance,
            "serial_capacity_per_s": round(self.capacity, 3),
            "batching": self.batching,
            "versions": {
                module: version(module) for module in ("litserve", "ray") if find_spec(module) is not None
            },
            "not_measured": self.not_measured,
            "busy_before_and_after_each_turn": self.busy,
            "largest_difference_of_255": self.differences,
            "systems": {
                name: {load: outcome.figures() for load, outcome in by_load.items()}
                for name, by_load in self.outcomes.items()
            },
        }


def _words(outcome: Outcome) -> str:
    found = outcome.figures()
    words = f"{found['done']:4}/{found['offered']} done, {found['per_s']:6.2f}/s"
    if "p95_s" in found:
        words += f", p50 {found['p50_s']:7.3f} s, p95 {found['p95_s']:7.3f} s"
    if "failed" in found:
        words += f", {found['failed']} FAILED ({found['first_failure']})"
    return words + f", client {found['client_cpu_share']:.1%} of a core"


def goals(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Print and return the verdicts; those on a system that was not measured are left out."""
    systems = {n: cells for n, cells in found["systems"].items() if n not in found["not_measured"]}
    if Difs.name not in systems:
        print(f"  not measured: {Difs.name}: {found['not_measured'][Difs.name]}")
        return []
    ours = systems[Difs.name]
    verdicts = []
    for name, bound in ((Serial.name, 1.5), (LitServe.name, 1.15), (RayServe.name, 1.15)):
        if name not in systems:
            print(f"  not measured: {name}: {found['not_measured'][name]}")
            continue
        for load in ("1.5x", "3x", "3x, steps alike", "3x, all alike"):
            ratio = ours[load]["per_s"] / systems[name][load]["per_s"]
            verdicts.append(verdict(f"throughput at {load}, DIFS / {name}", ratio, bound, at_least=True))
        if name != Serial.name:
            ratio = ours["0.7x"]["p95_s"] / systems[name]["0.7x"]["p95_s"]
            verdicts.append(verdict(f"p95 at 0.7x, DIFS / {name}", ratio, 0.7))
    for name, difference in found["largest_difference_of_255"].items():
        verdicts.append(verdict(f"{name}: a value of a picture differs by, of 255", difference, 2))
    return verdicts


def options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="emoji-base")
    parser.add_argument("--seconds", type=float, default=10.0, help="per system, load and round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--steps",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[8, 12, 16],
        help="numbers of steps that the requests have, as 8,12,16",
    )
    parser.add_argument(
        "--guidance",
        type=lambda text: [float(part) for part in text.split(",")],
        default=[1.5, 2.5, 4.0],
        help="guidance scales that the requests have, as 1.5,2.5,4",
    )
    parser.add_argument("--quick", action="store_true", help="about two minutes; figures are rough")
    asked = parser.parse_args()
    if asked.quick:
        vars(asked).update(QUICK)
    return asked


def main() -> None:
    """Measure, print, draw, keep."""
    os.environ.update(WAITING_THREADS)  # before torch is loaded, here and in the servers
    asked = options()
    bench = Bench(asked)
    with awake():
        asyncio.run(bench.run())
    found = bench.figures()
    for name, by_load in bench.outcomes.items():
        for load, outcome in by_load.items():
            print(f"  {name:>16} {load:>16} {_words(outcome)}")
    scales = ",".join(f"{scale:g}" for scale in asked.guidance)
    steps = ",".join(map(str, asked.steps))
    command = f"python -m bench.engine --model {asked.model} --seconds {asked.seconds:g}"
    command += f" --steps {steps} --rounds {asked.rounds} --guidance {scales}"
    kept = keep("engine-quick" if asked.quick else "engine", command, {**found, "goals": goals(found)})
    print(kept)
    title = f"{asked.model}, {steps} steps, guidance {scales}; serial: {bench.capacity:.2f}/s"
    picture = RESULTS / f"{kept.stem}.png"
    print(picture if chart.draw(picture, title, found["systems"]) else "no plot: matplotlib is missing")


if __name__ == "__main__":
    main()
