"""difs.broker.line: promises in their turns, all others by their shares."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs.broker.fair import JUMPS
from difs.broker.line import Line, Told

HOT, COLD = "loaded", "on disk"
LOADED = {HOT}


def put(line: Line[str], item: str, turn: float, told: Told = "foretold", **changes: Any) -> None:
    facts: dict[str, Any] = {"flow": item, "order": (0.0, len(line)), "seconds": 1.0, "kind": HOT}
    line.add(item, turn=turn, told=told, **facts | changes)


def serve(line: Line[str]) -> str:
    item = line.pick(LOADED)
    assert item is not None
    line.take(item)
    assert not list(line.contradictions())
    return item


def served(line: Line[str]) -> list[str]:
    return [serve(line) for _ in range(len(line))]


def test_what_was_promised_comes_in_its_turn_whoever_asked_for_how_much() -> None:
    line: Line[str] = Line()
    put(line, "much", 1.0, flow="a", seconds=100.0)
    serve(line)  # the client has had far more than its share
    put(line, "told", 2.0, flow="b")
    put(line, "third", 3.0, "promised", flow="a")
    put(line, "first", 1.5, "promised", flow="a")
    assert served(line) == ["first", "told", "third"]


def test_a_turn_that_nobody_was_promised_goes_by_shares() -> None:
    line: Line[str] = Line()
    put(line, "much", 0.0, flow="a", seconds=5.0)
    put(line, "modest", 0.0, flow="b")
    for _ in range(2):
        serve(line)
    put(line, "a1", 1.0, flow="a")
    put(line, "promise", 2.0, "promised", flow="c")
    put(line, "b1", 3.0, flow="b")
    assert served(line) == ["b1", "promise", "a1"], "each has the other's turn"


def test_who_will_be_late_waits_for_its_turn_and_has_it_then() -> None:
    line: Line[str] = Line()
    put(line, "late", 60.0, "late", flow="a")
    put(line, "patient", 70.0, "promised", flow="b")
    put(line, "promise", 9.0, "promised", flow="b")
    assert served(line) == ["promise", "late", "patient"]


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 10),
            st.sampled_from(["promised", "foretold", "late"]),
            st.sampled_from("abc"),
            st.floats(0.1, 5.0),
        ),
        max_size=20,
    ),
    st.integers(0, 20),
)
def test_no_turn_is_taken_twice(asked: list[tuple[float, Told, str, float]], leaves: int) -> None:
    """Of the first n turns as many were promised as of the first n that were served."""
    line: Line[str] = Line()
    for i, (turn, told, flow, seconds) in enumerate(asked):
        put(line, str(i), turn, told, flow=flow, seconds=seconds)
    line.discard(str(leaves))
    kinds = {str(i): told == "promised" for i, (_, told, *_) in enumerate(asked)}
    order = sorted((turn, i) for i, (turn, *_) in enumerate(asked) if i != leaves)
    assert [kinds[item] for item in served(line)] == [kinds[str(i)] for _, i in order]


@given(st.lists(st.tuples(st.floats(0, 10), st.sampled_from(["promised", "late"])), max_size=12))
def test_a_position_is_the_place_in_which_one_is_served(asked: list[tuple[float, Told]]) -> None:
    line: Line[str] = Line()
    for i, (turn, told) in enumerate(asked):
        put(line, str(i), turn, told)
    positions = {line.position(str(i)): str(i) for i in range(len(asked))}
    assert [positions[i + 1] for i in range(len(asked))] == served(line)


def test_a_promise_that_must_be_loaded_lets_others_pass_but_only_so_often() -> None:
    line: Line[str] = Line()
    put(line, "cold", 0.0, "promised", kind=COLD)
    for i in range(JUMPS + 2):
        put(line, f"hot{i}", 1.0 + i, "promised" if i % 2 else "foretold")
    assert [serve(line) for _ in range(JUMPS + 1)] == [*(f"hot{i}" for i in range(JUMPS)), "cold"]


def test_whoever_passes_a_promise_that_must_be_loaded_goes_by_shares_as_well() -> None:
    line: Line[str] = Line()
    put(line, "cold", 1.0, "promised", flow="a", kind=COLD)
    put(line, "later", 2.0, flow="b", order=(0.0, 9))
    put(line, "sooner", 3.0, flow="b", order=(0.0, 4))
    assert served(line) == ["sooner", "later", "cold"], "one client's are served as they came"


@pytest.mark.parametrize("told", ["promised", "foretold"])
def test_what_leaves_is_nowhere(told: Told) -> None:
    line: Line[str] = Line()
    put(line, "here", 1.0, told)
    line.discard("gone")
    line.discard("here")
    assert line.pick(LOADED) is None
    assert len(line) == 0
    assert not list(line.contradictions())
