"""difs.broker: what is refused before it costs anything, and bugs of other policies."""

from typing import Any, cast

import pytest

from difs.actor_messages import (
    Execute,
)
from difs.broker.effects import Complain
from difs.broker.events import ClientMisspoke
from difs.errors import InvalidRequest
from difs.messages import (
    MAX_PIXEL_STEPS,
    Accepted,
    Error,
    Explain,
    Explanation,
)
from difs.policy.base import Admit, Decision, Reject, View, Wait
from tests import builders
from tests.builders import (
    CLIENT,
    KIB,
    OTHER_CLIENT,
    House,
    executes,
    finished,
    generate,
    is_over,
    only,
    refused,
    served,
    told,
)


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


class Stubborn:
    """A policy that takes cpu-0 whatever it is shown."""

    name = "stubborn"

    def decide(self, view: View, request: object) -> Decision:
        """Ignore the view."""
        return Admit(builders.plan(device="cpu-0"))


@pytest.mark.timeout(10)
def test_a_policy_that_wants_a_device_without_room_has_to_wait_for_it() -> None:
    house = House(devices=("cpu-0", "cpu-1"), slots=((64 * KIB, 1),), policy=Stubborn())
    house.join("cpu-0")
    house.join("cpu-1")
    running = only(house.ask("a"), Execute, b"cpu-0")
    assert executes(house.ask("b")) == []
    assert only(house.tell(finished(running)), Execute, b"cpu-0").request_id == "b"


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
