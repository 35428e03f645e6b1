"""The broker lets pass what has less time: it takes back what has not begun, and nothing that has."""

from typing import Any

from difs.actor_messages import Abort, Costs, Execute, RowCost
from difs.messages import Accepted, Result
from tests.builders import (
    House,
    ended,
    executes,
    finished,
    is_over,
    only,
    resident,
    served,
    stepped,
    told,
)

COSTS = Costs(64 * 64, 0.01, (RowCost(1, 0.01), RowCost(2, 0.02)), 0.02, 1.0)
"""Calls are not worth sharing: one second for a hundred steps."""
ALONE: dict[str, Any] = {"variant": "tiny", "guidance_scale": 1.0, "deterministic": True}


def busy(credits_: int = 2, patient: int = 3) -> tuple[House, list[Execute]]:
    """Return a house with so many patient requests of half a second each."""
    house = served(now=100.0, credits=credits_, policy="modelless")
    for actor in house.state.books.ready:
        actor.residents = {"tiny": resident("tiny", costs=COSTS)}
    found = []
    for i in range(patient):
        found += told(house.ask(f"patient {i}", steps=50, latency_s=9.0, **ALONE), Execute)
    return house, found


def test_what_has_not_begun_lets_pass_what_has_less_time() -> None:
    house, (first, second) = busy()
    house.tell(stepped(first))
    effects = house.ask("hasty", steps=5, latency_s=0.7, **ALONE)
    assert told(effects, Accepted)[0].plan.keeps_latency  # type: ignore[union-attr]
    assert [abort.attempt for abort in told(effects, Abort)] == [second.attempt], "the last turn of all"
    effects = house.tell(ended(second))
    hasty = only(effects, Execute)
    assert hasty.request_id == "hasty"
    assert hasty.due < first.due
    effects = house.tell(finished(hasty))
    assert executes(effects) == ["patient 1"], "its turn is what it was"
    assert house.state.books.counts["let_pass"] == 1
    again = only(effects, Execute)
    rest = [*told(house.tell(finished(first)), Execute), *told(house.tell(finished(again)), Execute)]
    for order in rest:
        result = only(house.tell(finished(order)), Result)
        assert result.plan.keeps_latency
    assert is_over(house)


def test_what_has_begun_is_not_taken_back() -> None:
    house, orders = busy()
    for order in orders:
        house.tell(stepped(order))
    assert not told(house.ask("hasty", steps=5, latency_s=0.7, **ALONE), Abort)
    assert house.state.books.requests["hasty"].goes_ahead


def test_no_more_is_taken_back_than_is_in_the_way() -> None:
    house, orders = busy(credits_=4, patient=8)
    assert len(told(house.ask("hasty", steps=2, latency_s=0.4, **ALONE), Abort)) == 1
    assert not told(house.tell(stepped(orders[0])), Abort), "one is on its way back"
    assert not told(house.ask("patient", steps=2, latency_s=60.0, **ALONE), Abort)


def test_who_comes_later_by_its_turn_takes_nothing_back() -> None:
    house, _ = busy(credits_=1, patient=1)
    assert not told(house.ask("patient", steps=50, latency_s=9.0, **ALONE), Abort)


def test_a_higher_class_is_not_taken_back_for_a_promise_of_a_lower_one() -> None:
    house, (patient,) = busy(credits_=1, patient=1)
    assert told(house.ask("hasty", steps=5, latency_s=0.3, **ALONE), Abort)
    house.ask("first of all", steps=5, priority=9, **ALONE)
    effects = house.tell(ended(patient))
    assert executes(effects) == ["first of all"]
    assert not told(effects, Abort), "it would only be the next again"
    assert executes(house.tell(finished(only(effects, Execute)))) == ["hasty"]


def test_a_promise_does_not_rest_on_going_before_a_higher_class() -> None:
    """What waits there could bear it, but it is served first all the same."""
    for priority, is_kept in ((9, False), (5, True)):
        house, _ = busy(credits_=1, patient=0)
        for i in range(3):
            house.ask(f"patient {i}", steps=50, latency_s=9.0, priority=priority, **ALONE)
        (accepted,) = told(house.ask("hasty", steps=5, latency_s=0.9, **ALONE), Accepted)
        assert accepted.plan is not None
        assert accepted.plan.keeps_latency is is_kept
