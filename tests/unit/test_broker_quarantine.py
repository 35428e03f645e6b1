"""difs.broker: contents that ended too many actors are not tried again for a while."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs.actor_messages import ActorExited, Excuse, Execute
from difs.broker.quarantine import MAX_KEPT, Quarantine, digest_of
from difs.messages import (
    Accepted,
    ClearQuarantine,
    Done,
    Error,
    Explain,
    Explanation,
    QuarantineList,
)
from difs.messages import Quarantine as List
from tests.builders import (
    CLIENT,
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


def die(house: House, device: str = "cpu-0") -> list[Any]:
    """Let an actor die and come back; returns the effects of both."""
    pid = house.state.books.by_device[device].pid
    effects = house.tell(ActorExited(device, pid, "signal 11", "SIGSEGV"), b"supervisor")
    return [*effects, *house.join(device, incarnation=f"{device}.{house.now}", pid=pid + 1, credits=2)]


def poisoned(name: str = "poison", *, prompt: str = "boom", **options: Any) -> House:
    """Return a house in which a request has just ended its third actor."""
    house = served(**options)
    house.ask(name, prompt=prompt)
    for _ in range(3):
        last = die(house)
    assert only(last, Error, CLIENT).code == "actor_lost"
    return house


def test_a_content_that_ended_three_actors_is_refused_whoever_asks_and_under_whichever_id() -> None:
    house = poisoned()
    for name, route in (("poison", CLIENT), ("other", OTHER_CLIENT)):
        error = refused(house.ask(name, route, prompt="boom", priority=9, timeout_s=7.0))
        assert (error.code, error.request_id, error.retryable) == ("quarantined", name, False)
        assert error.retry_after_s == pytest.approx(600.0)
        assert "ended 3 actors" in error.message
        assert "difs quarantine clear" in error.message
    assert is_over(house), "nothing is remembered of who was refused"


def test_without_a_try_alone_nothing_is_quarantined() -> None:
    house = served(max_attempts=1)
    house.ask("poison", prompt="boom")
    house.ask("mate", prompt="fine")
    assert [error.code for error in told(die(house), Error)] == ["actor_lost"] * 2
    assert not only(house.ask(List()), QuarantineList).cases


def test_another_content_is_taken() -> None:
    house = poisoned()
    assert only(house.ask("a", prompt="boom", seed=7), Accepted)
    assert only(house.ask("b", prompt="boom!"), Accepted)


def test_what_waits_with_the_same_content_ends_with_it() -> None:
    house = served(credits=1)
    house.ask("first", prompt="boom")
    house.ask("copy", OTHER_CLIENT, prompt="boom")
    house.ask("innocent", OTHER_CLIENT, prompt="fine")
    for _ in range(3):
        effects = die(house)
    assert only(effects, Error, CLIENT).code == "actor_lost"
    assert only(effects, Error, OTHER_CLIENT).request_id == "copy"
    assert only(effects, Error, OTHER_CLIENT).code == "quarantined"
    assert executes(effects) == ["innocent"]


def test_the_devices_are_excused_for_the_deaths_of_a_poison_and_for_no_others() -> None:
    house = served(devices=("cpu-0", "cpu-1"))
    house.supervise()
    house.ask("poison", prompt="boom")
    for device in ("cpu-0", "cpu-1"):
        assert not told(die(house, device), Excuse)
    assert only(die(house, "cpu-0"), Excuse) == Excuse(("cpu-0", "cpu-1"))


def test_after_a_death_each_runs_alone_so_that_the_innocent_are_cleared() -> None:
    house = served()
    house.ask("poison", prompt="boom")
    house.ask("mate", prompt="fine")
    effects = die(house)
    assert executes(effects) == ["poison"], "alone"
    effects = die(house)
    assert executes(effects) == ["poison"]
    effects = die(house)
    assert only(effects, Error).request_id == "poison"
    order = only(effects, Execute)
    assert (order.request_id, order.is_alone) == ("mate", True)
    house.tell(finished(order))
    (case,) = only(house.ask(List()), QuarantineList).cases
    assert (case.request_id, case.deaths, case.reason) == ("poison", 3, "signal 11")
    assert only(house.ask("again", prompt="fine"), Accepted), "the mate is in no quarantine"


def test_explain_tells_of_the_quarantine() -> None:
    house = poisoned()
    found = only(house.ask(Explain(generate("e", prompt="boom"))), Explanation)
    assert found.refusal is not None
    assert found.refusal.code == "quarantined"


def test_the_quarantine_ends_by_itself() -> None:
    house = poisoned(quarantine=5.0)
    house.now += 4.9
    assert refused(house.ask("early", prompt="boom")).code == "quarantined"
    house.now += 0.1
    assert only(house.ask("late", prompt="boom"), Accepted)
    assert not only(house.ask(List()), QuarantineList).cases


def test_an_administrator_ends_the_quarantine_of_one_content_or_of_all() -> None:
    house = poisoned()
    (case,) = only(house.ask(List()), QuarantineList).cases
    assert case.digest == digest_of(generate(prompt="boom"))
    assert refused(house.ask(ClearQuarantine("0" * 32))).code == "not_found"
    assert only(house.ask(ClearQuarantine(case.digest)), Done).what == "1 set free"
    assert only(house.ask("again", prompt="boom"), Accepted)
    assert only(house.ask(ClearQuarantine()), Done).what == "0 set free"


@pytest.mark.parametrize("message", [List(), ClearQuarantine()])
def test_the_quarantine_is_an_administrators(message: Any) -> None:
    assert refused(served(admin=False).ask(message)).code == "unsupported"


def test_without_a_quarantine_a_content_may_be_tried_at_once() -> None:
    house = poisoned(quarantine=0.0)
    assert only(house.ask("again", prompt="boom"), Accepted)


def test_no_prompt_stands_in_the_quarantine() -> None:
    house = poisoned(prompt="a secret canary")
    house.ask("again", prompt="a secret canary")
    told_to_all = [*house.ask(List()), *house.ask("more", prompt="a secret canary")]
    assert "canary" not in repr(told_to_all)


# ---- the digest ---------------------------------------------------------------------------------

texts = st.text(max_size=20).filter(lambda text: "\0" not in text)


@settings(max_examples=300)
@given(prompt=texts, other=texts, negative=texts)
def test_a_digest_tells_contents_apart_and_nothing_else(prompt: str, other: str, negative: str) -> None:
    one = generate("a", prompt=prompt, negative_prompt=negative)
    same = generate("b", prompt=prompt, negative_prompt=negative, timeout_s=5.0, priority=1, format="png")
    assert digest_of(one) == digest_of(same)
    changed = generate("a", prompt=other, negative_prompt=negative)
    assert (digest_of(one) == digest_of(changed)) == (one.prompt == changed.prompt)


def test_a_quarantine_is_of_bounded_size_and_keeps_the_newest() -> None:
    quarantine = Quarantine(10.0)
    messages = [generate(prompt=f"p{i}") for i in range(MAX_KEPT + 5)]
    for now, message in enumerate(messages):
        assert quarantine.put(message, 3, "why", now / 1000)
    kept = quarantine.cases(1.0)
    assert [case.digest for case in kept] == [digest_of(message) for message in messages[5:]]


def test_who_offends_again_starts_its_time_anew() -> None:
    quarantine = Quarantine(10.0)
    quarantine.put(generate(), 3, "why", 0.0)
    quarantine.put(generate(prompt="other"), 3, "why", 1.0)
    quarantine.put(generate(), 3, "why", 5.0)
    assert [case.until for case in quarantine.cases(5.0)] == [11.0, 15.0]
    assert quarantine.find(generate(), 12.0)
    assert not quarantine.find(generate(), 15.0)
