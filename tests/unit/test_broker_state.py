"""difs.broker: events in, effects out. The books check themselves after every event."""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import pytest
from msgspec.structs import replace

from difs.actor_messages import (
    Abort,
    ActorExited,
    Costs,
    DrainAll,
    Ended,
    Evicted,
    EvictVariant,
    Execute,
    Finished,
    Fleet,
    KillActor,
    Leaving,
    Loaded,
    LoadFailed,
    LoadVariant,
    Pulse,
    Retiring,
    Sealed,
    Stepped,
    Stop,
    Welcome,
)
from difs.broker.books import Books
from difs.broker.effects import Complain, Effect, Exit, Payload, TellActor, TellClient
from difs.broker.events import ActorUnreachable, ClientLost, ClientMisspoke
from difs.broker.records import (
    ACTOR_TABLE,
    ATTEMPT_TABLE,
    REQUEST_TABLE,
    Actor,
    ActorState,
    Attempt,
    AttemptState,
    Cause,
    InvalidTransition,
    Request,
    RequestState,
)
from difs.errors import InternalError, InvalidRequest
from difs.messages import (
    MAX_PIXEL_STEPS,
    MAX_SEED,
    Accepted,
    Beat,
    Cancel,
    Done,
    Drain,
    Error,
    Evict,
    Explain,
    Explanation,
    Load,
    Ping,
    Pong,
    Progress,
    Release,
    Result,
    Status,
    StatusReport,
    VariantList,
    Variants,
)
from difs.policy.base import Admit, Decision, Reject, View, Wait
from difs.shm.layout import HEADER_BYTES
from tests import builders
from tests.builders import (
    CLIENT,
    KIB,
    OTHER_CLIENT,
    SUPERVISOR,
    House,
    ended,
    finished,
    generate,
    only,
    served,
    stepped,
    told,
)

POOL_OF_4 = 4
TWO = (builders.variant("tiny"), builders.variant("wide"))


def executes(effects: list[Effect]) -> list[str]:
    """Return the ids of what is dispatched, in order."""
    return [execute.request_id for execute in told(effects, Execute)]


def free_slots(house: House, device: str = "cpu-0") -> int:
    return house.state.books.pools[device].free


def is_over(house: House) -> bool:
    """Whether no request, attempt, hold or client is left and every slot is free."""
    books = house.state.books
    pools_full = all(pool.free == pool.total for pool in books.pools.values())
    records = (books.requests, books.waiting, books.attempts, books.holds, books.clients)
    return pools_full and not any(records)


# ---- the life of a request ----------------------------------------------------------------------


def test_a_request_is_accepted_and_dispatched_at_once_when_an_actor_is_free() -> None:
    effects = served().ask("a", n=2, seed=5, prompt="apple")
    accepted, execute = only(effects, Accepted, CLIENT), only(effects, Execute, b"cpu-0")
    assert (accepted.request_id, accepted.epoch, accepted.attempt) == ("a", builders.EPOCH, 1)
    assert accepted.plan is not None
    assert (accepted.plan.device, accepted.plan.variant, accepted.plan.steps) == ("cpu-0", "tiny", 20)
    assert (execute.prompt, execute.seeds, execute.width, execute.deadline) == (
        "apple",
        (5, 6),
        64,
        120.0,
    )
    assert len(execute.slots) == 2
    assert len(effects) == 2


def test_a_finished_request_ends_in_one_result_with_its_images_inline() -> None:
    house = served()
    execute = only(house.ask("a", seed=5, n=2), Execute)
    house.now = 2.0
    (effect,) = house.tell(finished(execute))
    assert isinstance(effect, TellClient)
    result = effect.message
    assert isinstance(result, Result)
    assert [(image.seed, image.frame, image.nbytes, image.crc32) for image in result.images] == [
        (5, 0, 12, 34),
        (6, 1, 12, 34),
    ]
    places = tuple(Payload("cpu-0", slot.offset + HEADER_BYTES, 12) for slot in execute.slots)
    assert effect.payloads == places
    assert (result.attempt, result.timings.total_s, result.timings.queue_s) == (1, 2.0, 0.0)
    assert is_over(house)


def test_images_in_shared_memory_are_held_until_released() -> None:
    house = served()
    execute = only(house.ask("a", mode="shm", n=2), Execute)
    (effect,) = house.tell(finished(execute))
    assert isinstance(effect, TellClient)
    assert effect.payloads == ()
    images = only([effect], Result).images
    for image, slot in zip(images, execute.slots, strict=True):
        assert (image.offset, image.generation) == (slot.offset, slot.generation)
        assert image.segment == "/segments/cpu-0"
    assert free_slots(house) == POOL_OF_4 - 2
    leases = [image.lease for image in images if isinstance(image.lease, int)]
    assert house.ask(Release(tuple(leases))) == []
    assert is_over(house)


def test_leases_are_released_by_their_owner_alone() -> None:
    house = served()
    result = only(house.tell(finished(only(house.ask("a", mode="shm"), Execute))), Result)
    lease = result.images[0].lease
    assert isinstance(lease, int)
    house.ask(Release((lease, lease + 1)), OTHER_CLIENT)
    assert free_slots(house) == POOL_OF_4 - 1
    house.ask(Release((lease, lease)))
    assert is_over(house)


def test_seeds_wrap_around_at_64_bits() -> None:
    execute = only(served().ask("a", n=2, seed=MAX_SEED), Execute)
    assert execute.seeds == (MAX_SEED, 0)


def test_requests_without_a_seed_get_different_ones_and_keep_them_in_the_next_attempt() -> None:
    house = served()
    first, second = only(house.ask("a"), Execute), only(house.ask("b"), Execute)
    assert first.seeds != second.seeds
    house.tell(Leaving())
    house.join(route=b"new", incarnation="new", credits=1)
    again = only(house.join("cpu-0", route=b"newer", incarnation="newer", credits=1), Execute)
    assert (again.request_id, again.seeds) == ("a", first.seeds)


def test_progress_is_told_to_those_who_asked_for_it() -> None:
    house = served()
    silent, loud = only(house.ask("a"), Execute), only(house.ask("b", progress=True), Execute)
    assert house.tell(stepped(silent)) == []
    assert house.tell(stepped(loud, 3)) == [TellClient(CLIENT, Progress("b", 0, 3, 20))]


def test_metadata_goes_to_image_files_only_and_only_where_it_is_wanted() -> None:
    house = served(credits=3)
    assert only(house.ask("a", format="raw"), Execute).metadata == ""
    assert only(house.ask("b", format="png", metadata=False), Execute).metadata == ""
    assert '"variant":"tiny"' in only(house.ask("c", format="png"), Execute).metadata


def test_the_story_of_a_request_is_kept_after_its_end() -> None:
    house = served()
    house.tell(finished(only(house.ask("a"), Execute)))
    assert [what for _, what, _ in house.state.story("a")] == ["accepted", "dispatched", "finished"]
    house.ask("b")
    assert [what for _, what, _ in house.state.story("b")] == ["accepted", "dispatched"]
    assert house.state.story("never heard of") == []


# ---- queue --------------------------------------------------------------------------------------


def test_no_more_is_dispatched_than_there_are_credits() -> None:
    house = served(credits=2)
    first = only(house.ask("a"), Execute)
    assert executes(house.ask("b")) == ["b"]
    effects = house.ask("c")
    assert executes(effects) == []
    assert only(effects, Accepted).attempt == 0
    assert executes(house.tell(finished(first))) == ["c"]


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


def test_a_request_that_moved_there_and_back_is_served_once() -> None:
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
    assert queued() == [[], ["moves"]], "cpu-1 had room"
    house.tell(finished(only(effects, Execute)), b"cpu-1")
    assert queued() == [[], ["moves"]], "nobody has room"
    effects = house.ask(Release(tuple(house.state.books.clients[CLIENT].leases)))
    assert only(effects, Execute, b"cpu-0").request_id == "moves"
    assert queued() == [[], []]
    assert len(told(house.tell(finished(only(effects, Execute))), Result, CLIENT)) == 1


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


# ---- loss ---------------------------------------------------------------------------------------


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
    house.tell(ActorExited("cpu-0", 100, "signal 9"), SUPERVISOR)
    assert "a" in house.state.books.waiting


def test_actors_of_unknown_devices_are_not_taken() -> None:
    house = House()
    assert house.join("cuda-7") == []
    assert house.state.books.counts["strange_actors"] == 1


# ---- deadlines ----------------------------------------------------------------------------------


def test_a_queued_request_expires_at_its_deadline() -> None:
    house = served(credits=1)
    house.ask("running")
    house.ask("waits", timeout_s=5.0)
    assert told(house.wait(4.9), Error) == []
    error = only(house.wait(0.1), Error, CLIENT)
    assert (error.code, error.request_id) == ("expired", "waits")
    assert "while it was queued" in error.message


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


# ---- failure ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "told_code"),
    [("engine_failed", "engine_failed"), ("out_of_memory", "out_of_memory"), ("nonsense", "internal")],
)
def test_a_failed_attempt_fails_its_request_with_a_known_code(code: str, told_code: str) -> None:
    house = served()
    execute = only(house.ask("a"), Execute)
    error = only(house.tell(ended(execute, code)), Error, CLIENT)
    assert (error.code, error.request_id) == (told_code, "a")
    assert is_over(house)


@pytest.mark.parametrize(
    "images",
    [(), (Sealed(1, 12, 0),), (Sealed(0, 64 * KIB + 1, 0),), (Sealed(0, 0, 0),), (Sealed(0, 1, 0),) * 2],
    ids=["none", "foreign slot", "too large", "empty", "too many"],
)
def test_a_report_about_other_slots_fails_the_request_and_frees_them(images: tuple[Sealed, ...]) -> None:
    house = served()
    execute = only(house.ask("a"), Execute)
    assert execute.slots[0].index == 0
    error = only(house.tell(finished(execute, images=images)), Error, CLIENT)
    assert error.code == "internal"
    assert is_over(house)


# ---- cancel, client gone ------------------------------------------------------------------------


def test_a_queued_request_is_cancelled_at_once() -> None:
    house = served(credits=1)
    running = only(house.ask("running"), Execute)
    house.ask("waits")
    effects = house.ask(Cancel("waits"))
    assert [type(message) for message in told(effects, object)] == [Error]
    assert only(effects, Error, CLIENT).code == "cancelled"
    assert executes(house.tell(finished(running))) == []


def test_a_running_request_is_cancelled_and_its_actor_told_to_stop() -> None:
    house = served(credits=1)
    execute = only(house.ask("a"), Execute)
    effects = house.ask(Cancel("a"))
    assert only(effects, Abort).attempt == execute.attempt
    assert only(effects, Error, CLIENT).code == "cancelled"
    assert executes(house.ask("b")) == [], "the credit is free when the actor says so"
    assert executes(house.tell(ended(execute))) == ["b"]


def test_a_result_that_crosses_a_cancel_frees_its_slots() -> None:
    house = served()
    execute = only(house.ask("a", mode="shm"), Execute)
    house.ask(Cancel("a"))
    assert house.tell(finished(execute)) == []
    assert is_over(house)


@pytest.mark.parametrize(("name", "route"), [("a", OTHER_CLIENT), ("b", CLIENT)])
def test_only_its_client_may_cancel_a_request(name: str, route: bytes) -> None:
    house = served()
    house.ask("a")
    error = only(house.ask(Cancel(name), route), Error, route)
    assert (error.code, error.request_id) == ("not_found", name)
    assert "a" in house.state.books.requests


def test_everything_of_a_client_that_is_gone_is_taken_back() -> None:
    house = served(credits=1)
    house.tell(finished(only(house.ask("done", mode="shm"), Execute)))
    running = only(house.ask("running"), Execute)
    house.ask("queued")
    house.ask("another's", OTHER_CLIENT)
    effects = house.handle(ClientLost(CLIENT))
    assert only(effects, Abort).attempt == running.attempt
    assert executes(house.tell(ended(running))) == ["another's"]
    assert set(house.state.books.clients) == {OTHER_CLIENT}
    assert free_slots(house) == POOL_OF_4 - 1


def test_the_loss_of_an_unknown_client_is_nothing() -> None:
    assert served().handle(ClientLost(b"nobody")) == []


# ---- leases -------------------------------------------------------------------------------------


def held(**rules: float) -> House:
    """Return a house in which a client holds a slot."""
    house = served(**rules)
    house.tell(finished(only(house.ask("a", mode="shm"), Execute)))
    assert free_slots(house) == POOL_OF_4 - 1
    return house


def test_a_lease_ends_when_its_client_is_silent_for_too_long() -> None:
    house = held(lease=10.0)
    house.wait(9.9)
    assert free_slots(house) == POOL_OF_4 - 1
    house.wait(0.6)
    assert is_over(house)
    assert house.state.books.counts["leases_timed_out"] == 1


def test_a_ping_renews_the_leases_of_its_client_alone() -> None:
    house = held(lease=10.0)
    house.wait(6.0)
    house.ask(Ping(), OTHER_CLIENT)
    house.ask(Ping())
    house.wait(6.0)
    assert free_slots(house) == POOL_OF_4 - 1
    house.ask(Ping(), OTHER_CLIENT)
    house.wait(4.1)
    assert is_over(house)


def test_a_lease_outlives_its_actor() -> None:
    house = held()
    house.tell(Leaving())
    house.join(route=b"new", incarnation="new")
    assert free_slots(house) == POOL_OF_4 - 1


# ---- the same request again ---------------------------------------------------------------------


def test_a_repeated_request_joins_the_open_one() -> None:
    house = served()
    execute = only(house.ask("a", seed=1), Execute)
    effects = house.ask("a", seed=1)
    assert executes(effects) == []
    assert only(effects, Accepted, CLIENT).attempt == 1
    assert len(told(house.tell(finished(execute)), Result, CLIENT)) == 1
    assert is_over(house)


def test_a_repeated_request_moves_to_the_connection_it_came_from() -> None:
    house = served()
    execute = only(house.ask("a", mode="shm"), Execute)
    assert only(house.ask("a", OTHER_CLIENT, mode="shm"), Accepted, OTHER_CLIENT)
    house.handle(ClientLost(CLIENT))
    assert only(house.tell(finished(execute)), Result, OTHER_CLIENT)
    house.handle(ClientLost(OTHER_CLIENT))
    assert is_over(house)


def test_the_same_id_with_other_content_is_a_conflict() -> None:
    house = served()
    execute = only(house.ask("a", seed=1), Execute)
    error = only(house.ask("a", OTHER_CLIENT, seed=2), Error, OTHER_CLIENT)
    assert (error.code, error.request_id, error.field) == ("id_conflict", "a", "request_id")
    assert told(house.tell(finished(execute)), Result, CLIENT)


def test_an_id_is_free_again_after_the_end() -> None:
    house = served()
    house.tell(finished(only(house.ask("a", seed=1), Execute)))
    assert executes(house.ask("a", seed=2)) == ["a"]


# ---- the door -----------------------------------------------------------------------------------


def refused(effects: list[Effect]) -> Error:
    """Return the refusal that is all there is."""
    (effect,) = effects
    assert isinstance(effect, TellClient)
    assert isinstance(effect.message, Error)
    return effect.message


def test_a_client_may_have_only_so_many_open_requests() -> None:
    house = served(max_outstanding=2)
    house.ask("a")
    house.ask("b")
    error = refused(house.ask("c"))
    assert (error.code, error.request_id, error.limit) == ("too_many_outstanding", "c", "<= 2")
    assert error.retryable
    assert error.retry_after_s is not None
    assert only(house.ask("c", OTHER_CLIENT), Accepted, OTHER_CLIENT)


def test_only_so_many_requests_may_be_queued() -> None:
    house = served(max_queued=2, credits=1)
    for name in ("running", "q1", "q2"):
        assert told(house.ask(name), Accepted)
    error = refused(house.ask("q3", OTHER_CLIENT))
    assert (error.code, error.request_id, error.retryable) == ("overloaded", "q3", True)
    assert OTHER_CLIENT not in house.state.books.clients, "a refused client is forgotten"


def test_only_so_many_clients_may_have_open_requests() -> None:
    house = served(max_clients=1)
    house.ask("a")
    assert refused(house.ask("b", OTHER_CLIENT)).code == "overloaded"
    assert told(house.ask("c"), Accepted)


def test_without_a_device_requests_are_refused_for_now() -> None:
    error = refused(House().ask("a"))
    assert (error.code, error.retryable) == ("unavailable", True)


def test_more_pixels_and_steps_than_one_request_may_have_are_refused() -> None:
    house = served(slots=((20_000 * KIB, 8),))
    steps = MAX_PIXEL_STEPS // (2048 * 2048 * 2)
    big: dict[str, Any] = {"width": 2048, "height": 2048, "n": 2, "timeout_s": 3600.0}
    error = refused(house.ask("a", steps=steps + 1, **big))
    assert (error.code, error.field) == ("invalid_request", "overrides.steps")
    assert told(house.ask("b", steps=steps, **big), Accepted)


def test_images_that_no_slot_can_ever_hold_are_refused() -> None:
    house = served()
    error = refused(house.ask("a", n=5))
    assert (error.code, error.field) == ("invalid_request", "n")
    assert refused(house.ask("b", width=256, height=256)).code == "invalid_request"
    assert told(house.ask("c", n=4), Accepted)


def test_a_timeout_that_the_work_alone_exceeds_is_infeasible() -> None:
    error = refused(served().ask("a", timeout_s=0.1))
    assert (error.code, error.field, error.retryable) == ("infeasible", "timeout_s", False)


def test_a_timeout_that_the_queue_exceeds_is_overload() -> None:
    house = served(credits=1)
    for i in range(10):
        house.ask(f"r{i}", timeout_s=100.0)
    error = refused(house.ask("a", timeout_s=1.0))
    assert (error.code, error.field, error.retryable) == ("overloaded", "timeout_s", True)
    assert error.retry_after_s == pytest.approx(11 * 0.23 - 1.0, abs=0.02)


def test_the_refusal_of_the_policy_reaches_the_client() -> None:
    error = refused(served().ask("a", variant="unheard-of"))
    assert (error.code, error.field) == ("unknown_name", "overrides.variant")
    assert "tiny" in error.message


class Patient:
    """A policy that lets everybody wait."""

    name = "patient"

    def decide(self, view: View, request: object) -> Decision:
        """Wait."""
        return Wait("not now")


def test_a_policy_may_let_a_request_wait_without_a_plan() -> None:
    house = served(policy=Patient())
    accepted = only(house.ask("a", timeout_s=5.0), Accepted)
    assert (accepted.plan, accepted.attempt) == (None, 0)
    assert only(house.wait(5.0), Error).code == "expired"


class Broken:
    """A policy of somebody else's, with a bug."""

    name = "broken"

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def decide(self, view: View, request: object) -> Decision:
        """Raise, or answer nonsense."""
        if isinstance(self.answer, Exception):
            raise self.answer
        return cast(Decision, self.answer)


@pytest.mark.parametrize(
    "answer",
    [
        ZeroDivisionError("a bug"),
        None,
        5,
        Admit(builders.plan(device="cuda-9")),
        Reject("no_such_code", ""),
    ],
    ids=["raises", "nothing", "a number", "no such device", "no such code"],
)
def test_a_bug_in_a_policy_costs_one_request_and_not_the_broker(answer: Any) -> None:
    house = served(policy=Broken(answer))
    effects = house.ask("a")
    assert only(effects, Error, CLIENT).code == "internal"
    assert isinstance(answer, Reject) or any(isinstance(effect, Complain) for effect in effects)
    assert only(house.ask(Explain(generate("b"))), Explanation).refusal is not None
    assert is_over(house)


def test_what_breaks_the_protocol_is_answered_once() -> None:
    house = served()
    error = InvalidRequest("n: too many", field="n", limit="<= 8")
    told_error = refused(house.handle(ClientMisspoke(CLIENT, error, "a")))
    assert (told_error.code, told_error.field, told_error.limit, told_error.request_id) == (
        "invalid_request",
        "n",
        "<= 8",
        "a",
    )
    assert house.state.books.clients == {}


# ---- drain --------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_supervisor", [True, False])
def test_a_drained_broker_finishes_what_it_accepted_stops_its_actors_and_exits(
    by_supervisor: bool,
) -> None:
    house = served()
    execute = only(house.ask("a"), Execute)
    if by_supervisor:
        house.tell(DrainAll(30.0), SUPERVISOR)
    else:
        assert only(house.ask(Drain()), Done, CLIENT)
    error = refused(house.ask("b"))
    assert (error.code, error.retryable) == ("draining", True)
    assert told(house.wait(0.5), Stop) == []
    assert only(house.tell(finished(execute)), Result)
    assert only(house.wait(0.5), Stop, b"cpu-0")
    house.tell(Leaving())
    assert house.wait(0.5)[-1] == Exit()


def test_what_a_drain_has_no_time_for_ends_with_an_error() -> None:
    house = served()
    execute = only(house.ask("a"), Execute)
    house.tell(DrainAll(2.0), SUPERVISOR)
    house.wait(1.9)
    assert "a" in house.state.books.requests
    effects = house.wait(0.1)
    assert only(effects, Error, CLIENT).code == "draining"
    assert only(effects, Abort).attempt == execute.attempt


def test_a_second_drain_can_only_shorten_the_first() -> None:
    house = served()
    house.ask("a")
    house.tell(DrainAll(2.0), SUPERVISOR)
    house.tell(DrainAll(60.0), SUPERVISOR)
    assert told(house.wait(2.0), Error)


def test_a_draining_broker_is_not_ready() -> None:
    house = served()
    assert only(house.ask(Ping()), Pong).ready
    house.ask(Drain())
    assert not only(house.ask(Ping()), Pong).ready


# ---- watching actors ----------------------------------------------------------------------------


def pulse(house: House, progress: int, device: str = "cpu-0") -> list[Effect]:
    return house.tell(Pulse(f"{device}.first", progress, builders.reading()), b"pulse socket")


def test_a_silent_actor_is_given_up_and_killed() -> None:
    house = served(actor_silence=3.0)
    house.supervise()
    house.ask("a")
    assert told(house.wait(3.0), KillActor) == []
    effects = house.wait(0.5)
    killing = only(effects, KillActor, SUPERVISOR)
    assert (killing.device, killing.pid) == ("cpu-0", 100)
    assert told(effects, Fleet)[-1].ready == ()
    assert "a" in house.state.books.waiting


def test_a_heartbeat_keeps_an_idle_actor() -> None:
    house = served(actor_silence=3.0)
    for _ in range(20):
        assert told(house.wait(2.0), KillActor) == []
        pulse(house, 0)
    assert [actor.device for actor in house.state.books.ready] == ["cpu-0"]


def test_an_actor_that_beats_but_makes_no_progress_hangs_and_is_killed() -> None:
    house = served(stall_floor=10.0, stall_steps=10.0)
    house.supervise()
    house.ask("a")
    effects: list[Effect] = []
    while not effects:
        assert house.now < 12.0
        pulse(house, 0)
        effects = [e for e in house.wait(0.5) if told([e], KillActor)]
    assert house.now > 10.0
    assert "no step" in only(effects, KillActor).reason


@pytest.mark.parametrize("sign", ["step", "progress"])
def test_an_actor_that_makes_progress_does_not_hang(sign: str) -> None:
    house = served(stall_floor=10.0)
    house.supervise()
    execute = only(house.ask("a"), Execute)
    for i in range(1, 10):
        pulse(house, i if sign == "progress" else 0)
        if sign == "step":
            house.tell(stepped(execute, i))
        assert told(house.wait(2.9), KillActor) == []


def test_an_idle_actor_does_not_hang_however_long_it_was_idle() -> None:
    house = served(stall_floor=10.0)
    house.supervise()
    for _ in range(30):
        pulse(house, 7)
        house.wait(2.0)
    house.ask("a")
    pulse(house, 7)
    assert told(house.wait(1.0), KillActor) == []


def test_an_attempt_that_ends_is_progress_too() -> None:
    house = served(stall_floor=10.0)
    house.supervise()
    first = only(house.ask("a"), Execute)
    house.ask("b")
    for moment in range(1, 18):
        pulse(house, 0)
        assert told(house.wait(1.0), KillActor) == [], moment
        if moment == 9:
            house.tell(ended(first, "out_of_memory"))


def test_a_long_step_is_no_hang() -> None:
    costs = Costs(64 * 64, 0.1, 5.0, 2.5, 0.1, 1.0)
    house = House(stall_floor=10.0, stall_steps=10.0)
    house.join(residents=(builders.resident("tiny", costs),))
    house.supervise()
    house.ask("a")
    for _ in range(19):
        pulse(house, 0)
        assert told(house.wait(2.5), KillActor) == []
    pulse(house, 0)
    assert told(house.wait(3.0), KillActor), "ten times 5 s have passed"


def test_loading_takes_its_time() -> None:
    house = served(stall_floor=10.0, variants=TWO)
    house.supervise()
    house.ask("a", variant="wide", timeout_s=1000.0)
    for _ in range(50):
        pulse(house, 0)
        assert told(house.wait(2.5), KillActor) == []
    house.tell(Loaded(builders.resident("wide")))
    for _ in range(4):
        pulse(house, 0)
        assert told(house.wait(2.5), KillActor) == []
    assert told(house.wait(0.5), KillActor), "now it is loaded and hangs"


def test_actors_clients_and_supervisor_hear_a_beat_twice_a_second() -> None:
    house = served()
    house.supervise()
    house.ask("a")
    beats = []
    for _ in range(20):
        effects = house.wait(0.1)
        beats.append((len(told(effects, Beat, CLIENT)), len(told(effects, Welcome, b"cpu-0"))))
        assert bool(told(effects, Fleet, SUPERVISOR)) == (beats[-1] == (1, 1))
    assert 3 <= beats.count((1, 1)) <= 5
    assert set(beats) == {(0, 0), (1, 1)}


def test_a_client_with_nothing_open_hears_no_beat() -> None:
    house = served()
    house.tell(finished(only(house.ask("a"), Execute)))
    assert told(house.wait(1.0), Beat) == []


def test_the_supervisor_hears_of_every_change_of_the_fleet() -> None:
    house = House(devices=("cpu-0", "cpu-1"))
    assert only(house.supervise(), Fleet).ready == ()
    assert only(house.join("cpu-1"), Fleet).ready == ("cpu-1",)
    assert only(house.join("cpu-0"), Fleet).ready == ("cpu-0", "cpu-1")
    assert only(house.tell(Leaving(), b"cpu-1"), Fleet).ready == ("cpu-0",)


def test_an_unreachable_supervisor_is_forgotten() -> None:
    house = served()
    house.supervise()
    house.handle(ActorUnreachable(SUPERVISOR))
    assert told(house.wait(0.5), Fleet) == []


# ---- questions ----------------------------------------------------------------------------------


def test_explain_tells_the_plan_and_changes_nothing() -> None:
    house = served(devices=("cpu-0", "cpu-1"), policy="round_robin", credits=1)
    before = (house.state.books.decisions, dict(house.state.books.counts))
    question = Explain(generate("a"))
    (effect,) = house.ask(question)
    assert isinstance(effect, TellClient)
    assert isinstance(effect.message, Explanation)
    assert (house.state.books.decisions, dict(house.state.books.counts)) == before
    assert is_over(house)
    promised = effect.message.plan
    assert promised is not None
    assert promised == only(house.ask(question), Explanation).plan
    assert promised == only(house.ask("a"), Accepted).plan, "what was explained is what is done"


@pytest.mark.parametrize(
    ("wishes", "code"), [({"n": 5}, "invalid_request"), ({"variant": "x"}, "unknown_name")]
)
def test_explain_tells_the_refusal_that_generate_would_get(wishes: dict[str, Any], code: str) -> None:
    house = served()
    explanation = only(house.ask(Explain(generate("a", **wishes))), Explanation)
    assert explanation.plan is None
    assert explanation.refusal == refused(house.ask("a", **wishes))
    assert explanation.refusal.code == code


def test_status_counts_what_is_there() -> None:
    house = served(devices=("cpu-0", "cpu-1"), credits=1)
    pulse(house, 0)
    for name in ("a", "b", "c"):
        house.ask(name)
    house.now = 3.0
    report = only(house.ask(Status(), OTHER_CLIENT), StatusReport, OTHER_CLIENT)
    assert (report.queued, report.running, report.clients, report.ready) == (1, 2, 1, True)
    assert (report.uptime_s, report.policy, report.draining) == (3.0, "static", False)
    assert report.counts["accepted"] == 3
    first, second = report.devices
    assert (first.device, first.state, first.residents) == ("cpu-0", "ready", ("tiny",))
    assert (first.queued + second.queued, first.slots_free, first.slots_total) == (1, 3, 4)
    assert first.reading == builders.reading()
    assert second.reading is None


def test_variants_tells_where_each_is_resident() -> None:
    house = served(devices=("cpu-0", "cpu-1"), variants=TWO)
    found = {v.name: v.resident_on for v in only(house.ask(Variants()), VariantList).variants}
    assert found == {"tiny": ("cpu-0", "cpu-1"), "wide": ()}


def test_a_ping_tells_whether_a_device_is_ready() -> None:
    house = House()
    assert only(house.ask(Ping()), Pong) == Pong(builders.EPOCH, ready=False)
    house.join()
    assert only(house.ask(Ping()), Pong) == Pong(builders.EPOCH, ready=True)


# ---- admin --------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [Load("tiny"), Evict("tiny"), Drain()])
def test_admin_messages_are_refused_where_they_are_off(message: Load | Evict | Drain) -> None:
    house = served(admin=False)
    assert refused(house.ask(message)).code == "unsupported"
    assert house.state.books.draining_until is None


def test_load_is_asked_of_every_device_that_lacks_the_variant() -> None:
    house = served(devices=("cpu-0", "cpu-1"), variants=TWO)
    house.tell(Loaded(builders.resident("wide")), b"cpu-1")
    effects = house.ask(Load("wide"))
    assert [e.route for e in effects if isinstance(e, TellActor)] == [b"cpu-0"]
    assert only(effects, Done)
    assert told(house.ask(Load("wide", "cpu-0")), LoadVariant) == [], "it is loading already"


def test_a_failed_load_may_be_asked_for_again() -> None:
    house = served(variants=TWO)
    house.ask(Load("wide"))
    house.tell(LoadFailed("wide", "no"))
    assert only(house.ask(Load("wide")), LoadVariant)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (Load("unheard-of"), "unknown_name"),
        (Load("tiny", "cpu-9"), "unknown_name"),
        (Evict("unheard-of"), "unknown_name"),
        (Evict("tiny", "cpu-1"), "unavailable"),
    ],
)
def test_admin_messages_about_nothing_are_refused(message: Load | Evict, code: str) -> None:
    house = House(devices=("cpu-0", "cpu-1"))
    house.join("cpu-0")
    assert refused(house.ask(message)).code == code


def test_evict_drops_an_idle_variant() -> None:
    house = served()
    effects = house.ask(Evict("tiny"))
    assert only(effects, EvictVariant, b"cpu-0").variant == "tiny"
    assert only(effects, Done)
    house.tell(Evicted("tiny"))
    assert told(house.ask("a"), LoadVariant) == [LoadVariant("tiny")]


@pytest.mark.parametrize("queued", [True, False])
def test_a_variant_in_use_is_not_evicted(queued: bool) -> None:
    house = served(credits=1, variants=TWO)
    house.ask("a", variant="tiny")
    if queued:
        house.ask("b", variant="wide")
    error = refused(house.ask(Evict("wide" if queued else "tiny")))
    assert (error.code, error.retryable) == ("overloaded", True)


def test_a_late_evicted_does_not_undo_a_load_that_was_asked_for_since() -> None:
    house = served()
    house.ask(Evict("tiny"))
    house.ask(Load("tiny"))
    house.tell(Evicted("tiny"))
    house.tell(Loaded(builders.resident()))
    (actor,) = house.state.books.ready
    assert set(actor.residents) == {"tiny"}


# ---- learning -----------------------------------------------------------------------------------


def test_predictions_follow_what_finished_requests_show() -> None:
    house = served()
    before = only(house.ask(Explain(generate("x"))), Explanation).plan
    for i in range(30):
        execute = only(house.ask(f"r{i}"), Execute)
        house.tell(finished(execute, encode_s=0.02, steps_s=0.8, decode_s=0.04))
    after = only(house.ask(Explain(generate("x"))), Explanation).plan
    assert before is not None
    assert after is not None
    assert before.prediction.total_s == pytest.approx(0.23)
    assert after.prediction.total_s == pytest.approx(0.86, rel=0.01)


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


# ---- the tables ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "table", "last"),
    [
        (RequestState, REQUEST_TABLE, {"FINISHED", "FAILED", "EXPIRED", "CANCELLED"}),
        (AttemptState, ATTEMPT_TABLE, {"ENDED"}),
        (ActorState, ACTOR_TABLE, {"LOST"}),
    ],
)
def test_every_state_has_a_row_and_leads_to_an_end(
    states: type[RequestState], table: dict[RequestState, dict[Cause, RequestState]], last: set[str]
) -> None:
    assert set(table) == set(states)
    assert {state.name for state, row in table.items() if not row} == last
    for state in states:
        reached, before = {state}, set[RequestState]()
        while reached != before:
            before = reached
            reached = reached | {after for s in reached for after in table[s].values()}
        assert any(s.name in last for s in reached)


def test_a_change_that_no_table_knows_is_a_bug_with_its_story() -> None:
    house = served()
    house.ask("a")
    request = house.state.books.requests["a"]
    with pytest.raises(InvalidTransition, match="dispatched"):
        house.state.books.move(request, Cause.DISPATCHED, 0.0)


SABOTAGE: dict[str, Callable[[Books, Request, Actor, Attempt], object]] = {
    "an ended request is listed": lambda b, r, ac, at: setattr(r, "state", RequestState.FAILED),
    "a request runs without an attempt": lambda b, r, ac, at: setattr(r, "attempt", None),
    "a request stands in two queues": lambda b, r, ac, at: b.waiting.update(a=r),
    "a request is nobody's": lambda b, r, ac, at: r.client.open.clear(),
    "a client's record is lost": lambda b, r, ac, at: b.clients.clear(),
    "a client has nothing": lambda b, r, ac, at: b.client(b"nobody"),
    "an actor has too much": lambda b, r, ac, at: setattr(ac, "credits", 0),
    "a lost actor is listed": lambda b, r, ac, at: setattr(ac, "state", ActorState.LOST),
    "a leaving actor is ready": lambda b, r, ac, at: setattr(ac, "state", ActorState.LEAVING),
    "a queue is miscounted": lambda b, r, ac, at: setattr(ac, "queued", 1),
    "an attempt is unknown": lambda b, r, ac, at: b.attempts.clear(),
    "a wanted attempt is aborted": lambda b, r, ac, at: setattr(at, "state", AttemptState.ABORTING),
    "a slot is leaked": lambda b, r, ac, at: b.pools["cpu-0"].lease(1, 1),
    "a slot is free while it is used": lambda b, r, ac, at: b.pools["cpu-0"].give_back(0),
}


@pytest.mark.parametrize("sabotage", SABOTAGE.values(), ids=SABOTAGE)
def test_books_that_contradict_themselves_are_noticed(
    sabotage: Callable[[Books, Request, Actor, Attempt], object],
) -> None:
    house = served()
    house.ask("a")
    books = house.state.books
    request = books.requests["a"]
    assert request.actor is not None
    assert request.attempt is not None
    house.state.validate()
    sabotage(books, request, request.actor, request.attempt)
    with pytest.raises(InternalError, match="the books disagree"):
        house.state.validate()


def test_books_are_checked_after_every_event_only_where_that_is_asked_for() -> None:
    for validate in (True, False):
        house = served()
        house.state.books.rules = replace(house.state.books.rules, validate=validate)
        house.state.books.client(b"nobody")
        with pytest.raises(InternalError) if validate else nullcontext():
            house.ask(Ping())


def test_only_the_last_stories_are_kept() -> None:
    house = served()
    house.state.books.ended.limit = 3
    for i in range(5):
        house.tell(finished(only(house.ask(f"r{i}"), Execute)))
    assert [bool(house.state.story(f"r{i}")) for i in range(5)] == [False, False, True, True, True]


def test_long_queues_forget_what_left_them() -> None:
    house = served(credits=1, max_outstanding=1000)
    house.ask("running")
    for i in range(400):
        house.ask(f"r{i}")
        house.ask(Cancel(f"r{i}"))
    (actor,) = house.state.books.ready
    assert len(actor.queue) < 100
    house.ask(Cancel("running"))
    assert house.state.next_wake() <= 0.5
