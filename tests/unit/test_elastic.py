"""How many steps are left out of what falls behind: never below the floor, never more than needed."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from difs.actors.elastic import Course, steps_left

SECONDS = st.floats(0.001, 10)


@st.composite
def courses(draw: st.DrawFn) -> Course:
    done, left = draw(st.integers(1, 50)), draw(st.integers(1, 50))
    return Course(
        done=done,
        left=left,
        floor=draw(st.integers(1, done + left)),
        step_s=draw(SECONDS),
        rest_s=draw(SECONDS),
        time_s=draw(st.floats(-10, 600)),
    )


def course(**facts: Any) -> Course:
    known = Course(done=5, left=15, floor=8, step_s=0.1, rest_s=0.2, time_s=1.7)
    return replace(known, **facts)


def test_what_is_in_time_goes_all_its_steps() -> None:
    assert steps_left(course()) == 15
    assert steps_left(course(time_s=1.65)) == 15, "a step late is within what predictions can tell"


def test_what_is_late_goes_as_many_as_fit() -> None:
    assert steps_left(course(time_s=1.21)) == 10
    assert steps_left(course(time_s=0.71)) == 5


def test_what_cannot_be_kept_goes_down_to_its_floor() -> None:
    assert steps_left(course(time_s=0.1)) == 3
    assert steps_left(course(time_s=-5.0)) == 3
    assert steps_left(course(time_s=0.1, floor=2)) == 1, "a step is always left"


@given(courses())
def test_steps_are_left_out_to_the_floor_at_most_and_only_where_it_helps(found: Course) -> None:
    left = steps_left(found)
    assert 1 <= left <= found.left
    assert found.done + left >= min(found.floor, found.done + found.left)
    if left < found.left:
        late_s = found.left * found.step_s + found.rest_s - found.time_s
        assert late_s > found.step_s
        keeps = left * found.step_s + found.rest_s <= found.time_s + 1e-6
        assert keeps or left == max(1, found.floor - found.done)


@given(courses(), st.floats(0, 100))
def test_more_time_never_means_fewer_steps(found: Course, more_s: float) -> None:
    assert steps_left(replace(found, time_s=found.time_s + more_s)) >= steps_left(found)
