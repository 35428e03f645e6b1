"""difs.broker: what is dispatched when and where, and what the broker learns from it."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from difs.actor_messages import (
    Abort,
    Ended,
    Execute,
    Leaving,
    Loaded,
    LoadVariant,
)
from difs.broker import dispatch
from difs.broker.effects import Effect, TellClient
from difs.broker.events import ActorUnreachable, Delivered
from difs.broker.states import AttemptState
from difs.messages import (
    Accepted,
    Adapter,
    Cancel,
    Error,
    Release,
    Result,
)
from tests import builders
from tests.builders import (
    CLIENT,
    KIB,
    OTHER_CLIENT,
    POOL_OF_4,
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

# ---- queue --------------------------------------------------------------------------------------


def test_no_more_is_dispatched_than_there_are_credits() -> None:
    house = served(credits=2)
    first = only(house.ask("a"), Execute)
    assert executes(house.ask("b")) == ["b"]
    effects = house.ask("c")
    assert executes(effects) == []
    assert only(effects, Accepted).attempt == 0
    assert executes(house.tell(finished(first))) == ["c"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3), st.booleans()), min_size=1, max_size=14))
def test_a_new_request_is_dispatched_at_once_and_a_second_look_finds_nothing(
    wishes: list[tuple[bool, int, bool]],
) -> None:
    house = served(credits=3, devices=("cpu-0", "cpu-1"))
    for number, (ends, n, best_effort) in enumerate(wishes):
        running = [a for a in house.state.books.attempts.values() if a.state is AttemptState.RUNNING]
        if ends and running:
            house.tell(Ended(running[0].number, "internal", ""), running[0].actor.route)
        house.ask(f"r{number}", n=n, best_effort=best_effort)
        house.state.books.effects = []
        dispatch.dispatch(house.state.books, house.now)
        assert house.state.books.effects == []


def test_a_higher_priority_goes_first_and_best_effort_goes_last() -> None:
    house = served(credits=1)
    running = only(house.ask("running"), Execute)
    house.ask("best effort", best_effort=True, priority=9)
    for name, priority in [("low", 0), ("normal", 5), ("normal-2", 5), ("high", 9)]:
        house.ask(name, priority=priority)
    order = []
    while True:
        effects = house.tell(finished(running))
        if not told(effects, Execute):
            break
        running = only(effects, Execute)
        order.append(running.request_id)
    assert order == ["high", "normal", "normal-2", "low", "best effort"]


def test_a_full_slot_pool_queues_and_goes_on_when_a_slot_is_free() -> None:
    house = served(credits=8)
    running = [only(house.ask(f"r{i}", n=2), Execute) for i in range(2)]
    assert free_slots(house) == 0
    assert executes(house.ask("waits", n=3)) == []
    assert executes(house.ask("behind it", n=1)) == []
    assert executes(house.tell(finished(running[0]))) == [], "no overtaking"
    assert executes(house.tell(finished(running[1]))) == ["waits", "behind it"]


def test_held_slots_delay_dispatch_until_they_are_released() -> None:
    house = served(slots=((64 * KIB, 1),))
    result = only(house.tell(finished(only(house.ask("a", mode="shm"), Execute))), Result)
    assert executes(house.ask("b")) == []
    lease = result.images[0].lease
    assert isinstance(lease, int)
    assert executes(house.ask(Release((lease,)))) == ["b"]


def full_and_idle(**changes: Any) -> House:
    """Return a house in which a client holds the only slot of cpu-0, and cpu-1 has a free one."""
    house = House(devices=("cpu-0", "cpu-1"), slots=((64 * KIB, 1),), actor_silence=1000.0)
    house.join("cpu-0")
    house.tell(finished(only(house.ask("holds", mode="shm"), Execute)))
    house.join("cpu-1", **changes)
    return house


def test_a_device_whose_slots_are_all_held_is_passed_over() -> None:
    house = full_and_idle()
    effects = house.ask("a")
    assert only(effects, Execute, b"cpu-1").request_id == "a"
    assert len(told(effects, Accepted)) == 1


def test_what_waits_for_slots_moves_to_a_device_that_has_some() -> None:
    house = House(devices=("cpu-0", "cpu-1"), slots=((64 * KIB, 2),))
    house.join("cpu-1", credits=3)
    house.ask("first", n=2)
    assert executes(house.ask("second", n=2)) == []
    effects = house.join("cpu-0")
    assert only(effects, Execute, b"cpu-0").request_id == "second"
    plan = told(effects, Accepted, CLIENT)[-1].plan
    assert plan is not None
    assert plan.device == "cpu-0"


def test_a_request_that_no_other_device_may_take_waits_quietly() -> None:
    house = full_and_idle(residents=())
    hurried: dict[str, Any] = {"latency_s": 1.0, "on_infeasible": "reject"}  # a load would take 15 s
    assert len(told(house.ask("a", **hurried), Accepted)) == 1
    decisions = house.state.books.decisions
    for _ in range(10):
        assert told(house.wait(0.1), Accepted) == [], "its plan is as it was"
    assert house.state.books.requests["a"].is_open
    actor = house.state.books.by_device["cpu-0"]
    assert [request.message.request_id for request in house.state.books.queued_on(actor)] == ["a"]
    assert house.state.books.decisions - decisions <= 10
    effects = house.tell(Leaving())
    assert only(effects, Error, CLIENT).code == "overloaded", "now the other is all there is"
    assert house.state.books.requests == {}


def test_a_request_moves_only_where_it_can_begin_at_once() -> None:
    house = House(devices=("cpu-0", "cpu-1"), slots=((64 * KIB, 2),), actor_silence=1000.0)
    house.join("cpu-0", credits=1)
    house.tell(finished(only(house.ask("holds cpu-0", mode="shm", n=2), Execute)))
    house.join("cpu-1", credits=1)
    running = only(house.ask("fills cpu-1", OTHER_CLIENT, n=2), Execute, b"cpu-1")
    house.ask("moves")
    for step in range(1, 31):
        house.tell(stepped(running, step), b"cpu-1")
    house.ask("goes first", OTHER_CLIENT, n=2, mode="shm", priority=9)

    def queued() -> list[list[str]]:
        books = house.state.books
        return [[r.message.request_id for r in books.queued_on(actor)] for actor in books.ready]

    assert queued() == [["moves"], ["goes first"]]
    effects = house.tell(finished(running), b"cpu-1")
    assert executes(effects) == ["goes first"]
    assert queued() == [["moves"], []], "what stood there took the room"
    house.tell(finished(only(effects, Execute)), b"cpu-1")
    assert queued() == [["moves"], []], "nobody has room"
    effects = house.ask(Release(tuple(house.state.books.clients[CLIENT].leases)))
    assert only(effects, Execute, b"cpu-0").request_id == "moves"
    assert queued() == [[], []]
    assert len(told(house.tell(finished(only(effects, Execute))), Result, CLIENT)) == 1


def test_two_full_queues_do_not_throw_their_requests_to_and_fro() -> None:
    house = House(devices=("cpu-0", "cpu-1"), slots=((64 * KIB, 1),), delivers=False)
    for device in ("cpu-0", "cpu-1"):
        house.join(device, credits=4)
    running = [only(house.ask(f"first {i}"), Execute) for i in range(2)]
    for i in range(40):
        house.ask(f"waits {i}")
    decisions = house.state.books.decisions
    for route, execute in zip((b"cpu-0", b"cpu-1"), running, strict=True):
        house.tell(finished(execute), route)  # its slot is not free before the picture was copied
    assert house.state.books.decisions == decisions
    house.handle(Delivered(tuple(house.state.books.holds)[:1]))
    assert house.state.books.decisions - decisions <= 2


def test_each_device_has_a_queue_and_the_one_with_least_work_is_chosen() -> None:
    house = served(devices=("cpu-0", "cpu-1"), credits=1)
    devices = [only(house.ask(name), Accepted).plan for name in ("a", "b", "c", "d")]
    assert Counter(plan.device for plan in devices if plan) == {"cpu-0": 2, "cpu-1": 2}


def test_a_variant_that_is_not_resident_is_loaded_before_it_is_used() -> None:
    house = served(variants=TWO)
    effects = house.ask("a", variant="wide")
    assert [type(m) for m in told(effects, object, b"cpu-0")] == [LoadVariant, Execute]
    assert told(house.ask("b", variant="wide"), LoadVariant) == []
    house.tell(Loaded(builders.resident("wide")))
    assert told(house.ask("c", variant="wide"), LoadVariant) == []


# ---- deadlines ----------------------------------------------------------------------------------


def test_a_queued_request_expires_at_its_deadline() -> None:
    house = served(credits=1)
    house.ask("running")
    house.ask("waits", timeout_s=5.0)
    assert told(house.wait(4.9), Error) == []
    error = only(house.wait(0.1), Error, CLIENT)
    assert (error.code, error.request_id) == ("expired", "waits")
    assert "while it was queued" in error.message


def test_who_expires_in_the_queue_is_told_of_slots_that_others_hold() -> None:
    house = served(slots=((64 * KIB, 1),), actor_silence=60.0)
    assert "slots" not in only(expired_in_queue(house, held=False), Error, CLIENT).message
    house = served(slots=((64 * KIB, 1),), actor_silence=60.0)
    message = only(expired_in_queue(house, held=True), Error, CLIENT).message
    assert message.endswith("while it was queued; 1 shared-memory slots are held by clients")


def expired_in_queue(house: House, *, held: bool) -> list[Effect]:
    """Let a request expire while the only slot is held by a client, or in use."""
    execute = only(house.ask("other", OTHER_CLIENT, mode="shm"), Execute)
    if held:
        house.tell(finished(execute))
    house.ask("a", timeout_s=5.0)
    return house.wait(5.0)


def test_who_expires_at_work_is_not_told_of_slots() -> None:
    house = served(actor_silence=60.0)
    house.tell(finished(only(house.ask("held", mode="shm"), Execute)))
    house.ask("a", timeout_s=5.0)
    assert only(house.wait(5.0), Error).message == "timeout_s 5 passed"


def test_a_running_request_is_aborted_at_its_deadline() -> None:
    house = served(actor_silence=60.0)
    execute = only(house.ask("a", timeout_s=5.0), Execute)
    effects = house.wait(5.0)
    assert only(effects, Abort, b"cpu-0").attempt == execute.attempt
    assert only(effects, Error, CLIENT).code == "expired"
    assert free_slots(house) == POOL_OF_4 - 1, "its actor may still write"
    assert house.tell(ended(execute)) == []
    assert is_over(house)


def test_what_finishes_after_its_deadline_is_no_result() -> None:
    house = served()
    execute = only(house.ask("a", timeout_s=5.0), Execute)
    house.now = 5.1
    effects = house.tell(finished(execute))
    assert [type(effect.message) for effect in effects if isinstance(effect, TellClient)] == [Error]
    assert only(effects, Error).code == "expired"
    assert told(effects, Abort) == [], "there is nothing left to abort"
    assert is_over(house)


def test_nothing_is_dispatched_after_its_deadline() -> None:
    house = served(credits=1)
    running = only(house.ask("running"), Execute)
    house.ask("late", timeout_s=5.0)
    house.now = 6.0
    effects = house.tell(finished(running))
    assert executes(effects) == []
    assert told(effects, Error)[-1].request_id == "late"


def test_an_actor_that_sees_the_deadline_first_expires_the_request() -> None:
    house = served()
    execute = only(house.ask("a"), Execute)
    error = only(house.tell(ended(execute, "expired")), Error, CLIENT)
    assert error.code == "expired"
    assert is_over(house)


def test_a_request_that_can_never_begin_in_time_is_never_accepted_after_its_end() -> None:
    house = served()
    house.wait(1.0)
    effects = house.ask("a", timeout_s=1e-300)
    assert not told(effects, Accepted) or told(effects, object, CLIENT)[-1] == only(effects, Error)
    assert house.state.books.requests == {}


def test_the_broker_wakes_in_time_for_the_next_deadline() -> None:
    house = served()
    house.wait(0.0)
    house.ask("a", timeout_s=0.3)
    assert house.state.next_wake() == pytest.approx(0.3)
    house.wait(0.3)
    assert house.state.next_wake() == pytest.approx(0.5), "then for the next beat"


# ---- how an actor is told to serve it -----------------------------------------------------------


def test_what_nobody_hurries_is_due_when_it_was_predicted() -> None:
    house = served(now=100.0, credits=1)
    first = only(house.ask("a"), Execute)
    assert first.latest == 0.0
    assert first.due == pytest.approx(100.23)
    house.ask("b")
    house.now = 100.3
    second = only(house.tell(finished(first)), Execute)
    assert second.latest == 0.0
    assert second.due == pytest.approx(100.46), "counted from its arrival"


def test_a_stated_latency_that_was_promised_is_kept_beside_the_prediction() -> None:
    execute = only(served(now=100.0).ask("a", latency_s=2.5), Execute)
    assert execute.due == pytest.approx(100.23), "served in its turn, not as late as allowed"
    assert execute.latest == 102.5
    late = only(served(now=100.0).ask("a", latency_s=0.05), Execute)
    assert late.latest == 0.0, "nobody who was told a time is made late for what was not promised"
    assert late.due == pytest.approx(100.07), (
        "it could not be had in time by anybody: its turn is its turn"
    )


@pytest.mark.parametrize("wishes", [{}, {"latency_s": 2.5}])
def test_a_best_effort_has_until_its_deadline(wishes: dict[str, Any]) -> None:
    execute = only(served(now=100.0).ask("a", best_effort=True, **wishes), Execute)
    assert (execute.due, execute.latest) == (execute.deadline, 0.0)


def test_nothing_is_due_after_its_deadline() -> None:
    execute = only(served(now=100.0).ask("a", latency_s=50.0, timeout_s=5.0), Execute)
    assert execute.latest == execute.deadline == 105.0
    assert execute.due < execute.deadline


def test_who_wants_the_same_bits_runs_alone() -> None:
    house = served(credits=3)
    assert not only(house.ask("a"), Execute).is_alone
    assert only(house.ask("b", deterministic=True), Execute).is_alone
    assert executes(house.ask("c")) == ["c"], "alone in its calls, not on its device"


def test_what_was_on_a_dead_actor_shares_no_call() -> None:
    house = served()
    assert not only(house.ask("a"), Execute).is_alone
    house.handle(ActorUnreachable(b"cpu-0"))
    assert only(house.join(route=b"new", incarnation="new"), Execute).is_alone


def test_previews_and_adapters_are_the_actors_to_know() -> None:
    house = served(adapters=[builders.adapter("ink"), builders.adapter("oil")])
    adapters = (Adapter("ink", 0.5), Adapter("oil"))
    execute = only(house.ask("a", preview_every=4, adapters=adapters), Execute)
    assert (execute.preview_every, execute.adapters) == (4, adapters)


# ---- backlog ------------------------------------------------------------------------------------


def test_a_backlog_is_predicted_and_ends_with_the_work() -> None:
    house = served(credits=1)
    first = only(house.ask("a"), Execute)
    plan = only(house.ask("b"), Accepted).plan
    assert plan is not None
    assert plan.prediction.queue_s == pytest.approx(0.23)
    house.tell(stepped(first, 1))
    (actor,) = house.state.books.ready
    assert actor.backlog_s == pytest.approx(0.46 - 0.01)
    house.tell(finished(only(house.tell(finished(first)), Execute)))
    assert actor.backlog_s == 0.0


def sharing(**options: Any) -> House:
    """Return a house in which a step of four images takes only twice as long as that of one."""
    house = House(**options)
    house.join(residents=(builders.resident("tiny", builders.SHARED),), credits=8)
    return house


STEP_S = {1: 0.01, 2: (0.01 + 0.02 / 6) / 2, 3: (0.01 + 0.04 / 6) / 3, 4: 0.005}
"""What a step of one guided image takes of that device when so many images share it."""


def share_s(images: int, steps: int = 20) -> float:
    """Return what one of so many images takes of the device, without its encoding."""
    return steps * STEP_S[images] + 0.02


def backlog_s(house: House) -> float:
    """Return the backlog of the only device."""
    (actor,) = house.state.books.ready
    return actor.backlog_s


def test_a_backlog_is_what_the_work_takes_of_a_device_that_shares_its_calls() -> None:
    house = sharing()
    plan = only(house.ask("a"), Accepted).plan
    assert plan is not None
    assert plan.prediction.total_s == pytest.approx(0.23), "nobody is there to share with yet"
    assert backlog_s(house) == pytest.approx(0.23)
    house.ask("b", n=3)
    assert backlog_s(house) == pytest.approx(0.23 + 0.01 + 3 * share_s(4)), "four are there now"
    house.ask("c", n=3)
    assert backlog_s(house) == pytest.approx(0.23 + 2 * (0.01 + 3 * share_s(4))), "more do not pay"


def test_who_runs_alone_takes_the_device_for_as_long_as_predicted() -> None:
    house = sharing()
    plan = only(house.ask("a", n=3, deterministic=True), Accepted).plan
    assert plan is not None
    assert plan.prediction.total_s == pytest.approx(0.01 + 3 * (20 * 0.01 + 0.02))
    assert backlog_s(house) == pytest.approx(plan.prediction.total_s)


def test_a_suspect_takes_the_device_alone() -> None:
    house = sharing()
    house.ask("a", n=3)
    assert backlog_s(house) == pytest.approx(0.01 + 3 * share_s(3))
    house.handle(ActorUnreachable(b"cpu-0"))
    house.join(route=b"new", incarnation="new", residents=(builders.resident("tiny", builders.SHARED),))
    assert backlog_s(house) == pytest.approx(0.01 + 3 * (20 * 0.01 + 0.02))


def test_every_evaluation_of_every_image_is_taken_off_the_backlog() -> None:
    house = sharing()
    execute = only(house.ask("a", n=2, sampler="heun"), Execute)
    whole_s = backlog_s(house)
    assert whole_s == pytest.approx(0.01 + 2 * share_s(2, 39))
    for step in range(39):
        for image in range(2):
            house.tell(stepped(execute, step + 1, image))
            done = 2 * step + image + 1
            assert backlog_s(house) == pytest.approx(whole_s - done * STEP_S[2])
    house.tell(finished(execute))
    assert backlog_s(house) == 0.0


def test_no_more_is_taken_off_than_was_assigned() -> None:
    house = sharing()
    first = only(house.ask("a"), Execute)
    house.ask("b")
    for step in range(100):
        house.tell(stepped(first, step))
    assert backlog_s(house) == pytest.approx(0.01 + share_s(2)), "all of the first, nothing of the second"


def test_what_is_being_aborted_is_off_the_account_with_what_it_has_done() -> None:
    house = sharing()
    first = only(house.ask("a"), Execute)
    house.ask("b")
    house.tell(stepped(first, 1))
    house.ask(Cancel("a"))
    assert backlog_s(house) == pytest.approx(0.01 + share_s(2))
    house.tell(stepped(first, 2))
    assert backlog_s(house) == pytest.approx(0.01 + share_s(2)), "a step that nobody wants is no progress"
    house.tell(ended(first))
    assert backlog_s(house) == pytest.approx(0.01 + share_s(2))


def test_what_moves_to_another_device_leaves_the_account_of_the_first() -> None:
    house = House(devices=("cpu-0", "cpu-1"), slots=((64 * KIB, 2),))
    house.join("cpu-0", credits=3)
    house.ask("first", n=2)
    alone_s = house.state.books.by_device["cpu-0"].backlog_s
    house.ask("second", n=2, steps=40)
    costs = replace(builders.COSTS, decode_s=5.0)
    house.join("cpu-1", residents=(builders.resident("tiny", costs),))
    backlogs = {actor.device: actor.backlog_s for actor in house.state.books.ready}
    assert backlogs["cpu-0"] == pytest.approx(alone_s)
    assert backlogs["cpu-1"] == pytest.approx(0.01 + 2 * (40 * 0.01 + 5.0))
