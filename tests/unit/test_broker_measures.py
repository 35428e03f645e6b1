"""difs.broker: numbers, stories and the last happenings; what they count is what happened."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs import wire
from difs.actor_messages import ActorExited, Execute, Leaving, Pulse
from difs.broker import chronicle
from difs.broker.chronicle import Chronicle
from difs.broker.events import ClientMisspoke
from difs.broker.tally import MAX_LABELS, OTHER, Histogram, Tally
from difs.errors import InvalidRequest
from difs.messages import (
    MAX_HAPPENINGS,
    Cancel,
    Family,
    Metrics,
    MetricsReport,
    Story,
    StoryReport,
)
from tests.builders import (
    CLIENT,
    SUPERVISOR,
    TWO,
    House,
    ended,
    finished,
    only,
    pulse,
    reading,
    refused,
    served,
)


def families(house: House) -> dict[str, Family]:
    """Return all numbers by name."""
    report = only(house.ask(Metrics(), b"watcher"), MetricsReport)
    assert wire.decode_from_broker(wire.encode(report)) == report
    assert report.epoch == house.state.books.epoch
    return {family.name: family for family in report.families}


def numbers(house: House, name: str) -> dict[tuple[str, ...], float]:
    """Return the samples of a family by the values of their labels."""
    return {tuple(sample.labels.values()): sample.value for sample in families(house)[name].samples}


NAMES = {
    "difs_requests_total",
    "difs_request_duration_seconds",
    "difs_queue_seconds",
    "difs_queue_depth",
    "difs_queue_bytes",
    "difs_admission_rejections_total",
    "difs_attempts_total",
    "difs_actor_restarts_total",
    "difs_actor_state",
    "difs_step_seconds",
    "difs_batch_size",
    "difs_shm_slots",
    "difs_gpu_memory_bytes",
    "difs_heartbeat_age_seconds",
    "difs_protocol_errors_total",
    "difs_build_info",
}


def test_every_promised_number_is_there_and_named_as_prometheus_wants() -> None:
    found = families(served())
    assert found.keys() >= NAMES
    for name, family in found.items():
        assert name.startswith("difs_")
        assert name.endswith("_total") == (family.kind == "counter")
        assert family.help.endswith(".")
        assert len({tuple(s.labels.items()) for s in family.samples}) == len(family.samples)


def test_every_request_is_counted_once_by_its_end() -> None:
    house = served(max_outstanding=4)
    house.tell(finished(only(house.ask("good"), Execute)))
    house.tell(ended(only(house.ask("bad"), Execute), "engine_failed"))
    house.ask("late", timeout_s=5.0)
    house.wait(5.0)
    house.ask("nonsense", variant="unheard-of")
    found = numbers(house, "difs_requests_total")
    assert found == {
        ("tiny", "ok"): 1,
        ("tiny", "error"): 1,
        ("tiny", "expired"): 1,
        (OTHER, "rejected"): 1,
    }
    assert numbers(house, "difs_admission_rejections_total") == {("unknown_name",): 1}


def test_a_cancelled_and_a_poisoned_request_are_told_apart_from_failures() -> None:
    house = served(max_attempts=1)
    house.ask("a")
    house.ask(Cancel("a"))
    house.ask("b", seed=1)
    house.tell(ActorExited("cpu-0", 100, "gone", "SIGSEGV"), SUPERVISOR)
    assert numbers(house, "difs_requests_total") == {("tiny", "cancelled"): 1, ("tiny", "poisoned"): 1}
    assert numbers(house, "difs_attempts_total") == {("lost",): 2}, "the aborted one had not ended"


def test_attempts_are_counted_by_how_they_ended() -> None:
    house = served(credits=1)
    order = only(house.ask("a"), Execute)
    house.ask(Cancel("a"))
    house.tell(ended(order))
    house.tell(ended(only(house.ask("b"), Execute), "engine_failed"))
    house.tell(finished(only(house.ask("c"), Execute)))
    house.ask("d")
    house.tell(Leaving())
    expected = {("aborted",): 1, ("failed",): 1, ("finished",): 1, ("lost",): 1}
    assert numbers(house, "difs_attempts_total") == expected


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSEGV", "SIGABRT", "left", "status_70"])
def test_the_end_of_a_process_is_counted_by_how_it_ended(how: str) -> None:
    house = served()
    house.tell(ActorExited("cpu-0", 100, "words", how), SUPERVISOR)
    assert numbers(house, "difs_actor_restarts_total") == {("cpu-0", how): 1}


def test_whom_the_broker_had_killed_is_counted_by_why() -> None:
    house = served()
    house.supervise()
    house.wait(4.0)
    house.tell(ActorExited("cpu-0", 100, "words", "SIGKILL"), SUPERVISOR)
    house.join(incarnation="second", pid=101, credits=2)
    house.ask("a")
    for _ in range(30):
        house.now += 0.5
        house.tell(Pulse("second", 5, reading()), b"pulse socket")
        house.wait(0.0)
    house.tell(ActorExited("cpu-0", 101, "words", "SIGKILL"), SUPERVISOR)
    found = numbers(house, "difs_actor_restarts_total")
    assert found == {("cpu-0", "silent"): 1, ("cpu-0", "stalled"): 1}
    assert not house.state.books.killed, "nothing is remembered of the dead"


def test_levels_are_those_of_the_moment() -> None:
    house = served(devices=("cpu-0", "cpu-1"), credits=1, slots=((64 * 1024, 4),))
    pulse(house, 1)
    for name in ("a", "b", "c"):
        house.ask(name, prompt="äpple", n=1)
    house.now += 2.0
    assert numbers(house, "difs_shm_slots")["cpu-0", "leased"] == 1
    assert numbers(house, "difs_shm_slots")["cpu-0", "free"] == 3
    assert sum(numbers(house, "difs_queue_depth").values()) == 1
    assert numbers(house, "difs_queue_bytes") == {(): 18.0}
    assert numbers(house, "difs_heartbeat_age_seconds") == {("cpu-0",): 2.0, ("cpu-1",): 2.0}
    states = numbers(house, "difs_actor_state")
    assert states["cpu-0", "ready"] == states["cpu-1", "ready"] == 1
    assert sum(states.values()) == 2
    assert numbers(house, "difs_gpu_memory_bytes")["cpu-0", "own"] == 100
    house.tell(Leaving(), b"cpu-1")
    assert numbers(house, "difs_actor_state")["cpu-1", "lost"] == 1


def test_what_a_broken_message_was_is_counted() -> None:
    house = served()
    house.handle(ClientMisspoke(CLIENT, InvalidRequest("n: too many"), None))
    assert numbers(house, "difs_protocol_errors_total") == {("invalid_request",): 1}


def test_durations_queues_steps_and_rows_are_seen() -> None:
    house = served(credits=1, variants=TWO)
    order = only(house.ask("a"), Execute)
    house.ask("b")
    house.now += 0.3
    second = only(house.tell(finished(order, steps_s=0.2, shared_by=3.0)), Execute)
    house.now += 0.3
    house.tell(finished(second, steps_s=4.0))
    found = families(house)
    (durations,) = found["difs_request_duration_seconds"].samples
    assert (durations.labels, durations.count) == ({"outcome": "ok"}, 2)
    assert durations.value == pytest.approx(0.3 + 0.6)
    assert dict(durations.buckets)[0.5] == 1
    (queued,) = found["difs_queue_seconds"].samples
    assert queued.count == 2
    assert queued.value == pytest.approx(0.3)
    (steps,) = found["difs_step_seconds"].samples
    assert steps.labels == {"model": order.variant}
    assert steps.value == pytest.approx(0.01 + 0.2), "20 steps each"
    (rows,) = found["difs_batch_size"].samples
    assert rows.value == pytest.approx(4.0)


def test_to_be_asked_for_numbers_changes_nothing() -> None:
    house = served()
    house.ask("a")
    before = (dict(house.state.books.counts), house.state.books.decisions, len(house.state.books.clients))
    assert families(house) == families(house)
    after = (dict(house.state.books.counts), house.state.books.decisions, len(house.state.books.clients))
    assert before == after


# ---- the tally ----------------------------------------------------------------------------------


def test_there_are_never_too_many_labels() -> None:
    tally = Tally()
    for number in range(10 * MAX_LABELS):
        tally.painted(f"model-{number}", 0.1, 1.0)
        tally.exited("cpu-0", f"reason-{number}")
    assert len(tally.steps_s) <= MAX_LABELS + 1
    assert len(tally.exits) <= MAX_LABELS + 1
    assert tally.steps_s[OTHER].sample().count >= 9 * MAX_LABELS


@settings(max_examples=200)
@given(st.lists(st.floats(0, 2000)))
def test_a_histogram_forgets_no_value_and_counts_up(values: list[float]) -> None:
    histogram = Histogram((0.1, 1.0, 10.0))
    for value in values:
        histogram.saw(value)
    sample = histogram.sample(a="b")
    assert sample.value == pytest.approx(sum(values))
    assert (sample.labels, sample.count) == ({"a": "b"}, len(values))
    for bound, count in sample.buckets:
        assert count == sum(value <= bound for value in values)


# ---- stories ------------------------------------------------------------------------------------


def test_a_story_tells_each_dispatch_with_its_device_and_no_prompt() -> None:
    house = served(devices=("cpu-0", "cpu-1"))
    house.ask("a", prompt="a secret canary")
    house.now += 1.0
    effects = house.tell(ActorExited("cpu-0", 100, "signal 9"), SUPERVISOR)
    house.tell(finished(only(effects, Execute)), b"cpu-1")
    told = only(house.ask(Story("a")), StoryReport).happenings
    assert [(one.what, one.attempt, one.device) for one in told] == [
        ("accepted", 0, ""),
        ("dispatched", 1, "cpu-0"),
        ("requeued", 1, "cpu-0"),
        ("dispatched", 2, "cpu-1"),
        ("finished", 2, "cpu-1"),
    ]
    assert [one.at_s for one in told] == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert told[2].detail == "signal 9"
    assert "canary" not in repr(told)


def test_a_story_that_nobody_knows_is_refused_and_those_of_others_are_an_administrators() -> None:
    assert refused(served().ask(Story("never"))).code == "not_found"
    assert refused(served(admin=False).ask(Story("never"))).code == "unsupported"


def test_without_an_id_the_last_happenings_are_told_those_of_actors_too() -> None:
    house = served()
    house.tell(ActorExited("cpu-0", 100, "signal 9"), SUPERVISOR)
    told = only(house.ask(Story()), StoryReport).happenings
    assert [(one.what, one.device) for one in told] == [("actor ready", "cpu-0"), ("actor lost", "cpu-0")]
    house.join(incarnation="second", credits=2)
    for number in range(MAX_HAPPENINGS):
        house.ask(f"r{number}", f"client-{number % 8}".encode())
    assert len(only(house.ask(Story()), StoryReport).happenings) == MAX_HAPPENINGS


def test_the_chronicle_keeps_the_last_and_hands_out_what_is_fresh_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chronicle, "MAX_KEPT", 3)
    kept = Chronicle(10.0)
    for number in range(5):
        kept.note(10.0 + number, f"n{number}")
    assert [one.at_s for one in kept.last(2)] == [3.0, 4.0]
    assert [one.what for one in kept.last(9)] == ["n2", "n3", "n4"]
    assert [one.what for one in kept.take_fresh()] == ["n2", "n3", "n4"]
    assert kept.take_fresh() == []
