"""difs.broker: actors are lost, take over, come back and retire; requests outlive them."""

from collections.abc import Callable

import pytest

from difs.actor_messages import (
    Abort,
    ActorExited,
    Ended,
    Execute,
    Finished,
    Fleet,
    Leaving,
    Retiring,
    Stepped,
    Welcome,
)
from difs.broker.events import ActorUnreachable
from difs.messages import (
    Accepted,
    Error,
    Result,
)
from tests import builders
from tests.builders import (
    CLIENT,
    POOL_OF_4,
    SUPERVISOR,
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


def test_what_ran_on_a_lost_actor_goes_to_the_front_of_the_queue() -> None:
    house = served(credits=1)
    house.ask("first")
    house.ask("second")
    house.tell(Leaving())
    effects = house.join(route=b"new", incarnation="new", credits=1)
    assert executes(effects) == ["first"]
    assert only(house.tell(finished(only(effects, Execute)), b"new"), Execute).request_id == "second"


def test_of_what_a_lost_actor_leaves_the_first_in_rank_gets_the_first_choice() -> None:
    house = House(devices=("cpu-0", "cpu-1", "cpu-2"))
    house.join("cpu-0", credits=1)
    house.ask("first")
    house.ask("second")
    house.join("cpu-1", credits=1)
    house.join("cpu-2", credits=1)
    house.ask("elsewhere")
    effects = house.tell(Leaving(), b"cpu-0")
    assert only(effects, Execute, b"cpu-2").request_id == "first"
    assert executes(effects) == ["first"]


def test_the_client_is_told_the_new_plan_and_the_new_attempt() -> None:
    house = served(devices=("cpu-0", "cpu-1"), credits=1)
    plan = only(house.ask("a"), Accepted).plan
    assert plan is not None
    assert plan.device == "cpu-0"
    effects = house.tell(Leaving())
    assert executes(effects) == ["a"]
    last = told(effects, Accepted, CLIENT)[-1]
    assert last.attempt == 2
    assert last.plan is not None
    assert last.plan.device == "cpu-1"


def test_a_requeued_request_waits_for_a_device_when_none_is_left() -> None:
    house = served()
    house.ask("a")
    assert told(house.tell(Leaving()), Error) == []
    assert "a" in house.state.books.waiting
    assert executes(house.join(route=b"new", incarnation="new")) == ["a"]


def test_what_was_on_a_dead_actor_runs_alone() -> None:
    house = served(credits=2)
    house.ask("suspect")
    house.ask("other")
    house.handle(ActorUnreachable(b"cpu-0"))
    effects = house.join(route=b"new", incarnation="new")
    assert executes(effects) == ["suspect"]
    assert executes(house.ask("innocent")) == [], "nobody shall die with it"
    effects = house.tell(finished(only(effects, Execute)), b"new")
    assert executes(effects) == ["other"]
    assert executes(house.tell(finished(only(effects, Execute)), b"new")) == ["innocent"]


def test_what_was_on_an_actor_that_left_on_purpose_is_no_suspect() -> None:
    house = served(credits=2, max_attempts=1)
    house.ask("a")
    house.ask("b")
    house.tell(Leaving())
    assert executes(house.join(route=b"new", incarnation="new")) == ["a", "b"]


def test_a_retiring_actor_finishes_what_it_has_and_gets_nothing_new() -> None:
    house = served(devices=("cpu-0", "cpu-1"), credits=1)
    house.supervise()
    first, _ = only(house.ask("a"), Execute, b"cpu-0"), only(house.ask("b"), Execute, b"cpu-1")
    house.ask("queued on cpu-0")
    effects = house.tell(Retiring())
    assert only(effects, Fleet).ready == ("cpu-1",)
    plan = only(effects, Accepted, CLIENT).plan
    assert plan is not None
    assert plan.device == "cpu-1"
    effects = house.tell(finished(first))
    assert only(effects, Result)
    assert executes(effects) == []
    assert executes(house.join(credits=1)) == [], "an announcement that crossed it changes nothing"


def test_an_actor_that_comes_back_is_told_to_abort_old_work_before_it_gets_new() -> None:
    house = served(credits=1)
    old = only(house.ask("a"), Execute)
    house.handle(ActorUnreachable(b"cpu-0"))
    effects = house.join(credits=1, attempts=(old.attempt,))
    said = told(effects, object, b"cpu-0")
    assert [type(message) for message in said] == [Welcome, Abort, Execute]
    assert only(effects, Abort).attempt == old.attempt
    new = only(effects, Execute)
    assert told(house.join(credits=1, attempts=(new.attempt,)), Abort) == [], "this one is wanted"


def test_what_the_remaining_devices_cannot_keep_fails_when_its_own_is_lost() -> None:
    house = House(devices=("cpu-0", "cpu-1"))
    house.join("cpu-0")
    house.join("cpu-1", residents=())
    house.ask("a", latency_s=1.0, on_infeasible="reject")
    error = only(house.handle(ActorUnreachable(b"cpu-0")), Error, CLIENT)
    assert (error.code, error.request_id) == ("overloaded", "a")
    assert is_over(house)


def test_the_third_death_fails_the_request_with_actor_lost() -> None:
    house = House()
    house.join(route=b"0", incarnation="0")
    house.ask("poison")
    for death in (1, 2):
        effects = house.handle(ActorUnreachable(str(death - 1).encode()))
        assert told(effects, Error) == []
        effects = house.join(route=str(death).encode(), incarnation=str(death))
        assert executes(effects) == ["poison"]
    error = only(house.handle(ActorUnreachable(b"2")), Error, CLIENT)
    assert (error.code, error.request_id, error.retryable) == ("actor_lost", "poison", False)
    assert is_over(house)


@pytest.mark.parametrize("report", [stepped, finished, ended])
def test_a_late_report_of_an_old_attempt_changes_nothing(
    report: Callable[[Execute], Stepped | Finished | Ended],
) -> None:
    house = served()
    old = only(house.ask("a", mode="shm", progress=True), Execute)
    house.tell(Leaving())
    house.join(route=b"new", incarnation="new")
    books = house.state.books
    before = (free_slots(house), list(books.attempts), books.requests["a"].state)
    assert house.tell(report(old)) == []
    assert (free_slots(house), list(books.attempts), books.requests["a"].state) == before
    assert books.counts["late_reports"] == 1


def test_an_actor_cannot_report_on_the_attempts_of_another() -> None:
    house = served(devices=("cpu-0", "cpu-1"))
    execute = only(house.ask("a"), Execute, b"cpu-0")
    assert house.tell(finished(execute), b"cpu-1") == []
    assert told(house.tell(finished(execute), b"cpu-0"), Result)


def test_slots_of_a_lost_actor_are_free_at_once() -> None:
    house = served()
    house.ask("a", n=2)
    house.tell(Leaving())
    assert free_slots(house) == POOL_OF_4


def test_a_new_incarnation_takes_the_place_of_the_old_one() -> None:
    house = served(credits=1)
    old = only(house.ask("a"), Execute)
    effects = house.join(route=b"new", incarnation="new", pid=200)
    assert only(effects, Welcome, b"new").epoch == builders.EPOCH
    new = only(effects, Execute, b"new")
    assert new.attempt != old.attempt
    assert {s.generation for s in new.slots}.isdisjoint(s.generation for s in old.slots)


def test_an_actor_that_announces_itself_again_stays_as_it_is() -> None:
    house = served(credits=1)
    house.ask("a")
    assert told(house.join(credits=1), object) == [Welcome(builders.EPOCH)]
    assert executes(house.ask("b")) == [], "its credit is still taken"


def test_an_exit_of_an_earlier_process_is_no_loss() -> None:
    house = served()
    house.ask("a")
    assert house.tell(ActorExited("cpu-0", 99, "signal 9"), SUPERVISOR) == []
    assert [actor.pid for actor in house.state.books.ready] == [100]
    house.tell(ActorExited("cpu-0", 100, "signal 9"), SUPERVISOR)
    assert "a" in house.state.books.waiting


def test_actors_of_unknown_devices_are_not_taken() -> None:
    house = House()
    assert house.join("cuda-7") == []
    assert house.state.books.counts["strange_actors"] == 1
