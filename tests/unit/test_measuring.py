"""A load is measured a little before the variant serves; the rest of it goes on beside the work."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from difs.actor_messages import Finished, Loaded, LoadFailed, Resident, Switched
from difs.actors.measuring import REST_PATIENCE_S, Measuring
from difs.actors.simulated import Script
from difs.errors import EngineFailed
from difs.shm import segment
from difs.shm.writer import SegmentWriter
from tests import builders
from tests.studio import PLAN, Studio, ends

ROUGH = builders.resident("wide", builders.COSTS)
BETTER = builders.resident("wide", builders.SHARED)
LOAD_S = 3.0


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    path = segment.create(tmp_path, PLAN)
    with SegmentWriter(path) as writer:
        yield Studio(path, writer, Script(faults=(), scores=(), neighbours=(), rooms={}))


def units(studio: Studio, *found: Resident | Exception | None) -> Iterator[Resident | None]:
    """Take a second for each unit."""
    for one in found:
        studio.clock.advance(1.0)
        if isinstance(one, Exception):
            raise one
        yield one


def measure(studio: Studio, *found: Resident | Exception | None) -> Studio:
    """Put `wide` on the device, to be measured."""
    measuring = Measuring(units(studio, *found), studio.clock.now(), LOAD_S)
    studio.engine._measuring["wide"] = measuring
    return studio


def turns(studio: Studio, number: int) -> list[Any]:
    return [report for _ in range(number) for report in studio.turn()]


def pair(studio: Studio) -> list[Finished]:
    """Paint two pictures at once that may share their calls."""
    orders = [studio.order(i, variant="wide") for i in (1, 2)]
    return [report for report in studio.run(*orders) if isinstance(report, Finished)]


def test_a_variant_serves_as_soon_as_enough_is_measured(studio: Studio) -> None:
    engine = measure(studio, None, ROUGH, None, BETTER).engine
    assert turns(studio, 1) == []
    assert not engine.is_idle, "whoever waits for the load waits for it"
    (loaded,) = turns(studio, 1)
    assert isinstance(loaded, Loaded)
    assert loaded.resident.costs.load_s == LOAD_S + 2.0, "the seconds until then"
    assert engine.is_idle
    assert engine.is_busy, "the rest is measured when nothing else is to do"
    (better,) = turns(studio, 3)
    assert isinstance(better, Switched)
    assert better.resident.costs.steps == BETTER.costs.steps
    assert better.resident.costs.load_s == loaded.resident.costs.load_s
    assert not engine.is_busy


def test_the_rest_of_a_measurement_gives_way_to_work(studio: Studio) -> None:
    measure(studio, ROUGH, None, BETTER)
    turns(studio, 1)
    before = studio.clock.now()
    reports = studio.run(studio.order(variant="wide"))
    assert ends(reports) == [1]
    assert not [r for r in reports if isinstance(r, Switched)]
    assert studio.clock.now() < before + 1.0


def test_the_rest_of_a_measurement_does_not_wait_for_ever(studio: Studio) -> None:
    measure(studio, ROUGH, None, BETTER)
    turns(studio, 1)
    studio.clock.advance(REST_PATIENCE_S)
    reports = studio.run(*[studio.order(i, variant="wide") for i in range(1, 9)])
    kinds = [type(report) for report in reports]
    assert kinds.index(Switched) < kinds.index(Finished)


def test_nothing_shares_a_call_before_the_difference_that_it_makes_is_known(studio: Studio) -> None:
    measure(studio, BETTER, None, BETTER)
    turns(studio, 1)
    assert {report.shared_by for report in pair(studio)} == {1.0}
    turns(studio, 3)
    assert min(report.shared_by for report in pair(studio)) > 1.0


def test_a_rest_that_fails_costs_the_sharing_and_nothing_else(studio: Studio) -> None:
    measure(studio, BETTER, EngineFailed("as the test wants"))
    reports = turns(studio, 2)
    assert [type(report) for report in reports] == [Loaded]
    assert not studio.engine.is_busy
    assert {report.shared_by for report in pair(studio)} == {1.0}


def test_a_measurement_that_fails_at_once_is_a_load_that_failed(studio: Studio) -> None:
    measure(studio, None, EngineFailed("as the test wants"))
    assert turns(studio, 2) == [LoadFailed("wide", "as the test wants")]
    assert studio.engine.is_idle
