"""What the worker of batches decides, and when it is started."""

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from difs import errors
from difs.batches import decisions
from difs.batches.decisions import MAX_IN_FLIGHT, MAX_TRIES, Again, Fail, Retry
from difs.batches.keeping import MAX_BACKOFF_S, Keeping
from difs.messages import DeviceStatus, StatusReport


def report(*places: int, state: str = "ready", draining: bool = False) -> StatusReport:
    devices = tuple(
        DeviceStatus(
            device=f"simulated-{i}",
            state=state,
            residents=(),
            queued=0,
            running=0,
            credits=count,
            backlog_s=0.0,
            slots_free=1,
            slots_total=1,
            reading=None,
        )
        for i, count in enumerate(places)
    )
    return StatusReport(
        epoch=1,
        version="",
        policy="",
        ready=True,
        draining=draining,
        uptime_s=1.0,
        queued=0,
        running=0,
        clients=0,
        devices=devices,
        counts={},
    )


def test_as_much_is_asked_for_as_the_ready_devices_take() -> None:
    assert decisions.window(report(16, 3)) == 19
    assert decisions.window(report(16, state="starting")) == 0
    assert decisions.window(report(16, draining=True)) == 0
    assert decisions.window(report()) == 0
    assert decisions.window(report(64, 64)) == MAX_IN_FLIGHT
    assert decisions.window(report(64, 64), 5) == 5


def test_a_service_that_takes_fewer_is_asked_for_fewer() -> None:
    assert decisions.ceiling(errors.TooManyOutstanding("many"), 48, 16) == 8
    assert decisions.ceiling(errors.TooManyOutstanding("many"), 4, 16) == 4
    assert decisions.ceiling(errors.TooManyOutstanding("many"), 8, 1) == 1
    assert decisions.ceiling(errors.Unavailable("away"), 48, 16) == 48


@pytest.mark.parametrize(
    "error", [errors.Unavailable, errors.BrokerLost, errors.Expired, errors.Draining]
)
def test_waiting_is_no_failure(error: type[errors.DifsError]) -> None:
    for refusals in (0, 3, 10_000):
        found = decisions.verdict(error("not now"), MAX_TRIES + 9, refusals)
        assert isinstance(found, Again)
        assert 0 < found.rest_s <= decisions.MAX_REST_S
    assert decisions.verdict(error("x", retry_after_s=30.0), 0, 0) == Again(30.0)
    assert decisions.verdict(error("x", retry_after_s=5000.0), 0, 0) == Again(60.0)


@pytest.mark.parametrize("error", [errors.UnknownName, errors.Infeasible, errors.ActorLost])
def test_what_time_does_not_heal_fails_at_once(error: type[errors.DifsError]) -> None:
    assert decisions.verdict(error("no"), 0, 0) == Fail()


@pytest.mark.parametrize("error", [errors.EngineFailed, errors.OutOfMemory, errors.InternalError])
def test_an_error_of_the_service_is_tried_again_but_not_for_ever(error: type[errors.DifsError]) -> None:
    found = [decisions.verdict(error("broke"), tries, 0) for tries in range(MAX_TRIES)]
    assert found == [Retry()] * (MAX_TRIES - 1) + [Fail()]


def test_every_error_of_the_wire_has_a_verdict() -> None:
    for cls in errors.BY_CODE.values():
        assert isinstance(decisions.verdict(cls("x"), 0, 0), Again | Retry | Fail)


def test_the_time_left_follows_the_pace_and_forgives_a_night() -> None:
    assert decisions.left_s([], 0) == 0.0
    assert decisions.left_s([], 5) is None
    assert decisions.left_s([1.0, 2.0], 5) is None
    assert decisions.left_s([3.0, 1.0, 2.0], 5) == 5.0
    assert decisions.left_s([1.0, 2.0, 40_000.0, 40_001.0], 5) == 5.0


@examples(max_examples=200)
@given(st.lists(st.floats(0, 1e12)), st.integers(0, 10**6))
def test_the_time_left_is_never_nonsense(times: list[float], waiting: int) -> None:
    found = decisions.left_s(times, waiting)
    assert found is None or found >= 0.0


# ---- keeping --------------------------------------------------------------------------------------


def test_a_worker_runs_while_it_is_called_for() -> None:
    keeping = Keeping()
    assert keeping.decide(0.0, is_called=False, is_draining=False) is None
    assert keeping.decide(0.0, is_called=True, is_draining=False) == "start"
    keeping.started()
    assert keeping.decide(1.0, is_called=True, is_draining=False) is None, "one at a time"
    keeping.ended(0, 2.0)
    assert keeping.decide(2.0, is_called=False, is_draining=False) is None, "it had nothing to do"
    assert keeping.decide(2.0, is_called=True, is_draining=False) == "start"


def test_a_killed_worker_comes_again_uncalled_and_ever_more_slowly() -> None:
    keeping, now, rests = Keeping(), 0.0, []
    for _ in range(12):
        keeping.started()
        keeping.ended(-9, now)
        rest_s = 0.0
        while keeping.decide(now + rest_s, is_called=False, is_draining=False) is None:
            rest_s += 0.5
        rests.append(rest_s)
        now += rest_s
    assert rests[0] <= 0.5
    assert rests == sorted(rests)
    assert rests[-1] == MAX_BACKOFF_S
    keeping.started()
    keeping.ended(0, now)
    assert keeping.decide(now, is_called=False, is_draining=False) is None


def test_a_draining_service_stops_its_worker_once_and_starts_none() -> None:
    keeping = Keeping()
    assert keeping.decide(0.0, is_called=True, is_draining=True) is None
    keeping.started()
    assert keeping.decide(1.0, is_called=True, is_draining=True) == "stop"
    assert keeping.decide(1.1, is_called=True, is_draining=True) is None
    keeping.ended(-15, 2.0)
    assert keeping.decide(99.0, is_called=True, is_draining=True) is None
