"""difs.profiles: seconds from measured costs."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from difs.actor_messages import Costs, RowCost, SizeCost
from difs.profiles import (
    ASSUMED,
    SATURATED,
    Work,
    best_rows,
    images_a_call,
    limited,
    may_pay,
    predict,
    rows_of,
    rows_that_pay,
    shared_seconds,
    shared_step_seconds,
    step_seconds,
)
from difs.samplers import SAMPLERS, evaluations


def table(**seconds: float) -> tuple[RowCost, ...]:
    """Return measured steps: `r4=2.0` stands for four rows in two seconds."""
    return tuple(RowCost(int(name[1:]), value) for name, value in seconds.items())


COSTS = Costs(pixels=100, encode_s=0.5, steps=table(r1=1.0, r2=2.0), decode_s=4.0, load_s=8.0)
"""A device on which it does not pay to share a call."""
WIDE = replace(COSTS, steps=table(r1=1.0, r2=1.2, r4=1.6, r8=3.15))
"""A device that is full with four rows."""
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
    is_alone=st.booleans(),
)


@st.composite
def measured(draw: st.DrawFn) -> Costs:
    """Draw costs as a device has them: more rows take longer, but never longer than one by one."""
    rows = sorted(draw(st.sets(st.integers(1, 32), min_size=1, max_size=6)))
    seconds = [draw(SECONDS)]
    for low, high in pairwise(rows):
        most = seconds[-1] * high / low
        seconds.append(draw(st.floats(seconds[-1], max(seconds[-1], most))))
    steps = tuple(RowCost(r, s) for r, s in zip(rows, seconds, strict=True))
    return Costs(100, draw(SECONDS), steps, draw(SECONDS), draw(SECONDS))


MEASURED = measured()


# ---- one call -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [(1, 1.0), (2, 1.2), (3, 1.4), (4, 1.6), (6, 2.375), (8, 3.15), (16, 6.3), (12, 4.725)],
)
def test_between_measured_rows_a_call_is_interpolated_and_beyond_them_proportional(
    rows: int, seconds: float
) -> None:
    assert step_seconds(WIDE, 100, rows) == pytest.approx(seconds)


def test_fewer_rows_than_were_measured_take_as_long_as_the_fewest_measured() -> None:
    costs = replace(COSTS, steps=table(r4=2.0, r8=3.0))
    assert [step_seconds(costs, 100, rows) for rows in (1, 3, 4, 6)] == [2.0, 2.0, 2.0, 2.5]


def test_a_call_grows_with_the_pixels() -> None:
    assert step_seconds(WIDE, 250, 3) == pytest.approx(2.5 * 1.4)


@EXAMPLES
@given(MEASURED, st.integers(1, 64), st.integers(10, 1000))
def test_one_more_row_never_makes_a_call_shorter_nor_longer_than_a_call_of_its_own(
    costs: Costs, rows: int, pixels: int
) -> None:
    fewer, more = step_seconds(costs, pixels, rows), step_seconds(costs, pixels, rows + 1)
    assert fewer <= more * (1 + 1e-9)
    assert more <= (fewer + step_seconds(costs, pixels, 1)) * (1 + 1e-9)


@EXAMPLES
@given(MEASURED, st.integers(10, 1000))
def test_what_was_measured_is_predicted(costs: Costs, pixels: int) -> None:
    for cost in costs.steps:
        assert step_seconds(costs, pixels, cost.rows) == pytest.approx(cost.seconds * pixels / 100)


# ---- how many share it --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "rows"),
    [
        (table(r1=1.0), 1),
        (table(r1=1.0, r2=2.0, r4=4.0), 1),
        (table(r1=1.0, r2=1.95, r4=3.9), 1),
        (table(r1=1.0, r2=1.9, r4=3.8), 2),
        (table(r1=1.0, r2=1.2, r4=1.6, r8=3.15), 4),
        (table(r1=1.0, r2=1.2, r4=1.6, r8=3.0), 8),
        (table(r1=1.0, r2=1.1, r4=4.0, r8=9.0), 2),
        (table(r1=0.0, r2=0.0), 2),
    ],
)
def test_the_best_batch_is_the_smallest_at_which_a_row_is_nearly_as_cheap_as_it_gets(
    steps: tuple[RowCost, ...], rows: int
) -> None:
    assert best_rows(replace(COSTS, steps=steps)) == rows


@EXAMPLES
@given(MEASURED)
def test_no_measured_batch_is_much_better_than_the_best_and_every_smaller_one_is_worse(
    costs: Costs,
) -> None:
    best = best_rows(costs)
    each = {cost.rows: cost.seconds / cost.rows for cost in costs.steps}
    assert each[best] <= SATURATED * min(each.values())
    assert all(each[rows] > SATURATED * min(each.values()) for rows in each if rows < best)


@pytest.mark.parametrize(
    ("costs", "changes", "images"),
    [
        (COSTS, {}, 1),
        (WIDE, {}, 2),
        (WIDE, {"guidance_scale": 1.0}, 4),
        (WIDE, {"is_alone": True}, 1),
        (replace(COSTS, steps=table(r1=1.0, r3=1.5)), {}, 1),
        (replace(COSTS, steps=table(r1=1.0, r3=1.5)), {"guidance_scale": 0.0}, 3),
    ],
)
def test_the_rows_of_an_image_stay_together_and_those_that_pay_share_a_call(
    costs: Costs, changes: dict[str, Any], images: int
) -> None:
    assert images_a_call(costs, work(**changes)) == images


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


@pytest.mark.parametrize(
    ("n", "call_s"), [(1, 1.2), (2, 1.6), (3, 1.6 + 1.2), (4, 2 * 1.6), (5, 2 * 1.6 + 1.2), (8, 4 * 1.6)]
)
def test_images_share_full_calls_and_the_rest_has_one_of_its_own(n: int, call_s: float) -> None:
    assert predict(work(n=n), WIDE).steps_s == pytest.approx(10 * call_s)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_what_must_run_alone_takes_as_long_as_its_images_one_by_one(n: int) -> None:
    alone, one = predict(work(n=n, is_alone=True), WIDE), predict(work(), WIDE)
    assert alone.steps_s == pytest.approx(n * one.steps_s)
    assert alone.decode_s == pytest.approx(n * one.decode_s)
    assert alone.encode_s == one.encode_s


@pytest.mark.parametrize("seconds", [2.0, 2.04, 2.6])
def test_a_guided_image_takes_a_call_with_two_rows_however_little_that_pays(seconds: float) -> None:
    costs = replace(COSTS, steps=table(r1=1.0, r2=seconds))
    assert predict(work(), costs).steps_s == pytest.approx(10 * seconds)


@pytest.mark.parametrize(("scale", "seconds"), [(0.0, 10.0), (1.0, 10.0), (1.01, 20.0), (50.0, 20.0)])
def test_an_image_without_guidance_takes_one_row(scale: float, seconds: float) -> None:
    assert predict(work(guidance_scale=scale), COSTS).steps_s == seconds
    assert rows_of(scale) == seconds / 10.0


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


@EXAMPLES
@given(WORKS, MEASURED)
def test_sharing_never_takes_longer_than_running_alone(asked: Work, costs: Costs) -> None:
    alone, shared = replace(asked, is_alone=True), replace(asked, is_alone=False)
    assert predict(shared, costs).steps_s <= predict(alone, costs).steps_s * (1 + 1e-9)


# ---- a share of a busy device -------------------------------------------------------------------


def test_a_share_is_an_images_part_of_a_full_call() -> None:
    assert shared_step_seconds(work(), WIDE) == pytest.approx(1.6 / 2)
    assert shared_step_seconds(work(guidance_scale=1.0, pixels=200), WIDE) == pytest.approx(2 * 1.6 / 4)
    assert shared_seconds(work(n=3), WIDE) == pytest.approx(0.5 + 3 * (10 * 0.8 + 4.0))
    assert shared_step_seconds(work(), WIDE, 0) == pytest.approx(step_seconds(WIDE, 100, 2))
    assert shared_step_seconds(work(), WIDE, 1) == pytest.approx(1.6 / 2), "there is one to share with"
    assert shared_step_seconds(work(), WIDE, 9) == pytest.approx(1.6 / 2), "more do not pay"
    assert shared_seconds(work(n=3, sampler="heun"), WIDE) == pytest.approx(0.5 + 3 * (19 * 0.8 + 4.0))


def test_what_runs_alone_has_no_share() -> None:
    asked = work(n=3, is_alone=True)
    assert shared_step_seconds(asked, WIDE) == 1.2
    assert shared_seconds(asked, WIDE) == pytest.approx(predict(asked, WIDE).total_s)


def test_the_share_of_what_was_never_measured_is_assumed() -> None:
    assert shared_seconds(work(), None) == shared_seconds(work(), ASSUMED)
    assert shared_step_seconds(work(), None) == shared_step_seconds(work(), ASSUMED)


@EXAMPLES
@given(WORKS, MEASURED)
def test_all_evaluations_of_all_images_are_part_of_the_share(asked: Work, costs: Costs) -> None:
    calls = asked.n * evaluations(asked.sampler, asked.steps)
    rest_s = costs.encode_s + asked.n * costs.decode_s * asked.pixels / costs.pixels
    found = calls * shared_step_seconds(asked, costs) + rest_s
    assert shared_seconds(asked, costs) == pytest.approx(found)


@EXAMPLES
@given(WORKS, MEASURED)
def test_a_share_is_never_more_than_the_whole(asked: Work, costs: Costs) -> None:
    assert shared_seconds(asked, costs) <= predict(asked, costs).total_s * (1 + 1e-9)


@pytest.mark.parametrize(
    ("each_s", "may"),
    [
        ([1.0], True),
        ([1.0, 0.5], True),
        ([1.0, 0.99], True),
        ([1.0, 0.99, 0.98], False),
        ([1.0, 1.2, 0.9], True),
        ([1.0, 0.5, 0.5, 0.5], False),
        ([1.0, 0.5, 0.5, 0.4], True),
    ],
)
def test_one_doubling_of_rows_that_hardly_pays_is_not_the_end(each_s: list[float], may: bool) -> None:
    assert may_pay(each_s) is may


# ---- where there is no room for full calls ------------------------------------------------------------


def test_costs_of_calls_that_have_no_room_are_not_told() -> None:
    assert limited(WIDE, 8) is WIDE
    few = limited(WIDE, 3)
    assert [cost.rows for cost in few.steps] == [1, 2, 3]
    assert few.steps[-1].seconds == pytest.approx(1.4), "between two and four"
    assert best_rows(few) == 3
    assert [cost.rows for cost in limited(WIDE, 1).steps] == [1]
    assert [cost.rows for cost in limited(replace(WIDE, steps=table(r2=1.2, r4=1.6)), 1).steps] == [2]


@given(st.integers(1, 12), st.integers(1, 12))
def test_up_to_its_limit_a_call_costs_what_it_did(limit: int, rows: int) -> None:
    sized = replace(WIDE, sizes=(SizeCost(400, table(r1=4.0, r4=7.0), 9.0),))
    found = limited(sized, limit)
    if rows <= limit:
        for pixels in (100, 400):
            assert step_seconds(found, pixels, rows) == pytest.approx(step_seconds(sized, pixels, rows))
    assert rows_that_pay(found, 100) <= max(1, limit)
