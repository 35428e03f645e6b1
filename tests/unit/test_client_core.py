"""difs.client.core: which answer belongs to which call, retries, signs of life."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest

from difs.client.core import (
    GRACE_S,
    MAX_RELEASED_AT_ONCE,
    RETRY_CAP_S,
    SILENCE_S,
    ClientCore,
    Deliver,
    Effect,
    Reply,
    Send,
    to_exception,
)
from difs.errors import (
    BY_CODE,
    BrokerLost,
    Cancelled,
    Denied,
    DifsError,
    Expired,
    IdConflict,
    InternalError,
    Overloaded,
    TooSlow,
    UnknownName,
)
from difs.messages import (
    Accepted,
    Beat,
    Cancel,
    ClearQuarantine,
    Done,
    Drain,
    Error,
    Evict,
    Explain,
    Explanation,
    Generate,
    Load,
    Metrics,
    MetricsReport,
    Ping,
    Pong,
    Preview,
    Progress,
    Quarantine,
    QuarantineList,
    Release,
    Result,
    SetMode,
    Status,
    StatusReport,
    Story,
    StoryReport,
    VariantList,
    Variants,
)
from tests.builders import EPOCH, generate, result

ASKED = generate("r1", timeout_s=100.0)
OVERLOADED = Error("overloaded", "later", retryable=True, request_id="r1")


def called(retries: int = 3, asked: Generate = ASKED) -> ClientCore:
    """Return a core with one open call, sent at 0."""
    core = ClientCore(0.0)
    assert core.generate(asked, 0.0, retries) == [Send(asked)]
    return core


def accepted(core: ClientCore, now: float = 0.0, epoch: int = EPOCH, name: str = "r1") -> list[Effect]:
    """Let the broker accept a call."""
    return core.received(Accepted(name, epoch, 0), now, 0.0)


def delivered(effects: Iterable[Effect], name: str = "r1") -> list[Any]:
    """Return what the caller of `name` hears."""
    return [e.event for e in effects if isinstance(e, Deliver) and e.request_id == name]


def sent(effects: Iterable[Effect]) -> list[Any]:
    """Return what the broker hears."""
    return [effect.message for effect in effects if isinstance(effect, Send)]


def silence(core: ClientCore, start: float, end: float) -> list[Effect]:
    """Let time pass in small steps; return all effects."""
    effects, now = [], start
    while now <= end:
        effects += core.tick(now, 0.0)
        now += 0.125
    return effects


# ---- a call -------------------------------------------------------------------------------------


def test_what_the_broker_says_of_a_call_reaches_its_caller_in_order() -> None:
    core = called()
    news: list[Accepted | Progress | Result] = [
        Accepted("r1", EPOCH, 0),
        Progress("r1", 0, 1, 20),
        result("r1"),
    ]
    assert [core.received(message, 1.0, 0.0) for message in news] == [[Deliver("r1", m)] for m in news]


def test_the_images_of_a_call_count_up_side_by_side_with_their_previews() -> None:
    core = called()
    accepted(core)
    seen = Preview(1, 2, b"rgbRGB")
    news = [Progress("r1", i, k, 3, seen if k == 2 else None) for k in (1, 2, 3) for i in (1, 0)]
    assert [delivered(core.received(message, 1.0, 0.0)) for message in news] == [[m] for m in news]


def test_nothing_is_delivered_after_the_end() -> None:
    for end in (result("r1"), Error("expired", "over", retryable=False, request_id="r1")):
        core = called()
        assert len(delivered(core.received(end, 1.0, 0.0))) == 1
        for late in (result("r1"), OVERLOADED, Progress("r1", 0, 1, 20), Accepted("r1", EPOCH, 1)):
            assert delivered(core.received(late, 2.0, 0.0)) == []
        assert core.next_wake(2.0) is None


def test_what_belongs_to_nobody_is_ignored() -> None:
    core = called()
    for message in (Progress("r2", 0, 1, 20), Accepted("r2", EPOCH, 0), Beat(EPOCH), Done("what")):
        assert core.received(message, 1.0, 0.0) == []


def test_two_open_calls_cannot_have_one_id() -> None:
    core = called()
    with pytest.raises(IdConflict):
        core.generate(generate("r1", seed=5), 1.0, 0)
    assert delivered(core.received(result("r1"), 2.0, 0.0)), "the first goes on"


def test_an_error_is_delivered_as_the_exception_of_its_code() -> None:
    core = called()
    message = Error(
        "unknown_name", "no such", retryable=False, request_id="r1", field="overrides.variant"
    )
    (error,) = delivered(core.received(message, 1.0, 0.0))
    assert isinstance(error, UnknownName)
    assert (error.message, error.field, error.request_id) == ("no such", "overrides.variant", "r1")


@pytest.mark.parametrize("code", BY_CODE)
def test_every_code_has_its_exception(code: str) -> None:
    error = to_exception(
        Error(code, "m", retryable=BY_CODE[code].retryable, retry_after_s=2.0, limit="<= 1")
    )
    assert type(error) is BY_CODE[code]
    assert (error.code, error.retry_after_s, error.limit) == (code, 2.0, "<= 1")


@pytest.mark.parametrize("retryable", [True, False])
def test_an_unknown_code_is_internal_and_as_retryable_as_the_broker_says(retryable: bool) -> None:
    error = to_exception(Error("of a later version", "m", retryable=retryable))
    assert type(error) is InternalError
    assert error.retryable is retryable
    core = called()
    effects = core.received(Error("of a later version", "m", retryable, request_id="r1"), 1.0, 0.0)
    assert bool(delivered(effects)) is not retryable


# ---- retries ------------------------------------------------------------------------------------


def test_a_retryable_error_is_tried_again_with_the_same_id_after_a_rest() -> None:
    core = called()
    assert core.received(OVERLOADED, 1.0, 1.0) == []
    wake = core.next_wake(1.0)
    assert wake == pytest.approx(1.25)
    assert core.tick(1.2, 0.0) == []
    assert core.tick(1.25, 0.0) == [Send(ASKED)]
    assert delivered(core.received(result("r1"), 2.0, 0.0)) == [result("r1")]


def test_a_retry_does_not_make_the_client_spin() -> None:
    core = called()
    core.received(OVERLOADED, 1.0, 0.0)
    core.tick(2.0, 0.0)
    wake = core.next_wake(2.0)
    assert wake is not None
    assert wake > 2.0


def test_rests_grow_up_to_a_cap_and_jitter_takes_up_to_half() -> None:
    for jitter, share in ((1.0, 1.0), (0.0, 0.5)):
        core, now, rests = called(retries=9, asked=generate("r1", timeout_s=3600.0)), 0.0, []
        for _ in range(9):
            assert core.received(OVERLOADED, now, jitter) == []
            wake = core.next_wake(now)
            assert wake is not None
            rests.append(wake - now)
            now = wake
            assert sent(core.tick(now, jitter))
        assert rests[:3] == pytest.approx([0.25 * share, 0.5 * share, 1.0 * share])
        assert max(rests) == pytest.approx(RETRY_CAP_S * share)


def test_a_rest_is_as_long_as_the_broker_asks() -> None:
    core = called()
    core.received(Error("overloaded", "m", retryable=True, request_id="r1", retry_after_s=7.0), 1.0, 0.0)
    assert core.next_wake(1.0) == pytest.approx(8.0)
    assert core.tick(7.9, 0.0) == []
    assert sent(core.tick(8.0, 0.0)) == [ASKED]


def test_an_error_is_delivered_when_no_retry_is_left() -> None:
    core = called(retries=1)
    core.received(OVERLOADED, 1.0, 0.0)
    core.tick(2.0, 0.0)
    (error,) = delivered(core.received(OVERLOADED, 3.0, 0.0))
    assert isinstance(error, Overloaded)


def test_an_error_is_delivered_when_no_time_is_left() -> None:
    core = called(asked=generate("r1", timeout_s=5.0))
    message = Error("overloaded", "m", retryable=True, request_id="r1", retry_after_s=4.5)
    assert len(delivered(core.received(message, 1.0, 0.0))) == 1


@pytest.mark.parametrize("code", sorted(c for c, cls in BY_CODE.items() if not cls.retryable))
def test_errors_about_the_request_itself_are_not_tried_again(code: str) -> None:
    core = called()
    effects = core.received(Error(code, "m", retryable=False, request_id="r1"), 1.0, 0.0)
    assert len(delivered(effects)) == 1
    assert silence(core, 1.0, 200.0) == []


def test_who_wants_to_know_of_overload_is_told_at_once_but_not_of_a_lost_broker() -> None:
    asked = generate("r1", latency_s=1.0, on_infeasible="reject")
    assert len(delivered(called(asked=asked).received(OVERLOADED, 1.0, 0.0))) == 1
    core = called(asked=asked)
    assert sent(silence(core, 0.0, SILENCE_S + 1.0)) == [asked]


def test_a_result_that_comes_while_a_call_rests_is_delivered() -> None:
    core = called()
    core.received(OVERLOADED, 1.0, 0.0)
    assert delivered(core.received(result("r1"), 1.05, 0.0)) == [result("r1")]
    assert silence(core, 1.1, 200.0) == []


# ---- silence and epochs -------------------------------------------------------------------------


def test_a_broker_that_says_nothing_is_lost_and_the_call_tried_again() -> None:
    core = called()
    accepted(core)
    assert silence(core, 0.0, SILENCE_S - 0.1) == []
    effects = silence(core, SILENCE_S, SILENCE_S + 1.0)
    assert sent(effects) == [ASKED]
    assert delivered(effects) == []


def test_beats_keep_an_accepted_call_waiting() -> None:
    core = called()
    accepted(core)
    for now in range(1, 90):
        assert core.received(Beat(EPOCH), float(now), 0.0) == []
        assert core.tick(float(now), 0.0) == []


def test_beats_for_other_calls_do_not_hide_that_one_was_never_accepted() -> None:
    core = called()
    other = generate("r2", timeout_s=100.0)
    core.generate(other, 0.0, 3)
    accepted(core, name="r2")
    effects: list[Effect] = []
    for now in range(1, int(SILENCE_S) + 3):
        effects += core.received(Beat(EPOCH), float(now), 0.0) + core.tick(float(now), 0.0)
    assert sent(effects) == [ASKED]


def test_without_retries_a_silent_broker_is_told_to_the_caller() -> None:
    (error,) = delivered(silence(called(retries=0), 0.0, SILENCE_S + 0.5))
    assert isinstance(error, BrokerLost)


def test_an_idle_client_does_not_hold_silence_against_the_broker() -> None:
    core = ClientCore(0.0)
    core.generate(ASKED, 1000.0, 0)
    assert core.tick(1000.0 + SILENCE_S - 0.1, 0.0) == []


@pytest.mark.parametrize("sign", [Beat(EPOCH + 1), Pong(EPOCH + 1, ready=True)])
def test_another_epoch_means_that_the_broker_forgot_the_call(sign: Beat | Pong) -> None:
    core = called()
    accepted(core)
    assert core.received(sign, 1.0, 0.0) == []
    assert sent(silence(core, 1.0, 2.0)) == [ASKED]
    assert core.received(Beat(EPOCH + 1), 2.0, 0.0) == [], "the retry is the new broker's"


def test_an_epoch_says_nothing_about_a_call_that_was_not_accepted_yet() -> None:
    core = called(retries=0)
    assert core.received(Beat(EPOCH + 1), 1.0, 0.0) == []
    assert delivered(accepted(core, 1.1, EPOCH + 1))
    assert core.received(Beat(EPOCH + 1), 1.2, 0.0) == []


def test_a_call_ends_a_little_after_its_timeout_even_if_the_broker_goes_on_beating() -> None:
    core = called(asked=generate("r1", timeout_s=3.0))
    accepted(core)
    core.received(Beat(EPOCH), 3.0 + GRACE_S - 0.1, 0.0)
    assert core.tick(3.0 + GRACE_S - 0.1, 0.0) == []
    effects = core.tick(3.0 + GRACE_S, 0.0)
    assert sent(effects) == [Cancel("r1")]
    (error,) = delivered(effects)
    assert isinstance(error, Expired)
    assert core.next_wake(10.0) is None


# ---- cancel -------------------------------------------------------------------------------------


def test_a_cancelled_call_hears_nothing_more() -> None:
    core = called()
    assert core.cancel("r1") == [Send(Cancel("r1"))]
    end = Error("cancelled", "m", retryable=False, request_id="r1")
    assert core.received(end, 1.0, 0.0) == []
    assert core.cancel("r1") == []
    assert core.next_wake(1.0) is None


def test_a_call_that_rests_is_cancelled_at_the_broker_too() -> None:
    core = called()
    accepted(core)
    silence(core, 0.0, SILENCE_S)
    assert sent(core.cancel("r1")) == [Cancel("r1")], "it may only be slow"
    assert silence(core, SILENCE_S, 60.0) == []


def test_the_late_result_of_a_cancelled_call_is_given_back() -> None:
    core = called()
    core.cancel("r1")
    assert core.received(result("r1", leases=(8, 9)), 1.0, 0.0) == [Send(Release((8, 9)))]
    assert core.next_wake(1.0) is None, "no lease is kept alive"


def test_a_second_copy_of_a_result_takes_nothing_from_whoever_looks_at_the_first() -> None:
    core = called()
    core.received(result("r1", leases=(8, 9)), 1.0, 0.0)
    assert core.received(result("r1", leases=(8, 9)), 1.1, 0.0) == []
    assert core.release([8, 9]) == [Send(Release((8, 9)))]


# ---- leases -------------------------------------------------------------------------------------


def test_leases_are_kept_alive_by_pings_until_released() -> None:
    core = called()
    core.received(result("r1", leases=(8, 9), lease_s=30.0), 1.0, 0.0)
    pings = [now for now in range(1, 61) if Ping() in sent(core.tick(float(now), 0.0))]
    assert len(pings) == 6
    assert max(b - a for a, b in pairwise(pings)) <= 15
    assert core.release([8]) == [Send(Release((8,)))]
    assert core.next_wake(61.0) is not None
    assert core.release([9, 8, 77]) == [Send(Release((9,)))], "each once, and only what is held"
    assert core.release([9]) == []
    assert silence(core, 62.0, 120.0) == []


def test_many_leases_are_released_in_messages_of_lawful_size() -> None:
    core = called()
    leases = list(range(1, 2 * MAX_RELEASED_AT_ONCE + 2))
    core.received(result("r1", leases=leases), 1.0, 0.0)
    messages = sent(core.release(leases))
    assert [len(message.leases) for message in messages] == [64, 64, 1]
    assert sorted(lease for message in messages for lease in message.leases) == leases


# ---- questions ----------------------------------------------------------------------------------

STATUS = StatusReport(EPOCH, "1", "static", True, False, 1.0, 0, 0, 0, (), {})


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (Status(), STATUS),
        (Variants(), VariantList(())),
        (Ping(), Pong(EPOCH, ready=True)),
        (Explain(ASKED), Explanation("r1")),
        (Load("tiny"), Done("loading")),
        (Evict("tiny"), Done("evicted")),
        (SetMode("tiny", "sliced", "cpu-0"), Done("switching")),
        (Drain(), Done("draining")),
        (Metrics(), MetricsReport(EPOCH, ())),
        (Story("r1"), StoryReport(EPOCH, ())),
        (Quarantine(), QuarantineList(())),
        (ClearQuarantine(), Done("1 set free")),
    ],
)
def test_a_question_gets_its_answer(question: Any, answer: Any) -> None:
    core = ClientCore(0.0)
    other, _ = core.ask(Ping() if isinstance(question, Status) else Status(), 0.0)
    ticket, effects = core.ask(question, 0.0)
    assert sent(effects) == [question]
    assert core.received(answer, 1.0, 0.0) == [Reply(ticket, answer)]
    assert core.received(answer, 1.0, 0.0) == []
    assert ticket != other


def test_questions_of_a_kind_are_answered_in_order() -> None:
    core = ClientCore(0.0)
    tickets = [core.ask(Ping(), 0.0)[0] for _ in range(3)]
    pong = Pong(EPOCH, ready=True)
    assert [core.received(pong, 1.0, 0.0) for _ in tickets] == [[Reply(t, pong)] for t in tickets]


def test_an_error_without_a_request_answers_the_oldest_question() -> None:
    core = called()
    ticket, _ = core.ask(Load("unheard-of"), 0.0)
    (effect,) = core.received(Error("unknown_name", "m", retryable=False), 1.0, 0.0)
    assert isinstance(effect, Reply)
    assert effect.ticket == ticket
    assert isinstance(effect.answer, UnknownName)
    assert core.received(Error("unknown_name", "m", retryable=False), 1.0, 0.0) == []


def test_a_question_to_a_silent_broker_fails() -> None:
    core = ClientCore(0.0)
    ticket, _ = core.ask(Status(), 100.0)
    assert core.next_wake(100.0) == pytest.approx(100.0 + SILENCE_S)
    assert silence(core, 100.0, 100.0 + SILENCE_S - 0.1) == []
    (effect,) = core.tick(100.0 + SILENCE_S, 0.0)
    assert isinstance(effect, Reply)
    assert effect.ticket == ticket
    assert isinstance(effect.answer, BrokerLost)
    assert core.next_wake(200.0) is None


# ---- the end ------------------------------------------------------------------------------------


def test_closing_ends_everything_as_cancelled_and_gives_all_leases_back() -> None:
    core = called()
    core.received(result("r1", leases=(8,)), 1.0, 0.0)
    core.generate(generate("r2"), 1.0, 3)
    core.generate(generate("r3"), 1.0, 3)
    core.received(Error("overloaded", "m", retryable=True, request_id="r3"), 1.0, 0.0)
    ticket, _ = core.ask(Status(), 1.0)
    effects = core.close()
    assert [type(error) for name in ("r2", "r3") for error in delivered(effects, name)] == [Cancelled] * 2
    assert [e.ticket for e in effects if isinstance(e, Reply) and isinstance(e.answer, Cancelled)] == [
        ticket
    ]
    assert {type(message) for message in sent(effects)} == {Cancel, Release}
    assert core.next_wake(2.0) is None


def test_an_idle_client_sleeps() -> None:
    core = ClientCore(0.0)
    assert core.next_wake(0.0) is None
    assert silence(core, 0.0, 60.0) == []


@pytest.mark.parametrize("answer", [result("r1"), OVERLOADED, Accepted("r1", EPOCH, 0)])
def test_an_answer_is_a_value_and_can_be_told_twice(answer: Result | Error | Accepted) -> None:
    """A duplicated message (h11's trick: every frame twice) ends a call at most once."""
    core = called(retries=0)
    heard = [
        event
        for effects in (core.received(answer, 1.0, 0.0), core.received(answer, 1.0, 0.0))
        for event in delivered(effects)
        if isinstance(event, (Result, DifsError))
    ]
    assert len(heard) == (not isinstance(answer, Accepted))


# ---- keys ----------------------------------------------------------------------------------------


def test_a_key_that_is_not_accepted_ends_everything_now_and_later() -> None:
    core = ClientCore(0.0)
    core.generate(ASKED, 0.0, retries=3)
    ticket, _ = core.ask(Ping(), 0.0)
    question, call = core.shut_out()
    assert isinstance(question, Reply)
    assert isinstance(question.answer, Denied)
    assert question.ticket == ticket
    assert isinstance(call, Deliver)
    assert isinstance(call.event, Denied)
    assert core.next_wake(0.0) is None, "nothing is tried again"
    (late,) = core.generate(ASKED, 1.0, retries=3)
    assert isinstance(late, Deliver)
    assert isinstance(late.event, Denied)
    assert isinstance(core.ask(Ping(), 1.0)[1][0], Reply)


def test_a_key_that_is_revoked_ends_what_is_open_when_the_broker_says_so() -> None:
    core = ClientCore(0.0)
    core.generate(ASKED, 0.0, retries=3)
    (effect,) = core.received(Error("denied", "no longer", retryable=False), 1.0, 0.0)
    assert isinstance(effect, Deliver)
    assert isinstance(effect.event, Denied)
    assert core.next_wake(1.0) is None


# ---- too slow ------------------------------------------------------------------------------------


def test_a_client_that_was_given_up_tries_its_open_calls_again() -> None:
    core = called(retries=1)
    ticket, _ = core.ask(Ping(), 0.0)
    given_up = Error("too_slow", "not read in time", retryable=True)
    (reply,) = core.received(given_up, 1.0, 0.0)
    assert isinstance(reply, Reply)
    assert reply.ticket == ticket
    assert isinstance(reply.answer, TooSlow)
    assert sent(core.tick(2.0, 0.0)) == [ASKED]


def test_without_retries_a_client_that_was_given_up_tells_its_callers() -> None:
    core = called(retries=0)
    (event,) = delivered(core.received(Error("too_slow", "not read", retryable=True), 1.0, 0.0))
    assert isinstance(event, TooSlow)
    assert event.request_id == "r1"


# ---- a line that breaks --------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 3])
def test_what_went_over_a_line_that_broke_is_sent_again_as_soon_as_there_is_another(retries: int) -> None:
    core = called(retries)
    accepted(core)
    core.line_lost(2.0)
    assert sent(core.line_found(2.1)) == [ASKED]
    assert delivered(silence(core, 2.1, 2.1 + SILENCE_S - 0.2)) == []
    accepted(core, 5.0)
    assert delivered(core.received(result("r1"), 5.1, 0.0)) == [result("r1")]


def test_what_was_asked_since_a_line_broke_is_not_sent_twice() -> None:
    core = ClientCore(0.0)
    core.line_lost(1.0)
    core.generate(ASKED, 1.1, 3)
    assert core.line_found(1.2) == []
    assert core.line_found(9.0) == [], "nor later, for the same loss"


def test_what_has_ended_or_rests_is_not_sent_again_over_a_new_line() -> None:
    core = called()
    core.received(OVERLOADED, 1.0, 0.0)
    core.generate(generate("r2"), 1.0, 0)
    core.received(result("r2"), 1.5, 0.0)
    core.line_lost(1.6)
    assert core.line_found(1.7) == []


def test_the_first_line_brings_what_waits_for_it_once() -> None:
    assert called().line_found(0.1) == []
