"""A bad network between a client and the service, on real TCP with keys: calls end once and right."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from difs import AsyncClient
from tests.process.network import Far, Network
from tests.process.service import Service, picture, script, settings, until

pytestmark = pytest.mark.process

CALLERS = 6
AFTER_S = 0.5
"""So long all goes on after the network is whole again."""


class Remote:
    """A service that listens on TCP, a client's key, and the network between."""

    def __init__(self, folder: Path) -> None:
        far = Far(folder)
        self.network, self.key = far.network, far.key
        keys = settings(script(step_s=0.02), *far.settings, "broker.validate=true")
        self.service = Service(["--device", "simulated:2", *keys])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    remote = Remote(tmp_path_factory.mktemp("remote"))
    with remote.network, remote.service:
        yield remote


@pytest.fixture
def remote(made: Remote) -> Iterator[Remote]:
    """Yield the service with a whole network, and nothing open before and after."""
    made.network.heal()
    made.network.delay_s = 0.0
    until(made.service.is_idle, 20, "an idle service before the test")
    yield made
    made.network.heal()
    until(made.service.is_idle, 20, "nothing is left of calls over a bad network")


def flap(network: Network) -> None:
    for _ in range(5):
        network.is_down = True
        network.cut()
        time.sleep(0.1)
        network.is_down = False
        time.sleep(0.2)


def stall(network: Network) -> None:
    """Be silent for longer than either end waits."""
    network.stall()
    time.sleep(4.5)


def delay(network: Network) -> None:
    network.delay_s = 0.3
    time.sleep(1.5)


async def calls_of(client: AsyncClient, caller: int, ends: Counter[str], stop: asyncio.Event) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        name, seed = f"{caller}-{number}", 1000 * caller + number
        asked = client.generate(name, seed=seed, steps=4, format="raw", retries=20, timeout_s=60)
        with await asyncio.wait_for(asked, 70) as result:
            assert np.array_equal(result.images[0], picture(name, seed)), name
        ends[name] += 1


@pytest.mark.parametrize(
    "spoil",
    [flap, stall, delay, Network.stall, Network.half_close],
    ids=["flapping", "silent", "slow", "half-open", "half-closed"],
)
def test_a_bad_network_loses_no_call(remote: Remote, spoil: Callable[[Network], None]) -> None:
    ends: Counter[str] = Counter()

    async def load() -> None:
        stop = asyncio.Event()
        async with AsyncClient(key=remote.key) as client:
            callers = [asyncio.create_task(calls_of(client, i, ends, stop)) for i in range(CALLERS)]
            await asyncio.to_thread(until, lambda: len(ends) >= CALLERS, 20, "a picture for each")
            lines = remote.network.lines
            await asyncio.to_thread(spoil, remote.network)
            if spoil is not Network.stall:  # what is half-open stays so: only new connections carry
                remote.network.heal()
            before = sum(ends.values())
            await asyncio.to_thread(until, lambda: sum(ends.values()) > before, 20, "more pictures")
            await asyncio.sleep(AFTER_S)
            if spoil is not delay:
                await asyncio.to_thread(until, lambda: remote.network.lines > lines, 15, "it was noticed")
            stop.set()
            await asyncio.gather(*callers)

    asyncio.run(load())
    assert set(ends.values()) == {1}
