"""difs.broker.shares and .crowd: nobody is promised time that is others' share."""

import math
from collections.abc import Hashable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs.broker import shares
from difs.broker.crowd import FORGOTTEN_S, MAX_KEPT, MEMORY_S, Crowd
from difs.broker.fair import FairQueue
from difs.messages import Accepted, Cancel, Explain, Explanation
from tests.builders import House, generate, only, refused, served, told

# ---- who asked for how much -----------------------------------------------------------------------


def test_who_keeps_asking_has_the_rate_at_which_he_asks() -> None:
    crowd = Crowd()
    for i in range(1000):
        crowd.asked("steady", 0.1, i * 0.2)
    assert crowd.rates(200.0)["steady"] == pytest.approx(0.5, rel=0.05)
    assert crowd.rate(200.0) == pytest.approx(0.5, rel=0.05)


def test_a_rate_is_known_before_it_has_lasted_long() -> None:
    crowd = Crowd()
    for i in range(10):
        crowd.asked(i, 0.1, i * 0.2)
    assert crowd.rate(2.0) < 0.2
    assert crowd.rate_since(2.0) == pytest.approx(0.5, rel=0.15)
    for i in range(1000):
        crowd.asked("steady", 0.1, 2.0 + i * 0.2)
    assert crowd.rate_since(202.0) == pytest.approx(crowd.rate(202.0))
    for i in range(10):
        crowd.asked("after a pause", 0.1, 222.0 + i * 0.2)
    assert crowd.rate_since(224.0) == pytest.approx(0.5, rel=0.2)


def test_what_was_asked_long_ago_counts_for_nothing() -> None:
    crowd = Crowd()
    crowd.asked("once", 10.0, 0.0)
    assert crowd.rate(0.0) == 10.0 / MEMORY_S
    assert crowd.rate(FORGOTTEN_S) < 0.001
    crowd.asked("other", 1.0, FORGOTTEN_S + 1.0)
    assert crowd.rates(FORGOTTEN_S + 1.0).keys() == {"other"}


def test_what_is_given_up_is_not_foretold_again() -> None:
    crowd = Crowd()
    crowd.asked("fickle", 10.0, 0.0)
    crowd.asked("fickle", 4.0, 2.0)
    crowd.withdrew("fickle", 10.0, 0.0, 3.0)
    left = Crowd()
    left.asked("fickle", 4.0, 2.0)
    assert crowd.rates(3.0) == pytest.approx(left.rates(3.0))
    assert crowd.rate(3.0) == pytest.approx(left.rate(3.0))
    crowd.withdrew("stranger", 1.0, 3.0, 3.0)
    assert "stranger" not in crowd.rates(3.0)
    crowd.withdrew("fickle", 99.0, 3.0, 3.0)
    assert crowd.rates(3.0) == {"fickle": 0.0}


def test_nobody_is_refused_for_what_others_gave_up() -> None:
    house = served()
    for i in range(40):
        house.ask(f"fickle-{i}", steps=50, timeout_s=3000.0)
    assert house.state.books.crowd.rate(house.now) > 1.0
    for i in range(40):
        house.ask(Cancel(f"fickle-{i}"))
    assert house.state.books.crowd.rate(house.now) == pytest.approx(0.0, abs=1e-6)


def test_only_so_many_are_remembered() -> None:
    crowd = Crowd()
    for i in range(MAX_KEPT + 10):
        crowd.asked(i, 1.0, 0.0)
    assert len(crowd) == MAX_KEPT
    assert 0 not in crowd.rates(0.0)


# ---- what goes ahead ------------------------------------------------------------------------------


def queue_of(waiting: Mapping[str, int]) -> FairQueue[str]:
    """Return a queue in which so many items of one second wait of each flow."""
    queue: FairQueue[str] = FairQueue()
    for flow, count in waiting.items():
        for i in range(count):
            queue.add(f"{flow}{i}", flow=flow, order=(0.0, i), seconds=1.0, kind="k")
    return queue


@pytest.mark.parametrize(
    ("waiting", "to_come", "ahead_s"),
    [
        ({}, {}, 0.0),
        ({"me": 3}, {}, 3.0),
        ({"me": 3}, {"other": 100.0}, 6.0),  # as much as we have before it, and no more
        ({"me": 3}, {"other": 2.0}, 5.0),  # or all that comes
        ({"other": 3}, {"other": 100.0}, 1.0),  # who waits is first at the same tag, once
        ({"me": 1, "other": 3}, {}, 3.0),
    ],
)
def test_others_may_go_ahead_as_far_as_their_shares_go(
    waiting: dict[str, int], to_come: dict[Hashable, float], ahead_s: float
) -> None:
    assert queue_of(waiting).ahead_s("me", 1.0, to_come) == ahead_s


@settings(max_examples=60)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 5)),
    st.lists(st.sampled_from("abcd"), max_size=30),
    st.integers(0, 10),
)
def test_no_more_goes_ahead_than_was_foretold(
    waiting: dict[str, int], comers: list[str], taken: int
) -> None:
    """Whoever comes later, and whenever: what others ask for while an item waits was reckoned with."""
    queue = queue_of(waiting)
    for _ in range(min(taken, len(queue))):
        queue.take(queue.pick({"k"}) or "")
    to_come: dict[Hashable, float] = {f: float(comers.count(f)) for f in set(comers) - {"a"}}
    allowed = queue.ahead_s("a", 1.0, to_come)
    queue.add("mine", flow="a", order=(0.0, 1000), seconds=1.0, kind="k")
    ahead, number = 0, 1000
    for comer in [*comers, *" " * len(queue)]:
        if comer not in (" ", "a"):
            number += 1
            queue.add(f"late{number}", flow=comer, order=(0.0, number), seconds=1.0, kind="k")
        if (served := queue.pick({"k"})) in (None, "mine"):
            break
        queue.take(served or "")
        ahead += 1
    assert ahead <= allowed


RATES = st.lists(st.floats(0.01, 3.0), min_size=1, max_size=8)


@given(RATES, st.floats(0.2, 4.0))
def test_the_level_of_shares_gives_all_there_is_and_no_more(rates: list[float], capacity: float) -> None:
    crowd = Crowd()
    for i, rate in enumerate(rates):
        crowd.asked(i, rate * MEMORY_S, 0.0)
    level = crowd.level(capacity, 0.0)
    if level == math.inf:
        assert sum(rates) <= capacity + 1e-9
    else:
        assert sum(min(rate, level) for rate in rates) == pytest.approx(capacity)
    assert crowd.rate_of(0, 0.0) == pytest.approx(rates[0])
    assert crowd.rate_of("stranger", 0.0) == 0.0


def test_who_floods_is_promised_his_share_and_the_others_theirs() -> None:
    house = served(credits=1, policy="modelless", max_outstanding=1000)

    def promised(name: str, client: bytes) -> bool | None:
        (accepted,) = told(house.ask(name, client, steps=20, latency_s=30.0), Accepted)
        assert accepted.plan is not None
        return accepted.plan.keeps_latency

    for i in range(10):
        assert promised(f"early {i}", b"flood"), "he is alone"
    house.now += 1.0
    assert promised("modest 0", b"modest")
    house.now += 1.0
    kept = [promised(f"flood {i}", b"flood") for i in range(200)]
    assert not kept[-1], "more than anybody may have"
    assert promised("modest 1", b"modest")
    notes = house.state.books.requests["flood 199"].plan.notes  # type: ignore[union-attr]
    assert shares.BEYOND in notes
    assert house.state.books.requests["flood 199"].told == "late"
    strict = {"steps": 20, "latency_s": 30.0, "on_infeasible": "reject"}
    error = refused(house.ask("strict", b"flood", **strict))
    assert (error.code, error.field) == ("overloaded", "requirements.latency_s")
    explained = only(house.ask(Explain(generate("why", **strict)), b"flood"), Explanation)
    assert explained.refusal is not None
    assert explained.refusal.code == "overloaded"
    for i in range(200):
        house.ask(Cancel(f"flood {i}"), b"flood")
    assert promised("changed his mind", b"flood")


# ---- at the door ----------------------------------------------------------------------------------


def test_who_is_alone_may_fill_his_time_and_who_is_not_only_his_share() -> None:
    alone, beside = (served(credits=1, policy="modelless", max_outstanding=1000) for _ in range(2))

    def accepted_of(house: House) -> int:
        return sum(bool(told(house.ask(f"r{i}", timeout_s=4.0, steps=20), Accepted)) for i in range(40))

    assert accepted_of(alone) == 17, "as many as there is time for"
    for i in range(40):
        beside.ask(
            f"other{i}", b"other", timeout_s=0.5, steps=20
        )  # most are refused, and will come again
    assert 6 <= accepted_of(beside) <= 9, "half of it"


def test_a_refusal_for_others_shares_says_when_to_come_again() -> None:
    house = served(credits=1, policy="modelless")
    for i in range(40):
        house.ask(f"other{i}", b"other", timeout_s=0.5, steps=20)
    effects = []
    for i in range(20):
        effects = house.ask(f"r{i}", timeout_s=4.0, steps=20)
        if not told(effects, Accepted):
            break
    error = refused(effects)
    assert (error.code, error.field, error.retryable) == ("overloaded", "timeout_s", True)
    assert error.retry_after_s is not None
    assert 0.1 <= error.retry_after_s < 1.0
    asked = Explain(generate("why", timeout_s=4.0, steps=20))
    explained = only(house.ask(asked), Explanation).refusal
    assert explained is not None
    assert explained.code == "overloaded", "an explanation says the same"
