"""difs.broker: shares of a device among clients, and best effort that gives way."""

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bench import fault_trials
from bench.report import percentile
from difs.actor_messages import Abort, Execute, Loaded, LoadVariant
from difs.broker.effects import Effect
from difs.broker.events import ActorUnreachable
from difs.broker.fair import JUMPS
from difs.messages import Accepted, Cancel, Result
from difs.policy.base import Options
from difs.policy.static import Static
from tests import builders
from tests.builders import (
    CLIENT,
    KIB,
    OTHER_CLIENT,
    TWO,
    House,
    ended,
    executes,
    finished,
    free_slots,
    is_over,
    only,
    served,
    stepped,
    told,
)

ANN, BOB, EVE = b"ann", b"bob", b"eve"


def finish_all(house: House, running: Execute, limit: int = 1000) -> list[str]:
    """Finish one after the other, on a device with one credit; returns what is dispatched, in order."""
    order = []
    for _ in range(limit):
        found = told(house.tell(finished(running, steps_s=0.01 * running.steps)), Execute)
        if not found:
            break
        (running,) = found
        order.append(running.request_id)
    return order


# ---- shares -------------------------------------------------------------------------------------


def test_clients_that_wait_share_a_device_whoever_came_first() -> None:
    house = served(credits=1)
    running = only(house.ask("a0", ANN), Execute)
    for name in ("a1", "a2", "a3"):
        house.ask(name, ANN)
    for name in ("b1", "b2"):
        house.ask(name, BOB)
    house.ask("e1", EVE)
    assert finish_all(house, running) == ["b1", "e1", "a1", "b2", "a2", "a3"]


def test_a_share_is_of_device_seconds_and_not_of_requests() -> None:
    house = served(credits=1)
    running = only(house.ask("a0", ANN, steps=40), Execute)
    house.ask("a1", ANN)
    for i in range(4):
        house.ask(f"b{i}", BOB, steps=10)
    assert finish_all(house, running) == ["b0", "b1", "b2", "b3", "a1"]


def test_what_was_cancelled_is_not_charged_but_for_the_step_under_way() -> None:
    house = served(credits=1)
    running = only(house.ask("a0", ANN, steps=50), Execute)
    house.ask("a1", ANN)
    house.ask("b1", BOB)
    house.ask("b2", BOB)
    house.ask(Cancel("a0"), ANN)
    first = only(house.tell(ended(running)), Execute)
    assert [first.request_id, *finish_all(house, first)] == ["b1", "a1", "b2"]


def test_what_was_done_before_a_cancel_is_charged() -> None:
    house = served(credits=1)
    running = only(house.ask("a0", ANN, steps=50), Execute)
    for step in range(1, 31):
        house.tell(stepped(running, step))
    for name, client in (("a1", ANN), ("b1", BOB), ("b2", BOB)):
        house.ask(name, client)
    house.ask(Cancel("a0"), ANN)
    first = only(house.tell(ended(running)), Execute)
    assert [first.request_id, *finish_all(house, first)] == ["b1", "b2", "a1"]


def test_a_device_is_charged_as_long_as_it_took_and_not_as_was_predicted() -> None:
    house = served(credits=1)
    running = only(house.ask("a0", ANN), Execute)
    for name, client in (("a1", ANN), ("b1", BOB), ("b2", BOB), ("b3", BOB)):
        house.ask(name, client)
    found = only(house.tell(finished(running, steps_s=0.6)), Execute)
    assert [found.request_id, *finish_all(house, found)] == ["b1", "b2", "b3", "a1"]


def test_seconds_of_a_call_that_others_shared_count_in_part() -> None:
    house = served(credits=1)
    running = only(house.ask("a0", ANN), Execute)
    for name, client in (("a1", ANN), ("b1", BOB), ("b2", BOB), ("b3", BOB)):
        house.ask(name, client)
    found = only(house.tell(finished(running, steps_s=0.6, shared_by=4.0)), Execute)
    assert [found.request_id, *finish_all(house, found)] == ["b1", "a1", "b2", "b3"]


def test_who_goes_on_over_another_connection_waits_for_its_share_there() -> None:
    house = served(credits=1)
    running = only(house.ask("a0", ANN), Execute)
    house.ask("a1", ANN)
    house.ask("a2", ANN)
    house.ask("a1", BOB)
    house.ask("e1", EVE)
    assert finish_all(house, running) == ["a1", "e1", "a2"]
    assert is_over(house)


def test_who_is_next_since_another_goes_on_over_another_connection_begins_at_once() -> None:
    house = served(credits=3)
    house.ask("b0", BOB, n=3)
    assert not told(house.ask("a1", ANN, n=2), Execute), "one slot is free"
    assert not told(house.ask("e1", EVE), Execute), "a1 is next"
    effects = house.ask("a1", BOB, n=2)
    assert only(effects, Execute).request_id == "e1", "who was served takes a1 upon himself"
    assert only(effects, Accepted, BOB).request_id == "a1"


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from([ANN, BOB, EVE]), st.integers(4, 50)), min_size=12, max_size=40),
)
def test_clients_that_wait_all_the_time_get_equal_shares_of_a_device(
    asked: list[tuple[bytes, int]],
) -> None:
    house = served(credits=1)
    running = only(house.ask("first", b"nobody"), Execute)
    cost, client_of, left = {}, {}, Counter[bytes]()
    for i, (client, steps) in enumerate(asked):
        house.ask(f"r{i}", client, steps=steps)
        cost[f"r{i}"], client_of[f"r{i}"] = 0.03 + 0.01 * steps, client
        left[client] += 1
    got = dict.fromkeys(left, 0.0)
    while all(left.values()):
        took_s = {"encode_s": 0.0, "steps_s": cost.get(running.request_id, 0.23), "decode_s": 0.0}
        running = only(house.tell(finished(running, **took_s)), Execute)
        client = client_of[running.request_id]
        left[client] -= 1
        got[client] += cost[running.request_id]
        assert max(got.values()) - min(got.values()) <= 2 * 0.53 + 1e-6


def test_a_policy_that_orders_the_queue_takes_the_place_of_shares() -> None:
    class Backwards:
        """The last that came is the first."""

        name = "backwards"

        def decide(self, view: Any, request: Any) -> Any:
            found = Static(Options()).decide(view, request)
            return replace(found, order=-float(view.decisions))

    house = served(credits=1, policy=Backwards())
    running = only(house.ask("a0", ANN), Execute)
    for name, client in (("a1", ANN), ("a2", ANN), ("b1", BOB), ("b2", BOB)):
        house.ask(name, client)
    assert finish_all(house, running) == ["b2", "b1", "a2", "a1"]


def test_others_wait_little_longer_beside_a_client_who_asks_a_hundred_times_as_often() -> None:
    alone_s, beside_s = fault_trials.beside_greedy(100.0, seeds=range(3))
    assert percentile(beside_s, 0.95) <= 1.5 * percentile(alone_s, 0.95)
    assert len(beside_s) == len(alone_s), "and none of theirs was refused"


# ---- what is loaded -----------------------------------------------------------------------------


def test_a_request_that_must_load_is_passed_a_few_times_and_then_served() -> None:
    house = served(credits=1, variants=TWO)
    running = only(house.ask("a0", ANN), Execute)
    house.ask("cold", BOB, variant="wide")
    for i in range(8):
        house.ask(f"r{i}", f"client {i}".encode())
    order = []
    while running.request_id != "cold":
        effects = house.tell(finished(running))
        running = only(effects, Execute)
        order.append(running.request_id)
    assert order.index("cold") == JUMPS
    assert only(effects, LoadVariant).variant == "wide"


def test_what_is_on_its_way_to_the_device_is_passed_by_nobody() -> None:
    house = served(credits=2, variants=TWO)
    house.ask("w0", EVE, variant="wide")
    running = only(house.ask("a0", ANN), Execute)
    house.ask("w1", BOB, variant="wide")
    house.ask("a1", ANN)
    assert executes(house.tell(finished(running))) == ["w1"]
    house.tell(Loaded(builders.resident("wide")))


# ---- best effort --------------------------------------------------------------------------------


def busy_with_best_effort(credits_: int = 1, **options: Any) -> tuple[House, list[Execute]]:
    """Return a house whose device works on best effort alone, in all its places."""
    house = served(credits=credits_, **options)
    found = [only(house.ask(f"spare {i}", EVE, best_effort=True), Execute) for i in range(credits_)]
    return house, found


def test_best_effort_is_dispatched_when_nothing_else_waits() -> None:
    house = served(credits=1)
    running = only(house.ask("a0", ANN), Execute)
    house.ask("spare", EVE, best_effort=True, priority=9)
    house.ask("low", BOB, priority=0)
    assert finish_all(house, running) == ["low", "spare"]


def test_an_actor_is_told_what_gives_way() -> None:
    house = served()
    assert only(house.ask("spare", best_effort=True), Execute).is_best_effort
    assert not only(house.ask("a"), Execute).is_best_effort


def test_best_effort_gives_its_credit_to_other_work_and_begins_anew_later() -> None:
    house, (spare,) = busy_with_best_effort()
    for step in (1, 2, 3):
        house.tell(stepped(spare, step))
    effects = house.ask("a", ANN)
    assert only(effects, Abort, b"cpu-0").attempt == spare.attempt
    assert executes(effects) == []
    effects = house.tell(ended(spare))
    running = only(effects, Execute)
    assert running.request_id == "a", "after the unit that was at work"
    effects = house.tell(finished(running))
    again = only(effects, Execute)
    assert (again.request_id, again.seeds) == ("spare 0", spare.seeds)
    assert only(effects, Accepted, EVE).attempt == 2
    result = only(house.tell(finished(again)), Result, EVE)
    assert result.notes == ("best effort: it gave its place to other work, and began anew",)
    assert is_over(house)


def test_only_as_much_best_effort_stops_as_is_in_the_way() -> None:
    house, found = busy_with_best_effort(3)
    assert [m.attempt for m in told(house.ask("a", ANN), Abort)] == [found[2].attempt]
    assert [m.attempt for m in told(house.ask("b", BOB), Abort)] == [found[1].attempt]
    assert executes(house.tell(ended(found[1]))) == ["a"]
    assert executes(house.tell(ended(found[2]))) == ["b"]
    assert house.state.books.counts["recalled"] == 2


def test_best_effort_gives_its_slots_to_other_work() -> None:
    house, found = busy_with_best_effort(3, slots=((64 * KIB, 3),))
    house.ask(Cancel("spare 0"), EVE)
    house.tell(ended(found[0]))
    assert free_slots(house) == 1
    effects = house.ask("a", ANN, n=2)
    assert sorted(m.attempt for m in told(effects, Abort)) == [found[1].attempt, found[2].attempt]
    assert executes(house.tell(ended(found[1]))) == ["a"]
    assert executes(house.tell(ended(found[2]))) == ["spare 1"], "there is room again"


def test_best_effort_that_killed_its_actor_is_in_nobodys_way() -> None:
    house = served(credits=2)
    house.ask("spare", EVE, best_effort=True)
    house.handle(ActorUnreachable(b"cpu-0"))
    spare = only(house.join(route=b"new", incarnation="new"), Execute)
    effects = house.ask("a", ANN)
    assert only(effects, Abort).attempt == spare.attempt
    assert executes(house.tell(ended(spare), b"new")) == ["a"]


def test_best_effort_is_not_stopped_by_best_effort() -> None:
    house, _ = busy_with_best_effort()
    assert told(house.ask("more", BOB, best_effort=True), Abort) == []


def test_best_effort_is_no_backlog_of_other_work() -> None:
    house, _ = busy_with_best_effort(2)
    house.ask("spare 2", EVE, best_effort=True)
    assert queue_s(house.ask("a", CLIENT)) == 0.0
    assert queue_s(house.ask("spare 3", EVE, best_effort=True)) > 0.9
    assert round(queue_s(house.ask("b", OTHER_CLIENT)), 9) == 0.23


def queue_s(effects: list[Effect]) -> float:
    """Return how long the request that was accepted is predicted to wait."""
    plan = told(effects, Accepted)[-1].plan
    assert plan is not None
    return plan.prediction.queue_s
