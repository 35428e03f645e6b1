"""difs.places: who bears that others go before it, and where these may stand."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from difs.places import CROWDED, MARGIN, Behind, Bounds, among

NOW = 100.0


def line(*more: tuple[float, Bounds]) -> Behind:
    return Behind(NOW, NOW).then(more, NOW)


def patient(latest: float, due: float = 0.0) -> tuple[float, Bounds]:
    """Return a second's work that is wanted by then."""
    return 1.0, Bounds(due, latest, latest)


def test_what_stands_behind_takes_longer_than_in_full_calls() -> None:
    assert math.isclose(line(patient(200.0), patient(200.0)).ends, NOW + 2 * CROWDED)


def test_a_newcomer_stands_before_the_first_that_can_wait_longer_than_it() -> None:
    found = line(patient(110.0), patient(160.0), patient(120.0), patient(170.0))
    assert found.first_for(0.5, 105.0) == 0
    assert found.first_for(0.5, 115.0) == 1
    assert found.first_for(0.5, 165.0) == 3
    assert found.first_for(0.5, 180.0) == 4, "after all of them: nowhere"


def test_nobody_who_follows_may_lose_what_he_was_promised() -> None:
    found = line(patient(160.0), patient(NOW + 2 * CROWDED + 0.5), patient(160.0))
    assert found.first_for(0.2, 100.0) == 0
    assert found.first_for(0.6, 100.0) == 2, "the second has half a second, and keeps a tenth of its wait"


def test_who_is_lost_bears_more_and_who_bears_nothing_is_passed_by_nobody() -> None:
    lost = 1.0, Bounds(NOW, NOW + 0.5, NOW + 50.0)
    assert line(lost).first_for(10.0, NOW + 20.0) == 0
    told = 1.0, Bounds(NOW, NOW + CROWDED, NOW + CROWDED)
    assert line(told).first_for(0.01, NOW) == 1


def test_who_is_late_anyhow_lets_a_newcomer_be_done_first_until_its_turn() -> None:
    late = 5.0, Bounds(NOW + 60.0, 0.0, NOW + 120.0, gives_way=True)
    found = line(patient(160.0), late, late)
    assert math.isclose(found.firm, NOW + CROWDED)
    assert math.isclose(found.ends, NOW + 11 * CROWDED)
    due = 5.0, Bounds(NOW + 4.0, 0.0, NOW + 120.0, gives_way=True)
    assert line(due).firm == line(due).ends, "its turn has come"


PLACES = st.lists(
    st.tuples(
        st.floats(0.1, 5.0),
        st.builds(Bounds, st.just(NOW), st.floats(NOW, NOW + 60.0), st.floats(NOW, NOW + 90.0)),
    ),
    max_size=12,
)


@settings(max_examples=200)
@given(PLACES, st.floats(0.1, 5.0), st.floats(NOW, NOW + 60.0))
def test_wherever_a_newcomer_stands_all_behind_it_bear_it(
    others: list[tuple[float, Bounds]], seconds: float, latest: float
) -> None:
    found = line(*others)
    at = found.first_for(seconds, latest)
    for (_, bounds), done in zip(others[at:], found.done[at:], strict=True):
        kept = bounds.bears_until if done <= bounds.bears_until else bounds.lost_until
        assert done + seconds <= kept + 1e-9
    assert all(longer > latest for longer in found.latest[at : at + 1])


@given(PLACES, PLACES)
def test_a_line_that_grows_is_the_line_made_anew(
    first: list[tuple[float, Bounds]], second: list[tuple[float, Bounds]]
) -> None:
    assert line(*first).then(second, NOW) == line(*first, *second)


def test_of_what_runs_those_are_passed_that_stand_later_than_all_that_cannot_wait() -> None:
    firm, lax = Bounds(NOW + 1.0, NOW + 2.0), Bounds(NOW + 9.0, NOW + 60.0)
    places = [firm.place(NOW + 2.0), lax.place(NOW + 3.0)]
    passed, ends = among(places, 0.5, NOW + 5.0)
    assert (passed, ends) == ([NOW + 9.0], [NOW + 2.0])
    assert among(places, 58.0, NOW + 5.0)[0] == [], "so long nobody waits"


def test_a_margin_is_kept_of_the_wait() -> None:
    found = line((10.0, Bounds(NOW, NOW + 20.0, NOW + 20.0)))
    assert math.isclose(found.bears[0], 20.0 - 10.0 * CROWDED - MARGIN * 10.0 * CROWDED)
