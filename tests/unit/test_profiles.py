"""difs.profiles: seconds from measured costs, and costs from seen seconds."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from difs.actor_messages import Costs
from difs.profiles import ASSUMED, LEARNING_RATE, Work, learn, predict
from difs.samplers import SAMPLERS

COSTS = Costs(pixels=100, encode_s=0.5, step_s=2.0, bare_step_s=1.0, decode_s=4.0, load_s=8.0)
EXAMPLES = settings(max_examples=100)
SECONDS = st.floats(0.001, 100)


def work(**changes: Any) -> Work:
    """Return ten guided steps at the measured size."""
    facts: dict[str, Any] = {"pixels": 100, "steps": 10, "sampler": "ddim", "guidance_scale": 7.5, "n": 1}
    return Work(**facts | changes)


WORKS = st.builds(
    Work,
    pixels=st.integers(10, 1000),
    steps=st.integers(1, 150),
    sampler=st.sampled_from(sorted(SAMPLERS)),
    guidance_scale=st.floats(0, 50),
    n=st.integers(1, 8),
)
MEASURED = st.builds(
    Costs,
    pixels=st.just(100),
    encode_s=SECONDS,
    step_s=SECONDS,
    bare_step_s=SECONDS,
    decode_s=SECONDS,
    load_s=SECONDS,
)


# ---- predict ------------------------------------------------------------------------------------


def test_a_prediction_is_the_sum_of_its_measured_parts() -> None:
    found = predict(work(), COSTS)
    assert (found.queue_s, found.load_s, found.encode_s) == (0.0, 0.0, 0.5)
    assert (found.steps_s, found.decode_s, found.total_s) == (20.0, 4.0, 24.5)
    assert found.source == "measured"


def test_steps_and_decoding_grow_with_the_pixels_and_encoding_does_not() -> None:
    found = predict(work(pixels=300), COSTS)
    assert (found.encode_s, found.steps_s, found.decode_s) == (0.5, 60.0, 12.0)


def test_every_image_takes_its_steps_and_one_encoding_serves_all() -> None:
    found = predict(work(n=3), COSTS)
    assert (found.encode_s, found.steps_s, found.decode_s) == (0.5, 60.0, 12.0)


@pytest.mark.parametrize(("scale", "seconds"), [(0.0, 10.0), (1.0, 10.0), (1.01, 20.0), (50.0, 20.0)])
def test_a_step_without_guidance_has_its_own_cost(scale: float, seconds: float) -> None:
    assert predict(work(guidance_scale=scale), COSTS).steps_s == seconds


@pytest.mark.parametrize(("sampler", "seconds"), [("ddim", 20.0), ("heun", 38.0), ("pndm", 22.0)])
def test_what_counts_is_how_often_the_sampler_evaluates(sampler: str, seconds: float) -> None:
    assert predict(work(sampler=sampler), COSTS).steps_s == seconds


def test_what_is_not_resident_is_loaded_first() -> None:
    found = predict(work(), COSTS, is_resident=False)
    assert (found.load_s, found.total_s) == (8.0, 32.5)


def test_the_queue_is_waited_for_first() -> None:
    found = predict(work(), COSTS, queue_s=100.0)
    assert (found.queue_s, found.total_s) == (100.0, 124.5)


def test_what_was_never_measured_is_assumed_and_says_so() -> None:
    found = predict(work(), None, is_resident=False)
    assert found == replace(predict(work(), ASSUMED, is_resident=False), source="assumed")


@EXAMPLES
@given(WORKS, MEASURED, st.floats(0, 1e4), st.booleans())
def test_the_total_is_the_sum_of_the_parts(
    asked: Work, costs: Costs, queue_s: float, is_resident: bool
) -> None:
    p = predict(asked, costs, queue_s=queue_s, is_resident=is_resident)
    parts = p.queue_s + p.load_s + p.encode_s + p.steps_s + p.decode_s
    assert p.total_s == pytest.approx(parts)
    assert min(p.queue_s, p.load_s, p.encode_s, p.steps_s, p.decode_s) >= 0


# ---- learn --------------------------------------------------------------------------------------


def test_what_was_predicted_and_seen_changes_nothing() -> None:
    p = predict(work(n=2, pixels=250), COSTS)
    learned = learn(COSTS, work(n=2, pixels=250), p.encode_s, p.steps_s, p.decode_s)
    for name in COSTS.__struct_fields__:
        assert getattr(learned, name) == pytest.approx(getattr(COSTS, name))


def test_costs_move_a_fifth_of_the_way_to_what_was_seen() -> None:
    learned = learn(COSTS, work(), encode_s=1.5, steps_s=40.0, decode_s=0.0)
    assert LEARNING_RATE == 0.2
    assert learned.encode_s == pytest.approx(0.7)
    assert learned.step_s == pytest.approx(2.4)
    assert learned.decode_s == pytest.approx(3.2)


@pytest.mark.parametrize(("scale", "kept"), [(7.5, "bare_step_s"), (1.0, "step_s"), (0.0, "step_s")])
def test_the_step_of_the_other_guidance_is_never_touched(scale: float, kept: str) -> None:
    learned = learn(COSTS, work(guidance_scale=scale), 9.0, 999.0, 9.0)
    (moved,) = {"step_s", "bare_step_s"} - {kept}
    assert getattr(learned, kept) == getattr(COSTS, kept)
    assert getattr(learned, moved) > getattr(COSTS, moved)


def test_neither_loading_nor_the_size_is_learned_from_a_request() -> None:
    learned = learn(COSTS, work(), 9.0, 9.0, 9.0)
    assert (learned.load_s, learned.pixels) == (COSTS.load_s, COSTS.pixels)


@EXAMPLES
@given(WORKS, MEASURED, MEASURED)
def test_what_is_seen_again_and_again_is_learned(asked: Work, costs: Costs, truth: Costs) -> None:
    seen = predict(asked, truth)
    for _ in range(100):
        costs = learn(costs, asked, seen.encode_s, seen.steps_s, seen.decode_s)
    found = predict(asked, costs)
    assert found.total_s == pytest.approx(seen.total_s, rel=1e-3)
