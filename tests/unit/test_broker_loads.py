"""difs.broker: variants come, go, are parked and change their memory mode; unwanted loads end."""

import math
from typing import Any

import pytest
from msgspec.structs import replace

from difs.actor_messages import (
    CancelLoad,
    Costs,
    Evicted,
    EvictVariant,
    Execute,
    Leaving,
    Loaded,
    LoadFailed,
    LoadVariant,
    Resident,
    Retiring,
    Switched,
    SwitchFailed,
    SwitchMode,
)
from difs.broker.events import ClientLost
from difs.messages import (
    Cancel,
    DeviceStatus,
    Done,
    Error,
    Evict,
    Explain,
    Explanation,
    Load,
    MemoryMode,
    Plan,
    Prediction,
    Release,
    Result,
    SetMode,
    Status,
    StatusReport,
)
from tests import builders
from tests.builders import (
    CLIENT,
    COSTS,
    KIB,
    OTHER_CLIENT,
    TWO,
    House,
    ended,
    executes,
    finished,
    generate,
    is_over,
    only,
    refused,
    resident,
    served,
    told,
)


def loading(**options: Any) -> tuple[House, Execute]:
    """Return a house whose only actor loads `wide` for the request "a"."""
    house = served(variants=TWO, **options)
    effects = house.ask("a", variant="wide")
    assert only(effects, LoadVariant, b"cpu-0") == LoadVariant("wide")
    return house, only(effects, Execute)


def explained(house: House, **wishes: Any) -> Plan:
    """Return the plan that a request would get now."""
    plan = only(house.ask(Explain(generate("x", **wishes))), Explanation).plan
    assert plan is not None
    return plan


def status(house: House, device: str = "cpu-0") -> DeviceStatus:
    """Return what an administrator sees of a device."""
    report = only(house.ask(Status()), StatusReport)
    (found,) = [entry for entry in report.devices if entry.device == device]
    return found


# ---- loads that nobody waits for ----------------------------------------------------------------


def test_a_load_whose_last_request_is_cancelled_is_given_up_once() -> None:
    house, execute = loading()
    assert only(house.ask(Cancel("a")), CancelLoad, b"cpu-0").variant == "wide"
    assert told(house.tell(ended(execute)), CancelLoad) == []
    assert told(house.wait(0.5), CancelLoad) == []
    house.tell(LoadFailed("wide", "cancelled"))
    counts = house.state.books.counts
    assert (counts["loads_cancelled"], counts["loads_failed"]) == (1, 0)
    assert is_over(house)


@pytest.mark.parametrize("end", ["expires", "fails", "client is gone", "finishes"])
def test_a_load_is_given_up_whatever_ended_its_last_request(end: str) -> None:
    house, execute = loading(actor_silence=1000.0)
    effects = {
        "expires": lambda: house.wait(120.0),
        "fails": lambda: house.tell(ended(execute, "engine_failed")),
        "client is gone": lambda: house.handle(ClientLost(CLIENT)),
        "finishes": lambda: house.tell(finished(execute)),
    }[end]()
    assert only(effects, CancelLoad, b"cpu-0").variant == "wide"


@pytest.mark.parametrize("credits_", [1, 2])
def test_a_load_goes_on_while_another_request_runs_or_queues_for_it(credits_: int) -> None:
    house, execute = loading(credits=credits_)
    assert executes(house.ask("b", variant="wide")) == (["b"] if credits_ == 2 else [])
    assert told(house.ask(Cancel("a")), CancelLoad) == []
    assert told(house.tell(ended(execute)), CancelLoad) == []
    assert only(house.ask(Cancel("b")), CancelLoad).variant == "wide"


def test_a_load_goes_on_for_its_own_variant_only() -> None:
    house, _ = loading()
    house.ask("b", variant="tiny")
    assert only(house.ask(Cancel("a")), CancelLoad).variant == "wide"


def test_a_load_that_an_administrator_asked_for_goes_on() -> None:
    house = served(variants=TWO)
    house.ask(Load("wide"))
    house.ask("a", variant="wide")
    assert told(house.ask(Cancel("a")), CancelLoad) == []
    house, _ = loading()
    assert told(house.ask(Load("wide")), LoadVariant) == [], "it is on its way"
    assert told(house.ask(Cancel("a")), CancelLoad) == [], "now he wants it too"


def test_a_load_is_given_up_when_its_only_request_moves_to_a_device_with_room() -> None:
    house = House(devices=("cpu-0", "cpu-1"), slots=((64 * KIB, 1),), variants=TWO)
    house.join("cpu-0", residents=(), credits=2)
    running = only(house.ask("runs", variant="wide"), Execute, b"cpu-0")
    assert executes(house.ask("waits", variant="wide")) == []
    assert told(house.ask(Cancel("runs")), CancelLoad) == [], "another waits for it in the queue"
    effects = house.join("cpu-1", residents=(resident("wide"),))
    assert only(effects, Execute, b"cpu-1").request_id == "waits"
    assert only(effects, CancelLoad, b"cpu-0").variant == "wide"
    assert told(house.tell(ended(running)), CancelLoad) == []


def test_a_retiring_actor_gives_up_its_loads_too() -> None:
    house, _ = loading()
    house.tell(Retiring())
    assert only(house.ask(Cancel("a")), CancelLoad, b"cpu-0").variant == "wide"


def test_of_a_lost_actor_no_load_is_given_up() -> None:
    house, _ = loading()
    assert told(house.tell(Leaving()), CancelLoad) == []
    assert told(house.ask(Cancel("a")), CancelLoad) == []


# ---- wanted again before the actor has answered -------------------------------------------------


def cancelled_and_asked_again() -> tuple[House, Execute]:
    """Return a house that gave a load up, then needed it for the request "b", all unanswered."""
    house, execute = loading()
    house.ask(Cancel("a"))
    house.tell(ended(execute))
    effects = house.ask("b", variant="wide")
    assert [type(m) for m in told(effects, object, b"cpu-0")] == [LoadVariant, Execute]
    return house, only(effects, Execute)


def test_a_load_that_was_given_up_is_asked_for_again_and_its_late_end_is_not_that_of_the_second() -> None:
    house, execute = cancelled_and_asked_again()
    house.tell(LoadFailed("wide", "cancelled"))
    assert status(house).loading == ("wide",)
    assert told(house.ask("c", variant="wide"), LoadVariant) == [], "the second is on its way"
    house.tell(Loaded(resident("wide")))
    assert (status(house).loading, status(house).residents) == ((), ("tiny", "wide"))
    assert only(house.tell(finished(execute)), Result)


def test_a_load_that_was_given_up_too_late_is_resident_and_the_second_answer_changes_nothing() -> None:
    house, _ = cancelled_and_asked_again()
    house.tell(Loaded(resident("wide")))
    assert status(house).residents == ("tiny", "wide")
    house.tell(Loaded(resident("wide")))
    assert status(house).loading == ()
    assert house.state.books.counts["loads_cancelled"] == 0
    assert told(house.ask("c", variant="wide"), LoadVariant) == []


def test_an_administrator_may_want_the_second_load_even_where_the_first_came_too_late() -> None:
    house, _ = cancelled_and_asked_again()
    house.tell(Loaded(resident("wide")))
    assert told(house.ask(Load("wide")), LoadVariant) == []
    assert told(house.ask(Cancel("b")), CancelLoad) == []


def test_the_second_load_is_given_up_in_its_turn() -> None:
    house, _ = cancelled_and_asked_again()
    assert only(house.ask(Cancel("b")), CancelLoad, b"cpu-0")
    for _ in range(2):
        house.tell(LoadFailed("wide", "cancelled"))
    assert house.state.books.counts["loads_cancelled"] == 2
    assert only(house.ask("c", variant="wide"), LoadVariant)


def test_a_second_load_that_fails_is_a_failure_and_not_a_cancellation() -> None:
    house, execute = cancelled_and_asked_again()
    house.tell(LoadFailed("wide", "cancelled"))
    house.tell(LoadFailed("wide", "its weights are gone"))
    counts = house.state.books.counts
    assert (counts["loads_cancelled"], counts["loads_failed"]) == (1, 1)
    error = only(house.tell(ended(execute, "engine_failed")), Error, CLIENT)
    assert (error.code, error.request_id) == ("engine_failed", "b")


def test_what_is_given_up_is_neither_evicted_nor_taken_for_loading_before_it_is_answered() -> None:
    house, execute = loading()
    house.ask(Cancel("a"))
    house.tell(ended(execute))
    assert status(house).loading == ()
    assert refused(house.ask(Evict("wide"))).code == "overloaded", "it may be loaded all the same"
    house.tell(Loaded(resident("wide")))
    assert only(house.ask(Evict("wide")), EvictVariant)


# ---- what a load costs --------------------------------------------------------------------------

LOAD_S, ALONE_S = 1.0, 0.23
"""What `wide` is thought to cost: it was never measured, and is of the family of `tiny`."""


def test_others_loads_do_not_delay_what_can_begin_beside_them() -> None:
    house, _ = loading()
    assert explained(house, variant="tiny").prediction.queue_s < 1.0
    later = explained(house, variant="wide").prediction
    assert (later.load_s, later.queue_s < LOAD_S) == (LOAD_S, True), (
        "it waits for the load once, not twice"
    )


def test_loads_that_hold_all_credits_delay_everybody() -> None:
    house, _ = loading(credits=1)
    assert explained(house, variant="tiny").prediction.queue_s > LOAD_S


def test_a_load_counts_once_for_the_device_however_many_wait_for_it_and_ends_with_them() -> None:
    house, execute = loading()
    one = status(house).backlog_s
    assert one == pytest.approx(LOAD_S + ALONE_S)
    house.ask("b", variant="wide")
    assert status(house).backlog_s == pytest.approx(2 * one - LOAD_S)
    house.ask(Cancel("b"))
    house.ask(Cancel("a"))
    house.tell(ended(execute))
    assert status(house).backlog_s == 0.0


def test_a_load_is_off_the_account_once_it_is_done() -> None:
    house, _ = loading()
    before = status(house).backlog_s
    house.tell(Loaded(resident("wide")))
    assert status(house).backlog_s == pytest.approx(before - LOAD_S)


# ---- parking ------------------------------------------------------------------------------------


def parked_resident(name: str = "tiny", **changes: Any) -> Resident:
    """Return what comes back from host memory in a tenth of a second, sliced."""
    return resident(name, replace(COSTS, load_s=0.1), memory_mode="sliced", precision="bf16", **changes)


def parked() -> House:
    """Return a house whose only actor has evicted and parked `tiny`."""
    house = served(variants=TWO)
    house.ask(Evict("tiny"))
    house.tell(Evicted("tiny", parked_resident()))
    return house


def test_what_is_parked_is_planned_with_what_it_will_cost_when_it_is_back() -> None:
    plan = explained(parked(), variant="tiny")
    found = replace(plan.prediction, total_s=0.0)
    assert found == Prediction(0.0, 0.1, 0.01, 0.2, 0.02, 0.0, "measured")
    assert plan.prediction.total_s == pytest.approx(0.33)
    assert (plan.memory_mode, plan.precision) == ("sliced", "bf16")


def test_what_is_parked_is_loaded_before_it_is_used_and_is_parked_no_more() -> None:
    house = parked()
    effects = house.ask("a", variant="tiny")
    assert [type(m) for m in told(effects, object, b"cpu-0")] == [LoadVariant, Execute]
    assert status(house).parked == ("tiny",), "until it is there"
    house.tell(Loaded(parked_resident()))
    assert (status(house).parked, status(house).residents) == ((), ("tiny",))


def test_what_was_dropped_is_not_parked_any_more() -> None:
    house = parked()
    house.tell(Loaded(resident("wide")))
    house.tell(Evicted("wide", parked_resident("wide"), dropped=("tiny", "unheard-of")))
    assert status(house).parked == ("wide",)
    assert explained(house, variant="tiny").prediction.source == "estimated", "from its relative"


def test_an_evicted_that_crosses_a_load_parks_and_does_not_undo_the_load() -> None:
    house = served()
    house.ask(Evict("tiny"))
    house.ask("a")
    house.tell(Evicted("tiny", parked_resident()))
    assert (status(house).parked, status(house).loading) == (("tiny",), ("tiny",))
    house.tell(Loaded(parked_resident()))
    assert (status(house).parked, status(house).residents) == ((), ("tiny",))


def test_a_new_process_has_nothing_parked() -> None:
    house = parked()
    house.join(route=b"new", incarnation="new")
    assert status(house).parked == ()


# ---- memory modes -------------------------------------------------------------------------------


def test_a_mode_is_set_wherever_the_variant_is_loaded() -> None:
    house = served(devices=("cpu-0", "cpu-1", "cpu-2"), variants=TWO)
    house.tell(Loaded(resident("wide")), b"cpu-0")
    house.tell(Loaded(resident("wide")), b"cpu-2")
    effects = house.ask(SetMode("wide", "sliced"))
    order = SwitchMode("wide", "sliced")
    assert told(effects, SwitchMode, b"cpu-0") == told(effects, SwitchMode, b"cpu-2") == [order]
    assert told(effects, SwitchMode, b"cpu-1") == []
    assert only(effects, Done, CLIENT).what == "wide switches to sliced"


def test_a_mode_is_set_on_one_device() -> None:
    house = served(devices=("cpu-0", "cpu-1"))
    effects = house.ask(SetMode("tiny", "tiled", "cpu-1"))
    assert only(effects, SwitchMode, b"cpu-1") == SwitchMode("tiny", "tiled")
    assert only(effects, Done)


def test_a_busy_variant_changes_its_mode_too() -> None:
    house = served()
    house.ask("a")
    assert only(house.ask(SetMode("tiny", "tiled")), SwitchMode)


def test_a_resident_is_what_its_actor_says_after_a_switch() -> None:
    house = served()
    house.ask(SetMode("tiny", "tiled"))
    assert explained(house).memory_mode == "full", "asked for is not done"
    slow = replace(COSTS, decode_s=0.5)
    house.tell(Switched(resident("tiny", slow, memory_mode="tiled")))
    assert status(house).memory_modes == {"tiny": "tiled"}
    plan = explained(house)
    assert (plan.memory_mode, plan.prediction.decode_s) == ("tiled", 0.5)


def test_a_switch_that_fails_is_counted_and_changes_nothing() -> None:
    house = served()
    house.ask(SetMode("tiny", "tiled"))
    house.tell(SwitchFailed("tiny", "no"))
    assert house.state.books.counts["switches_failed"] == 1
    assert status(house).memory_modes == {"tiny": "full"}


def test_a_switch_that_crosses_an_eviction_does_not_bring_the_variant_back() -> None:
    house = served()
    house.ask(SetMode("tiny", "tiled"))
    house.ask(Evict("tiny"))
    house.tell(Switched(resident("tiny", memory_mode="tiled")))
    assert status(house).residents == ()
    assert only(house.ask("a"), LoadVariant).variant == "tiny"


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        (SetMode("unheard-of", "full"), "unknown_name", "wide"),
        (SetMode("tiny", "full", "cpu-9"), "unknown_name", "cpu-1"),
        (SetMode("tiny", "full", "cpu-1"), "unavailable", "not ready"),
        (SetMode("wide", "full"), "not_found", "wide is not loaded on any device"),
        (SetMode("wide", "full", "cpu-0"), "not_found", "wide is not loaded on cpu-0"),
        (SetMode("tiny", "fp8"), "unsupported", "it has: full, sliced, tiled"),
        (SetMode("tiny", "group_offload", "cpu-0"), "unsupported", "no mode group_offload"),
    ],
)
def test_a_mode_that_cannot_be_set_is_refused_in_words(message: SetMode, code: str, words: str) -> None:
    house = House(devices=("cpu-0", "cpu-1"), variants=TWO)
    house.join("cpu-0")
    error = refused(house.ask(message))
    assert error.code == code
    assert words in error.message


def test_a_mode_that_one_of_the_devices_lacks_is_set_on_none() -> None:
    house = served(devices=("cpu-0", "cuda-0"))
    error = refused(house.ask(SetMode("tiny", "group_offload")))
    assert (error.code, error.field) == ("unsupported", "memory_mode")
    assert "cpu-0 has no mode group_offload" in error.message
    assert only(house.ask(SetMode("tiny", "group_offload", "cuda-0")), SwitchMode, b"cuda-0")


@pytest.mark.parametrize("mode", ["model_offload", "fp8", "full"])
def test_a_gpu_has_every_mode(mode: MemoryMode) -> None:
    assert only(served(devices=("cuda-0",)).ask(SetMode("tiny", mode)), SwitchMode).memory_mode == mode


# ---- what is learned ----------------------------------------------------------------------------


def test_predictions_follow_the_costs_that_finished_requests_bring() -> None:
    house = served()
    assert explained(house).prediction.total_s == pytest.approx(0.23)
    slower = Costs(64 * 64, 0.02, builders.SHARED.steps, 0.04, 1.0)
    house.tell(finished(only(house.ask("a"), Execute), costs=slower))
    assert explained(house).prediction.total_s == pytest.approx(0.02 + 20 * 0.01 + 0.04)


def test_what_one_variant_shows_of_the_device_is_told_of_the_others() -> None:
    house = House(variants=TWO)
    house.join(residents=(resident("tiny"), resident("wide")))
    twice = math.log(2)
    house.tell(finished(only(house.ask("a", variant="tiny"), Execute), costs=COSTS, drift=5.0))
    before = explained(house, variant="wide").prediction
    assert before.steps_s == pytest.approx(20 * 0.01), "as it was when it was loaded"
    house.tell(finished(only(house.ask("b", variant="tiny"), Execute), costs=COSTS, drift=5.0 + twice))
    after = explained(house, variant="wide").prediction
    assert (after.steps_s, after.decode_s) == pytest.approx((2 * before.steps_s, 2 * before.decode_s))
    assert explained(house, variant="tiny").prediction.steps_s == pytest.approx(20 * 0.01)


def test_a_finished_request_that_brings_no_costs_teaches_nothing() -> None:
    house = served()
    house.tell(finished(only(house.ask("a"), Execute), steps_s=100.0))
    assert explained(house).prediction.total_s == pytest.approx(0.23)


def test_what_was_evicted_meanwhile_is_not_brought_back_by_its_costs() -> None:
    house = served()
    execute = only(house.ask("a"), Execute)
    house.tell(Evicted("tiny"))
    house.tell(finished(execute, costs=COSTS))
    assert status(house).residents == ()


def test_a_cancelled_attempt_that_was_done_teaches_too() -> None:
    house = served()
    execute = only(house.ask("a"), Execute)
    house.ask(Cancel("a"))
    house.tell(finished(execute, costs=replace(COSTS, decode_s=1.0)))
    assert explained(house).prediction.decode_s == 1.0


def test_held_slots_do_not_keep_a_load_alive() -> None:
    house = House(slots=((64 * KIB, 1),), variants=TWO)
    house.join()
    holds = only(house.tell(finished(only(house.ask("h", OTHER_CLIENT, mode="shm"), Execute))), Result)
    house.ask("a", variant="wide")
    assert told(house.ask(Cancel("a")), CancelLoad) == [], "it never began"
    lease = holds.images[0].lease
    assert isinstance(lease, int)
    assert told(house.ask(Release((lease,)), OTHER_CLIENT), LoadVariant) == []
