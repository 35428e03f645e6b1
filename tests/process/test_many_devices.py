"""Eight devices, each a process of its own, kept busy by one broker with the same policy and planner."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest

from difs import AsyncClient
from tests.process.service import Service, big, script, settings, until

pytestmark = pytest.mark.process

DEVICES = 8
REQUESTS = 64


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    choice = settings("policy.name=modelless", 'actors.preload=["emoji-base"]')
    with Service([f"--device=simulated:{DEVICES}", *choice, *settings(script(step_s=0.1))]) as service:
        until(lambda: service.is_idle(DEVICES), 60, "all devices ready")
        yield service


def painted_by(service: Service, variant: str) -> Counter[str]:
    """Ask for many pictures at once; return how many each device painted."""

    async def one(client: AsyncClient, seed: int) -> str:
        with await client.generate("red apple", **big(steps=4, variant=variant, seed=seed)) as result:
            return result.plan.device

    async def all_at_once() -> list[str]:
        async with AsyncClient(service.address) as client:
            return await asyncio.gather(*(one(client, seed) for seed in range(REQUESTS)))

    return Counter(asyncio.run(all_at_once()))


def test_requests_that_come_at_once_are_spread_over_all_devices(service: Service) -> None:
    found = painted_by(service, "emoji-base")
    assert len(found) == DEVICES
    assert max(found.values()) <= REQUESTS / 2, "one that is slower for a while gets less, not nothing"
    assert service.count("attempts_lost") == 0


def test_a_variant_that_too_many_want_is_brought_to_more_devices(service: Service) -> None:
    assert not any("emoji-small" in device.residents for device in service.status().devices)
    found = painted_by(service, "emoji-small")
    holders = [d.device for d in service.status().devices if "emoji-small" in d.residents]
    assert len(holders) > 1
    assert set(found) <= set(holders)
