"""difs.profiles: the cost model is plain arithmetic, and it learns."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple, replace

from difs import profiles
from difs.actor_messages import Costs
from difs.profiles import Work
from difs.samplers import SAMPLERS

COSTS = Costs(pixels=100, encode_s=1.0, step_s=0.2, bare_step_s=0.1, decode_s=0.5, load_s=7.0)
WORK = Work(pixels=100, steps=10, sampler="euler", guidance_scale=5.0, n=1)


def test_the_parts_are_predicted_and_add_up() -> None:
    found = profiles.predict(WORK, COSTS, queue_s=3.0)
    assert (found.queue_s, found.load_s, found.encode_s) == (3.0, 0.0, 1.0)
    assert found.steps_s == pytest.approx(2.0)
    assert found.decode_s == 0.5
    assert found.total_s == pytest.approx(6.5)
    assert found.source == "measured"


def test_loading_counts_where_the_variant_is_not_resident() -> None:
    found = profiles.predict(WORK, COSTS, is_resident=False)
    assert found.load_s == 7.0
    assert found.total_s == pytest.approx(10.5)


def test_what_was_never_measured_is_assumed_and_says_so() -> None:
    found = profiles.predict(WORK, None)
    assert found.source == "assumed"
    assert found.total_s > 0


def test_steps_and_decoding_grow_with_pixels_and_images_but_encoding_does_not() -> None:
    found = profiles.predict(replace(WORK, pixels=200, n=3), COSTS)
    assert found.encode_s == 1.0
    assert found.steps_s == pytest.approx(3 * 2 * 2.0)
    assert found.decode_s == pytest.approx(3 * 2 * 0.5)


@pytest.mark.parametrize(("scale", "guided"), [(0.0, False), (1.0, False), (1.01, True), (7.5, True)])
def test_guidance_above_one_costs_two_evaluations(scale: float, guided: bool) -> None:
    assert profiles.is_guided(scale) is guided
    seconds = profiles.step_seconds(COSTS, 100, scale)
    assert seconds == (COSTS.step_s if guided else COSTS.bare_step_s)


def test_samplers_that_evaluate_more_often_cost_more() -> None:
    by_name = {name: profiles.predict(replace(WORK, sampler=name), COSTS).steps_s for name in SAMPLERS}
    assert by_name["heun"] == pytest.approx(19 * 0.2)
    assert by_name["pndm"] == pytest.approx(11 * 0.2)
    assert by_name["euler"] == pytest.approx(10 * 0.2)


def test_one_finished_request_moves_the_costs_a_fifth_of_the_way() -> None:
    found = profiles.learn(COSTS, WORK, encode_s=2.0, steps_s=4.0, decode_s=1.0)
    assert found.encode_s == pytest.approx(1.2)
    assert found.step_s == pytest.approx(0.24)
    assert found.decode_s == pytest.approx(0.6)
    assert (found.bare_step_s, found.load_s, found.pixels) == (0.1, 7.0, 100)


def test_an_unguided_request_teaches_the_unguided_step_alone() -> None:
    found = profiles.learn(COSTS, replace(WORK, guidance_scale=1.0), 1.0, 2.0, 0.5)
    assert found.bare_step_s == pytest.approx(0.12)
    assert found.step_s == COSTS.step_s


POSITIVE = st.floats(0.001, 100)
ANY_WORK = st.builds(
    Work,
    pixels=st.integers(64 * 64, 2048 * 2048),
    steps=st.integers(1, 150),
    sampler=st.sampled_from(sorted(SAMPLERS)),
    guidance_scale=st.floats(0, 50),
    n=st.integers(1, 8),
)
ANY_COSTS = st.builds(Costs, st.just(512 * 512), POSITIVE, POSITIVE, POSITIVE, POSITIVE, POSITIVE)


@settings(max_examples=100)
@given(work=ANY_WORK, costs=ANY_COSTS)
def test_what_went_as_predicted_teaches_nothing(work: Work, costs: Costs) -> None:
    seen = profiles.predict(work, costs)
    learned = profiles.learn(costs, work, seen.encode_s, seen.steps_s, seen.decode_s)
    assert astuple(learned) == pytest.approx(astuple(costs))


@settings(max_examples=50)
@given(work=ANY_WORK, costs=ANY_COSTS, true=ANY_COSTS)
def test_predictions_come_to_what_is_seen(work: Work, costs: Costs, true: Costs) -> None:
    seen = profiles.predict(work, true)
    for _ in range(80):
        costs = profiles.learn(costs, work, seen.encode_s, seen.steps_s, seen.decode_s)
    assert profiles.predict(work, costs).total_s == pytest.approx(seen.total_s, rel=0.01)


@settings(max_examples=100)
@given(work=ANY_WORK, costs=ANY_COSTS, queue_s=st.floats(0, 1000), is_resident=st.booleans())
def test_the_total_is_the_sum_of_its_parts(
    work: Work, costs: Costs, queue_s: float, is_resident: bool
) -> None:
    p = profiles.predict(work, costs, queue_s=queue_s, is_resident=is_resident)
    assert p.total_s == pytest.approx(p.queue_s + p.load_s + p.encode_s + p.steps_s + p.decode_s)
