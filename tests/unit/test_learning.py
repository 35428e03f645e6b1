"""difs.learning: costs from seen seconds."""

import math
from collections.abc import Callable
from itertools import cycle, islice

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from difs import learning
from difs.actor_messages import Costs, RowCost, SizeCost
from difs.learning import APART, DEVICE, MOST_SIZES, RATE, ROWS, SIZE
from difs.profiles import Work, decode_seconds, predict, rows_of, step_seconds
from difs.samplers import evaluations
from tests.unit.test_profiles import COSTS, EXAMPLES, MEASURED, SECONDS, WIDE, WORKS, table

TWICE = 2**RATE
"""What was told moves so far, in proportion, where a call took twice as long."""
TWO_SIZES = replace(WIDE, sizes=(SizeCost(400, table(r1=3.0, r2=4.0, r4=6.0), 14.0),))
"""100 pixels and 400."""


def seconds(costs: Costs) -> list[float]:
    """Return all seconds of steps, those of the size that was loaded for first."""
    return [cost.seconds for steps in (costs.steps, *(s.steps for s in costs.sizes)) for cost in steps]


def times(costs: Costs, before: Costs) -> list[float]:
    """Return how many times as long as before each step is told."""
    return [now / then for now, then in zip(seconds(costs), seconds(before), strict=True)]


def taught(costs: Costs, takes: Callable[[int, int], float], seen: list[tuple[int, int]]) -> Costs:
    """Return what is known after 400 calls of these pixels and rows, in turns."""
    for pixels, rows in islice(cycle(seen), 400):
        costs = learning.step(costs, pixels, rows, takes(pixels, rows))
    return costs


# ---- what was told ------------------------------------------------------------------------------------


def test_what_was_predicted_and_seen_changes_nothing() -> None:
    learned = learning.encode(TWO_SIZES, 0.5)
    learned = learning.step(learned, 400, 3, step_seconds(TWO_SIZES, 400, 3))
    learned = learning.decode(learned, 100, 4.0)
    assert times(learned, TWO_SIZES) == pytest.approx([1.0] * 7)
    assert replace(learned, steps=WIDE.steps, sizes=TWO_SIZES.sizes) == TWO_SIZES


def test_what_was_told_moves_a_quarter_of_the_way_to_what_was_seen() -> None:
    assert RATE == 0.25
    assert learning.encode(COSTS, 1.5) == replace(COSTS, encode_s=0.75)
    assert decode_seconds(learning.decode(TWO_SIZES, 400, 28.0), 400) == pytest.approx(TWICE * 14.0)
    assert step_seconds(learning.step(COSTS, 100, 2, 4.0), 100, 2) == pytest.approx(TWICE * 2.0)


def test_other_rows_of_the_size_move_less_and_other_sizes_least() -> None:
    assert DEVICE + SIZE + ROWS == 1
    learned = learning.step(TWO_SIZES, 100, 2, 2 * 1.2)
    other, mine = TWICE**DEVICE, TWICE ** (DEVICE + SIZE)
    assert times(learned, TWO_SIZES) == pytest.approx([mine, TWICE, mine, mine, other, other, other])
    assert learned.encode_s == WIDE.encode_s
    assert learned.decode_s == pytest.approx(WIDE.decode_s * other), "the device decodes, too"
    slower = learning.decode(TWO_SIZES, 100, 8.0)
    assert slower.sizes[0].decode_s == pytest.approx(14.0 * other)
    assert times(slower, TWO_SIZES) == pytest.approx([other] * 7)


def test_rows_between_two_that_were_measured_move_both() -> None:
    learned = learning.step(WIDE, 100, 5, 2 * step_seconds(WIDE, 100, 5))
    rest, near, far = [TWICE**part for part in (DEVICE + SIZE, 0.75 * ROWS, 0.25 * ROWS)]
    assert times(learned, WIDE) == pytest.approx([rest, rest, rest * near, rest * far])


@pytest.mark.parametrize(("rows", "at"), [(16, 3), (1, 0)])
def test_rows_beyond_those_that_were_measured_move_the_last(rows: int, at: int) -> None:
    learned = learning.step(WIDE, 100, rows, 2 * step_seconds(WIDE, 100, rows))
    assert times(learned, WIDE)[at] == pytest.approx(TWICE)


# ---- what is wrong ------------------------------------------------------------------------------------


def test_where_one_size_was_told_wrong_the_others_stay_right() -> None:
    """Without this, pictures of two sizes in turns are each told the mean of both errors."""

    def takes(pixels: int, rows: int) -> float:
        return step_seconds(TWO_SIZES, pixels, rows) * (0.5 if pixels == 400 else 1.0)

    learned = taught(TWO_SIZES, takes, [(100, 1), (400, 2), (100, 2), (400, 1)])
    for pixels, rows in ((100, 1), (100, 2), (400, 1), (400, 2)):
        assert step_seconds(learned, pixels, rows) == pytest.approx(takes(pixels, rows), rel=0.01)


def test_the_more_calls_are_slow_the_more_is_told_of_what_was_not_seen() -> None:
    def twice(pixels: int, rows: int) -> float:
        return 2 * step_seconds(TWO_SIZES, pixels, rows)

    of_one = taught(TWO_SIZES, twice, [(100, 1)])
    of_many = taught(TWO_SIZES, twice, [(100, 1), (100, 2), (100, 8), (400, 1)])
    unseen = (1.0, step_seconds(of_one, 400, 4) / 6.0, step_seconds(of_many, 400, 4) / 6.0, 2.0)
    assert sorted(unseen) == list(unseen), "between what was told and twice that"
    assert unseen[2] > 1.5


def test_a_size_that_was_never_measured_is_told_by_itself_once_it_was_seen() -> None:
    def takes(pixels: int, rows: int) -> float:
        return 1.1 if pixels == 400 else step_seconds(WIDE, pixels, rows)

    assert step_seconds(WIDE, 400, 1) == 4.0
    learned = taught(WIDE, takes, [(100, 1), (400, 1)])
    assert step_seconds(learned, 400, 1) == pytest.approx(1.1, rel=0.01)
    assert step_seconds(learned, 100, 1) == pytest.approx(1.0, rel=0.01)
    assert [size.pixels for size in learned.sizes] == [400]


@pytest.mark.parametrize(
    "learn", [lambda c, p: learning.step(c, p, 1, 9.0), lambda c, p: learning.decode(c, p, 9.0)]
)
def test_sizes_that_hardly_differ_are_one(learn: Callable[[Costs, int], Costs]) -> None:
    assert learn(WIDE, 120).sizes == ()
    assert [size.pixels for size in learn(TWO_SIZES, 330).sizes] == [400]
    assert [size.pixels for size in learn(TWO_SIZES, 200).sizes] == [200, 400]
    assert APART == 1.25


def test_no_more_sizes_are_told_apart_than_a_message_bears() -> None:
    costs = WIDE
    for i in range(40):
        costs = learning.step(costs, 100 * 2**i, 1, 1.0)
        costs = learning.decode(costs, 100 * 2**i, 1.0)
    pixels = [size.pixels for size in costs.sizes]
    assert len(pixels) == MOST_SIZES - 1
    assert pixels == sorted(pixels)


@pytest.mark.parametrize("taken_s", [0.0, 1e-9, 50.0, 1e9])
def test_what_one_strange_call_moved_comes_back_everywhere(taken_s: float) -> None:
    """A machine that was suspended for a while makes no size slow for ever that is not asked for."""
    learned = learning.step(TWO_SIZES, 100, 2, taken_s)
    for at in times(learned, TWO_SIZES):
        assert 1 / 3 < at < 3, "and it does not say much"
    learned = taught(learned, lambda pixels, rows: step_seconds(TWO_SIZES, pixels, rows), [(100, 2)])
    assert times(learned, TWO_SIZES) == pytest.approx([1.0] * 7, rel=0.01)


# ---- what is common to all residents -------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "told_s"), [(2, 1.2), (0, 4.0)])
def test_what_a_call_moves_in_all_of_its_own_costs_it_moves_in_others_too(
    rows: int, told_s: float
) -> None:
    common = learning.common(TWO_SIZES, 100, rows, 2 * told_s)
    assert math.exp(common) == pytest.approx(TWICE**DEVICE)
    assert learning.common(TWO_SIZES, 100, rows, told_s) == pytest.approx(0.0)


def test_calls_of_a_size_that_was_not_measured_with_it_say_nothing_of_others() -> None:
    assert learning.common(TWO_SIZES, 400, 2, 99.0) == 0.0
    assert learning.common(TWO_SIZES, 120, 2, 99.0) > 0


@pytest.mark.parametrize(("taken_s", "counts_s"), [(50.0, 6.0), (0.0, 2.0 / 3.0), (3.0, 3.0)])
def test_a_call_that_a_host_stopped_counts_as_three_times_what_was_told(
    taken_s: float, counts_s: float
) -> None:
    assert learning.step(COSTS, 100, 2, taken_s) == learning.step(COSTS, 100, 2, counts_s)


# ---- always -------------------------------------------------------------------------------------------


def test_a_device_that_takes_no_time_learns_nothing_from_a_step() -> None:
    costs = replace(COSTS, steps=table(r1=0.0))
    assert learning.step(costs, 100, 1, 5.0) == costs


def test_a_decoding_that_was_told_to_take_no_time_is_learned() -> None:
    learned = learning.decode(replace(COSTS, decode_s=0.0), 200, 10.0)
    assert learned.decode_s == pytest.approx(RATE * 5.0)


@EXAMPLES
@given(WORKS, MEASURED, SECONDS, SECONDS, SECONDS)
def test_what_is_seen_again_and_again_is_learned(
    asked: Work, costs: Costs, encode_s: float, step_s: float, decode_s: float
) -> None:
    rows = rows_of(asked.guidance_scale)
    assume(step_seconds(costs, asked.pixels, rows) > 0)
    for _ in range(300):
        costs = learning.encode(costs, encode_s)
        costs = learning.step(costs, asked.pixels, rows, step_s)
        costs = learning.decode(costs, asked.pixels, decode_s)
    found = predict(replace(asked, n=1), costs)
    seen_s = encode_s + evaluations(asked.sampler, asked.steps) * step_s + decode_s
    assert found.total_s == pytest.approx(seen_s, rel=1e-3)


@EXAMPLES
@given(MEASURED, st.lists(st.tuples(st.integers(10, 10_000), st.integers(1, 64), SECONDS), max_size=20))
def test_whatever_is_seen_all_seconds_stay_positive_and_all_rows_stay(
    costs: Costs, calls: list[tuple[int, int, float]]
) -> None:
    learned = costs
    for pixels, rows, taken_s in calls:
        learned = learning.step(learned, pixels, rows, taken_s)
        learned = learning.decode(learned, pixels, taken_s)
    assert min(seconds(learned)) > 0
    assert all(type(cost) is RowCost for cost in learned.steps)
    assert [cost.rows for cost in learned.steps] == [cost.rows for cost in costs.steps]
