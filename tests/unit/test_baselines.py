"""The small baselines (`least_loaded`, `clipper_*`, `edf`), and what policies see of activity."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from difs.actor_messages import Execute, Loaded
from difs.messages import Explain, Plan, QualityPoint
from difs.policy import registry
from difs.policy.activity import LATEST, WINDOW_S, Activity
from difs.policy.base import Admit, Options, Policy
from tests.builders import (
    COSTS,
    House,
    device_view,
    finished,
    generate,
    only,
    resident,
    served,
    variant,
    view,
)

SLOW = replace(COSTS, steps=tuple(replace(c, seconds=5 * c.seconds) for c in COSTS.steps))
BOTH = {"a-slow": resident("a-slow", SLOW), "b-fast": resident("b-fast")}
VARIANTS = (variant("a-slow"), variant("b-fast"))


def admitted(policy: Policy, *devices: Any, variants: Any = VARIANTS, **wishes: Any) -> Admit:
    decision = policy.decide(view(*devices, variants=variants), generate(**wishes))
    assert isinstance(decision, Admit), decision
    return decision


def plan(name: str, *devices: Any, options: Options = Options(), **facts: Any) -> Plan:  # noqa: B008
    found = devices or (device_view(residents=BOTH),)
    return admitted(registry.load(name, options), *found, **facts).plan


# ---- clipper ------------------------------------------------------------------------------------


def test_clipper_light_always_serves_the_fastest_and_clipper_heavy_the_best() -> None:
    assert plan("clipper_light").variant == "b-fast"
    assert plan("clipper_heavy").variant == "a-slow", "of equal quality the one of most seconds"
    curve = (QualityPoint(64, 20, 2.5, 0.9),)
    better = (variant("a-slow"), variant("b-fast", quality=curve))
    assert plan("clipper_heavy", variants=better).variant == "b-fast"
    assert plan("clipper_heavy", variants=better).expected_quality == 0.9
    assert plan("clipper_light").expected_quality is None


@pytest.mark.parametrize("wishes", [{"quality": "best"}, {"latency_s": 0.1}, {"quality": 0.1, "n": 3}])
def test_clipper_knows_no_steps_and_no_wishes(wishes: dict[str, Any]) -> None:
    for name, chosen in (("clipper_light", "b-fast"), ("clipper_heavy", "a-slow")):
        found = plan(name, **wishes)
        assert (found.variant, found.steps) == (chosen, 20)


def test_clipper_follows_its_options_and_the_pins() -> None:
    options = Options(light="a-slow", heavy="b-fast")
    assert plan("clipper_light", options=options).variant == "a-slow"
    assert plan("clipper_heavy", options=options).variant == "b-fast"
    assert plan("clipper_light", options=options, variant="b-fast").variant == "b-fast"
    assert plan("clipper_light", steps=9, guidance_scale=1.0).steps == 9


# ---- least loaded -------------------------------------------------------------------------------


def test_least_loaded_joins_the_shortest_queue_of_all_pairs() -> None:
    devices = device_view("cpu-0", 2.0, residents=BOTH), device_view("cpu-1", 1.0, names=["b-fast"])
    found = plan("least_loaded", *devices)
    assert (found.device, found.variant) == ("cpu-1", "b-fast")


def test_least_loaded_counts_a_load_as_waiting() -> None:
    devices = device_view("cpu-0", 0.5, residents=BOTH), device_view("cpu-1", 0.0, names=[])
    assert plan("least_loaded", *devices).device == "cpu-0"


def test_least_loaded_takes_the_variant_that_fewest_want_where_queues_are_equal() -> None:
    found = device_view(residents=BOTH, wants={"a-slow": 3, "b-fast": 2})
    assert plan("least_loaded", found).variant == "b-fast"
    assert plan("least_loaded", device_view(residents=BOTH)).variant == "a-slow"


# ---- earliest deadline first --------------------------------------------------------------------


def test_edf_orders_by_latency_else_by_timeout() -> None:
    policy = registry.load("edf", Options("b-fast"))
    found = view(device_view(residents=BOTH), variants=VARIANTS, now=100.0)

    def order(**wishes: Any) -> float | None:
        decision = policy.decide(found, generate(**wishes))
        assert isinstance(decision, Admit)
        assert (decision.plan.variant, decision.plan.policy) == ("b-fast", "edf")
        return decision.order

    assert order(latency_s=3.0) == 103.0
    assert order(timeout_s=50.0) == 150.0


def test_edf_dispatches_the_earliest_deadline_first_whoever_asked_first() -> None:
    house = served(credits=1, policy=registry.load("edf"))
    running = only(house.ask("running"), Execute)
    for name, latency_s in (("c", 9.0), ("a", 3.0), ("d", 12.0), ("b", 5.0)):
        house.ask(name, name.encode(), latency_s=latency_s)
    order = []
    for _ in range(4):
        running = only(house.tell(finished(running)), Execute)
        order.append(running.request_id)
    assert order == ["a", "b", "c", "d"]


def test_edf_refuses_as_static_does() -> None:
    wishes: dict[str, Any] = {"latency_s": 0.01, "on_infeasible": "reject"}
    edf, static = registry.load("edf"), registry.load("static")
    found = view(device_view())
    assert edf.decide(found, generate(**wishes)) == static.decide(found, generate(**wishes))


# ---- activity -----------------------------------------------------------------------------------


@given(st.floats(0.01, 20.0))
@settings(max_examples=50)
def test_the_rate_of_steady_requests_is_their_rate(gap_s: float) -> None:
    activity, now = Activity(), 0.0
    for _ in range(int(12 * WINDOW_S / gap_s) + 1):
        now += gap_s
        activity = activity.wanted(now)
    assert abs(activity.rate(now) - 1 / gap_s) <= 1 / WINDOW_S + 1e-9
    assert activity.rate(now + WINDOW_S) == pytest.approx(activity.rate(now) / math.e)


def test_slowness_is_an_average_that_fades_to_one() -> None:
    activity = Activity().finished(3.0, 1.0, 10.0)
    assert activity.slowness(10.0) == pytest.approx(1 + 2 * LATEST)
    assert activity.slowness(10.0 + 10 * WINDOW_S) == pytest.approx(1.0, abs=1e-3)
    assert activity.finished(3.0, 0.0, 11.0) is activity, "nothing was expected"


def activity_of(house: House) -> Activity:
    return house.state.books.by_device["cpu-0"].activity["tiny"]


def test_the_broker_counts_what_is_wanted_and_how_it_fares() -> None:
    house = served(credits=2)
    first, _ = only(house.ask("a"), Execute), house.ask("b")
    assert activity_of(house).rate(0.0) == pytest.approx(2 / WINDOW_S)
    house.now = 0.46
    house.tell(finished(first))
    assert activity_of(house).slowness(0.46) == pytest.approx(1 + LATEST * (0.46 / 0.23 - 1))


def test_what_waits_for_a_load_says_nothing_of_the_pace() -> None:
    house = House()
    house.join(residents=())
    execute = only(house.ask("a"), Execute)
    house.tell(Loaded(resident()))
    house.now = 30.0
    house.tell(finished(execute))
    assert activity_of(house).slowness(30.0) == 1.0


def test_an_explanation_leaves_no_trace() -> None:
    house = served(policy=registry.load("infaas"))
    before = house.state.books.memory
    house.ask(Explain(generate("x")))
    assert house.state.books.memory is before is None
    house.ask("a")
    assert house.state.books.memory is not None
