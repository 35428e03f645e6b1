"""DIFS beside its peers: throughput, latency, first picture, memory, bytes; same weights, same asks.

    python -m bench.beside [--model emoji-base] [--rounds 2] [--quick] [--fresh]

Serial diffusers, LitServe, Ray Serve, Mosec, BentoML and DIFS, one after the other, each alone on the
machine with all cores for torch, which are kept awake; their order turns from round to round. A peer that
is not installed is named as not measured (`pip install -e '.[bench]'`). The batch size and wait of each
are swept first, the best kept (`bench.calibration`). Twenty minutes; a run that was cut short goes on
where it was, unless `--fresh` is given; `--quick` takes a few minutes, sweeps nothing, and its figures
are rough.

- first picture: seconds from the start of its processes until the first picture is there; files are in
  the page cache.
- capacity: pictures per second of a flood, from the first arrival until the last picture is back.
- 0.3, 0.7, 0.9: open-loop Poisson arrivals at that share of the system's *own* capacity: a faster one
  gets more to do. Latencies count from the scheduled arrival.
- memory: PSS and USS of the process tree after the flood (psutil). The client's is not counted.
- moved: bytes through the client's socket or pipe for one picture, asked alone, both ways, counted by a
  relay between the two. DIFS's pixels are not among them: the client maps them. What a system's own
  processes send to each other is counted for none; all but serial diffusers have such a hop.
"""

import argparse
import asyncio
import base64
import json
import os
import time
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np

from bench import embedded, footprint
from bench.calibration import UNSWEPT, best_batching, largest_difference, paint_together, warm_up
from bench.load import (
    QUIET,
    SETTLE_S,
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
from bench.peers import sdcpp
from bench.peers.alone import Alone
from bench.peers.base import Batching, BatchingSystem, System
from bench.peers.difs_service import CLIENTS, Difs
from bench.peers.over_http import BentoMl, LitServe, Mosec, RayServe
from bench.progress import PLACE, Progress
from bench.relay import Relay
from bench.report import keep, say, verdict
from difs import repository
from difs.processes import WAITING_THREADS

SYSTEMS: tuple[type[System], ...] = (Alone, LitServe, RayServe, Mosec, BentoMl, Difs)
SHARES = (0.3, 0.7, 0.9)
GUIDANCE = (1.5, 2.5, 4.0)
QUICK = {"rounds": 1, "flood": 24, "seconds": 3.0}
CALIBRATION_S = 6.0
ALONE, TOGETHER = 10, 16
"""Asks of the warm-up, one by one and at once: BentoML's dispatcher learns from so many."""
CHECKED = 4


def turns(names: list[str], rounds: int) -> list[tuple[int, str]]:
    """Return whose turn it is when: each once a round, in an order that turns from round to round."""
    return [(n, name) for n in range(rounds) for name in names[:: 1 if n % 2 == 0 else -1]]


def cells(number: int) -> list[str]:
    """Return what is measured in a turn of round `number`, in order."""
    once = ["pictures", "moved"] if number == 0 else []
    return ["first", *once, "flood", "memory", *map(str, SHARES)]


class Bench:
    """One run; all that it finds goes through its progress."""

    def __init__(self, asked: argparse.Namespace) -> None:
        """Take the options; find the model, its captions and who can be measured."""
        self.model = repository.locate("model_repo") / asked.model
        self._captions = embedded.captions(asked.model)
        self._asked = asked
        self._seed = 0
        self.not_measured = {sdcpp.NAME: sdcpp.why_not(self.model)}
        self.systems: dict[str, System] = {}
        for cls in SYSTEMS:
            if missing := cls.missing():
                self.not_measured[cls.name] = f"{', '.join(missing)} is not installed"
            else:
                self.systems[cls.name] = cls(self.model)
        options = {k: v for k, v in vars(asked).items() if k != "fresh"}
        self.versions = {n: version(s.package) for n, s in self.systems.items() if s.package}
        terms = {"options": options, "systems": list(self.systems), "versions": self.versions}
        name = "beside-quick" if asked.quick else "beside"
        self.progress = Progress(PLACE / f"{name}.json", terms)
        if asked.fresh:
            self.progress.forget()

    def asks(self, count: int, seed: int | None = None) -> list[Ask]:
        """Return asks that no one has seen, or those of a seed."""
        self._seed += 1
        chosen = 200_000 + self._seed if seed is None else seed
        return mix(self._captions, GUIDANCE, self._asked.steps, count, chosen)

    async def run(self) -> None:
        """Measure what is not measured yet."""
        for name, reason in self.not_measured.items():
            say(f"{name}: not measured: {reason}")
        if self.progress:
            say(f"going on: {len(self.progress)} cells were measured before")
        for name, system in tuple(self.systems.items()):
            if isinstance(system, BatchingSystem):
                await self._guarded(name, self._tune(name, system))
        for number, name in turns(list(self.systems), self._asked.rounds):
            left = [cell for cell in cells(number) if f"{name}/{number}/{cell}" not in self.progress]
            if left and name not in self.not_measured:
                before = wait_until_quiet(5.0 if self._asked.quick else 60.0)
                await self._guarded(name, self._turn(self.systems[name], number, left))
                self.progress.keep(f"{name}/{number}/busy", [round(before, 3), round(busy_share(), 3)])
                if before > QUIET:
                    say(f"WARNING: others used {before:.0%} of the machine: a spoilt turn")

    async def _guarded(self, name: str, work: Any) -> None:
        """Do what a system is started for, and stop it; one that breaks is not measured any further."""
        try:
            await work
        except Exception as error:  # each system breaks in its own way
            words = f"{type(error).__name__}: {error}"
            self.not_measured[name] = words if len(words) < 2000 else f"{words[:300]} ... {words[-1500:]}"
            say(f"{name}: NOT MEASURED: {self.not_measured[name]}")
        finally:
            await self.systems[name].stop()

    async def _tune(self, name: str, system: BatchingSystem) -> None:
        system.batching = UNSWEPT
        if self._asked.quick:
            return
        if found := self.progress.get(f"{name}/batching"):
            system.batching = Batching(*found)
            return
        await system.start()
        await self._warm_up(system)
        swept: list[str] = []

        def note(words: str) -> None:
            swept.append(words.removeprefix(f"{name}: "))
            say(words)

        await best_batching(system, self.asks, None, CALIBRATION_S, note)
        say(f"{name}: kept: {system.batching}")
        self.progress.keep(f"{name}/swept", swept)
        self.progress.keep(f"{name}/batching", [system.batching.max_size, system.batching.wait_s])

    async def _warm_up(self, system: System) -> None:
        for ask in self.asks(ALONE):
            await system.paint(ask)
        await warm_up(system, self.asks(TOGETHER))
        await asyncio.sleep(SETTLE_S)

    async def _turn(self, system: System, number: int, left: list[str]) -> None:
        """Measure the cells that are left of a system in a round; each is kept at once."""
        started = time.perf_counter()
        await system.start_and_paint(self.asks(1)[0])
        first_s = time.perf_counter() - started
        await self._warm_up(system)
        for cell in left:
            found = round(first_s, 3) if cell == "first" else await self._cell(system, number, cell)
            self.progress.keep(f"{system.name}/{number}/{cell}", found)
            if cell != "pictures":
                say(f"{system.name:>16} {cell:>6}: {_words(found)}")

    async def _cell(self, system: System, number: int, cell: str) -> Any:
        """Measure one cell; the same cell is the same work for every system, and no other cell's.

        A system that keeps what it has encoded would else gain by what an earlier cell asked for.
        """
        seed = 10 + 10 * number + cells(number).index(cell)
        if cell == "pictures":
            painted = await paint_together(system, self.asks(CHECKED, seed=1))
            return [base64.b64encode(picture.tobytes()).decode("ascii") for picture in painted]
        if cell == "moved":
            return await self._moved_bytes(system)
        if cell == "memory":
            return footprint.of_tree(system.root).figures()
        if cell == "flood":
            times = [0.0] * self._asked.flood
        else:
            capacity = Outcome(**self.progress[f"{system.name}/0/flood"]).figures()["per_s"]
            times = arrivals(float(cell) * capacity, self._asked.seconds, seed)
        return asdict(await offer(system.paint, self.asks(len(times), seed), times))

    async def _moved_bytes(self, system: System) -> int:
        """Return the bytes for one picture, asked alone, both ways."""
        asks = self.asks(CHECKED, seed=2)
        if isinstance(system, Alone):
            before = system.moved_bytes
            for ask in asks:
                await system.paint(ask)
            return (system.moved_bytes - before) // len(asks)
        front = system.front
        async with Relay(front) as relay:
            await system.approach(relay.front)
            for ask in self.asks(CLIENTS):  # opens the connections, whose greetings are not counted
                await system.paint(ask)
            before = relay.moved_bytes
            for ask in asks:
                await system.paint(ask)
            moved = relay.moved_bytes - before
            await system.approach(front)
        return moved // len(asks)

    def figures(self) -> dict[str, Any]:
        """Return all that was found."""
        measured = {n: s for n, s in self.systems.items() if n not in self.not_measured}
        expected = self._pictures(Alone.name)
        found = {}
        for name, system in measured.items():
            found[name] = {
                **({"version": self.versions[name]} if name in self.versions else {}),
                **({"batching": str(system.batching)} if isinstance(system, BatchingSystem) else {}),
                **({"swept": self.progress[f"{name}/swept"]} if f"{name}/swept" in self.progress else {}),
                **({"advice": system.advice} if system.advice else {}),
                **self._of(name),
            }
            if Alone.name in measured:
                found[name]["largest_difference_of_255"] = largest_difference(
                    expected, self._pictures(name)
                )
        return {
            "model": self.model.name,
            "steps": self._asked.steps,
            "guidance": list(GUIDANCE),
            "rounds": self._asked.rounds,
            "not_measured": self.not_measured,
            "systems": found,
        }

    def _of(self, name: str) -> dict[str, Any]:
        rounds = [f"{name}/{n}" for n in range(self._asked.rounds)]

        def total(cell: str) -> dict[str, Any]:
            return sum((Outcome(**self.progress[f"{r}/{cell}"]) for r in rounds), Outcome()).figures()

        return {
            "first_picture_s": [self.progress[f"{r}/first"] for r in rounds],
            "flood": total("flood"),
            "loads": {str(share): total(str(share)) for share in SHARES},
            "memory": self.progress[f"{rounds[-1]}/memory"],
            "moved_bytes": self.progress[f"{rounds[0]}/moved"],
            "busy_before_and_after": [self.progress[f"{r}/busy"] for r in rounds],
        }

    def _pictures(self, name: str) -> list[Pixels]:
        texts = self.progress.get(f"{name}/0/pictures") or []
        return [np.frombuffer(base64.b64decode(text), np.uint8) for text in texts]


def _words(found: Any) -> str:
    if not (isinstance(found, dict) and "latencies" in found):
        return json.dumps(found)
    shown = Outcome(**found).figures()
    return ", ".join(f"{key} {shown[key]}" for key in shown if key != "sent_late_max_s")


def options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="emoji-base")
    parser.add_argument(
        "--steps",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[4, 6, 8],
        help="numbers of steps that the requests have, as 4,6,8",
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--flood", type=int, default=64, help="requests at once, to measure a capacity")
    parser.add_argument(
        "--seconds", type=float, default=12.0, help="of arrivals, per system, share and round"
    )
    parser.add_argument("--quick", action="store_true", help="a few minutes; figures are rough")
    parser.add_argument(
        "--fresh", action="store_true", help="measure again what an earlier run has measured"
    )
    asked = parser.parse_args()
    if asked.quick:
        vars(asked).update(QUICK)
    return asked


def main() -> None:
    """Measure, print, keep."""
    os.environ.update(WAITING_THREADS)  # before torch is loaded, in every system
    asked = options()
    bench = Bench(asked)
    with awake():
        asyncio.run(bench.run())
    found = bench.figures()
    goals = [
        verdict(f"{name}: a value of a picture differs by, of 255", entry["largest_difference_of_255"], 2)
        for name, entry in found["systems"].items()
        if "largest_difference_of_255" in entry
    ]
    command = (
        f"python -m bench.beside --model {asked.model} --rounds {asked.rounds} --flood {asked.flood}"
    )
    command += f" --seconds {asked.seconds:g} --steps {','.join(map(str, asked.steps))}"
    name = "beside-quick" if asked.quick else "beside"
    print(keep(name, command, {**found, "goals": goals}))
    bench.progress.forget()


if __name__ == "__main__":
    main()
