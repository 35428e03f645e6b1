"""The short form of `python -m tests.chaos`: some seconds of it; `make chaos` is longer."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chaos import means, storm
from tests.chaos.ledger import RIGHT, UNTYPED, WRONG, Ledger
from tests.chaos.plan import ENDING, Kind, blows
from tests.chaos.trend import MIB, Memory, Trend


@pytest.mark.process
@pytest.mark.timeout(0)
def test_chaos_loses_nothing_and_leaves_nothing(request: pytest.FixtureRequest) -> None:
    seconds = float(request.config.getoption("--chaos-seconds"))
    with means.memory_group() as group:
        found = storm.run(seconds, seed=1, devices=2, group=group)
    assert not found.problems
    assert found.ends[RIGHT] > 24, "each caller more than one"
    assert sum(found.blows.values()) >= 2


# ---- the tools ------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.floats(0, 600), st.sets(st.sampled_from(Kind), min_size=1))
def test_a_seed_says_what_happens_when(seed: int, seconds: float, kinds: set[Kind]) -> None:
    found = blows(seed, seconds, kinds)
    assert found == blows(seed, seconds, kinds)
    assert [blow.at_s for blow in found] == sorted(blow.at_s for blow in found)
    assert all(blow.at_s < seconds and blow.kind in kinds for blow in found)


def test_a_long_run_tries_everything() -> None:
    assert {blow.kind for blow in blows(1, 120.0, set(Kind))} == set(Kind)


def remembered(*lives: tuple[int, float, float]) -> list[Trend]:
    """Return the trends of a broker's lives: process, seconds, MiB that it grows in an hour."""
    memory, chance = Memory(), random.Random(1)
    for pid, seconds, rate in lives:
        for at in range(0, int(seconds), 5):
            once = 20 * MIB * min(1.0, at / (0.1 * seconds))
            noise = chance.uniform(-1, 1) * MIB
            memory.note("broker", pid, float(at), int(100 * MIB + once + noise + rate * MIB * at / 3600))
    return memory.trends()


@pytest.mark.parametrize(
    ("lives", "is_growth"),
    [
        ([(1, 28_800, 0.0)], False),
        ([(1, 28_800, 2.0)], True),
        ([(1, 300, 60.0)], False),
        ([(1, 300, 60.0), (2, 7200, 0.0)], False),
        ([(1, 300, 0.0), (2, 7200, 5.0)], True),
    ],
    ids=["steady", "a leak", "too short", "a short life beside a long one", "a leak in a second life"],
)
def test_a_process_that_grows_is_found_and_warming_up_is_no_growth(
    lives: list[tuple[int, float, float]], is_growth: bool
) -> None:
    (trend,) = remembered(*lives)
    assert trend.is_growth is is_growth, str(trend)


def test_a_gentle_run_ends_no_process() -> None:
    kinds = set(Kind) - ENDING
    assert {blow.kind for blow in blows(1, 300.0, kinds)} == kinds
    assert Kind.GARBAGE in kinds
    assert Kind.KILL_ACTOR not in kinds


def test_a_ledger_finds_what_breaks_a_promise() -> None:
    ledger = Ledger()
    for name in ("right", "typed", "wrong", "untyped", "twice", "slow", "never"):
        ledger.asked(name)
    ledger.ended("right", RIGHT, 1.0, 2.0)
    ledger.ended("typed", "actor_lost", 1.0, 2.0)
    assert not ledger.problems
    ledger.ended("wrong", WRONG, 1.0, 2.0)
    ledger.ended("untyped", UNTYPED, 1.0, 2.0)
    ledger.ended("twice", RIGHT, 1.0, 2.0)
    ledger.ended("twice", RIGHT, 1.0, 2.0)
    ledger.ended("slow", RIGHT, 3.0, 2.0)
    problems = ledger.close()
    assert [problem.partition(" ")[0] for problem in problems] == [
        *("wrong", "untyped", "twice", "slow", "never")
    ]
