"""One device in virtual time that is asked for more than it can do: what it promises it keeps."""

from functools import lru_cache
from typing import Any

import pytest

from difs.simulation import figures
from difs.simulation.scenario import Arrivals, Fleet, Wish
from tests.simulated_scenes import MIB, SWIFT, lived, scene

MIX = (Wish(latency_s=1.0), Wish(latency_s=3.0), Wish(latency_s=8.0))
SECONDS = 30.0


def capacity_hz() -> float:
    """Return what a device does of the quickest pictures in full calls: guided, of four steps."""
    (mode, *_) = SWIFT.modes.values()
    costs = mode.resident.costs
    full = next(cost.seconds for cost in costs.steps if cost.rows == 8)
    return 1.0 / (costs.encode_s + 4 * full / 4 + costs.decode_s)


@lru_cache
def told(load: float, pattern: str, seed: int) -> dict[str, Any]:
    wanted = Arrivals(pattern, rate_hz=load * capacity_hz(), seconds=SECONDS, cv=3.0, period_s=SECONDS)  # type: ignore[arg-type]
    fleet = Fleet(devices=1, memory_bytes=1024 * MIB, kind="cpu")
    return figures.of_run(lived(scene(seed=seed, arrivals=wanted, mix=MIX, fleet=fleet, clients=24)))


@pytest.mark.parametrize("pattern", ["poisson", "burst", "diurnal"])
@pytest.mark.parametrize("load", [0.6, 0.9, 1.3])
def test_what_is_promised_is_kept_where_not_all_can_be_in_time(load: float, pattern: str) -> None:
    for seed in (1, 2):
        found = told(load, pattern, seed)
        assert found["promises_kept"] >= 0.95, found
        assert not found["failed"]


@pytest.mark.parametrize("pattern", ["poisson", "burst", "diurnal"])
def test_more_than_can_be_done_takes_nothing_from_what_is_done_in_time(pattern: str) -> None:
    most, beyond = (
        sum(told(load, pattern, seed)["goodput_hz"] for seed in (1, 2)) for load in (0.9, 1.3)
    )
    assert beyond >= 0.9 * most
