"""bench.oracle: the bound is one, by brute force on small instances; and what it is compared with."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import oracle
from bench.oracle import Card, Instance
from difs.simulation.scenario import Wish

SLOTS = 5


@st.composite
def instances(draw: st.DrawFn) -> Instance:
    """Draw three variants, and a request in each of a few slots."""
    cards = {name: Card(draw(st.integers(1, 2))) for name in "abc"}
    names = [draw(st.sampled_from("abc")) for _ in range(SLOTS)]
    wishes = tuple(Wish(variant=name, latency_s=oracle.LATENCY_S) for name in names)
    return Instance(cards, draw(st.integers(2, 4)), tuple(i + 0.5 for i in range(SLOTS)), wishes)


def brute_force(instance: Instance) -> float:
    """Return the most that any row of sets serves: who has come a slot ago, and did not leave since."""
    names = list(instance.cards)
    best = 0.0
    for row in itertools.product(oracle.sets_that_fit(instance), repeat=SLOTS + 1):
        come, total = row[0], 0.0
        for slot in range(SLOTS):
            stays = row[slot] & row[slot + 1]
            serving = come | stays
            wanted = names.index(instance.wishes[slot].variant or "")
            total += serving >> wanted & 1
            come = stays
        best = max(best, total)
    return best


@given(instances())
@settings(max_examples=8, deadline=None)
def test_the_bound_is_what_brute_force_finds(instance: Instance) -> None:
    assert oracle.most(instance) == brute_force(instance)


@given(instances())
@settings(max_examples=60, deadline=None)
def test_nobody_exceeds_the_bound(instance: Instance) -> None:
    bound = oracle.most(instance)
    assert oracle.best_fixed(instance) <= bound
    assert oracle.lru(instance) <= bound


def test_lru_never_has_what_comes_in_turn_and_the_oracle_always_does() -> None:
    instance = oracle.cycle(60.0, 1)
    assert oracle.lru(instance) == 0.0
    assert oracle.most(instance) == len(instance.times)
    assert oracle.best_fixed(instance) == pytest.approx(0.75 * len(instance.times))


def test_the_planner_keeps_most_of_what_comes_in_turn() -> None:
    told = oracle.reached(oracle.cycle(120.0, 1), 1)
    assert told["lru"] == 0.0
    assert told["utility"] >= 0.6 * told["bound"]
