"""difs.policy: views in, decisions out."""

from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs.actor_messages import Costs
from difs.errors import BY_CODE, ConfigError
from difs.messages import Adapter, Plan
from difs.policy import points, registry
from difs.policy.base import Admit, Decision, DeviceView, Options, Policy, Reject
from difs.policy.round_robin import RoundRobin
from difs.policy.static import Static
from tests.builders import device_view, generate, resident, variant, view

POLICIES: list[type[Static] | type[RoundRobin]] = [Static, RoundRobin]
every_policy = pytest.mark.parametrize(
    "policy", [cls(Options()) for cls in POLICIES], ids=["static", "rr"]
)


def admitted(decision: Decision) -> Plan:
    """Return the plan of an admission."""
    assert isinstance(decision, Admit), decision
    return decision.plan


def rejected(decision: Decision) -> Reject:
    """Return a refusal, whose code every client knows."""
    assert isinstance(decision, Reject), decision
    assert decision.code in BY_CODE
    return decision


def decide(policy: Policy = Static(Options()), **wishes: Any) -> Decision:  # noqa: B008 -- it has no state
    """Decide with one idle device on which 20 steps of `tiny` take 0.23 s."""
    return policy.decide(view(device_view()), generate(**wishes))


# ---- static -------------------------------------------------------------------------------------

THREE = (variant("b"), variant("a", family="sdxl"), variant("c"))


def test_static_serves_the_configured_variant() -> None:
    plan = admitted(Static(Options("c")).decide(view(device_view(), variants=THREE), generate()))
    assert plan.variant == "c"
    assert plan.policy == "static"


def test_static_serves_the_first_variant_by_name_where_none_is_configured() -> None:
    plan = admitted(Static(Options()).decide(view(device_view(), variants=THREE), generate()))
    assert plan.variant == "a"


def test_static_follows_the_pins_of_the_request() -> None:
    found = view(device_view(), variants=THREE)
    policy = Static(Options("c"))
    assert admitted(policy.decide(found, generate(variant="b"))).variant == "b"
    assert admitted(policy.decide(found, generate(family="sdxl"))).variant == "a"
    assert admitted(policy.decide(found, generate(family="sd15"))).variant == "c"


def test_static_takes_the_device_with_the_least_backlog() -> None:
    devices = [device_view("cpu-0", 2.0), device_view("cpu-1", 1.0), device_view("cpu-2", 1.5)]
    assert admitted(Static(Options()).decide(view(*devices), generate())).device == "cpu-1"


def test_static_prefers_a_device_on_which_the_variant_is_loaded() -> None:
    devices = [device_view("cpu-0", 0.0, names=()), device_view("cpu-1", 1.0)]
    assert admitted(Static(Options()).decide(view(*devices), generate())).device == "cpu-1"


# ---- round robin --------------------------------------------------------------------------------


def test_round_robin_takes_every_variant_on_every_device_in_turn() -> None:
    devices = [device_view("cpu-0", 9.0), device_view("cpu-1")]
    both = (variant("a"), variant("b"))
    policy = RoundRobin(Options())
    turns = [
        admitted(policy.decide(view(*devices, variants=both, decisions=i), generate())) for i in range(5)
    ]
    pairs = [(plan.variant, plan.device) for plan in turns]
    assert len(set(pairs[:4])) == 4
    assert pairs[4] == pairs[0]


def test_round_robin_keeps_to_the_pins_of_the_request() -> None:
    both = (variant("a"), variant("b"))
    policy = RoundRobin(Options())
    for i in range(4):
        found = view(device_view("cpu-0"), device_view("cpu-1"), variants=both, decisions=i)
        assert admitted(policy.decide(found, generate(variant="b"))).variant == "b"


# ---- every policy -------------------------------------------------------------------------------


@every_policy
def test_the_same_view_and_request_give_the_same_decision(policy: Policy) -> None:
    found = view(device_view("cpu-0"), device_view("cpu-1"), variants=THREE, decisions=7)
    request = generate(quality=0.7, latency_s=0.1)
    assert policy.decide(found, request) == policy.decide(found, request)


@every_policy
def test_without_a_device_nothing_is_admitted_for_now(policy: Policy) -> None:
    refusal = rejected(policy.decide(view(), generate()))
    assert (refusal.code, refusal.retry_after_s) == ("unavailable", 1.0)


@every_policy
def test_without_a_variant_nothing_is_admitted(policy: Policy) -> None:
    assert rejected(policy.decide(view(device_view(), variants=()), generate())).code == "unavailable"


@every_policy
@pytest.mark.parametrize(
    ("wishes", "field"),
    [
        ({"variant": "unheard-of"}, "overrides.variant"),
        ({"family": "unheard-of"}, "overrides.family"),
        ({"variant": "tiny", "family": "sdxl"}, "overrides.variant"),
        ({"sampler": "unheard-of"}, "overrides.sampler"),
        ({"adapters": (Adapter("unheard-of"),)}, "overrides.adapters"),
    ],
)
def test_unknown_names_are_refused_and_the_field_named(
    policy: Policy, wishes: dict[str, Any], field: str
) -> None:
    refusal = rejected(decide(policy, **wishes))
    assert (refusal.code, refusal.field) == ("unknown_name", field)


@every_policy
def test_a_variant_of_another_family_is_refused_for_its_family(policy: Policy) -> None:
    assert "'tiny' of family 'sdxl'" in rejected(decide(policy, variant="tiny", family="sdxl")).reason
    assert "of family" not in rejected(decide(policy, variant="x", family="sdxl")).reason


@every_policy
@pytest.mark.parametrize("wishes", [{"variant": "x"}, {"family": "x"}, {"sampler": "x"}])
def test_a_refused_name_comes_with_those_there_are(policy: Policy, wishes: dict[str, Any]) -> None:
    known = {"variant": "tiny", "family": "sd15", "sampler": "euler"}
    assert known[next(iter(wishes))] in rejected(decide(policy, **wishes)).reason


# ---- the operating point ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quality", "steps"),
    [
        (None, 20),
        ("draft", 4),
        ("low", 12),
        ("medium", 20),
        ("high", 35),
        ("best", 50),
        (0.0, 4),
        (0.5, 20),
        (0.75, 35),
        (1.0, 50),
    ],
)
def test_the_quality_dial_runs_from_fewest_over_default_to_most_steps(quality: Any, steps: int) -> None:
    assert admitted(decide(quality=quality)).steps == steps


@given(low=st.floats(0, 1), high=st.floats(0, 1))
@settings(max_examples=100)
def test_more_quality_never_means_fewer_steps(low: float, high: float) -> None:
    info = variant()
    low, high = sorted((low, high))
    fewer, more = points.wanted_steps(info, low), points.wanted_steps(info, high)
    assert info.steps_min <= fewer <= more <= info.steps_max


def test_pins_win_over_the_variants_defaults() -> None:
    plan = admitted(decide(steps=7, guidance_scale=1.0, sampler="Euler A", quality="best"))
    assert (plan.steps, plan.guidance_scale, plan.sampler) == (7, 1.0, "euler_a")


def test_the_variants_defaults_are_taken_where_nothing_is_pinned() -> None:
    plan = admitted(decide(width=None, height=None))
    assert (plan.width, plan.height, plan.guidance_scale, plan.sampler) == (64, 64, 2.5, "ddim")
    assert (plan.precision, plan.memory_mode, plan.notes) == ("fp32", "full", ())


def test_a_size_that_is_not_native_is_noted() -> None:
    (note,) = admitted(decide(width=128, height=64)).notes
    assert "128x64" in note


def test_steps_are_cut_to_keep_the_latency_and_the_cut_is_noted() -> None:
    plan = admitted(decide(latency_s=0.13))
    assert plan.steps == 10
    assert plan.keeps_latency
    assert plan.prediction.total_s <= 0.13
    assert "10 steps instead of 20" in plan.notes[0]


def test_no_latency_means_no_promise() -> None:
    assert admitted(decide()).keeps_latency is None


def test_steps_are_not_cut_below_the_variants_least() -> None:
    plan = admitted(decide(latency_s=0.01))
    assert (plan.steps, plan.keeps_latency) == (4, False)


def test_pinned_steps_are_never_cut() -> None:
    plan = admitted(decide(latency_s=0.1, steps=30))
    assert (plan.steps, plan.keeps_latency) == (30, False)


def test_the_backlog_counts_against_the_latency() -> None:
    found = view(device_view(backlog_s=0.1))
    plan = admitted(Static(Options()).decide(found, generate(latency_s=0.23)))
    assert plan.steps == 10
    assert plan.prediction.queue_s == 0.1


def test_a_load_counts_against_the_latency() -> None:
    found = view(device_view(names=()))
    plan = admitted(Static(Options()).decide(found, generate(latency_s=1.0)))
    assert plan.prediction.load_s > 1.0
    assert plan.prediction.source == "assumed"
    assert not plan.keeps_latency


def test_a_latency_that_can_never_be_kept_is_infeasible_where_it_must_be() -> None:
    refusal = rejected(decide(latency_s=0.05, on_infeasible="reject"))
    assert (refusal.code, refusal.field) == ("infeasible", "requirements.latency_s")
    assert "0.07" in refusal.reason, "the nearest that is feasible"


def test_a_latency_that_the_backlog_breaks_is_overload_and_says_when_to_come_back() -> None:
    found = view(device_view(backlog_s=5.0))
    request = generate(latency_s=1.0, on_infeasible="reject")
    refusal = rejected(Static(Options()).decide(found, request))
    assert refusal.code == "overloaded"
    assert refusal.retry_after_s == pytest.approx(5.07 - 1.0)


def test_what_is_infeasible_is_so_without_any_waiting() -> None:
    found = view(device_view(backlog_s=3.0))
    refusal = rejected(Static(Options()).decide(found, generate(latency_s=0.05, on_infeasible="reject")))
    assert refusal.code == "infeasible"
    assert refusal.reason.endswith("the nearest feasible latency_s is 0.07")


def test_a_load_is_a_wait_that_may_be_over_later() -> None:
    found = view(device_view(names=()))
    refusal = rejected(Static(Options()).decide(found, generate(latency_s=5.0, on_infeasible="reject")))
    assert refusal.code == "overloaded"
    assert "15.00 s of them waiting" in refusal.reason


@pytest.mark.parametrize(
    ("wishes", "backlog_s", "reason"),
    [
        ({}, 0.0, "the configured variant; the device is idle"),
        ({}, 1.5, "the configured variant; least backlog: 1.50 s"),
        ({"variant": "tiny"}, 0.0, "pinned by the request; the device is idle"),
        ({"family": "sd15"}, 0.0, "pinned by the request; the device is idle"),
    ],
)
def test_static_says_why(wishes: dict[str, Any], backlog_s: float, reason: str) -> None:
    plan = admitted(Static(Options()).decide(view(device_view(backlog_s=backlog_s)), generate(**wishes)))
    assert plan.reason == reason


def test_round_robin_says_whose_turn_it_is() -> None:
    found = view(device_view("cpu-0"), device_view("cpu-1"), decisions=3)
    assert admitted(RoundRobin(Options()).decide(found, generate())).reason == "turn 2 of 2"


def test_a_latency_that_can_be_kept_is_never_refused() -> None:
    assert admitted(decide(latency_s=0.3, on_infeasible="reject")).steps == 20


SECONDS = st.floats(0, 10)


@settings(max_examples=200)
@given(
    costs=st.builds(Costs, st.just(64 * 64), SECONDS, SECONDS, SECONDS, SECONDS, SECONDS),
    backlog_s=SECONDS,
    latency_s=st.floats(0.001, 100),
    quality=st.none() | st.floats(0, 1),
    steps=st.none() | st.integers(1, 150),
    n=st.integers(1, 8),
)
def test_a_plan_says_truly_whether_it_keeps_the_latency(
    costs: Costs,
    backlog_s: float,
    latency_s: float,
    quality: float | None,
    steps: int | None,
    n: int,
) -> None:
    device = DeviceView("cpu-0", {"tiny": resident("tiny", costs)}, backlog_s, 0, 2)
    request = generate(latency_s=latency_s, quality=quality, steps=steps, n=n)
    plan = admitted(Static(Options()).decide(view(device), request))
    assert plan.keeps_latency == (plan.prediction.total_s <= latency_s)
    dial = points.wanted_steps(variant(), quality)
    if steps is not None:
        assert plan.steps == steps
    else:
        assert 4 <= plan.steps <= dial
        unhurried = admitted(Static(Options()).decide(view(device), generate(quality=quality, n=n)))
        if unhurried.prediction.total_s <= latency_s:
            assert plan.steps == dial, "cut without need"


# ---- the registry -------------------------------------------------------------------------------


def test_our_policies_are_installed() -> None:
    assert {"static", "round_robin"} <= set(registry.names())
    assert isinstance(registry.load("static"), Static)
    assert isinstance(registry.load("round_robin", Options()), RoundRobin)


def test_the_options_reach_the_policy() -> None:
    policy = registry.load("static", Options("c"))
    assert admitted(policy.decide(view(device_view(), variants=THREE), generate())).variant == "c"


def test_an_unknown_policy_is_refused_and_the_nearest_named() -> None:
    with pytest.raises(ConfigError, match="the nearest is static"):
        registry.load("statik")


@pytest.mark.parametrize("value", ["no.such.module:Policy", "difs.policy.static:NoSuch", "math:pi"])
def test_a_policy_that_does_not_load_is_a_configuration_error(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = EntryPoints([EntryPoint("broken", value, registry.GROUP)])
    monkeypatch.setattr(registry, "entry_points", installed.select)
    with pytest.raises(ConfigError, match="'broken' does not load"):
        registry.load("broken")
