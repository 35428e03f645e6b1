"""Policy `modelless` looks at pictures: where it pays, where it may, and what is painted again."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from difs.actor_messages import Execute
from difs.messages import Explain, Explanation, QualityPoint, Requirements, VariantInfo
from difs.policy import looking
from difs.policy.activity import Activity
from difs.policy.base import Admit, Deliver, Judged, Options, View
from difs.policy.frontier import enumerate_points
from difs.policy.looking import Scores
from difs.policy.modelless import Modelless
from difs.policy.repainting import IN_TIME, NONE_YET, Memory
from tests.builders import device_view, generate, only, resident, served, variant, view
from tests.unit.test_cascade import costs


def member(name: str, worth: float, kind: Any = "reference") -> VariantInfo:
    facts: dict[str, Any] = {"steps_min": 10, "steps_default": 10, "steps_max": 10, "guidance_scale": 1.0}
    curve = (QualityPoint(64, 10, 1.0, worth),)
    return variant(name, quality=curve, quality_kind=kind, **facts)


PAIR = (member("light", 0.5), member("heavy", 0.9))
LOADED = {"light": resident("light", costs(0.01)), "heavy": resident("heavy", costs(0.1))}
"""Some 0.1 s with the light one, ten times that with the heavy one."""
POLICY = Modelless(Options())
EVEN, GOOD = range(0, 100, 2), (90,) * 50


def scores(percent: Any) -> Scores:
    found = NONE_YET
    for one in percent:
        found = found.seen(one / 100)
    return found


def seen(
    rate_hz: float, light: Any = EVEN, heavy: Any = GOOD, infos: Any = PAIR, backlog_s: float = 0.0
) -> View:
    known = {("light", 10, 1.0, 64): scores(light), ("heavy", 10, 1.0, 64): scores(heavy)}
    memory = Memory(Activity(rate_hz, at=1000.0), 0.0, known)
    device = device_view(residents=LOADED, backlog_s=backlog_s)
    return view(device, variants=infos, now=1000.0, memory=memory)


def decided(found: View, policy: Modelless = POLICY, **wishes: Any) -> Admit:
    decision = policy.decide(found, generate(**{"latency_s": 4.0} | wishes))
    assert isinstance(decision, Admit)
    return decision


def looks(decision: Admit) -> bool:
    return decision.plan.reason.startswith("looks at the picture")


def test_under_load_the_light_one_paints_first_and_the_plan_says_what_is_repainted() -> None:
    decision = decided(seen(3.0))
    assert (decision.plan.variant, decision.is_judged, looks(decision)) == ("light", True, True)
    assert "with heavy" in decision.plan.reason


def test_a_survey_names_first_what_would_be_painted_first() -> None:
    found = seen(3.0)
    first, *others = POLICY.survey(found, generate(latency_s=4.0))
    assert (first.variant, first.why_not) == ("light", "")
    assert {other.variant for other in others} == {"heavy"}


@settings(max_examples=100)
@given(st.floats(0.1, 10), st.floats(0.05, 0.95), st.floats(0.001, 0.2), st.floats(0, 3))
def test_what_is_painted_first_is_never_dominated(
    rate_hz: float, worth: float, call_s: float, backlog_s: float
) -> None:
    """A third variant, of which no score is known, may be better and sooner than the light one."""
    infos = (*PAIR, member("third", worth))
    found = seen(rate_hz, infos=infos, backlog_s=backlog_s)
    (device,) = found.devices
    loaded = LOADED | {"third": resident("third", costs(call_s))}
    found = replace(found, devices=(replace(device, residents=loaded),))
    plan = decided(found).plan
    request = generate(latency_s=4.0)
    known = enumerate_points(found, infos, request)
    (chosen,) = [p for p in known if p.info.name == plan.variant]
    assert not [p.info.name for p in known if p.beats(chosen)]
    assert POLICY.survey(found, request)[0].variant == plan.variant


def test_what_is_explained_under_load_is_what_is_done() -> None:
    """The broker's word for a question and for the request itself, while pictures are looked at."""
    house = served(policy="modelless", now=1000.0)
    books = house.state.books
    books.memory = seen(3.0).memory
    books.variants = {info.name: info for info in PAIR}
    (actor,) = books.ready
    actor.residents = LOADED
    asked = replace(generate("a"), requirements=Requirements(latency_s=4.0))
    told_ = only(house.ask(Explain(asked, survey=True)), Explanation)
    execute = only(house.ask(asked), Execute)
    assert told_.plan is not None
    assert told_.plan.reason.startswith("looks at the picture")
    assert (told_.plan.variant, told_.plan.steps) == (execute.variant, execute.steps) == ("light", 10)
    assert execute.is_judged
    assert told_.points[0].variant == "light"


def test_without_load_nobody_looks() -> None:
    decision = decided(seen(0.01))
    assert (decision.plan.variant, decision.is_judged) == ("heavy", False)


@pytest.mark.parametrize(
    "wishes",
    [
        {"steps": 10},
        {"guidance_scale": 1.0},
        {"family": "sd15"},
        {"variant": "light"},
        {"n": 2},
        {"deterministic": True},
        {"quality": 0.4},
        {"best_effort": True},
        {"width": 64, "height": 128},
    ],
)
def test_what_leaves_nothing_open_is_never_looked_at(wishes: dict[str, Any]) -> None:
    assert not decided(seen(3.0), **wishes).is_judged


@pytest.mark.parametrize("kind", ["declared", "clip", "agreement"])
def test_scores_of_another_ruler_are_not_used(kind: str) -> None:
    infos = (member("light", 0.5, kind), member("heavy", 0.9, kind))
    assert not decided(seen(3.0, infos=infos)).is_judged


def test_what_is_hard_for_both_is_not_repainted() -> None:
    """The heavy one is better by the same everywhere: whom it paints is all the same."""
    shifted = [min(99, one + 1) for one in range(40, 90)]
    assert not looks(decided(seen(3.0, light=range(39, 89), heavy=shifted)))


def test_before_enough_is_known_it_only_learns() -> None:
    decision = decided(seen(3.0, light=(), heavy=()))
    assert decision.is_judged
    assert not looks(decision)
    verdict = review(0.1, seen(3.0, light=(), heavy=()))
    assert isinstance(verdict, Deliver)
    assert verdict.note == ""
    assert isinstance(verdict.memory, Memory)
    assert verdict.memory.scores[("light", 10, 1.0, 64)].total == 1.0


def review(score: float | None, found: View, age_s: float = 0.2, **wishes: Any) -> Admit | Deliver:
    request = generate(**{"latency_s": 4.0} | wishes)
    plan = decided(seen(3.0)).plan
    return POLICY.review(found, request, Judged(plan, score, age_s))


def test_the_bad_are_repainted_and_the_good_are_delivered() -> None:
    bad, good = review(0.02, seen(3.0)), review(0.98, seen(3.0))
    assert isinstance(bad, Admit)
    assert (bad.plan.variant, bad.waits_again, bad.is_judged) == ("heavy", True, False)
    assert isinstance(good, Deliver)
    assert review(None, seen(1.2)) == Deliver()


@settings(max_examples=30)
@given(st.floats(0, 5), st.floats(0, 4), st.floats(0, 1))
def test_a_repaint_is_in_time(backlog_s: float, age_s: float, score: float) -> None:
    verdict = review(score, seen(1.2, backlog_s=backlog_s), age_s)
    if isinstance(verdict, Admit):
        assert age_s + verdict.plan.prediction.total_s <= IN_TIME * 4.0 + 1e-9


@settings(max_examples=30)
@given(st.floats(0.1, 20), st.floats(0.1, 20), st.floats(0, 1))
def test_more_load_never_repaints_more(one: float, other: float, score: float) -> None:
    low, high = sorted((one, other))
    if isinstance(review(score, seen(high)), Admit):
        assert isinstance(review(score, seen(low)), Admit)


@settings(max_examples=30)
@given(
    st.lists(st.integers(0, 99), min_size=1, max_size=60),
    st.lists(st.integers(0, 99), min_size=1, max_size=60),
    st.floats(0, 1),
)
def test_the_expected_mean_lies_between_both(light: list[int], heavy: list[int], share: float) -> None:
    a, b = scores(light), scores(heavy)
    assert looking.expected(a, b, 0.0) == pytest.approx(a.mean)
    assert looking.expected(a, b, 1.0) == pytest.approx(b.mean)
    assert a.worst(share)[1] <= share * a.mean + 1e-9
