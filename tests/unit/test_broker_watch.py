"""difs.broker: signs of life, hangs, and what the supervisor hears."""

from typing import Any

import pytest
from msgspec.structs import replace

from difs.actor_messages import (
    ActorExited,
    Costs,
    Ended,
    Evicted,
    Execute,
    Fleet,
    FromActor,
    KillActor,
    Leaving,
    Loaded,
    LoadFailed,
    Pulse,
    Retiring,
    RowCost,
    Switched,
    SwitchFailed,
    Welcome,
)
from difs.broker.effects import Effect
from difs.broker.events import ActorUnreachable
from difs.messages import (
    Beat,
    Cancel,
)
from tests import builders
from tests.builders import (
    CLIENT,
    SUPERVISOR,
    TWO,
    House,
    ended,
    finished,
    only,
    pulse,
    served,
    stepped,
    told,
)


def test_a_silent_actor_is_given_up_and_killed() -> None:
    house = served(actor_silence=3.0)
    house.supervise()
    house.ask("a")
    assert told(house.wait(2.9), KillActor) == []
    assert house.state.next_wake() == 3.0, "to the moment, not at the next beat"
    effects = house.wait(0.1)
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
    costs = Costs(64 * 64, 0.1, (RowCost(1, 2.5), RowCost(2, 5.0)), 0.1, 1.0)
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


def test_a_load_that_takes_ten_times_what_was_measured_hangs() -> None:
    slow = replace(builders.COSTS, load_s=8.0)
    house = House(variants=TWO)
    house.join(profiled=(replace(builders.resident("wide"), costs=slow),))
    house.supervise()
    house.ask("a", variant="wide", timeout_s=1000.0)
    assert hangs_after(house, 80.0)


def hangs_after(house: House, seconds: float) -> bool:
    """Let time pass, with heartbeats but without progress; return whether the actor was given up then.

    It must not be before.
    """
    start = house.now
    while house.now < start + seconds - 0.5:
        pulse(house, 0)
        assert told(house.wait(0.5), KillActor) == [], house.now - start
    pulse(house, 0)
    return bool(told(house.wait(1.0), KillActor))


def test_a_load_is_no_excuse_for_those_who_need_not_wait_for_it() -> None:
    house = served(stall_floor=10.0, variants=TWO)
    house.supervise()
    house.ask("waits", variant="wide")
    house.ask("works")
    assert hangs_after(house, 10.0)


def test_who_begins_after_a_long_wait_for_a_load_gets_his_whole_time() -> None:
    house = served(stall_floor=10.0, variants=TWO)
    house.supervise()
    house.ask("waits", variant="wide", timeout_s=1000.0)
    assert not hangs_after(house, 60.0)
    house.ask("works")
    assert hangs_after(house, 10.0)


def test_a_load_that_was_given_up_is_no_excuse() -> None:
    house = served(stall_floor=10.0, variants=TWO)
    house.supervise()
    house.ask("a", variant="wide", timeout_s=1000.0)
    assert not hangs_after(house, 60.0)
    house.ask(Cancel("a"))
    assert hangs_after(house, 10.0), "it has its whole time to say so"


def test_a_call_that_many_share_takes_its_time() -> None:
    costs = Costs(64 * 64, 0.1, (RowCost(1, 1.0), RowCost(2, 2.0)), 0.1, 1.0)
    house = House(stall_floor=10.0, stall_steps=10.0)
    house.join(residents=(builders.resident("tiny", costs),), credits=3)
    house.supervise()
    house.ask("a", n=2, timeout_s=1000.0)
    house.ask("b", timeout_s=1000.0)
    assert hangs_after(house, 60.0), "ten times a call with three images"


def test_patience_is_for_the_memory_mode_in_which_the_resident_is_now() -> None:
    house = served(stall_floor=10.0, stall_steps=10.0)
    house.supervise()
    house.ask("a")
    slow = Costs(64 * 64, 0.1, (RowCost(1, 2.0), RowCost(2, 4.0)), 0.1, 1.0)
    house.tell(Switched(builders.resident("tiny", slow, memory_mode="tiled")))
    assert hangs_after(house, 40.0)


@pytest.mark.parametrize("report", ["loaded", "load failed", "switched", "switch failed", "finished"])
def test_whatever_an_actor_gets_done_is_a_sign_of_progress(report: str) -> None:
    house = served(stall_floor=10.0, variants=TWO, credits=3)
    house.supervise()
    house.ask("works")
    done = only(house.ask("is done"), Execute)
    house.ask("waits", variant="wide")
    assert not hangs_after(house, 8.0)
    reports: dict[str, FromActor] = {
        "loaded": Loaded(builders.resident("wide")),
        "load failed": LoadFailed("wide", "no"),
        "switched": Switched(builders.resident("tiny", memory_mode="tiled")),
        "switch failed": SwitchFailed("tiny", "no"),
        "finished": finished(done),
    }
    house.tell(reports[report])
    assert hangs_after(house, 10.0)


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


def test_only_an_actor_that_may_still_live_is_killed() -> None:
    house = House(devices=("cpu-0", "cpu-1", "cpu-2"))
    for device in house.state.books.segments:
        house.join(device)
    house.supervise()
    assert told(house.tell(ActorExited("cpu-0", 100, "signal 9"), SUPERVISOR), KillActor) == []
    assert told(house.tell(Leaving(), b"cpu-1"), KillActor) == []
    effects = house.handle(ActorUnreachable(b"cpu-2"))
    assert only(effects, KillActor, SUPERVISOR).pid == 102
    assert only(effects, Fleet, SUPERVISOR).ready == ()


def test_without_a_supervisor_nobody_is_asked_to_kill() -> None:
    house = served(actor_silence=3.0)
    assert told(house.wait(4.0), KillActor) == []
    assert house.state.books.ready == []


@pytest.mark.parametrize(
    "message",
    [
        Ended(1, "cancelled", ""),
        Evicted("tiny"),
        Leaving(),
        LoadFailed("tiny", ""),
        Loaded(builders.resident()),
        Switched(builders.resident(memory_mode="tiled")),
        SwitchFailed("tiny", ""),
        Pulse("stranger", 1, builders.reading()),
        Retiring(),
        ActorExited("cpu-9", 1, ""),
        stepped(builders.execute()),
        finished(builders.execute()),
    ],
    ids=lambda message: type(message).__name__,
)
def test_whom_the_broker_does_not_know_changes_nothing(message: Any) -> None:
    house = served()
    house.supervise()
    assert house.tell(message, b"stranger") == []
    assert [actor.device for actor in house.state.books.ready] == ["cpu-0"]


def test_an_unreachable_supervisor_is_forgotten() -> None:
    house = served()
    house.supervise()
    house.handle(ActorUnreachable(SUPERVISOR))
    assert told(house.wait(0.5), Fleet) == []
