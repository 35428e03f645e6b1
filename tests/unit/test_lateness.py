"""What is learned of predictions: the middle of where nine tenths of the ratios lie."""

from hypothesis import given, settings
from hypothesis import strategies as st

from difs.policy import lateness
from difs.policy.lateness import ALL, ENOUGH, KEPT, MOST, Lateness, factor, middle


def test_the_middle_is_that_of_the_nine_tenths_that_lie_nearest() -> None:
    assert abs(middle([1.0] * 10 + [1.2] * 9 + [9.0]) - 1.1) < 1e-9


@settings(max_examples=300)
@given(st.lists(st.floats(0.5, 3.0), min_size=2, max_size=100))
def test_a_prediction_is_stretched_within_bounds_and_never_shortened(ratios: list[float]) -> None:
    assert 1.0 <= middle(sorted(ratios)) <= MOST


@settings(max_examples=300)
@given(st.lists(st.floats(1.0, 1.5), min_size=20, max_size=60))
def test_no_other_number_is_nearer_to_nine_tenths(ratios: list[float]) -> None:
    def worst(guess: float) -> float:
        return sorted(abs(r - guess) for r in ratios)[round(lateness.SHARE * len(ratios)) - 1]

    found = middle(sorted(ratios))
    assert all(worst(found) <= worst(1.0 + i / 50) + 1e-9 for i in range(26))


def test_few_ratios_say_nothing() -> None:
    seen = Lateness()
    for _ in range(ENOUGH - 1):
        seen.saw(4, 1.0, 1.4)
    assert factor(seen.factors, 4) == 1.0
    seen.saw(4, 1.0, 1.4)
    assert factor(seen.factors, 4) == 1.4


def test_long_requests_have_a_lateness_of_their_own() -> None:
    seen = Lateness()
    for _ in range(ENOUGH):
        seen.saw(2, 1.0, 1.0)
        seen.saw(20, 1.0, 1.4)
    assert factor(seen.factors, 2) == 1.0
    assert factor(seen.factors, 17) == 1.4, "of about as many evaluations"
    assert factor(seen.factors, 500) == seen.factors[ALL], "nothing is known of its like"


def test_what_is_long_ago_is_forgotten() -> None:
    seen = Lateness()
    for ratio in [1.4] * KEPT + [1.1] * KEPT:
        seen.saw(4, 1.0, ratio)
    assert abs(factor(seen.factors, 4) - 1.1) < 1e-9


def test_the_way_is_added_to_a_prediction_and_stretches_none() -> None:
    seen = Lateness()
    for way_s in (0.9, 0.1, 0.1, 0.12):
        seen.was_alone(way_s)
    assert seen.way_s == 0.12, "the median of an even number is the upper one"
    for _ in range(ENOUGH):
        seen.saw(4, 0.5, 0.62)
    assert abs(factor(seen.factors, 4) - 1.0) < 1e-9
