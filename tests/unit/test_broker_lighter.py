"""difs.broker: what runs out of memory goes on with a lighter variant, or fails and says so."""

from typing import Any

import pytest

from difs.actor_messages import CancelLoad, Execute, Leaving, LoadVariant
from difs.broker.effects import Complain
from difs.messages import Accepted, Adapter, Cancel, Error, Plan, Result
from difs.policy.base import Admit, Decision, Reject, View, Wait
from tests import builders
from tests.builders import (
    CLIENT,
    POOL_OF_4,
    House,
    ended,
    executes,
    finished,
    free_slots,
    is_over,
    only,
    resident,
    told,
    variant,
)

HEAVY, MIDDLE, LIGHT = variant("a", bytes=300), variant("b", bytes=200), variant("c", bytes=100)
THREE = (HEAVY, MIDDLE, LIGHT)


def house_of(*variants: Any, **options: Any) -> House:
    """Return a house with all of `variants` on every device; `static` takes the first by name."""
    house = House(variants=variants or THREE, **options)
    for device in house.state.books.segments:
        house.join(device, residents=tuple(resident(info.name) for info in variants or THREE))
    return house


def plan_of(effects: list[Any]) -> Plan:
    """Return the plan that a client was told last."""
    plan = told(effects, Accepted, CLIENT)[-1].plan
    assert plan is not None
    return plan


def test_what_ran_out_of_memory_goes_on_with_a_lighter_variant() -> None:
    house = house_of()
    first = only(house.ask("a", seed=5), Execute)
    assert first.variant == "a"
    effects = house.tell(ended(first, "out_of_memory"))
    assert told(effects, Error) == []
    second = only(effects, Execute, b"cpu-0")
    assert (second.variant, second.seeds) == ("b", first.seeds)
    assert {s.generation for s in second.slots}.isdisjoint(s.generation for s in first.slots)
    note = "out of memory with a: moved to the lighter b"
    assert plan_of(effects).notes == (note,)
    assert [a.attempt for a in told(effects, Accepted, CLIENT)] == [1, 2]
    result = only(house.tell(finished(second)), Result, CLIENT)
    assert (result.plan.variant, result.notes, result.attempt) == ("b", (note,), 2)
    assert house.state.books.counts["lightened"] == 1
    assert is_over(house)


def test_every_move_is_to_a_lighter_one_until_there_is_none() -> None:
    house = house_of()
    effects = house.ask("a")
    seen = []
    while told(effects, Execute):
        execute = only(effects, Execute)
        seen.append(execute.variant)
        effects = house.tell(ended(execute, "out_of_memory"))
    assert seen == ["a", "b", "c"]
    error = only(effects, Error, CLIENT)
    assert (error.code, error.message, error.request_id) == ("out_of_memory", "as the test wants", "a")
    assert is_over(house)


def test_all_moves_are_told() -> None:
    house = house_of()
    effects = house.ask("a")
    for _ in range(2):
        effects = house.tell(ended(only(effects, Execute), "out_of_memory"))
    assert plan_of(effects).notes == (
        "out of memory with a: moved to the lighter b",
        "out of memory with b: moved to the lighter c",
    )


def test_a_variant_as_heavy_is_no_help() -> None:
    house = house_of(variant("a", bytes=100), variant("b", bytes=100))
    execute = only(house.ask("a"), Execute)
    assert only(house.tell(ended(execute, "out_of_memory")), Error).code == "out_of_memory"


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({"variant": "a"}, None),
        ({"family": "sd15"}, "b"),
        ({"family": "sdxl"}, None),
        ({"adapters": (Adapter("ink"),)}, "c"),
        ({"adapters": (Adapter("oil"),)}, None),
        ({"latency_s": 10.0, "on_infeasible": "reject"}, "b"),
    ],
)
def test_a_move_keeps_to_the_pins(wishes: dict[str, Any], expected: str | None) -> None:
    adapters = [builders.adapter("ink", variants=("a", "c")), builders.adapter("oil", variants=("a",))]
    house = house_of(variant("0", family="sdxl", bytes=400), *THREE, adapters=adapters)
    wishes = {"family": "sd15"} | wishes if "variant" not in wishes else wishes
    execute = only(house.ask("a", **wishes), Execute)
    effects = house.tell(ended(execute, "out_of_memory"))
    assert [e.variant for e in told(effects, Execute)] == ([expected] if expected else [])
    assert [e.code for e in told(effects, Error)] == ([] if expected else ["out_of_memory"])


def test_other_failures_do_not_move() -> None:
    house = house_of()
    execute = only(house.ask("a"), Execute)
    assert only(house.tell(ended(execute, "engine_failed")), Error).code == "engine_failed"


def test_a_cancelled_request_does_not_move() -> None:
    house = house_of()
    execute = only(house.ask("a"), Execute)
    house.ask(Cancel("a"))
    assert house.tell(ended(execute, "out_of_memory")) == []
    assert is_over(house)


def test_a_lighter_variant_may_be_elsewhere_and_has_to_be_loaded_at_need() -> None:
    house = House(devices=("cpu-0", "cpu-1"), variants=THREE)
    house.join("cpu-0", residents=(resident("a"),))
    execute = only(house.ask("a"), Execute, b"cpu-0")
    house.join("cpu-1", residents=(resident("b"),))
    effects = house.tell(ended(execute, "out_of_memory"))
    assert only(effects, Execute, b"cpu-1").variant == "b"
    house = House(variants=THREE)
    house.join(residents=(resident("a"),))
    effects = house.tell(ended(only(house.ask("a"), Execute), "out_of_memory"))
    assert [type(m) for m in told(effects, object, b"cpu-0")] == [LoadVariant, Execute]


def test_the_load_of_what_ran_out_of_memory_is_given_up() -> None:
    house = House(variants=THREE)
    house.join(residents=(resident("b"),))
    effects = house.ask("a")
    execute = only(effects, Execute)
    assert only(effects, LoadVariant).variant == "a"
    effects = house.tell(ended(execute, "out_of_memory"))
    assert only(effects, CancelLoad).variant == "a"
    assert only(effects, Execute).variant == "b"


def test_what_was_moved_and_lost_its_actor_does_not_go_back_to_the_heavy_one() -> None:
    house = house_of()
    execute = only(house.ask("a"), Execute)
    execute = only(house.tell(ended(execute, "out_of_memory")), Execute)
    house.tell(Leaving())
    effects = house.join(route=b"new", incarnation="new", residents=(resident("a"), resident("c")))
    assert only(effects, Execute, b"new").variant == "b"
    assert plan_of(effects).notes == ("out of memory with a: moved to the lighter b",)


def test_what_moves_keeps_its_place_before_those_who_came_later() -> None:
    house = house_of()
    running = [only(house.ask(name), Execute) for name in ("first", "second")]
    house.ask("third")
    assert executes(house.tell(ended(running[0], "out_of_memory"))) == ["first"]
    assert free_slots(house) == POOL_OF_4 - 2


class Obstinate:
    """A policy that knows one answer to every question after the first."""

    name = "obstinate"

    def __init__(self, answer: Decision) -> None:
        self.answers: list[Decision] = [Admit(builders.plan(variant="a")), answer]

    def decide(self, view: View, request: object) -> Decision:
        """Answer with the first, then always with the last."""
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def test_a_pinned_variant_is_never_changed_whatever_the_policy_would_admit() -> None:
    house = house_of(policy=Obstinate(Admit(builders.plan(variant="b"))))
    execute = only(house.ask("a", variant="a"), Execute)
    assert only(house.tell(ended(execute, "out_of_memory")), Error, CLIENT).code == "out_of_memory"


@pytest.mark.parametrize(
    "answer",
    [
        Admit(builders.plan(variant="a")),
        Admit(builders.plan(variant="unheard-of")),
        Admit(builders.plan(variant="b", width=2048, height=2048)),
        Wait("not now"),
        Reject("overloaded", "no"),
    ],
    ids=["the heavy one again", "no such variant", "too large for the slots", "waits", "refuses"],
)
def test_without_an_admission_it_fails_for_want_of_memory(answer: Decision) -> None:
    house = house_of(policy=Obstinate(answer))
    execute = only(house.ask("a"), Execute)
    effects = [e for e in house.tell(ended(execute, "out_of_memory")) if not isinstance(e, Complain)]
    assert only(effects, Error, CLIENT).code == "out_of_memory"
    assert is_over(house)
