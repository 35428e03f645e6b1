"""Policy `infaas`: the three searches, what is remembered, and what is passed over."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs.actor_messages import Costs, Resident, RowCost
from difs.messages import Plan, QualityPoint, VariantInfo
from difs.policy.activity import Activity
from difs.policy.base import Admit, DeviceView, Options, Reject, View
from difs.policy.infaas import CHECK_S, RECENT, STILL_OVERLOADED, Infaas, Memory
from difs.policy.states import is_marked, state
from tests.builders import device_view, generate, resident, variant, view

POLICY = Infaas(Options())


def rated(name: str, score: float, **changes: Any) -> VariantInfo:
    """Return a variant of that accuracy at its default steps."""
    return variant(name, quality=(QualityPoint(64, 20, 2.5, score),), **changes)


FAST, GOOD, BEST = rated("fast", 0.5), rated("good", 0.7), rated("best", 0.9)
THREE = (FAST, GOOD, BEST)


def loaded(name: str, seconds: float) -> Resident:
    """Return a resident that takes so many seconds for a picture of 20 steps."""
    table = (RowCost(1, seconds / 40), RowCost(2, seconds / 20))
    return resident(name, Costs(64 * 64, 0.0, table, 0.0, 3.0))


RUNNING = {"fast": loaded("fast", 1.0), "good": loaded("good", 2.0), "best": loaded("best", 4.0)}


def device(name: str = "cuda-0", only: str = "fast good best", **facts: Any) -> DeviceView:
    """Return a device on which some of the three run; the others are parked."""
    names = only.split()
    parked = [found for key, found in RUNNING.items() if key not in names]
    return device_view(name, residents={key: RUNNING[key] for key in names}, parked=parked, **facts)


def decide(*devices: DeviceView, memory: Memory | None = None, decisions: int = 1, **wishes: Any) -> Any:
    """Return the decision for a request; the marks were looked at just now if there is a memory."""
    found = view(*(devices or (device(),)), variants=THREE, memory=memory, decisions=decisions)
    return POLICY.decide(found, generate(**wishes))


def plan(*devices: DeviceView, **wishes: Any) -> Plan:
    decision = decide(*devices, **wishes)
    assert isinstance(decision, Admit), decision
    return decision.plan


def marked(*pairs: tuple[str, str], recent: tuple[str, ...] = ()) -> Memory:
    return Memory(recent, frozenset(pairs), 0.0)


# ---- a use case ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "name"),
    [
        ({"latency_s": 5.0}, "best"),
        ({"latency_s": 3.0}, "good"),
        ({"latency_s": 1.5}, "fast"),
        ({"latency_s": 3.0, "quality": 0.6}, "good"),
        ({"latency_s": 5.0, "quality": 0.8}, "best"),
        ({"quality": "low"}, "best"),
        ({}, "best"),
    ],
)
def test_a_use_case_gets_the_slowest_variant_that_runs_and_fits(
    wishes: dict[str, Any], name: str
) -> None:
    assert plan(**wishes).variant == name


def test_a_variant_is_a_point_whose_steps_are_never_cut() -> None:
    found = plan(latency_s=3.0, quality="draft")
    assert (found.steps, found.expected_quality) == (20, 0.7)
    assert plan(latency_s=3.0, steps=7).steps == 7


def test_what_was_chosen_lately_is_tried_first() -> None:
    memory = marked(recent=("fast", "good"))
    assert plan(memory=memory, latency_s=5.0).variant == "fast"
    assert plan(memory=memory, latency_s=5.0, quality=0.6).variant == "good", "if it is good enough"
    assert plan(memory=memory, latency_s=5.0, quality=0.8).variant == "best"
    assert plan(device(only="good best"), memory=memory, latency_s=5.0).variant == "good", "and runs"


def test_only_choices_for_use_cases_are_remembered_and_only_the_last() -> None:
    decision = decide(memory=marked(recent=("fast", "b", "c", "d", "e")), latency_s=3.0, quality=0.6)
    assert decision.memory.recent == ("good", "fast", "b", "c", "d")
    assert len(decision.memory.recent) == RECENT
    assert decide(memory=marked(recent=("fast",)), family="sd15").memory.recent == ("fast",)
    assert decide(memory=marked(recent=("fast",)), variant="best").memory.recent == ("fast",)


def test_what_runs_nowhere_is_loaded_where_nothing_that_runs_fits() -> None:
    assert plan(device(only="fast"), quality=0.6).variant == "good", "the sooner one"
    assert plan(device(only="fast good"), quality=0.6).variant == "good", "running comes first"
    assert plan(device(only="fast"), quality=0.6, latency_s=3.0).reason.endswith("loaded")


# ---- an architecture, a variant -----------------------------------------------------------------


def test_an_architecture_gets_its_fastest_variant_that_runs_and_fits() -> None:
    assert plan(family="sd15").variant == "fast"
    assert plan(family="sd15", quality=0.6).variant == "good"
    assert plan(device(only="good best"), family="sd15").variant == "good"


def test_where_what_runs_is_overloaded_the_next_is_loaded_and_some_queries_still_go_there() -> None:
    memory = marked(("cuda-0", "fast"))
    found = [
        plan(device(only="fast"), memory=memory, decisions=i, family="sd15").variant
        for i in range(2 * STILL_OVERLOADED)
    ]
    assert found.count("fast") == 2
    assert found.count("good") == 2 * STILL_OVERLOADED - 2


def test_a_variant_is_served_where_it_runs_and_was_asked_least() -> None:
    asked = {"good": Activity(rate_hz=2.0)}
    busy, calm = device("cuda-0", activity=asked), device("cuda-1", backlog_s=9.0)
    assert plan(busy, calm, variant="good").device == "cuda-1"
    assert plan(busy, device("cuda-1", only="fast"), variant="good").device == "cuda-0"
    assert plan(device(only="fast"), variant="good").variant == "good"


def test_marked_devices_are_passed_over_for_a_variant_while_another_runs_it() -> None:
    devices = device("cuda-0"), device("cuda-1", activity={"good": Activity(rate_hz=9.0)})
    memory = marked(("cuda-0", "good"))
    assert plan(*devices, memory=memory, variant="good").device == "cuda-1"
    assert plan(devices[0], memory=memory, variant="good").device == "cuda-0"


# ---- nothing fits -------------------------------------------------------------------------------


def test_where_nothing_fits_and_the_client_says_so_it_is_refused() -> None:
    refusal = decide(latency_s=0.5, on_infeasible="reject")
    assert isinstance(refusal, Reject)
    assert refusal.code == "infeasible"
    assert "the fastest takes 1.00 s" in refusal.reason
    too_good = decide(quality=0.95, on_infeasible="reject")
    assert isinstance(too_good, Reject)
    assert "the best has 0.90" in too_good.reason


def test_where_nothing_fits_and_less_will_do_the_fastest_serves() -> None:
    assert plan(latency_s=0.5).variant == "fast"
    assert plan(quality=0.95, latency_s=3.0).variant == "fast"


def test_a_prediction_knows_no_queues_but_a_promise_is_kept() -> None:
    full = device(backlog_s=60.0)
    assert plan(full, latency_s=3.0).keeps_latency is False
    refusal = decide(full, latency_s=3.0, on_infeasible="reject")
    assert isinstance(refusal, Reject)
    assert refusal.code == "overloaded"


# ---- overloaded and interfered ------------------------------------------------------------------


def busy(
    wanted: int = 0, rate_hz: float = 0.0, slowdown: float = 1.0, name: str = "cuda-0"
) -> DeviceView:
    """Return a device on which `good` (0.5 pictures a second, one at once) is asked for."""
    activity = {"good": Activity(rate_hz, slowdown)}
    return device(name, wants={"good": wanted} if wanted else {}, activity=activity)


def mark(found: DeviceView, *, was: bool = False) -> bool:
    return is_marked(view(found, variants=THREE), found, GOOD, was)


def test_a_resident_that_more_want_than_it_can_serve_is_marked() -> None:
    assert not mark(busy(wanted=1))
    assert mark(busy(wanted=2))


def test_a_resident_that_is_slow_is_marked_if_it_is_asked_for_enough() -> None:
    assert not mark(busy(rate_hz=0.4, slowdown=1.4))
    assert not mark(busy(rate_hz=0.1, slowdown=9.0)), "nobody suffers from it"
    assert mark(busy(rate_hz=0.2, slowdown=1.6))
    cpu = busy(rate_hz=0.2, slowdown=3.0, name="cpu-0")
    assert not mark(cpu), "a CPU is given more time"
    assert mark(busy(rate_hz=0.6, slowdown=4.1, name="cpu-0"))


def test_a_mark_stays_until_things_are_calm() -> None:
    between = busy(rate_hz=0.0, slowdown=1.4)
    assert not mark(between)
    assert mark(between, was=True)
    assert not mark(busy(slowdown=1.2), was=True)
    assert mark(busy(wanted=2, slowdown=1.0), was=True)


def test_slowness_fades_when_nobody_asks() -> None:
    found = busy(slowdown=3.0)
    later = view(found, variants=THREE, now=90.0)
    assert not is_marked(later, found, GOOD, was_marked=True)


def test_marks_are_looked_at_once_a_second() -> None:
    def marks(now: float) -> frozenset[tuple[str, str]]:
        found = view(busy(wanted=5), variants=THREE, now=now, memory=marked())
        decision = POLICY.decide(found, generate())
        assert isinstance(decision, Admit)
        assert isinstance(decision.memory, Memory)
        return decision.memory.marks

    assert marks(0.9 * CHECK_S) == frozenset()
    assert marks(CHECK_S) == {("cuda-0", "good")}


@pytest.mark.parametrize(
    ("found", "marked_", "expected"),
    [
        (device(only="fast"), False, "inactive"),
        (busy(), False, "active"),
        (busy(wanted=5), True, "overloaded"),
        (busy(rate_hz=0.6), True, "overloaded"),
        (busy(rate_hz=0.2, slowdown=2.0), True, "interfered"),
    ],
)
def test_the_four_states_of_the_paper(found: DeviceView, marked_: bool, expected: str) -> None:
    assert state(view(found, variants=THREE), found, "good", is_marked=marked_) == expected


def test_a_use_case_passes_over_what_is_marked() -> None:
    memory = marked(("cuda-0", "best"), recent=("best",))
    assert plan(memory=memory, latency_s=5.0).variant == "good"
    everything = marked(*(("cuda-0", name) for name in RUNNING))
    found = plan(device(wants={"good": 1, "best": 4, "fast": 9}), memory=everything, latency_s=5.0)
    assert found.variant == "good", "the one that fewest want, where all are marked"
    assert "overloaded" in found.reason or "interfered" in found.reason


# ---- it is a function ---------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from(["fast", "good", "best", "gone"]), max_size=6, unique=True),
    st.sets(st.tuples(st.sampled_from(["cuda-0", "cuda-1"]), st.sampled_from(sorted(RUNNING)))),
    st.lists(st.sampled_from(["", "fast", "fast good", "fast good best"]), min_size=1, max_size=2),
    st.sampled_from([{}, {"family": "sd15"}, {"variant": "good"}]),
    st.floats(0.1, 20) | st.none(),
    st.floats(0, 1) | st.none(),
    st.floats(0, 3),
)
@settings(max_examples=200)
def test_whatever_is_remembered_the_choice_is_one_that_the_request_allows(
    recent: list[str],
    marks: set[tuple[str, str]],
    running: list[str],
    pins: dict[str, Any],
    latency_s: float | None,
    quality: float | None,
    now: float,
) -> None:
    devices = [device(f"cuda-{i}", only=names) for i, names in enumerate(running)]
    memory = Memory(tuple(recent), frozenset(marks), 0.0)
    found: View = view(*devices, variants=THREE, memory=memory, now=now)
    request = generate(latency_s=latency_s, quality=quality, **pins)
    decision = POLICY.decide(found, request)
    assert decision == POLICY.decide(found, request)
    assert isinstance(decision, Admit)
    assert decision.plan.variant in RUNNING
    assert decision.plan.variant == pins.get("variant", decision.plan.variant)
    assert isinstance(decision.memory, Memory)
    if decision.memory.recent and not pins and decision.plan.variant == decision.memory.recent[0]:
        own_s = decision.plan.prediction.steps_s
        assert latency_s is None or own_s <= latency_s + 1e-9 or "nothing fits" in decision.plan.reason
