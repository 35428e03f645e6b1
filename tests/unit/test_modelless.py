"""The policy `modelless`: never dominated, monotone, and it says why."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from difs.actor_messages import Costs, RowCost
from difs.messages import Plan, QualityPoint, VariantInfo
from difs.policy import modelless
from difs.policy.base import Admit, Decision, DeviceView, Options, Reject, View
from difs.policy.frontier import Point, enumerate_points
from difs.policy.modelless import Modelless
from difs.policy.repainting import Memory
from tests.builders import device_view, generate, resident, variant, view

POLICY = Modelless(Options())


def curve(*points: tuple[int, float], guidance: float = 1.0, side: int = 64) -> tuple[QualityPoint, ...]:
    return tuple(QualityPoint(side, steps, guidance, score) for steps, score in points)


def member(name: str, quality: tuple[QualityPoint, ...], **changes: Any) -> VariantInfo:
    facts: dict[str, Any] = {"steps_min": 1, "guidance_scale": 1.0, "quality_source": "measured: a test"}
    return variant(name, quality=quality, **facts | changes)


def costs(step_s: float) -> Costs:
    return Costs(64 * 64, 0.01, (RowCost(1, step_s), RowCost(2, 1.6 * step_s)), 0.02, 1.0)


TURBO = member("turbo", curve((1, 0.7), (2, 0.8), (4, 0.85)), steps_default=2, steps_max=4)
BASE = member("base", curve((2, 0.3), (4, 0.6), (8, 0.8), (20, 0.95)))
SMALL = member("small", curve((2, 0.2), (4, 0.5), (8, 0.7), (20, 0.75)))
LARGE = member(
    "large",
    curve((4, 0.6), (20, 0.97), side=128) + curve((4, 0.6), (20, 0.97)),
    native_sizes=((128, 128),),
)
COSTS = {"turbo": costs(0.1), "base": costs(0.1), "small": costs(0.03), "large": costs(0.02)}


def house(*infos: VariantInfo, backlog_s: float = 0.0, loaded: bool = True) -> View:
    residents = {i.name: resident(i.name, COSTS[i.name]) for i in infos} if loaded else {}
    return view(DeviceView("cpu-0", residents, backlog_s, 0, 8), variants=infos)


FAMILY = house(TURBO, BASE, SMALL)


def plan_of(found: View = FAMILY, **wishes: Any) -> Plan:
    decision = POLICY.decide(found, generate(**{"width": None, "height": None} | wishes))
    assert isinstance(decision, Admit), decision
    return decision.plan


def refused(found: View = FAMILY, **wishes: Any) -> Reject:
    decision = POLICY.decide(found, generate(**{"width": None, "height": None} | wishes))
    assert isinstance(decision, Reject), decision
    return decision


# ---- what it chooses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "chosen"),
    [
        ({}, ("base", 20)),
        ({"latency_s": 0.15}, ("turbo", 1)),
        ({"latency_s": 0.45}, ("turbo", 4)),
        ({"latency_s": 5.0}, ("base", 20)),
        ({"latency_s": 0.07}, ("small", 1)),
        ({"quality": "draft"}, ("turbo", 1)),
        ({"quality": "best"}, ("base", 20)),
        ({"quality": 0.8}, ("turbo", 2)),
        ({"quality": 0.8, "latency_s": 60}, ("turbo", 2)),
        ({"quality": 0.9, "latency_s": 0.45}, ("turbo", 4)),
        ({"quality": "auto"}, ("base", 20)),
        ({"variant": "small"}, ("small", 20)),
        ({"variant": "small", "quality": "draft"}, ("small", 4)),
        ({"steps": 4}, ("turbo", 4)),
        ({"steps": 4, "variant": "base"}, ("base", 4)),
    ],
)
def test_stated_goals_lead_to_different_points(wishes: dict[str, Any], chosen: tuple[str, int]) -> None:
    plan = plan_of(**wishes)
    assert (plan.variant, plan.steps) == chosen


def test_a_backlog_makes_it_choose_what_is_sooner() -> None:
    assert plan_of(house(TURBO, BASE, SMALL, backlog_s=1.0), latency_s=2.5).variant == "turbo"
    assert plan_of(latency_s=2.5).variant == "base"


def test_where_others_wait_it_leaves_room_for_them() -> None:
    """Base's 20 steps end 0.1 s before the latency: enough on an idle device, too tight behind others."""
    alone = plan_of(house(BASE), latency_s=2.13)
    behind = plan_of(house(BASE, backlog_s=1.0), latency_s=3.13)
    assert alone.steps == 20
    assert behind.steps < 20
    assert behind.prediction.total_s <= 3.13 - modelless.ROOM * 1.0


def test_without_room_the_soonest_is_taken_and_a_quality_that_is_asked_for_still_counts() -> None:
    found = house(BASE, backlog_s=10.0)
    assert plan_of(found, latency_s=10.5).steps == 1
    assert plan_of(found, latency_s=10.9, quality=0.8).steps == 8


def test_what_is_late_anyhow_lets_the_others_wait_least() -> None:
    """Turbo's single step takes 0.13 s, small's 0.06: nothing is in time, and a hundred wait."""
    alone = house(TURBO, SMALL, backlog_s=9.0)
    assert plan_of(alone, latency_s=1.0).variant == "small"
    (device,) = alone.devices
    better = view(replace(device, outlook=None, wants={}), variants=(BASE,))
    assert plan_of(better, latency_s=0.01).steps == 1
    crowded = view(
        DeviceView("cpu-0", {"base": resident("base", COSTS["base"])}, 30.0, 100, 0, wants={"base": 100}),
        DeviceView("cpu-1", {"small": resident("small", COSTS["small"])}, 33.0, 1, 0, wants={"small": 1}),
        variants=(BASE, SMALL),
    )
    plan = plan_of(crowded, latency_s=1.0)
    assert (plan.variant, plan.device) == ("small", "cpu-1"), "it takes less time of others"
    assert "least waiting" in plan.reason


def test_what_others_will_need_meanwhile_is_left_to_them() -> None:
    calm, wishes = house(TURBO, BASE, SMALL), {"latency_s": 2.2}
    assert plan_of(calm, **wishes).steps == 20
    came = Memory()
    for i in range(300):
        came = came.arrived(i * 0.1)
    pressed = replace(calm, now=30.0, memory=came)
    plan = plan_of(pressed, **wishes)
    assert plan.prediction.total_s <= 2.2 * (1 - 10 * 0.06 * 0.9), "ten a second need six tenths of it"


def test_two_that_come_at_once_are_no_demand() -> None:
    came = Memory().arrived(5.0).arrived(5.001)
    assert came.demand_hz(5.001) < 1.5
    assert Memory().demand_hz(5.0) == 0.0


def test_a_variant_that_must_be_loaded_first_counts_its_load() -> None:
    loaded = {"small": resident("small", COSTS["small"])}
    parked = {"base": resident("base", COSTS["base"])}
    device = DeviceView("cpu-0", loaded, 0.0, 0, 8, parked)
    found = view(device, variants=(BASE, SMALL))
    assert plan_of(found, latency_s=1.5).variant == "small"
    later = plan_of(found, latency_s=3.5)
    assert (later.variant, later.prediction.load_s) == ("base", 1.0)


def test_the_idle_device_is_taken() -> None:
    devices = [device_view("cpu-0", 2.0), device_view("cpu-1", 0.5), device_view("cpu-2", 1.0)]
    assert plan_of(view(*devices)).device == "cpu-1"


def test_guidance_is_a_dial_too() -> None:
    both = curve((8, 0.6), guidance=1.0) + curve((8, 0.9), guidance=3.0)
    found = house(replace(BASE, quality=both, steps_max=8, steps_default=8))
    assert plan_of(found).guidance_scale == 3.0
    assert plan_of(found, latency_s=1.0).guidance_scale == 1.0, "without guidance a step costs less"
    assert plan_of(found, guidance_scale=1.0).guidance_scale == 1.0


def test_the_asked_size_takes_those_that_are_made_for_it() -> None:
    found = house(BASE, LARGE)
    assert plan_of(found, width=128, height=128).variant == "large"
    assert plan_of(found, width=64, height=64).variant == "base"
    assert plan_of(found).variant == "large", "the best picture, at its own size"
    assert plan_of(found, width=256, height=256).notes


def test_what_a_variant_cannot_paint_is_left_to_another() -> None:
    knows = replace(TURBO, captions=(("cat", "kitty"),))
    general = variant("general", steps_min=1)
    residents = {"turbo": resident("turbo", COSTS["turbo"]), "general": resident("general")}
    found = view(DeviceView("cpu-0", residents, 0.0, 0, 8), variants=(knows, general))
    assert plan_of(found, prompt="a kitty").variant == "turbo"
    assert plan_of(found, prompt="a spaceship").variant == "general"


def test_a_variant_that_another_judge_praised_is_not_preferred() -> None:
    praised = replace(
        SMALL, quality=curve((2, 0.99), (20, 1.0)), quality_kind="clip", quality_judge="vit"
    )
    judged = [replace(info, quality_kind="reference", quality_judge="us") for info in (TURBO, BASE)]
    plan = plan_of(house(praised, *judged))
    assert (plan.variant, plan.expected_quality) == ("base", 0.95)
    alone = plan_of(house(praised, *judged), variant="small")
    assert (alone.expected_quality, alone.quality_source) == (1.0, "measured: a test")
    beside = next(a for a in plan.alternatives if a.variant == "small")
    assert (beside.expected_quality, beside.why_not) == (None, "its quality is not known")


# ---- what it says ---------------------------------------------------------------------------------


def test_a_plan_says_what_is_expected_and_from_where() -> None:
    plan = plan_of()
    assert (plan.policy, plan.expected_quality) == ("modelless", 0.95)
    assert plan.quality_source == "measured: a test"
    assert plan.reason == "the best quality that comes soon"


def test_an_assumed_quality_is_never_shown() -> None:
    plan = plan_of(view(device_view()), quality="draft")
    assert plan.expected_quality is None
    assert plan.quality_source is None
    assert all(a.expected_quality is None for a in plan.alternatives)
    hurried = plan_of(view(device_view()), latency_s=0.1)
    assert [a.why_not for a in (*plan.alternatives, *hurried.alternatives)] != []
    assert not any("less quality" in a.why_not for a in (*plan.alternatives, *hurried.alternatives))


def test_the_alternatives_say_why_not() -> None:
    plan = plan_of(latency_s=0.45)
    why = {a.variant: a.why_not for a in plan.alternatives}
    assert set(why) == {"base", "small", "turbo"}
    assert why["turbo"] == "0.05 less quality"
    assert "less quality" in why["base"]
    assert len(plan.alternatives) <= modelless.SHOWN


def test_what_is_too_late_says_so() -> None:
    base = next(a for a in plan_of(latency_s=0.14).alternatives if a.variant == "base")
    assert "less quality" in base.why_not or "not done in" in base.why_not


def test_a_quality_that_cannot_be_had_is_served_with_the_best_or_refused() -> None:
    assert plan_of(quality=0.99).steps == 20
    assert "not to be had" in plan_of(quality=0.99).reason
    never = refused(quality=0.99, on_infeasible="reject")
    assert (never.code, never.field) == ("infeasible", "requirements.quality")
    assert "the best is 0.95" in never.reason
    hurried = refused(quality=0.9, latency_s=0.45, on_infeasible="reject")
    assert "it takes 2.03 s, and in 0.45 s the best is 0.85" in hurried.reason


def test_a_latency_that_cannot_be_kept_is_served_soonest_or_refused() -> None:
    plan = plan_of(latency_s=0.01)
    assert plan.keeps_latency is False
    assert (plan.variant, plan.steps) == ("small", 1)
    assert refused(latency_s=0.01, on_infeasible="reject").code == "infeasible"
    busy = house(TURBO, BASE, SMALL, backlog_s=3.0)
    assert refused(busy, latency_s=1.0, on_infeasible="reject").code == "overloaded"


def test_without_a_device_or_a_known_name_it_refuses_as_the_others_do() -> None:
    assert refused(view(variants=(BASE,))).code == "unavailable"
    assert refused(variant="nobody").code == "unknown_name"
    assert refused(sampler="nothing").code == "unknown_name"


def test_a_survey_tells_every_point_the_chosen_one_first() -> None:
    request = generate(width=None, height=None, latency_s=0.45)
    told = POLICY.survey(FAMILY, request)
    plan = plan_of(latency_s=0.45)
    assert (told[0].variant, told[0].steps, told[0].total_s) == ("turbo", 4, plan.prediction.total_s)
    assert [point.why_not for point in told].count("") == 1
    assert len(told) == len({(p.variant, p.steps, p.guidance_scale) for p in told}) == 3 + 5 + 5
    late = [point.total_s > 0.45 for point in told]
    assert late == sorted(late), "what is too late comes last"
    assert POLICY.survey(FAMILY, generate(variant="nobody")) == ()


def test_a_survey_tells_the_devices_that_were_not_taken() -> None:
    told = POLICY.survey(view(device_view("cpu-0", 2.0), device_view("cpu-1", 0.5)), generate(steps=8))
    assert [(p.device, p.why_not) for p in told] == [("cpu-1", ""), ("cpu-0", "1.50 s later")]


def test_a_plan_says_how_far_it_may_be_cut_while_it_runs() -> None:
    assert plan_of(latency_s=5.0).floor_steps == 1, "down to the fewest steps that the variant has"
    assert plan_of(latency_s=5.0, quality=0.8).floor_steps is None, "no fewer steps are as good"
    assert plan_of(latency_s=5.0, quality=0.8, variant="base").floor_steps is None
    assert plan_of().floor_steps is None, "nobody is in a hurry"
    assert plan_of(latency_s=5.0, steps=20).floor_steps is None, "the steps are pinned"


# ---- properties -----------------------------------------------------------------------------------

SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=5)


@st.composite
def houses(draw: st.DrawFn) -> View:
    infos, devices = [], []
    for name in draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True)):
        scores = draw(SCORES)
        steps = sorted(draw(st.sets(st.integers(1, 30), min_size=len(scores), max_size=len(scores))))
        line = curve(*zip(steps, scores, strict=True)) if draw(st.booleans()) else ()
        infos.append(member(name, line, steps_default=10, steps_max=30))
    for i in range(draw(st.integers(1, 3))):
        known = draw(st.sets(st.sampled_from([info.name for info in infos])))
        residents = {name: resident(name, costs(draw(st.floats(0.001, 1)))) for name in known}
        devices.append(DeviceView(f"cpu-{i}", residents, draw(st.floats(0, 5)), 0, 8))
    return view(*devices, variants=tuple(infos))


WISHES = {
    "latency_s": st.none() | st.floats(0.01, 60),
    "quality": st.none() | st.floats(0, 1) | st.sampled_from(["draft", "medium", "best"]),
}


def decide(found: View, **wishes: Any) -> Decision:
    return POLICY.decide(found, generate(**{"width": None, "height": None} | wishes))


@settings(max_examples=300)
@given(found=houses(), wishes=st.fixed_dictionaries(WISHES))
def test_the_chosen_point_is_never_dominated(found: View, wishes: dict[str, Any]) -> None:
    plan = plan_of(found, **wishes)
    request = generate(**{"width": None, "height": None} | wishes)
    known = list(enumerate_points(found, list(found.variants.values()), request))
    (chosen,) = [
        p
        for p in known
        if (p.info.name, p.device.device, p.steps, p.guidance)
        == (plan.variant, plan.device, plan.steps, plan.guidance_scale)
    ]
    assert chosen.total_s == pytest.approx(plan.prediction.total_s)
    for other in known:
        is_better = other.worth >= chosen.worth and other.total_s <= chosen.total_s
        assert not (is_better and (other.worth, other.total_s) != (chosen.worth, chosen.total_s)), other


def test_where_none_leaves_room_the_cheapest_is_taken_and_not_a_poor_one_that_is_sooner() -> None:
    """With the base one it would share a batch that is there, for 0.3; the turbo comes a little later."""
    found = house(TURBO, BASE, backlog_s=4.0)
    request = generate(latency_s=5.0)
    (device,) = found.devices
    poor, good, dear = (
        Point(device, info, steps, 1.0, "full", total_s, worth, True)
        for info, steps, total_s, worth in (
            (BASE, 2, 4.2, 0.3),
            (TURBO, 1, 4.3, 0.7),
            (BASE, 20, 4.9, 0.95),
        )
    )
    assert modelless.choose([poor, good, dear], 0.0, request)[0] == good
    assert modelless.choose([poor], 0.0, request)[0] == poor


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12))
def test_the_unbeaten_are_those_that_none_beats(facts: list[tuple[int, int]]) -> None:
    (device,) = FAMILY.devices
    known = [Point(device, BASE, 8, 1.0, "full", float(s), float(w), True) for s, w in facts]
    found = modelless.unbeaten(known)
    best = {(p.total_s, p.worth) for p in known if not any(other.beats(p) for other in known)}
    assert [(p.total_s, p.worth) for p in found] == sorted(best)


@settings(max_examples=200)
@given(found=houses(), latency_s=st.floats(0.01, 30), more=st.floats(0, 30))
def test_a_looser_latency_never_lowers_the_quality(found: View, latency_s: float, more: float) -> None:
    def worth(budget: float) -> float:
        request = generate(width=None, height=None, latency_s=budget)
        known = list(enumerate_points(found, list(found.variants.values()), request))
        return modelless.choose(known, 0.0, request)[0].worth

    hurried, calm = worth(latency_s), worth(latency_s + more)
    plan = plan_of(found, latency_s=latency_s)
    assert calm >= hurried or plan.keeps_latency is False


@settings(max_examples=200)
@given(
    found=houses(), low=st.floats(0, 1), high=st.floats(0, 1), latency_s=st.none() | st.floats(0.01, 30)
)
def test_a_higher_quality_is_never_predicted_sooner(
    found: View, low: float, high: float, latency_s: float | None
) -> None:
    low, high = sorted((max(low, 0.01), max(high, 0.01)))
    request = generate(width=None, height=None, latency_s=latency_s)
    known = list(enumerate_points(found, list(found.variants.values()), request))
    modest, demanding = (modelless.choose(known, round(q, 2), request)[0] for q in (low, high))
    if modest.worth >= round(low, 2) and demanding.worth >= round(high, 2):
        assert demanding.total_s >= modest.total_s


@settings(max_examples=100)
@given(found=houses(), wishes=st.fixed_dictionaries(WISHES))
def test_the_same_view_and_request_give_the_same_decision(found: View, wishes: dict[str, Any]) -> None:
    assert decide(found, **wishes) == decide(found, **wishes)


@settings(max_examples=100)
@given(found=houses(), wishes=st.fixed_dictionaries(WISHES))
def test_what_is_refused_could_not_be_kept(found: View, wishes: dict[str, Any]) -> None:
    served = plan_of(found, **wishes)
    decision = decide(found, **wishes, on_infeasible="reject")
    if isinstance(decision, Admit):
        assert decision.plan == served
    else:
        assert served.keeps_latency is False or "not to be had" in served.reason
