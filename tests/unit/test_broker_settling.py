"""A plan rests on a memory mode: where it finds no room the request is decided on anew, once."""

import pytest

from difs.actor_messages import Execute, LoadVariant
from difs.messages import Accepted
from difs.policy.base import Options
from difs.policy.modelless import Modelless
from tests.builders import told
from tests.unit.test_broker_scaling import MB, Scaled, commands, loaded


@pytest.fixture
def house() -> Scaled:
    """Return a device of 1 GB with one resident of 300 MB; another one needs 500 MB, or 320 MB tiled."""
    return Scaled(policy=Modelless(Options()))


def room_of(house: Scaled) -> int | None:
    (actor,) = house.state.books.ready
    return actor.room_bytes


def test_the_room_for_one_more_is_less_what_is_wanted_and_what_is_on_its_way(house: Scaled) -> None:
    assert room_of(house) == 1000 * MB, "who is idle would give way"
    house.ask("a", variant="tiny")
    assert room_of(house) == 700 * MB
    house.ask("b", variant="wide")
    assert room_of(house) == 400 * MB, "though the device says nothing of it yet"
    house.others = 150 * MB
    house.pulse()
    assert room_of(house) == 250 * MB


def test_a_plan_whose_mode_has_no_room_is_made_anew_and_told_before_anything_is_loaded(
    house: Scaled,
) -> None:
    (actor,) = house.state.books.ready
    actor.residents["tiny"] = loaded("tiny", "tiled")
    house.ask("busy", variant="tiny")
    house.others = 250 * MB
    house.pulse()
    actor.spare_bytes = 10**12  # as if nothing were known of what others take
    effects = house.ask("a", variant="wide")
    assert commands(effects)[0] == LoadVariant("wide", "tiled")
    plans = [m.plan for m in told(effects, Accepted) if m.plan is not None]
    assert {plan.memory_mode for plan in plans} == {"tiled"}, "what is told is what will be"
    assert told(effects, Execute)
    assert house.state.books.requests["a"].is_settled


def test_what_was_found_of_modes_is_forgotten_with_the_next_reading(house: Scaled) -> None:
    (actor,) = house.state.books.ready
    actor.settled["wide"] = "tiled"
    assert [r.memory_mode for r in actor.offers["wide"]] == ["tiled"]
    house.pulse()
    assert [r.memory_mode for r in actor.offers["wide"]] == ["full", "tiled"]
