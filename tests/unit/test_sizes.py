"""difs.sizes: seconds at sizes that were not measured, from the sizes that were."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from difs import learning, sizes
from difs.actor_messages import Costs, RowCost, SizeCost
from difs.profiles import (
    Work,
    decode_seconds,
    images_a_call,
    predict,
    reconciled,
    step_seconds,
)

EXAMPLES = settings(max_examples=100)
PART = st.floats(0.001, 10.0)
NATIVE = 4096


def call_s(a: float, b: float, c: float, pixels: int, rows: int = 1) -> float:
    """Return what a call takes: an overhead, convolutions, attention."""
    x = pixels / NATIVE
    return a + rows * (b * x + c * x * x)


def costs_of(a: float, b: float, c: float, pixels: tuple[int, ...], native: int = NATIVE) -> Costs:
    """Return the costs of a device with such calls, measured at the native and other sizes."""

    def table(size: int) -> tuple[RowCost, ...]:
        return tuple(RowCost(r, call_s(a, b, c, size, r)) for r in (1, 2, 4))

    others = tuple(SizeCost(p, table(p), call_s(0.0, b, c, p)) for p in sorted(pixels) if p != native)
    return Costs(native, 0.1, table(native), call_s(0.0, b, c, native), 1.0, others)


CONSTANT = costs_of(1.0, 0.0, 0.0, (1024, 16384))
LINEAR = costs_of(1.0, 1.0, 0.0, (1024, 16384))
QUADRATIC = costs_of(0.0, 0.0, 1.0, (1024, 16384))


@pytest.mark.parametrize("costs", [CONSTANT, LINEAR, QUADRATIC])
@pytest.mark.parametrize("pixels", [1024, 4096, 16384])
def test_what_was_measured_is_what_is_predicted(costs: Costs, pixels: int) -> None:
    there = next((s.steps for s in costs.sizes if s.pixels == pixels), costs.steps)
    assert [step_seconds(costs, pixels, c.rows) for c in there] == pytest.approx(
        [c.seconds for c in there]
    )


@pytest.mark.parametrize("pixels", [512, 2048, 9216, 36864])
def test_pure_overhead_pure_convolutions_and_pure_attention_are_found_exactly(pixels: int) -> None:
    x = pixels / NATIVE
    assert step_seconds(CONSTANT, pixels, 2) == pytest.approx(1.0)
    assert step_seconds(LINEAR, pixels, 2) == pytest.approx(1.0 + 2 * x)
    assert step_seconds(QUADRATIC, pixels, 2) == pytest.approx(2 * x * x)
    assert decode_seconds(QUADRATIC, pixels) == pytest.approx(x * x)


@EXAMPLES
@given(PART, PART, PART, st.integers(256, 262144), st.sampled_from([1, 2, 4]))
def test_between_sizes_it_is_never_too_soon_and_beyond_them_never_too_late(
    a: float, b: float, c: float, pixels: int, rows: int
) -> None:
    costs = costs_of(a, b, c, (1024, 16384))
    true_s, found = call_s(a, b, c, pixels, rows), step_seconds(costs, pixels, rows)
    if 1024 <= pixels <= 16384:
        assert true_s * (1 - 1e-9) <= found <= 1.5 * true_s
    else:
        assert found <= true_s * (1 + 1e-9)


@EXAMPLES
@given(PART, PART, PART, st.lists(st.integers(256, 262144), min_size=2, max_size=6))
def test_more_pixels_never_take_less_time(a: float, b: float, c: float, asked: list[int]) -> None:
    costs = costs_of(a, b, c, (1024, 16384))
    found = [step_seconds(costs, pixels, 2) for pixels in sorted(asked)]
    assert all(one <= other * (1 + 1e-9) for one, other in pairwise(found))


SECONDS = st.floats(0.0, 10.0)


@EXAMPLES
@example([0.0, 2.0, 5e-324, 0.0, 0.0, 0.0], 256)
@example([5e-324, 2.0, 5e-324, 0.0, 2.0, 2.0], 9000)
@example([5e-324, 5e-324, 2.0, 2.0, 2.0, 2.0], 4000)
@given(st.lists(SECONDS, min_size=6, max_size=6), st.integers(256, 262144))
def test_whatever_was_measured_no_time_is_negative_and_more_rows_take_no_less(
    noise: list[float], pixels: int
) -> None:
    tables = [tuple(RowCost(r, s) for r, s in zip((1, 2), sorted(pair), strict=True)) for pair in
              (noise[:2], noise[2:4], noise[4:])]  # fmt: skip
    others = (SizeCost(1024, tables[0], noise[0]), SizeCost(16384, tables[2], noise[4]))
    costs = Costs(NATIVE, 0.0, tables[1], noise[2], 0.0, others)
    one, two = step_seconds(costs, pixels, 1), step_seconds(costs, pixels, 2)
    assert 0.0 <= one <= two * (1 + 1e-9)
    assert decode_seconds(costs, pixels) >= 0.0


def test_one_measured_size_is_all_there_is_and_seconds_go_with_the_pixels() -> None:
    plain = replace(LINEAR, sizes=())
    assert step_seconds(plain, 2 * NATIVE, 2) == pytest.approx(2 * step_seconds(plain, NATIVE, 2))


def test_beyond_the_largest_size_seconds_grow_no_faster_than_attention() -> None:
    steep = replace(LINEAR, sizes=(SizeCost(5000, (RowCost(1, 100.0),), 100.0),))
    assert step_seconds(steep, 50000, 1) <= 100.0 * 10**sizes.MOST_GROWTH
    assert step_seconds(steep, 50000, 1) > 1000.0


def test_how_many_share_a_call_depends_on_the_size() -> None:
    """Small pictures fill a device together, a large one fills it alone."""
    small = (RowCost(1, 1.0), RowCost(2, 1.1), RowCost(4, 1.3))
    large = (RowCost(1, 4.0), RowCost(2, 8.0), RowCost(4, 16.0))
    costs = Costs(NATIVE, 0.0, small, 0.1, 0.0, (SizeCost(16384, large, 0.4),))
    work = Work(NATIVE, 10, "ddim", 1.0, 4)
    assert images_a_call(costs, work) == 4
    assert images_a_call(costs, replace(work, pixels=16384)) == 1
    assert predict(replace(work, pixels=16384), costs).steps_s == pytest.approx(10 * 4 * 4.0)


def test_costs_at_a_size_are_worked_out_once() -> None:
    assert sizes.at(LINEAR, 9999) is sizes.at(LINEAR, 9999)
    assert sizes.at(LINEAR, NATIVE) is LINEAR


def test_what_is_told_of_a_size_says_whether_it_was_measured() -> None:
    alone = replace(LINEAR, sizes=())
    beside = replace(alone, sizes=(replace(LINEAR.sizes[1], is_measured=False),))
    for costs, pixels, source in (
        (LINEAR, 9999, "measured"),
        (LINEAR, 1024, "measured"),
        (alone, NATIVE, "measured"),
        (alone, 9999, "estimated"),
        (beside, NATIVE, "measured"),
        (beside, 9999, "estimated"),
        (beside, 16384, "estimated"),
        (learning.step(beside, 16384, 1, 9.0), 16384, "measured"),
        (learning.step(alone, 16384, 1, 9.0), 9999, "measured"),
        (replace(LINEAR, source="assumed"), 9999, "assumed"),
        (replace(beside, source="assumed"), 9999, "assumed"),
    ):
        assert predict(Work(pixels, 10, "ddim", 1.0, 1), costs).source == source, (costs, pixels)


# ---- with what was measured now --------------------------------------------------------------------


def test_what_was_measured_now_keeps_a_profiles_other_sizes_in_proportion() -> None:
    now = replace(LINEAR, sizes=(), steps=(RowCost(1, 4.0), RowCost(2, 6.0)), decode_s=0.5, load_s=9.0)
    both = reconciled(now, LINEAR)
    assert replace(both, sizes=(), steps=now.steps) == now
    assert step_seconds(both, 16384, 2) == pytest.approx(2 * step_seconds(LINEAR, 16384, 2))
    assert decode_seconds(both, 16384) == pytest.approx(0.5 * decode_seconds(LINEAR, 16384))


def test_without_a_profile_what_was_measured_stands() -> None:
    assert reconciled(LINEAR, None) is LINEAR


def test_what_was_measured_with_few_rows_keeps_a_profiles_other_rows_in_proportion() -> None:
    now = replace(LINEAR, sizes=(), steps=(RowCost(1, 4.0), RowCost(2, 6.0)))
    both = reconciled(now, LINEAR)
    assert both.steps == (*now.steps, RowCost(4, 2 * step_seconds(LINEAR, LINEAR.pixels, 4)))
