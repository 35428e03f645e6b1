"""difs.broker: questions, admin messages, and the end of the service."""

from typing import Any

import pytest

from difs.actor_messages import (
    Abort,
    DrainAll,
    Evicted,
    EvictVariant,
    Execute,
    Leaving,
    Loaded,
    LoadFailed,
    LoadVariant,
    Stop,
)
from difs.broker.effects import Exit, TellActor, TellClient
from difs.broker.events import ActorUnreachable
from difs.messages import (
    Accepted,
    Cancel,
    Done,
    Drain,
    Error,
    Evict,
    Explain,
    Explanation,
    Load,
    Pin,
    Ping,
    Pong,
    Result,
    SetMode,
    Status,
    StatusReport,
    VariantList,
    Variants,
)
from tests import builders
from tests.builders import (
    CLIENT,
    OTHER_CLIENT,
    SUPERVISOR,
    TWO,
    House,
    finished,
    generate,
    is_over,
    only,
    pulse,
    refused,
    served,
    told,
)

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


def test_a_survey_is_told_where_the_policy_can() -> None:
    house = served(devices=("cpu-0", "cpu-1"), policy="modelless")
    told = only(house.ask(Explain(generate("a"), survey=True)), Explanation)
    assert told.plan is not None
    assert {point.device for point in told.points} == {"cpu-0", "cpu-1"}
    (chosen,) = [point for point in told.points if not point.why_not]
    assert (chosen.device, chosen.steps) == (told.plan.device, told.plan.steps)
    assert only(house.ask(Explain(generate("a"))), Explanation).points == ()
    plain = served(policy="round_robin")
    assert only(plain.ask(Explain(generate("a"), survey=True)), Explanation).points == ()


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
    house = served(devices=("cpu-0", "cpu-1"), credits=1, now=10.0)
    pulse(house, 0)
    for name in ("a", "b", "c"):
        house.ask(name)
    house.now += 3.0
    report = only(house.ask(Status(), OTHER_CLIENT), StatusReport, OTHER_CLIENT)
    assert (report.queued, report.running, report.clients, report.ready) == (1, 2, 1, True)
    assert (report.uptime_s, report.policy, report.draining) == (3.0, "static", False)
    assert report.counts["accepted"] == 3
    first, second = report.devices
    assert (first.device, first.state, first.residents) == ("cpu-0", "ready", ("tiny",))
    assert (first.queued + second.queued, first.slots_free, first.slots_total) == (1, 3, 4)
    assert first.reading == builders.reading()
    assert second.reading is None


def test_status_tells_its_client_where_a_request_waits() -> None:
    house = served(credits=1)
    for name in ("a", "b", "c"):
        house.ask(name)

    def position(name: str, route: bytes = CLIENT) -> int | None:
        return only(house.ask(Status(name), route), StatusReport, route).position

    assert [position(name) for name in ("a", "b", "c")] == [None, 1, 2], "the first is running"
    assert position("c", OTHER_CLIENT) is None, "nobody hears of another's"
    assert position("nothing") is None


def test_status_tells_where_a_request_waits_for_a_device() -> None:
    house = served()
    for name in ("a", "b"):
        house.ask(name)
    house.handle(ActorUnreachable(b"cpu-0"))
    assert only(house.ask(Status("b")), StatusReport).position == 2


def test_variants_tells_where_each_is_resident() -> None:
    house = served(devices=("cpu-0", "cpu-1"), variants=TWO)
    found = {v.name: v.resident_on for v in only(house.ask(Variants()), VariantList).variants}
    assert found == {"tiny": ("cpu-0", "cpu-1"), "wide": ()}


def test_variants_tells_the_adapters_too() -> None:
    ink = builders.adapter("ink", variants=("tiny",))
    assert only(served(adapters=[ink]).ask(Variants()), VariantList).adapters == (ink,)


def test_status_tells_what_is_loaded_how_and_what_is_loading_or_parked() -> None:
    house = House(variants=TWO)
    house.join(residents=(builders.resident("tiny", memory_mode="sliced"), builders.resident("old")))
    house.tell(Evicted("old", builders.resident("old")))
    house.ask("a", variant="wide")
    (found,) = only(house.ask(Status()), StatusReport).devices
    assert (found.residents, found.memory_modes) == (("tiny",), {"tiny": "sliced"})
    assert (found.loading, found.parked) == (("wide",), ("old",))


def test_a_ping_tells_whether_a_device_is_ready() -> None:
    house = House()
    assert only(house.ask(Ping()), Pong) == Pong(builders.EPOCH, ready=False)
    house.join()
    assert only(house.ask(Ping()), Pong) == Pong(builders.EPOCH, ready=True)


# ---- admin --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message", [Load("tiny"), Evict("tiny"), SetMode("tiny", "tiled"), Pin("tiny"), Drain()]
)
def test_admin_messages_are_refused_where_they_are_off(message: Load | Evict | SetMode | Drain) -> None:
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


def test_a_variant_that_a_cancelled_attempt_still_uses_is_not_evicted() -> None:
    house = served()
    execute = only(house.ask("a"), Execute)
    house.ask(Cancel("a"))
    assert refused(house.ask(Evict("tiny"))).code == "overloaded"
    house.tell(builders.ended(execute))
    assert only(house.ask(Evict("tiny")), EvictVariant)


def test_a_variant_that_an_actor_dropped_by_itself_is_loaded_again() -> None:
    house = served()
    house.tell(Evicted("tiny"))
    assert [type(m) for m in told(house.ask("a"), object, b"cpu-0")] == [LoadVariant, Execute]


def test_a_variant_that_is_loading_is_not_evicted() -> None:
    house = served(variants=TWO)
    house.ask(Load("wide"))
    assert refused(house.ask(Evict("wide"))).code == "overloaded"
    house.tell(Loaded(builders.resident("wide")))
    assert only(house.ask(Evict("wide")), EvictVariant)


def test_a_late_evicted_does_not_undo_a_load_that_was_asked_for_since() -> None:
    house = served()
    house.ask(Evict("tiny"))
    house.ask(Load("tiny"))
    house.tell(Evicted("tiny"))
    house.tell(Loaded(builders.resident()))
    (actor,) = house.state.books.ready
    assert set(actor.residents) == {"tiny"}


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


def test_a_broker_that_nobody_drains_never_exits() -> None:
    house = served()
    assert [effect for _ in range(5) for effect in house.wait(0.5) if isinstance(effect, Exit)] == []


def test_a_draining_broker_stops_each_actor_once_and_exits_after_the_last_is_gone() -> None:
    house = served(devices=("cpu-0", "cpu-1"))
    execute = only(house.ask("a"), Execute)
    house.ask(Drain())
    assert told(house.wait(0.5), Stop) == []
    house.tell(finished(execute))
    effects = house.wait(0.5) + house.wait(0.5)
    assert len(told(effects, Stop, b"cpu-0")) == len(told(effects, Stop, b"cpu-1")) == 1
    assert Exit() not in effects
    house.tell(Leaving(), b"cpu-0")
    assert Exit() not in house.wait(0.5)
    house.tell(Leaving(), b"cpu-1")
    assert Exit() in house.wait(0.5)


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
