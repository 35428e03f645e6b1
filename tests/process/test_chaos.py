"""The short form of `python -m tests.chaos`: some seconds of it; `make chaos` is longer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chaos import means, storm
from tests.chaos.ledger import RIGHT, UNTYPED, WRONG, Ledger
from tests.chaos.plan import Kind, blows


@pytest.mark.process
def test_chaos_loses_nothing_and_leaves_nothing() -> None:
    with means.memory_group() as group:
        found = storm.run(5.0, seed=1, devices=2, group=group)
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
