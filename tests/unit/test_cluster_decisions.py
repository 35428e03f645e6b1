"""difs.cluster's decisions: which node, what after a failure, how many nodes, what to copy."""

from collections.abc import Mapping
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs.cluster import choosing, copies, course, scaling, states
from difs.cluster.board import Board
from difs.cluster.choosing import Seen
from difs.cluster.copies import Copy, Rules
from difs.cluster.course import Course, Elsewhere, End, Next, Rest, Terms
from difs.cluster.states import Forecast, Label, NodeState, Point, Wanted
from difs.errors import (
    ActorLost,
    BrokerLost,
    Cancelled,
    DifsError,
    EngineFailed,
    Infeasible,
    InvalidRequest,
    Overloaded,
    UnknownName,
)
from tests import builders

STALE_S = 5.0


def point(variant: str = "base", **changes: Any) -> Point:
    given: dict[str, Any] = {"family": "sd15", "steps": 20, "pixels": 4096, "wait_s": 0.0, "own_s": 1.0}
    return Point(variant=variant, **(given | {"quality": 0.8} | changes))


def state(node: str = "a", *points: Point, **changes: Any) -> NodeState:
    told: dict[str, Any] = {"serial": 1, "is_ready": True, "devices": 1}
    return NodeState(node=node, points=points or (point(),), **(told | changes))


def first(*draws: int) -> Any:
    """Return a draw that gives these numbers, then nought."""
    left = list(draws)
    return lambda n: (left.pop(0) if left else 0) % n


def order(wanted: Wanted, nodes: Mapping[str, Seen], *avoid: str, draw: Any = None) -> list[str]:
    return choosing.order(wanted, nodes, avoid, STALE_S, draw or first())


# ---- which node -----------------------------------------------------------------------------------


def test_the_node_with_the_earliest_predicted_finish_is_tried_first() -> None:
    nodes = {
        "a": Seen(state("a", point(wait_s=3.0))),
        "b": Seen(state("b", point(wait_s=0.5))),
        "c": Seen(state("c", point(wait_s=0.0, own_s=4.0))),  # it has to load first
    }
    assert order(Wanted(), nodes) == ["b", "a", "c"]


def test_within_the_deadline_the_best_quality_counts_and_beyond_it_the_earliest_finish() -> None:
    nodes = {
        "good": Seen(state("good", point(quality=0.9, own_s=3.0), point("fast", quality=0.4, own_s=2.5))),
        "fast": Seen(state("fast", point("fast", quality=0.4, own_s=0.2))),
    }
    assert order(Wanted(latency_s=4.0), nodes) == ["good", "fast"]
    assert order(Wanted(latency_s=1.0), nodes) == ["fast", "good"]
    assert order(Wanted(latency_s=0.1), nodes) == ["fast", "good"]


def test_what_was_sent_since_the_report_is_added_so_that_a_burst_spreads() -> None:
    nodes = {"a": Seen(state("a")), "b": Seen(state("b", point(wait_s=0.5)))}
    sent = dict.fromkeys(nodes, 0.0)
    taken = []
    for _ in range(6):
        now = {name: Seen(seen.state, 0.0, sent[name]) for name, seen in nodes.items()}
        name = order(Wanted(), now)[0]
        sent[name] += 1.0
        taken.append(name)
    assert taken == ["a", "b", "a", "b", "a", "b"]


def test_where_all_else_is_the_same_a_node_that_has_the_variant_resident_is_preferred() -> None:
    nodes = {"a": Seen(state("a")), "b": Seen(state("b", residents=("base",)))}
    assert order(Wanted(), nodes) == ["b", "a"]


def test_a_pinned_variant_goes_to_who_has_it() -> None:
    nodes = {"a": Seen(state("a", point(own_s=0.1))), "b": Seen(state("b", point("ink", own_s=9.0)))}
    assert order(Wanted(variant="ink"), nodes)[0] == "b"
    assert order(Wanted(family="sdxl"), nodes, draw=first(1)) == ["b", "a"]  # nobody: two choices


def test_of_nodes_that_say_nothing_the_one_with_less_open_of_two_drawn_is_tried_first() -> None:
    nodes = {name: Seen(None, open_requests=n) for name, n in (("a", 5), ("b", 3), ("c", 0))}
    assert order(Wanted(), nodes, draw=first(0, 0)) == ["b", "a", "c"]
    assert order(Wanted(), nodes, draw=first(0, 1)) == ["c", "a", "b"]


def test_an_old_report_is_not_believed_but_its_node_is_not_given_up() -> None:
    nodes = {"a": Seen(state("a"), age_s=STALE_S + 1), "b": Seen(state("b", point(wait_s=60.0)))}
    assert order(Wanted(), nodes) == ["b", "a"]


def test_a_node_that_was_tried_comes_again_only_where_there_is_no_other() -> None:
    nodes = {"a": Seen(state("a")), "b": Seen(None)}
    assert order(Wanted(), nodes, "a") == ["b"]
    assert order(Wanted(), nodes, "a", "b") == ["a", "b"]


def test_several_pictures_and_larger_ones_take_longer() -> None:
    seen = Seen(state("a", point(pixels=4096, wait_s=1.0, own_s=1.0)))
    found = [choosing.prospect(w, seen) for w in (Wanted(), Wanted(n=3), Wanted(pixels=8192))]
    assert [p.finish_s for p in found if p is not None] == [2.0, 4.0, 3.0]


reports = st.builds(
    state,
    st.just("x"),
    st.builds(
        point,
        st.sampled_from(["base", "ink"]),
        wait_s=st.floats(0, 100),
        own_s=st.floats(0, 100),
        quality=st.none() | st.floats(0, 1),
    ),
    is_ready=st.booleans(),
    devices=st.integers(0, 4),
)
seen_nodes = st.builds(
    Seen,
    st.none() | reports,
    age_s=st.floats(0, 10),
    sent_s=st.floats(0, 100),
    open_requests=st.integers(0, 9),
)
wants = st.builds(
    Wanted,
    latency_s=st.none() | st.floats(0.01, 100),
    quality=st.none() | st.floats(0, 1) | st.sampled_from(["draft", "low", "medium", "high", "best"]),
    variant=st.none() | st.sampled_from(["base", "ink", "none"]),
    pixels=st.none() | st.integers(4096, 10**6),
    n=st.integers(1, 8),
)


@settings(max_examples=100)
@given(
    wants,
    st.dictionaries(st.sampled_from("abcdef"), seen_nodes, max_size=6),
    st.sets(st.sampled_from("abcdef")),
    st.integers(0, 10**6),
)
def test_every_node_that_was_not_tried_is_offered_once(
    wanted: Wanted, nodes: dict[str, Seen], avoid: set[str], chance: int
) -> None:
    found = order(wanted, nodes, *avoid, draw=lambda n: chance % n)
    assert sorted(found) == (sorted(nodes.keys() - avoid) or sorted(nodes))


@settings(max_examples=100)
@given(wants, st.dictionaries(st.sampled_from("abcdef"), seen_nodes, max_size=6))
def test_no_node_that_would_miss_the_deadline_comes_before_one_that_keeps_it(
    wanted: Wanted, nodes: dict[str, Seen]
) -> None:
    fresh = {name: seen for name, seen in nodes.items() if choosing.is_fresh(seen, STALE_S)}
    found = [choosing.prospect(wanted, nodes[name]) for name in order(wanted, fresh)]
    told = [p.keeps for p in found if p is not None]
    assert told == sorted(told, reverse=True)


# ---- what a router knows --------------------------------------------------------------------------


def heard(*nodes: NodeState, now: float = 10.0) -> Board:
    board = Board(STALE_S, lag_s=0.5)
    board.hear({node.node: states.encode(node) for node in nodes}, now)
    return board


def burst(board: Board, count: int, now: float = 10.0) -> list[str]:
    """Return where requests go that all come at once."""
    taken = []
    for i in range(count):
        taken.append(board.order(Label(), now, first())[0])
        board.book(f"r{i}", Wanted(), taken[-1], now)
    return taken


def test_a_burst_that_one_report_does_not_tell_of_is_spread() -> None:
    board = heard(state("a"), state("b"))
    assert burst(board, 4) == ["a", "b", "a", "b"]
    board.book("r0", Wanted(), "b", 10.0)  # what was first meant for a, b has taken: it counts there only
    assert burst(board, 1) == ["a"]


def test_what_was_sent_counts_until_a_report_can_know_of_it_or_it_has_ended() -> None:
    board = heard(state("a"), state("b", point(wait_s=0.5)))
    board.book("r", Wanted(), "a", 10.0)
    assert board.order(Label(), 10.0, first()) == ["b", "a"]
    told = {node: states.encode(state(node, serial=2)) for node in "ab"}
    board.hear(told, 10.4)  # within the lag: this report may not know
    assert board.order(Label(), 10.4, first()) == ["b", "a"]
    board.hear({node: states.encode(state(node, serial=3)) for node in "ab"}, 10.6)
    assert board.order(Label(), 10.6, first()) == ["a", "b"]
    board.book("r", Wanted(), "a", 10.6)
    board.unbook("r")
    assert board.order(Label(), 10.6, first()) == ["a", "b"]


def test_the_same_report_again_is_no_news_and_grows_old() -> None:
    nodes = state("a"), state("b", point(wait_s=9.0))
    board = heard(*nodes)
    for node, calls in (("a", 2), ("b", 1)):
        for _ in range(calls):
            board.opened(node)
    later = 10.0 + STALE_S + 1.0
    board.hear(
        {node.node: states.encode(node) for node in (state("a"), state("b", point(wait_s=9.0)))}, later
    )
    assert board.order(Label(), later, first()) == ["b", "a"], (
        "by what is open, for none tells anything new"
    )
    board.closed("a")
    board.closed("a")
    assert board.order(Label(), later, first()) == ["a", "b"]


def test_a_node_that_is_gone_is_forgotten_and_one_that_is_meant_is_the_only_one() -> None:
    board = heard(state("a"), state("b"))
    assert board.order(Label(only="b"), 10.0, first()) == ["b"]
    board.book("r", Wanted(), "a", 10.0)
    board.hear({"b": None}, 10.0)
    assert board.order(Label(), 10.0, first()) == ["b"]
    assert board.order(Label(only="a"), 10.0, first()) == []
    for act in (board.opened, board.closed):
        act("a")  # what it had open ends after it
    board.book("r", Wanted(), "a", 10.0)
    board.hear({"a": b"nonsense", "b": None}, 10.0)
    assert sorted(board.order(Label(), 10.0, first())) == ["a", "b"]


# ---- after a failure ------------------------------------------------------------------------------

TERMS = Terms(attempts=3, nodes=3, retries=1, left_s=100.0)


def refused(gone: Course, node: str, error: DifsError, terms: Terms = TERMS) -> Next:
    return course.refused(gone, node, error, terms, jitter=1.0)


def test_a_request_survives_two_nodes_and_not_a_third() -> None:
    once = course.lost(Course(), "a", TERMS)
    assert isinstance(once, Elsewhere)
    twice = refused(once.course, "b", BrokerLost("its broker died"))
    assert isinstance(twice, Elsewhere)
    assert twice.course.avoid == ("a", "b")
    end = course.lost(twice.course, "c", TERMS)
    assert isinstance(end, End)
    assert isinstance(end.error, ActorLost)


def test_a_full_node_costs_no_attempt_and_the_others_are_asked_before_it_rests() -> None:
    gone = Course()
    for node in "ab":
        found = refused(gone, node, Overloaded("full"))
        assert isinstance(found, Elsewhere)
        gone = found.course
    rest = refused(gone, "c", Overloaded("full", retry_after_s=4.0))
    assert rest == Rest(Course(rests=1), 4.0)
    again = refused(Course(rests=1, refused=("a", "b")), "c", Overloaded("full"))
    assert isinstance(again, End), "one retry was allowed"


@pytest.mark.parametrize(
    "error", [InvalidRequest("bad"), Cancelled("gone"), EngineFailed("broke"), ActorLost("x")]
)
def test_what_another_node_would_refuse_too_is_told_at_once(error: DifsError) -> None:
    """A request that ended every actor of a node is not given to the next one."""
    assert refused(Course(), "a", error) == End(error)


@pytest.mark.parametrize("error", [UnknownName("no such variant here"), Infeasible("too late here")])
def test_what_one_node_cannot_another_may_and_nobody_is_asked_twice(error: DifsError) -> None:
    assert isinstance(refused(Course(), "a", error), Elsewhere)
    assert refused(Course(refused=("a", "b")), "c", error) == End(error)
    assert refused(Course(refused=("a",)), "a", error) == End(error)


def test_who_wants_to_know_is_told_that_there_is_no_room() -> None:
    terms = Terms(3, 1, 5, 100.0, wants_to_know=True)
    assert isinstance(refused(Course(), "a", Overloaded("full"), terms), End)


ERRORS = (None, Overloaded("full"), BrokerLost("gone"), UnknownName("none"), Infeasible("late"))


@settings(max_examples=100)
@given(st.randoms(use_true_random=False), st.integers(1, 5), st.integers(1, 4), st.integers(0, 4))
def test_every_course_ends_and_no_more_nodes_die_of_it_than_allowed(
    chance: Random, attempts: int, nodes: int, retries: int
) -> None:
    terms, gone, deaths = Terms(attempts, nodes, retries, 100.0), Course(), 0
    for _ in range(60):
        node, error = chance.choice("abc"), chance.choice(ERRORS)
        deaths += error is None or isinstance(error, BrokerLost)
        found = course.lost(gone, node, terms) if error is None else refused(gone, node, error, terms)
        if isinstance(found, End):
            assert deaths <= attempts
            return
        gone = found.course
    raise AssertionError("it never ends")


def test_what_is_left_of_a_deadline_goes_along() -> None:
    request = builders.generate(timeout_s=10.0, latency_s=4.0)
    left = course.remaining(request, 3.0)
    assert (left.request_id, left.timeout_s, left.requirements.latency_s) == ("r1", 7.0, 1.0)
    late = course.remaining(request, 50.0)
    assert late.requirements.latency_s == late.timeout_s == course.LEAST_LEFT_S


# ---- how many nodes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backlogs", "now", "wanted"),
    [
        ((5.0, 5.0), 2, 2),
        ((15.0, 15.0), 2, 3),
        ((60.0, 30.0), 2, 6),
        ((500.0,), 1, 6),
        ((0.0, 0.0, 0.0), 3, 1),
        ((4.0, 4.0), 2, 2),
        ((2.0, 2.0), 2, 1),
        ((), 0, 1),
    ],
)
def test_nodes_come_with_the_backlog_and_go_when_the_others_can_do_it_easily(
    backlogs: tuple[float, ...], now: int, wanted: int
) -> None:
    assert scaling.wanted_nodes(backlogs, now, 10.0, least=1, most=6) == wanted


@settings(max_examples=100)
@given(
    st.lists(st.floats(0, 1e4), max_size=8),
    st.integers(0, 8),
    st.floats(0.1, 100),
    st.integers(1, 4),
    st.integers(0, 4),
)
def test_the_number_of_nodes_keeps_its_bounds_and_does_not_swing(
    backlogs: list[float], now: int, goal_s: float, least: int, more: int
) -> None:
    found = scaling.wanted_nodes(backlogs, now, goal_s, least, least + more)
    assert least <= found <= least + more
    assert scaling.wanted_nodes(backlogs, found, goal_s, least, least + more) == found


def test_ray_serve_is_answered_from_what_the_nodes_predict_and_changes_nothing_where_none_told() -> None:
    policy = scaling.ByBacklog(backlog_s=5.0)

    def told(metrics: object) -> SimpleNamespace:
        return SimpleNamespace(
            aggregated_metrics=metrics,
            target_num_replicas=2,
            capacity_adjusted_min_replicas=2,
            capacity_adjusted_max_replicas=4,
        )

    assert policy(told({scaling.BACKLOG: {"a": 9.0, "b": 3.0}})) == (3, {})
    assert policy(told({scaling.BACKLOG: {"a": 90.0, "b": 3.0}})) == (4, {})
    assert policy(told({})) == policy(told(None)) == (2, {})


def test_machines_count_that_have_what_a_node_is_given() -> None:
    machines = [{"CPU": 8.0, "GPU": 1.0, "difs": 1.0}, {"CPU": 8.0, "difs": 1.0}, {"CPU": 1.0}, {}]
    assert scaling.machines_for(machines, {"CPU": 1.0, "GPU": 0.0}) == 3
    assert scaling.machines_for(machines, {"CPU": 1.0, "difs": 1.0}) == 2
    assert scaling.machines_for(machines, {"GPU": 2.0}) == 0


# ---- what to copy ---------------------------------------------------------------------------------

INK = {"ink": 1_000}


def holder(uses: float, backlog_s: float = 60.0, node: str = "a") -> NodeState:
    return state(node, variants=INK, backlog_s=backlog_s, forecast=(Forecast("ink", uses),))


def test_a_variant_is_copied_where_that_saves_more_waiting_than_it_takes() -> None:
    idle = state("b", backlog_s=1.0, variants={"base": 5})
    found = copies.next_copy([holder(4.0), idle], Rules(bytes_per_s=10.0))
    assert found is not None
    assert (found.variant, found.source, found.target) == ("ink", "a", "b")
    assert copies.next_copy([holder(4.0), idle], Rules(bytes_per_s=1.0)) is None, "1000 s for 236 s"
    assert copies.next_copy([holder(0.5), idle], Rules()) is None, "nobody is expected to want it"
    assert copies.next_copy([holder(4.0, backlog_s=0.5), idle], Rules()) is None
    assert copies.next_copy([holder(4.0), idle], Rules(refused=frozenset({("ink", "b")}))) is None


def test_a_variant_that_shall_stand_on_two_nodes_is_copied_without_a_forecast() -> None:
    nodes = [state("a", variants=INK), state("b")]
    found = copies.next_copy(nodes, Rules(least=2))
    assert isinstance(found, Copy)
    assert found.target == "b"
    assert copies.next_copy(nodes[:1], Rules(least=2)) is None


@settings(max_examples=100)
@given(
    st.lists(
        st.builds(
            state,
            st.sampled_from("abcd"),
            variants=st.dictionaries(st.sampled_from(["ink", "oil"]), st.integers(0, 10**9)),
            backlog_s=st.floats(0, 1e3),
            is_ready=st.booleans(),
            forecast=st.lists(
                st.builds(Forecast, st.sampled_from(["ink", "oil"]), st.floats(0, 50)), max_size=2
            ).map(tuple),
        ),
        max_size=4,
        unique_by=lambda one: one.node,
    ),
    st.integers(1, 3),
)
def test_copies_go_from_who_has_it_to_who_has_it_not(nodes: list[NodeState], least: int) -> None:
    found = copies.next_copy(nodes, Rules(least=least))
    if found is not None:
        by_name = {node.node: node for node in nodes if node.is_ready}
        assert found.variant in by_name[found.source].variants
        assert found.variant not in by_name[found.target].variants
