"""difs.supervision: when children are started, killed and given up."""

import os

import pytest

from difs import config
from difs.supervision import (
    BROKER,
    BROKER_SILENCE_S,
    DOOR,
    DRAIN_SLACK_S,
    MAX_EXCUSES,
    METRICS,
    Action,
    ChildState,
    Finish,
    Kill,
    Spawn,
    Supervision,
    Terminate,
)

DEVICES = ["cpu-0", "cpu-1"]
RULES = config.Supervisor(
    drain=30.0,
    backoff=1.0,
    backoff_cap=10.0,
    stable_after=60.0,
    max_restarts=3,
    restart_window=300.0,
    start_timeout=600.0,
)
CRASH = -11


def running(now: float = 0.0) -> Supervision:
    """Return a supervision with all children up and ready."""
    plan = Supervision(RULES, DEVICES, now)
    for name in (BROKER, *DEVICES):
        plan.started(name, now)
    plan.heard(tuple(DEVICES), now)
    return plan


def crash(plan: Supervision, name: str, now: float, jitter: float = 1.0) -> float:
    """Let a child die and return after how many seconds it is due; infinite when it is given up."""
    plan.exited(name, now, jitter, status=CRASH)
    child = plan.children[name]
    return child.due_at - now if child.state is ChildState.DUE else float("inf")


def heard_until(plan: Supervision, start: int, end: int, ready: tuple[str, ...]) -> list[Action]:
    """Let the broker beat each second; return what is to be done besides."""
    actions: list[Action] = []
    for now in range(start, end + 1):
        plan.heard(ready, float(now))
        actions += plan.decide(float(now))
    return actions


# ---- starts and restarts ------------------------------------------------------------------------


def test_everything_is_started_at_once() -> None:
    plan = Supervision(RULES, DEVICES, 5.0)
    assert plan.decide(5.0) == [Spawn(BROKER), Spawn("cpu-0"), Spawn("cpu-1")]


def test_what_runs_is_left_alone() -> None:
    assert running().decide(1.0) == []


def test_a_child_that_died_is_started_again_alone_and_not_at_once() -> None:
    plan = running(9.0)
    wait_s = crash(plan, "cpu-0", 10.0)
    assert plan.decide(10.0 + wait_s - 0.01) == []
    assert plan.decide(10.0 + wait_s) == [Spawn("cpu-0")]


def test_the_wait_doubles_with_each_restart_up_to_its_cap() -> None:
    rules = config.Supervisor(backoff=1.0, backoff_cap=5.0, max_restarts=100, restart_window=1e9)
    plan, now, waits = Supervision(rules, DEVICES, 0.0), 0.0, []
    for _ in range(60):
        plan.started("cpu-0", now)
        waits.append(crash(plan, "cpu-0", now))
        now += waits[-1]
    assert waits[:5] == pytest.approx([1.0, 2.0, 4.0, 5.0, 5.0])
    assert waits[-1] == pytest.approx(5.0)


def test_jitter_spreads_restarts_over_the_upper_half_of_the_wait() -> None:
    assert crash(running(), "cpu-0", 10.0, jitter=0.0) == pytest.approx(0.5)
    assert crash(running(), "cpu-0", 10.0, jitter=1.0) == pytest.approx(1.0)


def test_a_child_that_lived_long_starts_with_a_clean_record() -> None:
    plan = running()
    for now in (1.0, 2.0, 3.0):
        crash(plan, "cpu-0", now)
        plan.started("cpu-0", now)
    assert crash(plan, "cpu-0", 3.0 + RULES.stable_after) == pytest.approx(1.0)


def test_restarts_long_ago_do_not_count() -> None:
    rules = config.Supervisor(max_restarts=2, restart_window=100.0, stable_after=1000.0, backoff=1.0)
    plan = Supervision(rules, DEVICES, 0.0)
    for now in (0.0, 60.0, 120.0, 180.0):
        plan.started("cpu-0", now)
        assert crash(plan, "cpu-0", now) < float("inf")
    plan.started("cpu-0", 190.0)
    assert crash(plan, "cpu-0", 190.0) == float("inf")


def give_up(plan: Supervision, name: str) -> None:
    """Let a child die until it is given up."""
    for _ in range(RULES.max_restarts):
        assert crash(plan, name, 1.0) < float("inf")
        plan.started(name, 1.0)
    assert crash(plan, name, 1.0) == float("inf")


def test_a_child_that_dies_too_often_stays_down_and_the_others_go_on() -> None:
    plan = running()
    give_up(plan, "cpu-0")
    assert heard_until(plan, 2, 1000, ("cpu-1",)) == []


def test_a_child_that_has_worked_since_its_start_is_not_given_up_for_what_ends_it() -> None:
    """What a request does to an actor is held against the request; what is never any use is given up."""
    plan = running()
    for number in range(10 * RULES.max_restarts):
        plan.started("cpu-0", number)
        plan.heard(("cpu-0", "cpu-1"), number, ("cpu-0",))
        assert crash(plan, "cpu-0", number) == RULES.backoff
    for number in range(RULES.max_restarts - 1):
        plan.started("cpu-0", 100 + number)
        assert crash(plan, "cpu-0", 100 + number) < float("inf")
    plan.started("cpu-0", 200)
    assert crash(plan, "cpu-0", 200) == float("inf")
    assert plan.children["cpu-0"].given_up == "restarted 3 times within 300 s"


def test_a_device_is_excused_for_what_requests_did_to_it_but_not_for_ever() -> None:
    plan = running()
    give_up(plan, "cpu-0")
    for number in range(MAX_EXCUSES):
        assert plan.children["cpu-0"].state is ChildState.FAILED
        plan.excused("cpu-0", 10.0 + number)
        assert Spawn("cpu-0") in plan.decide(10.0 + number)
        plan.started("cpu-0", 10.0 + number)
        give_up(plan, "cpu-0")
    plan.excused("cpu-0", 50.0)
    assert plan.children["cpu-0"].state is ChildState.FAILED, "everything ends it: it is the device"
    plan.heard(tuple(DEVICES), 50.0, ("cpu-0",))
    plan.excused("cpu-0", 51.0)
    assert Spawn("cpu-0") in plan.decide(51.0), "it worked: it is excused anew"


def test_a_wrong_configuration_is_not_excused() -> None:
    plan = running()
    plan.heard(tuple(DEVICES), 0.0, ("cpu-0",))
    plan.exited("cpu-0", 1.0, 0.5, status=os.EX_CONFIG)
    plan.excused("cpu-0", 10.0)
    assert plan.children["cpu-0"].state is ChildState.FAILED


def test_what_stands_beside_the_service_may_stay_down() -> None:
    plan = Supervision(RULES, DEVICES, 0.0, beside=(METRICS,))
    everybody = (BROKER, *DEVICES, METRICS)
    assert plan.decide(0.0) == [Spawn(name) for name in everybody]
    for name in everybody:
        plan.started(name, 0.0)
    assert heard_until(plan, 1, 1000, tuple(DEVICES)) == [], "it is never late"
    plan.exited(METRICS, 1000.0, 0.5, status=os.EX_CONFIG)
    assert heard_until(plan, 1001, 1010, tuple(DEVICES)) == []
    give_up(plan, "cpu-0")
    give_up(plan, "cpu-1")
    assert plan.decide(1010.0)[-1] == Finish(1, "no actor can be kept running"), "not the other's status"


def test_what_stands_beside_the_service_ends_with_it() -> None:
    plan = Supervision(RULES, DEVICES, 0.0, beside=(METRICS,))
    for name in (BROKER, *DEVICES, METRICS):
        plan.started(name, 0.0)
    plan.asked_to_stop(1.0)
    plan.exited(BROKER, 2.0, 0.5, status=0)
    assert Terminate(METRICS) in plan.decide(2.0)


def test_the_service_is_ready_when_all_are_that_were_not_given_up() -> None:
    plan = running()
    assert not plan.is_complete(("cpu-0",))
    assert plan.is_complete(tuple(DEVICES))
    give_up(plan, "cpu-1")
    assert plan.is_complete(("cpu-0",))
    give_up(plan, "cpu-0")
    assert not plan.is_complete(()), "nobody is no service"


def test_the_service_ends_when_every_actor_stays_down() -> None:
    plan = running()
    give_up(plan, "cpu-0")
    give_up(plan, "cpu-1")
    assert plan.decide(1.0)[-1] == Finish(1, "no actor can be kept running")


def test_the_service_ends_when_the_broker_stays_down() -> None:
    plan = running()
    give_up(plan, BROKER)
    (finish,) = [action for action in plan.decide(1.0) if isinstance(action, Finish)]
    assert finish.status == 1


def test_a_child_with_a_wrong_configuration_is_not_started_again() -> None:
    plan = running()
    for name in DEVICES:
        plan.exited(name, 1.0, 0.5, status=os.EX_CONFIG)
    assert plan.children["cpu-0"].state is ChildState.FAILED
    assert plan.decide(1.0)[-1] == Finish(os.EX_CONFIG, "no actor can be kept running")


# ---- hangs --------------------------------------------------------------------------------------


def test_a_silent_broker_is_killed() -> None:
    plan = running()
    assert plan.decide(BROKER_SILENCE_S) == []
    (kill,) = plan.decide(BROKER_SILENCE_S + 0.1)
    assert isinstance(kill, Kill)
    assert kill.name == BROKER


def test_a_broker_that_was_never_heard_of_may_take_its_time() -> None:
    plan = Supervision(RULES, DEVICES, 0.0)
    plan.started(BROKER, 0.0)
    assert not [action for action in plan.decide(500.0) if isinstance(action, Kill)]


def test_an_actor_that_does_not_become_ready_in_time_is_killed() -> None:
    plan = running()
    plan.started("cpu-0", 0.0)
    assert heard_until(plan, 0, 600, ("cpu-1",)) == []
    assert heard_until(plan, 601, 601, ("cpu-1",)) == [Kill("cpu-0", "not ready for 600 s")]


def test_an_actor_that_is_ready_is_never_late() -> None:
    assert heard_until(running(), 0, 2000, tuple(DEVICES)) == []


def test_a_restart_of_the_broker_does_not_cost_the_actors() -> None:
    plan = running()
    assert heard_until(plan, 0, 5000, tuple(DEVICES)) == []
    crash(plan, BROKER, 5000.0)
    plan.started(BROKER, 5001.0)
    assert heard_until(plan, 5001, 5005, ()) == [], "they have not yet found the new broker"
    assert heard_until(plan, 5006, 6000, tuple(DEVICES)) == []


def test_an_actor_that_is_never_ready_again_is_killed() -> None:
    plan = running()
    heard_until(plan, 0, 1000, tuple(DEVICES))
    assert heard_until(plan, 1001, 1601, ("cpu-1",)) == []
    assert heard_until(plan, 1602, 1602, ("cpu-1",)) == [Kill("cpu-0", "not ready for 600 s")]


# ---- the end ------------------------------------------------------------------------------------


def test_a_drain_waits_for_the_broker_then_ends_the_actors() -> None:
    plan = running()
    plan.asked_to_stop(10.0)
    assert plan.is_draining
    assert plan.decide(20.0) == []
    plan.exited(BROKER, 21.0, 0.5, status=0)
    assert plan.decide(21.0) == [Terminate("cpu-0"), Terminate("cpu-1")]
    for name in DEVICES:
        plan.exited(name, 22.0, 0.5, status=0)
    assert plan.decide(22.0) == [Finish(0, "drained")]


def test_nothing_is_started_again_while_draining() -> None:
    plan = running()
    crash(plan, "cpu-0", 9.0)
    plan.asked_to_stop(10.0)
    crash(plan, "cpu-1", 11.0)
    assert [plan.decide(now) for now in (12.0, 20.0)] == [[], []]


def test_a_drain_that_takes_too_long_ends_in_kills_and_a_failure() -> None:
    plan = running()
    plan.asked_to_stop(10.0)
    last = 10.0 + RULES.drain + DRAIN_SLACK_S
    assert plan.decide(last) == []
    kills = plan.decide(last + 0.1)
    assert [type(action) for action in kills] == [Kill] * 3
    for name in (BROKER, *DEVICES):
        plan.exited(name, last + 0.2, 0.5, status=-9)
    assert plan.decide(last + 0.3) == [Finish(1, "stopped at once")]


def test_a_second_request_to_stop_kills_at_once() -> None:
    plan = running()
    plan.asked_to_stop(10.0)
    plan.asked_to_stop(11.0)
    assert [type(action) for action in plan.decide(11.0)] == [Kill] * 3


def test_a_broker_that_leaves_by_itself_was_drained_by_a_client() -> None:
    plan = running()
    plan.exited(BROKER, 10.0, 0.5, status=0)
    assert plan.is_draining
    assert plan.decide(10.0) == [Terminate("cpu-0"), Terminate("cpu-1")]


def test_before_anything_runs_a_stop_is_the_end() -> None:
    plan = Supervision(RULES, DEVICES, 0.0)
    plan.asked_to_stop(0.0)
    assert plan.decide(0.0) == [Finish(0, "drained")]


# ---- time ---------------------------------------------------------------------------------------


def test_decisions_are_due_twice_a_second_and_when_a_child_is() -> None:
    plan = running()
    assert plan.next_wake(10.0) == pytest.approx(10.5)
    crash(plan, "cpu-0", 10.0, jitter=0.0)
    assert plan.next_wake(10.2) == pytest.approx(10.5)
    assert plan.next_wake(9.0) == pytest.approx(9.5)


# ---- the HTTP door -------------------------------------------------------------------------------


def with_door() -> Supervision:
    """Return a supervision with all children up and a door."""
    plan = Supervision(RULES, DEVICES, 0.0, beside=(DOOR,))
    for name in (BROKER, *DEVICES, DOOR):
        plan.started(name, 0.0)
    plan.heard(tuple(DEVICES), 0.0)
    return plan


def test_a_door_is_started_with_the_others_and_started_again_alone() -> None:
    plan = Supervision(RULES, DEVICES, 0.0, beside=(DOOR,))
    assert plan.decide(0.0) == [Spawn(BROKER), Spawn("cpu-0"), Spawn("cpu-1"), Spawn(DOOR)]
    plan = with_door()
    wait_s = crash(plan, DOOR, 1.0)
    assert plan.decide(1.0 + wait_s) == [Spawn(DOOR)]


def test_nobody_waits_for_a_door_to_be_ready() -> None:
    assert heard_until(with_door(), 1, int(RULES.start_timeout) + 2, tuple(DEVICES)) == []


def test_the_service_does_without_a_door_and_not_with_a_door_alone() -> None:
    plan = with_door()
    while crash(plan, DOOR, 1.0) < float("inf"):
        plan.started(DOOR, 1.0)
    assert plan.decide(1.0) == []
    plan = with_door()
    for device in DEVICES:
        while crash(plan, device, 1.0) < float("inf"):
            plan.started(device, 1.0)
    [over] = plan.decide(1.0)
    assert isinstance(over, Finish)


def test_a_door_stays_until_the_broker_is_drained() -> None:
    plan = with_door()
    plan.asked_to_stop(1.0)
    assert plan.decide(1.0) == []
    plan.exited(BROKER, 2.0, 0.0, status=0)
    assert Terminate(DOOR) in plan.decide(2.0)
