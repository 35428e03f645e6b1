"""Policy `cascade`: what is judged, what is painted again, and how the load sets the threshold."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from difs.actor_messages import Costs, Execute, Finished, RowCost
from difs.broker.effects import Effect
from difs.broker.events import ActorUnreachable
from difs.messages import Accepted, Plan, Result
from difs.policy.activity import Activity
from difs.policy.base import Admit, Deliver, Judged, Options, Reviewer, View
from difs.policy.cascade import Cascade, threshold
from difs.policy.looking import BINS, Scores, affordable
from tests import builders
from tests.builders import (
    CLIENT,
    House,
    device_view,
    ended,
    executes,
    finished,
    generate,
    is_over,
    only,
    resident,
    served,
    told,
    variant,
    view,
)

LIGHT, HEAVY = variant("tiny", steps_default=4), variant("wide", bytes=2000)
PAIR = (LIGHT, HEAVY)
POLICY = Cascade(Options())


def costs(step_s: float) -> Costs:
    return Costs(64 * 64, 0.01, (RowCost(1, step_s / 2), RowCost(2, step_s)), 0.02, 1.0)


BOTH = {"tiny": resident("tiny", costs(0.01)), "wide": resident("wide", costs(0.05))}
"""0.07 s with the light, 1.03 s with the heavy variant."""


def seen(rate_hz: float = 0.0, **facts: Any) -> View:
    """Return a view of one device with both variants, asked `rate_hz` times a second."""
    activity = {"tiny": Activity(rate_hz=rate_hz)}
    device = device_view(residents=BOTH, activity=activity, backlog_s=facts.pop("backlog_s", 0.0))
    return view(device, variants=PAIR, **facts)


def review(score: float | None, found: View, **wishes: Any) -> Admit | Deliver:
    """Return what follows on a light picture of that score, half a second after the request came."""
    request = generate(**wishes)
    light = POLICY.decide(found, request)
    assert isinstance(light, Admit)
    assert light.is_judged
    return POLICY.review(found, request, Judged(light.plan, score, 0.5))


# ---- what is painted first ----------------------------------------------------------------------


def test_the_light_variant_paints_first_and_is_judged() -> None:
    decision = POLICY.decide(seen(), generate(quality="best"))
    assert isinstance(decision, Admit)
    assert (decision.plan.variant, decision.plan.steps, decision.is_judged) == ("tiny", 4, True)
    assert isinstance(POLICY, Reviewer)


@pytest.mark.parametrize("name", ["tiny", "wide"])
def test_where_the_request_leaves_no_choice_nothing_is_judged(name: str) -> None:
    decision = POLICY.decide(seen(), generate(variant=name))
    assert isinstance(decision, Admit)
    assert (decision.plan.variant, decision.is_judged) == (name, False)


def test_the_pair_is_the_configured_one_where_that_is_allowed() -> None:
    policy = Cascade(Options(light="wide", heavy="tiny"))
    decision = policy.decide(seen(), generate())
    assert isinstance(decision, Admit)
    assert decision.plan.variant == "wide"
    pinned = policy.decide(seen(), generate(variant="tiny"))
    assert isinstance(pinned, Admit)
    assert not pinned.is_judged


# ---- what is painted again ----------------------------------------------------------------------


def test_a_bad_picture_is_painted_again_by_the_heavy_variant() -> None:
    verdict = review(0.1, seen())
    assert isinstance(verdict, Admit)
    assert (verdict.plan.variant, verdict.plan.steps, verdict.is_judged) == ("wide", 20, False)
    assert verdict.plan.reason == "tiny scored 0.10, the threshold is 1.00"


def test_a_good_picture_is_delivered_and_the_client_told_why() -> None:
    busy = seen(1.5, memory=Scores(tuple(float(i > 10) for i in range(BINS))))
    verdict = review(0.9, busy)
    assert isinstance(verdict, Deliver)
    assert verdict.note.startswith("tiny scored 0.90, the threshold is 0.")


def test_what_cannot_be_judged_is_delivered_with_a_note_and_nothing_is_learned() -> None:
    verdict = review(None, seen())
    assert verdict == Deliver("final with tiny: it could not be judged")


def test_what_the_heavy_variant_would_bring_too_late_is_delivered_as_it_is() -> None:
    assert isinstance(review(0.1, seen(), latency_s=1.6), Admit)
    late = review(0.1, seen(), latency_s=1.5)
    assert isinstance(late, Deliver)
    assert late.note.endswith("but wide would be late")
    assert isinstance(review(0.1, seen(), timeout_s=1.5), Deliver)


def test_without_a_device_the_light_picture_is_delivered() -> None:
    plan = builders.plan(variant="tiny")
    assert isinstance(POLICY.review(view(variants=PAIR), generate(), Judged(plan, 0.1, 0.5)), Deliver)


# ---- the threshold ------------------------------------------------------------------------------


def at(rate_hz: float, memory: Scores = Scores(), **facts: Any) -> float:  # noqa: B008 -- frozen
    wishes = {"latency_s": facts.pop("latency_s")} if "latency_s" in facts else {}
    return threshold(seen(rate_hz, **facts), memory, PAIR, generate(**wishes))


def test_without_load_everything_may_be_painted_twice() -> None:
    assert at(0.0) == at(0.5) == 1.0


def test_under_load_the_threshold_is_what_the_device_can_bear() -> None:
    """1.2 requests a second are provided for: 0.833 s each, of which 0.07 light and 1.03 x f(t)."""
    assert at(1.0) == pytest.approx((1 / 1.2 - 0.07) / 1.03, abs=0.005)
    assert at(20.0) == 0.0


def test_the_threshold_follows_the_scores_that_were_seen() -> None:
    good = Scores(tuple(float(i >= 16) for i in range(BINS)))
    assert at(1.0, good) == pytest.approx(0.8 + 0.2 * (1 / 1.2 - 0.07) / 1.03, abs=0.006)


def test_no_picture_is_painted_twice_where_both_do_not_fit_the_latency() -> None:
    assert at(0.0, latency_s=1.2) == 1.0
    assert at(0.0, latency_s=1.0) == 0.0
    assert at(0.0, backlog_s=0.2, latency_s=1.2) == 0.0


@given(st.lists(st.floats(0, 1), max_size=300), st.floats(0, 30), st.floats(0, 30))
@settings(max_examples=80)
def test_more_load_never_raises_the_threshold(scores: list[float], one: float, other: float) -> None:
    memory = Scores()
    for score in scores:
        memory = memory.seen(score)
    assert at(max(one, other), memory) <= at(min(one, other), memory)


@given(st.lists(st.floats(0, 1), max_size=100), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=80)
def test_the_share_below_a_threshold_is_a_distribution(scores: list[float], a: float, b: float) -> None:
    memory = Scores()
    for score in scores:
        memory = memory.seen(score)
    low, high = sorted((a, b))
    assert memory.below(0.0) == 0.0
    assert memory.below(1.0) == pytest.approx(1.0)
    assert memory.below(low) <= memory.below(high) + 1e-12


@given(st.integers(1, 8), st.floats(0, 50), st.floats(0, 10), st.floats(0.01, 100))
@settings(max_examples=100)
def test_what_may_be_painted_twice_fits_the_devices(
    devices: int, demand_hz: float, light_s: float, heavy_s: float
) -> None:
    budget_s = devices / demand_hz if demand_hz > 0 else math.inf
    share = affordable(budget_s, light_s, heavy_s)
    assert 0.0 <= share <= 1.0
    needed = demand_hz * (light_s + share * heavy_s)
    assert share == 0.0 or needed <= devices * (1 + 1e-9)
    assert share in (0.0, 1.0) or math.isclose(needed, devices, rel_tol=1e-6)


# ---- in the broker ------------------------------------------------------------------------------


def cascading(**options: Any) -> House:
    """Return a house with one device that has both variants."""
    house = House(policy="cascade", variants=PAIR, **options)
    house.join(residents=tuple(BOTH.values()), credits=options.get("credits", 2))
    return house


def judged(execute: Execute, score: float | None, **changes: Any) -> Finished:
    return finished(execute, score=score, **changes)


def notes_of(effects: list[Effect]) -> tuple[str, ...]:
    return only(effects, Result, CLIENT).notes


def test_a_request_whose_picture_is_bad_is_dispatched_again_and_only_the_last_is_delivered() -> None:
    house = cascading()
    light = only(house.ask("a", seed=9), Execute)
    assert (light.variant, light.is_judged) == ("tiny", True)
    effects = house.tell(judged(light, 0.1))
    heavy = only(effects, Execute)
    assert told(effects, Result) == []
    assert (heavy.variant, heavy.is_judged, heavy.seeds) == ("wide", False, light.seeds)
    accepted = told(effects, Accepted, CLIENT)[-1]
    assert accepted.attempt == 2
    again = "painted again with wide: tiny scored 0.10, the threshold is 1.00"
    assert accepted.plan is not None
    assert accepted.plan.notes == (again,)
    effects = house.tell(judged(heavy, None))
    result = only(effects, Result, CLIENT)
    assert (result.plan.variant, result.notes) == ("wide", (again,))
    assert is_over(house)
    assert house.state.books.counts["repainted"] == 1


def test_a_request_whose_picture_is_good_gets_it_with_its_score() -> None:
    house = cascading()
    effects = house.tell(judged(only(house.ask("a"), Execute), 1.0))
    assert notes_of(effects) == ("tiny scored 1.00, the threshold is 1.00",)
    assert is_over(house)


def test_a_picture_that_cannot_be_judged_is_final_and_the_notes_say_why() -> None:
    house = cascading()
    light = only(house.ask("a"), Execute)
    effects = house.tell(judged(light, None, notes=("not judged: tiny has no reference drawings",)))
    assert notes_of(effects) == (
        "not judged: tiny has no reference drawings",
        "final with tiny: it could not be judged",
    )


def test_scores_are_remembered_from_one_request_to_the_next() -> None:
    house = cascading()
    for i in range(3):
        house.tell(judged(only(house.ask(f"r{i}"), Execute), 1.0))
    memory = house.state.books.memory
    assert isinstance(memory, Scores)
    assert memory.counts[-1] > 3.5


def test_what_is_painted_again_stays_with_its_variant_when_its_device_is_lost() -> None:
    house = cascading()
    only(house.tell(judged(only(house.ask("a"), Execute), 0.1)), Execute)
    house.handle(ActorUnreachable(b"cpu-0"))
    effects = house.join(route=b"new", incarnation="new", residents=tuple(BOTH.values()))
    execute = only(effects, Execute)
    assert (execute.variant, execute.is_judged) == ("wide", False)


def test_what_is_painted_again_and_runs_out_of_memory_moves_to_the_lighter_one() -> None:
    house = cascading()
    heavy = only(house.tell(judged(only(house.ask("a"), Execute), 0.1)), Execute)
    execute = only(house.tell(ended(heavy, "out_of_memory")), Execute)
    assert (execute.variant, execute.is_judged) == ("tiny", False)


def test_the_light_pictures_slots_are_free_for_the_heavy_one() -> None:
    house = cascading(slots=((64 * builders.KIB, 1),))
    light = only(house.ask("a"), Execute)
    assert executes(house.tell(judged(light, 0.0))) == ["a"]


class Careless(Cascade):
    """A policy whose review is broken."""

    def __init__(self, answer: object) -> None:
        super().__init__(Options())
        self.answer = answer

    def review(self, view: Any, request: Any, judged: Any) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [
        ValueError("a bug"),
        None,
        "yes",
        Admit(builders.plan(device="cuda-7")),
        Admit(builders.plan(variant="unheard-of")),
        Admit(builders.plan(variant="wide", width=2048, height=2048)),
    ],
)
def test_a_review_that_is_broken_costs_nobody_the_picture(answer: object) -> None:
    house = served(policy=Careless(answer), variants=PAIR)
    effects = house.tell(judged(only(house.ask("a"), Execute), 0.1))
    assert only(effects, Result, CLIENT).plan.variant == "tiny"
    assert is_over(house)


def test_a_policy_that_has_pictures_judged_and_no_review_delivers_them() -> None:
    class Half:
        name = "half"

        def decide(self, found: View, request: Any) -> Any:
            return replace(builders.POLICIES["static"].decide(found, request), is_judged=True)

    house = served(policy=Half())
    effects = house.tell(judged(only(house.ask("a"), Execute), 0.1))
    plan: Plan = only(effects, Result, CLIENT).plan
    assert plan.variant == "tiny"
