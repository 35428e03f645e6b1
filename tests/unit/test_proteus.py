"""Policy `proteus`: the split of the demand, and who gets what of it."""

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from difs.messages import QualityPoint
from difs.policy.base import Admit, Options
from difs.policy.proteus import SOLVED_EACH_S, Memory, Proteus, Side, split
from tests.builders import COSTS, device_view, generate, resident, variant, view

SLOW = replace(COSTS, steps=tuple(replace(c, seconds=5 * c.seconds) for c in COSTS.steps))
HERE = {"good": resident("good", SLOW), "quick": resident("quick")}
VARIANTS = (
    variant("good", quality=(QualityPoint(64, 20, 2.5, 0.9),)),
    variant("quick", quality=(QualityPoint(64, 20, 2.5, 0.5),)),
)
SIDES = st.builds(
    lambda tenths, quarters: Side(tenths / 10, quarters / 4, variant()),
    st.integers(0, 10),
    st.integers(1, 12),
)


@given(st.lists(SIDES, min_size=1, max_size=5), st.integers(1, 16).map(lambda eighths: eighths / 4))
@settings(max_examples=200, deadline=None)
def test_no_other_split_in_the_budget_is_more_accurate(sides: list[Side], budget_s: float) -> None:
    low, high, share = split(sides, budget_s)
    assert 0.0 <= share <= 1.0
    seconds = low.seconds + share * (high.seconds - low.seconds)
    if min(side.seconds for side in sides) > budget_s:
        assert seconds == min(side.seconds for side in sides)
        return
    assert seconds <= budget_s + 1e-9
    mean = low.accuracy + share * (high.accuracy - low.accuracy)
    for a in sides:
        for b in sides:
            for part in (i / 20 for i in range(21)):
                if (1 - part) * a.seconds + part * b.seconds <= budget_s:
                    assert (1 - part) * a.accuracy + part * b.accuracy <= mean + 1e-9


def admitted(memory: object = None, **facts: Any) -> Admit:
    shown = replace(view(device_view(residents=HERE), variants=VARIANTS), memory=memory, **facts)
    decision = Proteus(Options()).decide(shown, generate())
    assert isinstance(decision, Admit), decision
    return decision


def test_without_demand_all_get_the_most_accurate() -> None:
    assert {admitted(decisions=n).plan.variant for n in range(20)} == {"good"}


def test_the_more_demand_the_fewer_get_the_accurate_one_and_evenly() -> None:
    shares = []
    for demand_hz in (0.5, 1.3, 2.0, 50.0):
        memory = Memory(demand_hz, 0.0)
        found = Counter(admitted(memory, now=1.0, decisions=n).plan.variant for n in range(200))
        shares.append(found["good"] / 200)
    assert shares[0] == 1.0
    assert shares == sorted(shares, reverse=True)
    assert 0.0 < shares[1] < 1.0
    assert shares[-1] == 0.0


def test_the_demand_is_looked_at_again_only_after_a_while() -> None:
    old = Memory(50.0, 0.0, 100)
    assert admitted(old, now=SOLVED_EACH_S - 1, decisions=900).memory == old
    fresh = admitted(old, now=2 * SOLVED_EACH_S, decisions=100).memory
    assert isinstance(fresh, Memory)
    assert fresh.at == 2 * SOLVED_EACH_S
    assert 0.0 < fresh.demand_hz < old.demand_hz


def test_the_first_demand_is_what_was_asked_for_since_the_beginning() -> None:
    first = admitted(now=5.0, decisions=7).memory
    assert first == Memory(0.0, 5.0, 7)
    assert admitted(first, now=25.0, decisions=47).memory == Memory(2.0, 25.0, 47)
