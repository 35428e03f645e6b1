"""difs.broker asked for more than it can do, in virtual time: it refuses early and serves the rest."""

import heapq
import random
from collections import Counter

import pytest

from difs.actor_messages import Abort, Execute
from difs.broker.effects import Effect
from difs.messages import Accepted, Error, Result
from tests.builders import CLIENT, House, ended, finished, pulse, served, told

ALONE_S = 0.23
"""What a request of 20 steps takes of the device, see builders.COSTS."""
LATENCY_S = 2.0
SECONDS = 15.0


class Shop:
    """One device that works on one request at a time, and clients that come whenever they like."""

    def __init__(self, seed: int, clients: int = 8) -> None:
        self.house: House = served(credits=1, slots=((64 * 1024, 64),), policy="modelless")
        self._chance = random.Random(seed)
        self._clients = clients
        self._due: list[tuple[float, int, Execute]] = []
        self.ends: Counter[str] = Counter()
        self.in_time = 0
        self.rests: list[float] = []
        self._arrived: dict[str, float] = {}

    def note(self, effects: list[Effect]) -> None:
        """Do what an actor and a client would."""
        for order in told(effects, Execute):
            at = self.house.now + ALONE_S
            heapq.heappush(self._due, (at, order.attempt, order))
        for abort in told(effects, Abort):
            (order,) = [o for _, number, o in self._due if number == abort.attempt]
            self._due = [entry for entry in self._due if entry[1] != abort.attempt]
            self.note(self.house.tell(ended(order)))
        for result in told(effects, Result):
            self.ends["ok"] += 1
            self.in_time += self.house.now - self._arrived[result.request_id] <= LATENCY_S
        for error in told(effects, Error):
            self.ends[error.code] += 1
            if error.code == "overloaded":
                assert error.retryable
                assert error.retry_after_s is not None
                self.rests.append(error.retry_after_s)

    def until(self, at: float) -> None:
        """Let the device work until then."""
        while self._due and self._due[0][0] <= at:
            self.house.now, _, order = heapq.heappop(self._due)
            self.note(self.house.tell(finished(order)))
        self.house.now = at

    def load(self, times: float, seconds: float) -> None:
        """Let so many times come what the device can do, at random, for so long."""
        at = 0.0
        number = 0
        while (at := at + self._chance.expovariate(times / ALONE_S)) < seconds:
            self.until(at)
            number += 1
            name = f"r{number}"
            self._arrived[name] = at
            client = b"client-%d" % (number % self._clients)
            effects = self.house.ask(name, client, timeout_s=LATENCY_S, steps=20)
            if told(effects, Error):
                assert not told(effects, Accepted), "refused at the door, and not after a wait"
            self.note(effects)
            pulse(self.house, number)
            self.note(self.house.wait(0.0))
        self.until(seconds + 10 * LATENCY_S)


@pytest.mark.parametrize("clients", [1, 2, 8, 30])
@pytest.mark.parametrize("times", [3.0, 10.0])
def test_overload_is_refused_early_and_goodput_does_not_collapse(times: float, clients: int) -> None:
    shop = Shop(seed=1, clients=clients)
    shop.load(times, SECONDS)
    peak = SECONDS / ALONE_S
    assert shop.in_time >= 0.9 * peak, shop.ends
    assert shop.ends["overloaded"] > (times - 2.0) * peak, "the rest is refused"
    assert min(shop.rests) > 0.0
    assert max(shop.rests) < 2 * LATENCY_S, "a rest after which there is room"
    assert not shop.house.state.books.requests


@pytest.mark.parametrize("times", [3.0, 10.0])
def test_what_is_accepted_under_overload_does_not_expire(times: float) -> None:
    shops = [Shop(seed, clients) for clients in (1, 2, 8, 30) for seed in (1, 2, 3)]
    for shop in shops:
        shop.load(times, SECONDS)
    accepted = sum(shop.house.state.books.counts["accepted"] for shop in shops)
    assert sum(shop.ends["expired"] for shop in shops) <= 0.01 * accepted


def test_who_asks_for_no_more_than_there_is_is_not_refused() -> None:
    shop = Shop(seed=1)
    shop.load(0.3, SECONDS)
    assert set(shop.ends) == {"ok"}


def test_where_the_device_can_do_what_is_asked_few_are_refused_and_none_is_late() -> None:
    """Thirty clients ask for 0.8 of a device: what they are refused is chance, not caution."""
    shops = [Shop(seed, 30) for seed in (1, 2, 3)]
    for shop in shops:
        shop.load(0.8, 2 * SECONDS)
    ends: Counter[str] = sum((shop.ends for shop in shops), Counter())
    assert ends.keys() <= {"ok", "overloaded"}
    assert ends["overloaded"] <= 0.05 * ends.total()


def test_the_queue_is_bounded_where_everybody_has_time() -> None:
    house = served(credits=1, max_queued=50)
    for number in range(200):
        house.ask(f"r{number}", b"client-%d" % (number % 20), timeout_s=3600.0)
    assert house.state.books.queued == 50
    assert house.state.books.counts["rejected"] == 200 - 51


def test_fifty_submits_of_one_request_are_computed_once_and_answered_once() -> None:
    """An idempotent retry: each connection takes the request over from the one before."""
    house = served()
    orders = []
    for number in range(50):
        effects = house.ask("same", b"client-%d" % number, prompt="one apple")
        orders += told(effects, Execute)
    (order,) = orders
    results = house.tell(finished(order))
    assert [result.request_id for result in told(results, Result)] == ["same"]
    assert told(results, Result, b"client-49")
    assert set(house.state.books.clients) == set()
    assert told(house.ask("same", CLIENT), Execute), "an id is free again after the end"
