"""Planners against an oracle that knows all arrivals: what each lets be served, of what could be.

    python -m bench.oracle [--seconds 600] [--seeds 1 2 3]

One device with room for a part of five or six variants; a picture takes 0.3 s, a load 2 s, and requests
want their picture within a second: who is not there when a request comes is too late. Planners run in the
simulator with the real broker and policy `modelless`, which loads what is missing whatever the planner
is. `bound`: no schedule of loads can serve more (`most`); it has every load one slot earlier than it
could be, and a device that computes all at once. `fixed`: the best set that never changes. `lru`: loads
what is missing, drops what was wanted longest ago; it computes all at once, too.

  shift   three of six variants are wanted, others each two minutes
  cycle   four variants in turn, room for three: LRU never has the one that is wanted
  zipf    six variants at random: nobody who does not know the future knows who is next
  free    nothing is named; three variants of different worth, sizes and speeds, other haste each 200 s
  flicker the same each 60 s, three times what a forecast remembers (`forecast.WINDOW_S`)

Goal: at most 15 % less than the bound.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

import numpy as np

from bench.replay import Replay
from bench.report import keep, verdict
from difs import config
from difs.actor_messages import Costs, Resident, Room, RowCost
from difs.messages import QualityPoint, VariantInfo
from difs.simulation import arrivals, figures
from difs.simulation.scenario import Fleet, Scenario, Wish
from difs.simulation.tables import Mode, Model

MIB = 2**20
SIDE = 512
LATENCY_S = 1.0
SERVE_S = 0.3
LOAD_S = 2.0
PLANNERS = ("utility", "infaas", "infaas_individual", "infaas_static")
GOAL = 0.15


class Card(NamedTuple):
    """A variant: its size in units of memory, its seconds, and what its pictures are worth."""

    size: int
    seconds: float = SERVE_S
    quality: float = 1.0


class Instance(NamedTuple):
    """A device, its variants, and all requests."""

    cards: Mapping[str, Card]
    room: int
    """Units of memory."""
    times: tuple[float, ...]
    wishes: tuple[Wish, ...]

    def worth(self, number: int, variant: str) -> float:
        """Return what a request is worth when a variant that is there serves it alone."""
        wish, card = self.wishes[number], self.cards[variant]
        may = wish.variant in (None, variant) and card.seconds <= (wish.latency_s or LATENCY_S)
        return card.quality if may else 0.0


# ---- the oracle -----------------------------------------------------------------------------------


def sets_that_fit(instance: Instance) -> list[int]:
    """Return the sets of variants that fit together, as bits."""
    sizes = [card.size for card in instance.cards.values()]
    return [
        bits
        for bits in range(2 ** len(sizes))
        if sum(size for i, size in enumerate(sizes) if bits >> i & 1) <= instance.room
    ]


def rewards(instance: Instance, slot_s: float) -> np.ndarray:
    """Return [slot, set]: what the requests of a slot are worth where a set is there."""
    names = list(instance.cards)
    slots = int(instance.times[-1] / slot_s) + 1
    found = np.zeros((slots, 2 ** len(names)))
    for number, at in enumerate(instance.times):
        best = np.zeros(2 ** len(names))
        for i, name in enumerate(names):
            has = (np.arange(2 ** len(names)) >> i) & 1
            best = np.maximum(best, has * instance.worth(number, name))
        found[int(at / slot_s)] += best
    return found


def most(instance: Instance, slot_s: float = 1.0) -> float:
    """Return a bound: what no schedule of loads can exceed, all devices having time.

    Dynamic programming over slots; a state is what has room and what of it has come. What begins to load
    in a slot is taken to serve from the next one on (a load takes LOAD_S, and a request may wait for less
    than a slot), and what leaves in a slot to serve until its end. The first set is there from the start.
    """
    assert slot_s <= LOAD_S / 2, "a load must take two slots, one of which is given"
    fitting, worth = sets_that_fit(instance), rewards(instance, slot_s)
    states = [(bits, come) for bits in fitting for come in range(bits + 1) if come & ~bits == 0]
    index = {state: i for i, state in enumerate(states)}
    after = np.array([[index[to, bits & to] for to in fitting] for bits, _ in states])
    serving = np.array([[come | (bits & to) for to in fitting] for bits, come in states])
    ahead = np.zeros(len(states))
    for slot in reversed(range(len(worth))):
        ahead = (worth[slot][serving] + ahead[after]).max(axis=1)
    return float(max(ahead[index[bits, bits]] for bits in fitting))


def best_fixed(instance: Instance) -> float:
    """Return what the best set serves that never changes, all devices having time."""
    total = rewards(instance, LOAD_S).sum(axis=0)
    return float(max(total[bits] for bits in sets_that_fit(instance)))


def lru(instance: Instance) -> float:
    """Return what is served when what is missing is loaded, and what was wanted longest ago leaves.

    Loads go one after the other, a request waits for none, and the device computes all at once. Where
    nothing is named, the best that there could be is wanted.
    """
    here: dict[str, float] = {}
    """Since when each is there; the one wanted last stands last."""
    free_at, total = 0.0, 0.0
    for number, at in enumerate(instance.times):
        wanted = max(instance.cards, key=lambda name: instance.worth(number, name))
        there = [name for name, since in here.items() if since <= at]
        total += max((instance.worth(number, name) for name in there), default=0.0)
        if wanted in here:
            here[wanted] = here.pop(wanted)
            continue
        free_at = max(free_at, at) + LOAD_S
        while sum(instance.cards[n].size for n in (*here, wanted)) > instance.room:
            del here[next(iter(here))]
        here[wanted] = free_at
    return total


# ---- the instances --------------------------------------------------------------------------------


def _pinned(names: Sequence[str]) -> tuple[Wish, ...]:
    return tuple(Wish(variant=name, latency_s=LATENCY_S) for name in names)


def shift(seconds: float, seed: int) -> Instance:
    """Return: three of six are wanted nine times in ten, other three each two minutes."""
    dice = Random(f"shift {seed}")
    cards = {name: Card(1) for name in "abcdef"}
    times = tuple(arrivals.poisson(0.5, seconds, dice))
    hot = [dice.sample(sorted(cards), 3) for _ in range(int(seconds / 120) + 1)]
    names = [dice.choice(hot[int(at / 120)] if dice.random() < 0.9 else sorted(cards)) for at in times]
    return Instance(cards, 3, times, _pinned(names))


def cycle(seconds: float, seed: int) -> Instance:
    """Return: four in turn, each three seconds one, with room for three."""
    cards = {name: Card(1) for name in "abcd"}
    times = tuple(3.0 * (i + 1) for i in range(int(seconds / 3)))
    return Instance(cards, 3, times, _pinned([sorted(cards)[i % 4] for i in range(len(times))]))


def zipf(seconds: float, seed: int) -> Instance:
    """Return: six at random, the second half as often as the first, the third a third, and so on."""
    dice = Random(f"zipf {seed}")
    cards = {name: Card(1) for name in "abcdef"}
    times = tuple(arrivals.poisson(0.5, seconds, dice))
    names = dice.choices(sorted(cards), [1 / (i + 1) for i in range(6)], k=len(times))
    return Instance(cards, 3, times, _pinned(names))


def free(seconds: float, seed: int) -> Instance:
    """Return: nothing is named; whether most are in haste changes each 200 s."""
    return _free(seconds, seed, 200.0)


def flicker(seconds: float, seed: int) -> Instance:
    """Return: the same, but it changes each 60 s."""
    return _free(seconds, seed, 60.0)


def _free(seconds: float, seed: int, phase_s: float) -> Instance:
    dice = Random(f"free {seed}")
    cards = {"best": Card(3, 2.0, 1.0), "good": Card(2, 0.8, 0.8), "quick": Card(1, 0.1, 0.6)}
    times = tuple(arrivals.poisson(0.15, seconds, dice))
    wishes = []
    for at in times:
        in_haste = dice.random() < (0.8 if int(at / phase_s) % 2 else 0.2)
        wishes.append(Wish(latency_s=1.2 if in_haste else 5.0))
    return Instance(cards, 4, times, tuple(wishes))


KINDS: Mapping[str, Callable[[float, int], Instance]] = {
    "shift": shift,
    "cycle": cycle,
    "zipf": zipf,
    "free": free,
    "flicker": flicker,
}

# ---- planners in the simulator --------------------------------------------------------------------


def model(name: str, card: Card) -> Model:
    """Return a variant's table: one step, one memory mode."""
    costs = Costs(SIDE**2, 0.0, (RowCost(1, card.seconds),), 0.0, load_s=LOAD_S)
    nbytes = card.size * 1000 * MIB
    info = VariantInfo(
        name=name,
        task="text-to-image",
        family="made",
        precision="fp16",
        sampler="euler",
        steps_min=1,
        steps_default=1,
        steps_max=1,
        guidance_scale=0.0,
        native_sizes=((SIDE, SIDE),),
        licence="",
        description="",
        bytes=nbytes,
        quality=(QualityPoint(SIDE, 1, 0.0, card.quality),),
        quality_source="declared",
        quality_kind="declared",
        quality_judge="oracle",
    )
    resident = Resident(name, "full", "fp16", nbytes, costs, room=Room(nbytes, MIB, MIB))
    return Model(info, {"full": Mode(resident, parked_s=LOAD_S)}, kind="simulated")


def replay(instance: Instance, planner: str, seed: int) -> Replay:
    """Return a run whose requests are an instance's."""
    scenario = Scenario(
        seed=seed,
        fleet=Fleet(memory_bytes=(1000 * instance.room + 300) * MIB, parking_bytes=0),
        autoscaler=config.Autoscaler(planner=planner, headroom=0),
    )
    models = {name: model(name, card) for name, card in instance.cards.items()}
    return Replay(scenario, models, instance.times, instance.wishes)


def reached(instance: Instance, seed: int) -> dict[str, float]:
    """Return, for each planner and each that is none, the mean worth of a request."""
    count = len(instance.times)
    found = {
        "bound": most(instance) / count,
        "fixed": best_fixed(instance) / count,
        "lru": lru(instance) / count,
    }
    for planner in PLANNERS:
        told = figures.of_run(replay(instance, planner, seed).run())
        found[planner] = told["quality_attainment"]
    return found


def main() -> None:
    """Simulate, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    asked = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    goals = []
    for kind, make in KINDS.items():
        runs = [reached(make(asked.seconds, seed), seed) for seed in asked.seeds]
        rows[kind] = {who: round(statistics.fmean(run[who] for run in runs), 4) for who in runs[0]}
        print(f"  {kind:8}" + "  ".join(f"{who} {worth:.3f}" for who, worth in rows[kind].items()))
        regret = 1.0 - rows[kind]["utility"] / rows[kind]["bound"]
        goals.append(verdict(f"{kind}: regret of utility", regret, GOAL))
    seeds = " ".join(map(str, asked.seeds))
    command = f"python -m bench.oracle --seconds {asked.seconds:g} --seeds {seeds}"
    print(keep("oracle", command, {"mean_worth": rows, "goals": goals}))


if __name__ == "__main__":
    main()
