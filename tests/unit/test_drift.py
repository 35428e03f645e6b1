"""difs.drift: what all residents of a device have in common."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from difs import learning
from difs.actor_messages import Resident
from difs.drift import NEWS, Drift
from difs.profiles import step_seconds
from tests.builders import resident
from tests.unit.test_profiles import COSTS

TWICE = math.log(2)


def device(*names: str) -> dict[str, Resident]:
    """Return residents of the same costs."""
    return {name: replace(resident(name), costs=COSTS) for name in names}


def told_s(residents: dict[str, Resident], name: str) -> float:
    """Return the seconds of a step of one row."""
    return step_seconds(residents[name].costs, 100, 1)


def test_who_was_not_called_is_told_what_all_have_in_common() -> None:
    drift, residents = Drift(), device("a", "b")
    drift.catch_up(residents, 0.0)
    slower = learning.step(COSTS, 100, 1, 2.0)
    drift.learned(residents, "a", slower, TWICE)
    drift.learned(residents, "a", slower, TWICE)
    assert residents["a"].costs is slower, "as it was told, and no more"
    assert told_s(residents, "b") == pytest.approx(2 * told_s(device("b"), "b"))
    assert residents["b"].costs.decode_s == pytest.approx(2 * COSTS.decode_s)
    assert residents["b"].costs.load_s == COSTS.load_s, "the disk is no slower"


def test_who_was_measured_meanwhile_is_as_it_was_measured() -> None:
    drift, residents = Drift(), device("a")
    drift.catch_up(residents, TWICE)
    residents |= device("b")
    drift.catch_up(residents, TWICE)
    drift.catch_up(residents, TWICE + TWICE)
    assert told_s(residents, "b") == pytest.approx(2 * told_s(device("b"), "b"))
    residents["b"] = replace(residents["b"], costs=replace(COSTS, load_s=9.0))
    drift.catch_up(residents, 3 * TWICE)
    assert residents["b"].costs == replace(COSTS, load_s=9.0), "it is new"


def test_an_actor_of_which_one_hears_late_has_told_costs_as_they_are() -> None:
    drift, residents = Drift(), device("a", "b")
    drift.catch_up(residents, 5.0)
    assert residents == device("a", "b")


def test_small_moves_are_told_once_they_have_added_up() -> None:
    drift, residents = Drift(), device("a", "b")
    drift.catch_up(residents, 0.0)
    before = residents["b"].costs
    drift.catch_up(residents, 0.9 * NEWS)
    assert residents["b"].costs is before, "what was reckoned with it holds"
    drift.catch_up(residents, 1.8 * NEWS)
    assert told_s(residents, "b") == pytest.approx(math.exp(1.8 * NEWS) * told_s(device("b"), "b"))


def test_who_left_is_forgotten() -> None:
    drift, residents = Drift(), device("a", "b")
    drift.catch_up(residents, 0.0)
    gone = residents.pop("b")
    drift.catch_up(residents, TWICE)
    residents["b"] = gone
    drift.catch_up(residents, TWICE)
    assert residents["b"] is gone, "it returns as it was when it left"


@given(st.lists(st.floats(-1.0, 1.0), max_size=30))
def test_whatever_came_what_is_told_is_within_what_is_no_news(moves: list[float]) -> None:
    drift, residents = Drift(), device("a", "b")
    drift.catch_up(residents, 0.0)
    for move in moves:
        drift.catch_up(residents, drift.moved + move)
    for name in residents:
        off = math.log(told_s(residents, name) / told_s(device(name), name)) - drift.moved
        assert abs(off) <= NEWS + 1e-9


def test_where_the_device_is_slow_the_next_variant_is_told_so_before_its_first_call() -> None:
    """The broker hears it with a picture of another one; and when it is over, all of it comes back."""
    drift, residents = Drift(), device("a", "b")
    drift.catch_up(residents, 0.0)

    def called(name: str, seconds: float, times: int) -> None:
        for _ in range(times):
            costs = residents[name].costs
            common = learning.common(costs, 100, 1, seconds)
            drift.learned(residents, name, learning.step(costs, 100, 1, seconds), drift.moved + common)

    usual = told_s(residents, "b")
    called("a", 1.4 * usual, 20)
    assert told_s(residents, "b") == pytest.approx(usual * 1.4**learning.DEVICE, rel=0.03)
    called("a", usual, 40)
    assert told_s(residents, "b") == pytest.approx(usual, rel=0.03)


def test_what_was_told_wrong_of_one_is_told_right_of_all_in_the_end() -> None:
    """Each call moves all others: these moves must die down, whatever is called in turns."""
    drift, residents = Drift(), device("a", "b", "c", "d")
    drift.catch_up(residents, 0.0)
    takes = {"a": (1.0, 4.0), "b": (1.4, 4.0), "c": (1.0, 2.0), "d": (0.6, 7.0)}
    for _ in range(150):
        for name, (step_s, decode_s) in takes.items():
            for rows, seconds in ((1, step_s), (1, step_s), (0, decode_s)):
                costs = residents[name].costs
                learn = learning.decode(costs, 100, seconds) if not rows else None
                learned = learn or learning.step(costs, 100, rows, seconds)
                common = learning.common(costs, 100, rows, seconds)
                drift.learned(residents, name, learned, drift.moved + common)
    for name, (step_s, decode_s) in takes.items():
        assert told_s(residents, name) == pytest.approx(step_s, rel=0.03)
        assert residents[name].costs.decode_s == pytest.approx(decode_s, rel=0.03)
