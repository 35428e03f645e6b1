"""difs.policy: views in, decisions out."""

from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from difs import plugins
from difs.actor_messages import Costs, RowCost
from difs.errors import BY_CODE, ConfigError
from difs.messages import Adapter, Plan
from difs.policy import points, registry
from difs.policy.base import Admit, Decision, DeviceView, Options, Policy, Reject
from difs.policy.round_robin import RoundRobin
from difs.policy.static import Static
from tests.builders import COSTS, SHARED, adapter, device_view, generate, resident, variant, view

NAMES = sorted(registry.OURS)
every_policy = pytest.mark.parametrize("policy", [registry.load(name) for name in NAMES], ids=NAMES)


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


def test_static_prefers_a_device_on_which_the_variant_is_parked_to_one_without_it() -> None:
    parked = [resident()]
    devices = [
        device_view("cpu-0", 0.0, names=()),
        device_view("cpu-1", 2.0, names=(), parked=parked),
        device_view("cpu-2", 1.0, names=(), parked=parked),
    ]
    assert admitted(Static(Options()).decide(view(*devices), generate())).device == "cpu-2"
    devices.append(device_view("cpu-3", 9.0))
    assert admitted(Static(Options()).decide(view(*devices), generate())).device == "cpu-3"


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


# ---- adapters -----------------------------------------------------------------------------------

FOUR = (variant("a"), variant("b"), variant("xl", family="sdxl"), variant("z"))
ADAPTERS = (
    adapter("ink"),
    adapter("only-b", variants=("b",)),
    adapter("not-a", variants=("b", "z")),
    adapter("for-xl", family="sdxl"),
    adapter("for-none", family="sdxl", variants=("a",)),
)


def with_adapters(policy: Policy, *names: str, **wishes: Any) -> Decision:
    """Decide for a request with the adapters called `names`."""
    found = view(device_view(), variants=FOUR, adapters=ADAPTERS)
    return policy.decide(found, generate(adapters=tuple(Adapter(name) for name in names), **wishes))


@pytest.mark.parametrize(
    ("names", "allowed"),
    [
        (("ink",), "abz"),
        (("only-b",), "b"),
        (("ink", "not-a"), "bz"),
        (("not-a", "only-b"), "b"),
        (("for-xl",), ["xl"]),
    ],
)
def test_only_variants_that_all_adapters_fit_are_offered(names: tuple[str, ...], allowed: str) -> None:
    found = view(device_view(), variants=FOUR, adapters=ADAPTERS)
    request = generate(adapters=tuple(Adapter(name) for name in names))
    chosen = points.fitting_variants(found, request)
    assert isinstance(chosen, list)
    assert [info.name for info in chosen] == list(allowed)


@every_policy
def test_adapters_go_with_a_pinned_variant_that_they_fit(policy: Policy) -> None:
    assert admitted(with_adapters(policy, "ink", "not-a", variant="z")).variant == "z"
    assert admitted(with_adapters(policy, "for-xl", family="sdxl")).variant == "xl"


@every_policy
@pytest.mark.parametrize(
    ("names", "wishes", "words"),
    [
        (("for-none",), {}, "adapter 'for-none' is for variants a of family sdxl, not for a (sd15)"),
        (("ink", "for-xl"), {}, "adapter 'for-xl' is for family sdxl, not for a (sd15), b"),
        (("ink",), {"variant": "xl"}, "adapter 'ink' is for family sd15, not for xl (sdxl)"),
        (("not-a",), {"variant": "a"}, "adapter 'not-a' is for variants b, z of family sd15, not for a"),
        (("ink",), {"family": "sdxl"}, "adapter 'ink' is for family sd15, not for xl (sdxl)"),
    ],
)
def test_an_adapter_that_fits_nothing_allowed_is_refused_by_its_name(
    policy: Policy, names: tuple[str, ...], wishes: dict[str, Any], words: str
) -> None:
    refusal = rejected(with_adapters(policy, *names, **wishes))
    assert (refusal.code, refusal.field) == ("invalid_request", "overrides.adapters")
    assert words in refusal.reason


@every_policy
def test_an_unknown_adapter_is_refused_with_those_there_are(policy: Policy) -> None:
    refusal = rejected(with_adapters(policy, "ink", "inc"))
    assert refusal.reason == "no adapter 'inc'; there is: for-none, for-xl, ink, not-a, only-b"
    assert "there is: none" in rejected(decide(policy, adapters=(Adapter("x"),))).reason


# ---- the operating point ------------------------------------------------------------------------


def test_what_is_parked_has_its_measured_costs_and_a_way_back() -> None:
    sleeper = resident("tiny", replace(COSTS, load_s=0.25), memory_mode="tiled", precision="bf16")
    found = view(device_view(names=(), parked=[sleeper]))
    plan = admitted(Static(Options()).decide(found, generate()))
    assert (plan.memory_mode, plan.precision, plan.prediction.source) == ("tiled", "bf16", "measured")
    assert (plan.prediction.load_s, plan.prediction.steps_s) == (0.25, 0.2)


def test_a_resident_is_planned_as_it_is_and_not_as_it_was_parked() -> None:
    sleeper = resident("tiny", replace(COSTS, load_s=0.25), memory_mode="tiled")
    plan = admitted(Static(Options()).decide(view(device_view(parked=[sleeper])), generate()))
    assert (plan.memory_mode, plan.prediction.load_s) == ("full", 0.0)


def test_a_plan_tells_the_memory_mode_of_the_resident() -> None:
    device = DeviceView("cpu-0", {"tiny": resident(memory_mode="sliced")}, 0.0, 0, 2)
    assert admitted(Static(Options()).decide(view(device), generate())).memory_mode == "sliced"


def sharing() -> DeviceView:
    """Return a device on which four images step in twice the time of one."""
    return DeviceView("cpu-0", {"tiny": resident("tiny", SHARED)}, 0.0, 0, 2)


def test_images_of_a_request_share_their_calls_unless_it_must_be_deterministic() -> None:
    def steps_s(**wishes: Any) -> float:
        plan = admitted(Static(Options()).decide(view(sharing()), generate(**wishes)))
        assert plan.prediction.encode_s == 0.01, "one encoding serves all"
        assert plan.prediction.decode_s == pytest.approx(0.02 * wishes.get("n", 1))
        return plan.prediction.steps_s

    assert steps_s() == steps_s(deterministic=True) == pytest.approx(0.2)
    assert steps_s(n=4) == pytest.approx(0.4)
    assert steps_s(n=4, deterministic=True) == pytest.approx(0.8)


def test_the_steps_of_what_runs_alone_are_cut_by_what_it_takes_alone() -> None:
    policy, found = Static(Options()), view(sharing())
    shared = admitted(policy.decide(found, generate(n=4, latency_s=0.5)))
    alone = admitted(policy.decide(found, generate(n=4, latency_s=0.5, deterministic=True)))
    assert (shared.steps, alone.steps) == (20, 10)
    assert shared.keeps_latency
    assert alone.keeps_latency


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
TABLES = st.lists(SECONDS, min_size=1, max_size=5).map(
    lambda table: tuple(RowCost(2**i, seconds) for i, seconds in enumerate(table))
)


@settings(max_examples=200)
@given(
    costs=st.builds(Costs, st.just(64 * 64), SECONDS, TABLES, SECONDS, SECONDS),
    backlog_s=SECONDS,
    latency_s=st.floats(0.001, 100),
    quality=st.none() | st.floats(0, 1),
    steps=st.none() | st.integers(1, 150),
    n=st.integers(1, 8),
    deterministic=st.booleans(),
)
def test_a_plan_says_truly_whether_it_keeps_the_latency(
    costs: Costs,
    backlog_s: float,
    latency_s: float,
    quality: float | None,
    steps: int | None,
    n: int,
    deterministic: bool,
) -> None:
    device = DeviceView("cpu-0", {"tiny": resident("tiny", costs)}, backlog_s, 0, 2)
    wishes: dict[str, Any] = {"quality": quality, "n": n, "deterministic": deterministic}
    request = generate(latency_s=latency_s, steps=steps, **wishes)
    plan = admitted(Static(Options()).decide(view(device), request))
    assert plan.keeps_latency == (plan.prediction.total_s <= latency_s)
    dial = points.wanted_steps(variant(), quality)
    if steps is not None:
        assert plan.steps == steps
    else:
        assert 4 <= plan.steps <= dial
        unhurried = admitted(Static(Options()).decide(view(device), generate(**wishes)))
        if unhurried.prediction.total_s <= latency_s:
            assert plan.steps == dial, "cut without need"


# ---- the registry -------------------------------------------------------------------------------


def test_our_policies_are_installed() -> None:
    assert set(NAMES) <= set(registry.names())
    assert isinstance(registry.load("static"), Static)
    assert isinstance(registry.load("round_robin", Options()), RoundRobin)
    assert all(registry.load(name).name == name for name in NAMES)


def test_no_package_takes_the_place_of_one_of_our_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = EntryPoints([EntryPoint("static", "difs.policy.round_robin:RoundRobin", registry.GROUP)])
    monkeypatch.setattr(plugins, "entry_points", installed.select)
    assert isinstance(registry.load("static"), Static)
    assert registry.names() == NAMES


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
    monkeypatch.setattr(plugins, "entry_points", installed.select)
    with pytest.raises(ConfigError, match="'broken' does not load"):
        registry.load("broken")


@pytest.mark.parametrize(("sampler", "steps"), [("lcm", 50), ("tcd", 50), ("ddim", 80)])
def test_a_sampler_is_asked_for_no_more_steps_than_it_has(sampler: str, steps: int) -> None:
    plan = admitted(Static(Options()).decide(view(device_view()), generate(sampler=sampler, steps=80)))
    assert plan.steps == steps
    assert bool(plan.notes) == (steps < 80)
