"""The faults of a run, drawn before it begins: what happens to which device when. All from one seed."""

from collections.abc import Iterator
from random import Random
from typing import Literal, NamedTuple

from difs.simulation.scenario import Scenario

Kind = Literal["die", "hang", "slow", "steady", "neighbour"]


class Mishap(NamedTuple):
    """Something that happens to a device from outside."""

    at: float
    device: int
    kind: Kind
    amount: float = 0.0
    """Slow: how many times as long all takes. Neighbour: the bytes that others want from now on."""


def draw(scenario: Scenario, seconds: float) -> list[Mishap]:
    """Return all mishaps of a run of so many seconds, in order."""
    found = [m for device in range(scenario.fleet.devices) for m in _of_device(scenario, device, seconds)]
    found += _neighbours(scenario)
    return sorted(found)


def _of_device(scenario: Scenario, device: int, seconds: float) -> Iterator[Mishap]:
    wanted = scenario.mishaps
    dice = Random(f"{scenario.seed} mishaps {device}")
    for at in _poisson(wanted.deaths_per_h, seconds, dice):
        yield Mishap(at, device, "die")
    for at in _poisson(wanted.hangs_per_h, seconds, dice):
        yield Mishap(at, device, "hang")
    ends = 0.0
    for at in _poisson(wanted.slow_per_h, seconds, dice):
        if at >= ends:
            ends = at + wanted.slow_s
            yield Mishap(at, device, "slow", wanted.slowness)
            yield Mishap(ends, device, "steady", 1.0)


def _poisson(per_h: float, seconds: float, dice: Random) -> Iterator[float]:
    at = dice.expovariate(per_h / 3600) if per_h else seconds
    while at < seconds:
        yield at
        at += dice.expovariate(per_h / 3600)


def _neighbours(scenario: Scenario) -> Iterator[Mishap]:
    """Yield what all neighbours of a device want in all, whenever that changes."""
    for device in range(scenario.fleet.devices):
        own = [n for n in scenario.neighbours if n.device in (None, device)]
        for at in sorted({at for n in own for at in (n.begins_s, n.begins_s + n.seconds)}):
            wanted = sum(n.nbytes for n in own if n.begins_s <= at < n.begins_s + n.seconds)
            yield Mishap(at, device, "neighbour", float(wanted))
