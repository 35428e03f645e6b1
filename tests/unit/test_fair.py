"""difs.broker.fair and difs.broker.queue: who is next, and what everybody gets of the device."""

from collections import Counter
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs.broker.fair import JUMPED_S, JUMPS, SAVED, FairQueue
from difs.broker.line import Told
from difs.broker.queue import BEST_EFFORT, Queue

HOT, COLD = "loaded", "on disk"
LOADED = {HOT}
SECONDS = st.floats(0.01, 20.0)


class Line:
    """A fair queue, and the seconds that it gave to each flow."""

    def __init__(self) -> None:
        self.queue: FairQueue[int] = FairQueue()
        self.served: Counter[str] = Counter()
        self.flow_of: dict[int, tuple[str, float]] = {}
        self.numbers = count()

    def add(self, flow: str, seconds: float = 1.0, kind: str = HOT) -> int:
        """Let a flow ask for seconds; returns the item."""
        item = next(self.numbers)
        self.flow_of[item] = (flow, seconds)
        self.queue.add(item, flow=flow, order=(0.0, item), seconds=seconds, kind=kind)
        return item

    def serve(self) -> int | None:
        """Serve who is next; returns the item."""
        item = self.queue.pick(LOADED)
        if item is not None:
            self.queue.take(item)
            flow, seconds = self.flow_of[item]
            self.served[flow] += seconds  # type: ignore[assignment]
        assert list(self.queue.contradictions()) == []
        return item

    def serve_flows(self, times: int) -> str:
        """Serve so many; returns their flows."""
        return "".join(self.flow_of[item][0] for _ in range(times) if (item := self.serve()) is not None)


# ---- positions ----------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abc"), SECONDS), max_size=20), st.integers(0, 6))
@settings(max_examples=200)
def test_a_position_tells_after_how_many_an_item_is_served(
    asked: list[tuple[str, float]], served: int
) -> None:
    line = Line()
    items = [line.add(flow, seconds) for flow, seconds in asked[:12]]
    items = [item for item in items if item not in [line.serve() for _ in range(served)]]
    items += [line.add(flow, seconds) for flow, seconds in asked[12:]]
    told = {line.queue.position(item): item for item in items if item in line.queue}
    assert [told[i + 1] for i in range(len(line.queue))] == [line.serve() for _ in range(len(line.queue))]


def test_a_class_waits_for_those_before_it() -> None:
    queue: Queue[str] = Queue()
    for item, rank in (("late", BEST_EFFORT), ("usual", -5), ("urgent", -9), ("second", -5)):
        queue.add(item, rank, flow="a", order=(0.0, len(queue)), seconds=1.0, kind=HOT)
    assert [queue.position(item) for item in ("urgent", "usual", "second", "late")] == [1, 2, 3, 4]


# ---- shares -------------------------------------------------------------------------------------


def test_clients_that_wait_are_served_in_turn_however_much_one_of_them_asks() -> None:
    line = Line()
    for flow in "aaaaaabbc":
        line.add(flow)
    assert line.serve_flows(9) == "abcabaaaa"


def test_who_asks_for_little_is_served_more_often() -> None:
    line = Line()
    for flow, seconds in [("a", 3.0)] * 3 + [("b", 1.0)] * 9:
        line.add(flow, seconds)
    assert line.serve_flows(8) == "abbbabbb"


@given(
    st.lists(st.lists(SECONDS, min_size=1, max_size=5), min_size=2, max_size=6),
    st.lists(st.tuples(st.integers(0, 40), SECONDS), max_size=10),
    st.integers(1, 60),
)
@settings(max_examples=80)
def test_clients_that_wait_all_the_time_get_equal_shares_within_one_request_of_each(
    costs: list[list[float]], visitors: list[tuple[int, float]], turns: int
) -> None:
    """Every one of `costs` always has something waiting; visitors come once and go."""
    line = Line()
    asked = [0] * len(costs)

    def ask(client: int) -> None:
        line.add(str(client), costs[client][asked[client] % len(costs[client])])
        asked[client] += 1

    for client in range(len(costs)):
        ask(client)
        ask(client)
    for turn in range(turns):
        for number, (when, seconds) in enumerate(visitors):
            if when == turn:
                line.add(f"visitor {number}", seconds)
        item = line.serve()
        assert item is not None
        flow = line.flow_of[item][0]
        if flow.isdigit():
            ask(int(flow))
        for one in range(len(costs)):
            for other in range(one):
                gap = abs(line.served[str(one)] - line.served[str(other)])
                assert gap <= max(costs[one]) + max(costs[other]) + 1e-6


@given(st.lists(SECONDS, min_size=1, max_size=30), st.lists(SECONDS, min_size=1, max_size=10))
@settings(max_examples=80)
def test_who_had_an_idle_device_for_itself_owes_nothing_for_it(
    before: list[float], after: list[float]
) -> None:
    line = Line()
    for seconds in before:
        line.add("early", seconds)
        line.serve()
    line.add("early", after[0])
    line.add("late", after[0])
    assert line.serve_flows(2) in ("earlylate", "lateearly")


def test_who_waited_for_nothing_has_saved_a_few_requests_up_and_no_more() -> None:
    line = Line()
    for _ in range(2):
        line.add("a")
        line.add("b")
    line.serve_flows(4)
    for _ in range(20):
        line.add("a")
        line.serve()
    for flow in "aaaaabbbbbbbbb":
        line.add(flow)
    assert line.serve_flows(int(SAVED)) == "b" * int(SAVED)
    assert line.serve_flows(7).lstrip("b") in ("ababab", "abababa"), "in turn, from then on"


def test_a_stranger_has_saved_nothing_up() -> None:
    line = Line()
    for _ in range(20):
        line.add("a")
        line.serve()
    for flow in "aabbbb":
        line.add(flow)
    assert sorted(line.serve_flows(4)) == ["a", "a", "b", "b"]


def test_who_asks_for_little_is_served_before_who_asks_for_more_than_there_is() -> None:
    """Two clients come every tenth item, as those of another never end: they wait for none of his."""
    line = Line()
    for turn in range(100):
        line.add("greedy")
        if turn % 10 == 0:
            mine = [line.add(flow) for flow in "abab"]
            served = [line.serve() for _ in range(4)]
            assert turn < 20 or sorted(map(str, served)) == sorted(map(str, mine))
        line.serve()


# ---- nobody starves -----------------------------------------------------------------------------


@given(SECONDS, SECONDS, st.lists(SECONDS, min_size=1, max_size=5), st.integers(1, 8))
@settings(max_examples=80)
def test_no_request_starves_however_many_new_clients_come(
    debt_s: float, own_s: float, costs: list[float], company: int
) -> None:
    """A client that was just served waits, and new ones come for ever: it is served all the same."""
    line = Line()
    line.add("patient", debt_s)
    for number in range(company):
        line.add(f"first {number}", costs[number % len(costs)])
    line.serve()
    waiting = line.add("patient", own_s)
    others_s = 0.0
    for turn in count():
        line.add(f"new {turn}", costs[turn % len(costs)])
        item = line.serve()
        assert item is not None
        if item == waiting:
            break
        others_s += line.flow_of[item][1]
        assert others_s <= (company + 2) * (debt_s + max(costs)) + sum(costs), "it starves"


@given(SECONDS, SECONDS, st.integers(1, 12))
@settings(max_examples=40)
def test_no_request_starves_however_often_others_come_back(
    own_s: float, other_s: float, company: int
) -> None:
    """Others come again as soon as they are served, and had saved up all that they could."""
    line = Line()
    for name in range(company):
        line.add(f"friend {name}", other_s)
        line.serve()
    for _ in range(20):
        line.add("patient", own_s)
        line.serve()
    waiting = line.add("patient", own_s)
    others_s = 0.0
    for turn in count():
        line.add(f"friend {turn % company}", other_s)
        if line.serve() == waiting:
            break
        others_s += other_s
        assert others_s <= (company + 2) * (SAVED + 3) * max(own_s, other_s), "it starves"


def test_a_new_client_waits_for_one_request_of_each_other_at_most() -> None:
    line = Line()
    for flow in "abc" * 20:
        line.add(flow)
    line.serve_flows(30)
    new = line.add("new")
    assert new in {line.serve() for _ in range(4)}


# ---- what is not served -------------------------------------------------------------------------


def test_what_was_charged_and_not_used_is_given_back() -> None:
    line = Line()
    for flow, seconds in (("a", 9.0), ("a", 1.0), ("b", 1.0), ("b", 1.0), ("b", 1.0)):
        line.add(flow, seconds)
    assert line.serve_flows(1) == "a"
    line.queue.refund("a", 8.5)
    assert line.serve_flows(4) == "babb"
    line.queue.refund("unheard-of", 1.0)


def test_what_took_longer_than_predicted_is_charged_as_it_was() -> None:
    line = Line()
    for flow in "aabbb":
        line.add(flow)
    assert line.serve_flows(1) == "a"
    line.queue.refund("a", -1.5)
    assert line.serve_flows(4) == "bbba"


def test_what_left_may_come_back() -> None:
    line = Line()
    first, second = line.add("a"), line.add("a")
    for _ in range(3):
        line.queue.discard(second)
        line.queue.add(second, flow="a", order=(0.0, second), seconds=1.0, kind=COLD)
    assert [line.serve(), line.serve(), line.serve()] == [first, second, None]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), SECONDS, st.booleans()), max_size=80))
@settings(max_examples=80)
def test_whatever_comes_and_goes_each_is_served_once_and_in_the_order_of_its_client(
    actions: list[tuple[int, int, float, bool]],
) -> None:
    line = Line()
    waiting: list[int] = []
    for what, which, seconds, is_hot in actions:
        if what == 0 or not waiting:
            waiting.append(line.add(f"client {which % 3}", seconds, HOT if is_hot else COLD))
        elif what == 1:
            gone = waiting.pop(which % len(waiting))
            line.queue.discard(gone)
            line.queue.discard(gone)
        elif what == 2:
            line.queue.refund(f"client {which % 3}", seconds if is_hot else -seconds)
        else:
            item = line.serve()
            assert item is not None
            waiting.remove(item)
            flow = line.flow_of[item][0]
            assert item < min((i for i in waiting if line.flow_of[i][0] == flow), default=item + 1)
        assert list(line.queue.contradictions()) == []
        assert sorted(line.queue) == sorted(waiting)
    while (item := line.serve()) is not None:
        waiting.remove(item)
    assert waiting == []


# ---- what is loaded -----------------------------------------------------------------------------


def test_what_is_loaded_goes_ahead_of_what_is_not_but_only_so_often() -> None:
    line = Line()
    cold = line.add("a", kind=COLD)
    for flow in "bcdefghij":
        line.add(flow, 0.01)
    order = [line.serve() for _ in range(10)]
    assert order.index(cold) == JUMPS


def test_nobody_goes_ahead_for_more_seconds_than_are_bearable() -> None:
    line = Line()
    cold = line.add("a", kind=COLD)
    for flow in "bcd":
        line.add(flow, 0.6 * JUMPED_S)
    assert [line.serve() for _ in range(2)][1] == cold
    alone = Line()
    cold = alone.add("a", kind=COLD)
    alone.add("b", 1.1 * JUMPED_S)
    assert alone.serve() == cold


def test_nobody_goes_ahead_of_what_is_loaded_itself() -> None:
    line = Line()
    for flow, kind in (("a", HOT), ("b", COLD), ("c", HOT)):
        line.add(flow, kind=kind)
    assert line.serve_flows(3) == "acb"


def test_who_went_ahead_has_had_its_share() -> None:
    line = Line()
    line.add("a", kind=COLD)
    line.add("b")
    line.add("b", kind=COLD)
    line.add("c", kind=COLD)
    assert line.serve_flows(4) == "bacb"


# ---- it stays small -----------------------------------------------------------------------------


def test_ten_thousand_requests_of_a_thousand_clients_leave_nothing_behind() -> None:
    line = Line()
    items = [line.add(f"client {i % 1000}", 1.0 + i % 7) for i in range(10_000)]
    for item in items[::3]:
        line.queue.discard(item)
    for _ in range(6000):
        found = line.queue.pick(LOADED)
        assert found is not None
        line.queue.take(found)
    assert len(line.queue) == 10_000 - 3334 - 6000
    assert list(line.queue.contradictions()) == []
    while (found := line.queue.pick(LOADED)) is not None:
        line.queue.take(found)
    line.queue.forget()
    assert not line.queue._flows
    assert not line.queue._tops


def test_clients_that_came_once_are_forgotten() -> None:
    line = Line()
    for i in range(500):
        line.add("always")
        line.add(f"once {i}")
        line.serve_flows(2)
    assert len(line.queue._flows) < 100
    assert sum(len(tops) for tops in line.queue._tops.values()) < 100


# ---- classes ------------------------------------------------------------------------------------


def put(queue: Queue[str], item: str, rank: int) -> None:
    queue.add(item, rank, flow=item, order=(0.0, len(queue)), seconds=1.0, kind=HOT)


def test_a_class_is_served_when_no_lesser_one_waits() -> None:
    queue: Queue[str] = Queue()
    for item, rank in (("best effort", BEST_EFFORT), ("low", 0), ("high", -9), ("normal", -5)):
        put(queue, item, rank)
    assert (len(queue), queue.urgent) == (4, 3)
    order = []
    while (found := queue.pick(LOADED)) is not None:
        order.append(found)
        queue.take(found)
    assert order == ["high", "normal", "low", "best effort"]
    assert (len(queue), queue.urgent) == (0, 0)


def test_shares_are_those_of_a_class() -> None:
    queue: Queue[str] = Queue()
    for item, rank, flow in (("a1", -9, "a"), ("a2", -5, "a"), ("a3", -5, "a"), ("b", -5, "b")):
        queue.add(item, rank, flow=flow, order=(0.0, len(queue)), seconds=5.0, kind=HOT)
    queue.take("a1")
    queue.take("a2")
    assert queue.pick(LOADED) == "b"
    queue.refund(-5, "a", 5.0)
    assert queue.pick(LOADED) == "a3", "as if it had not been served"
    queue.refund(-7, "a", 5.0)


@pytest.mark.parametrize("item", ["here", "gone"])
def test_what_leaves_a_queue_leaves_its_class(item: str) -> None:
    queue: Queue[str] = Queue()
    put(queue, "here", -5)
    queue.discard(item)
    assert ("here" in queue) == (item == "gone")
    assert list(queue.contradictions()) == []


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["late", "told", "out", "served"]))))
def test_how_many_are_late_is_known_without_a_look_at_all(moves: list[tuple[str, str]]) -> None:
    queue: Queue[str] = Queue()
    expected: set[str] = set()
    for number, (item, what) in enumerate(moves):
        if what == "served" and item in queue:
            queue.take(item)
        else:
            queue.discard(item)
        expected.discard(item)
        if what in ("late", "told"):
            told: Told = "late" if what == "late" else "foretold"
            queue.add(item, -5, flow=item, order=(0.0, number), seconds=1.0, kind="k", told=told)
            expected |= {item} if what == "late" else set()
        assert queue.late == len(expected)
        assert not list(queue.contradictions())
