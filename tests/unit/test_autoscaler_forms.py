"""difs.autoscaler.forms: what a variant would take and give in each memory mode."""

from typing import Any

import pytest
from msgspec.structs import replace

from difs import profiles
from difs.actor_messages import Resident, Room
from difs.autoscaler import forms
from difs.autoscaler.base import Form
from difs.messages import MemoryMode
from tests.builders import COSTS, variant

GB = 10**9


def resident(mode: MemoryMode = "full", slower: float = 1.0, room: Room | None = None) -> Resident:
    return Resident(
        "tiny", mode, "fp16", GB, profiles.slowed(COSTS, steps=slower, decode=slower), room=room
    )


def made(kind: str = "cuda", **known: Any) -> dict[str, Form]:
    facts: dict[str, Any] = {"here": None, "parked": None, "profiled": (), "estimated": None}
    return {f.memory_mode: f for f in forms.of(variant(), kind, **facts | known)}


def test_nothing_known_has_no_forms() -> None:
    assert made() == {}


@pytest.mark.parametrize(
    ("kind", "modes"),
    [
        ("cpu", ["full", "sliced", "tiled"]),
        ("cuda", ["full", "sliced", "tiled", "model_offload", "group_offload", "sequential_offload"]),
    ],
)
def test_there_are_the_modes_of_the_device_that_keep_the_pictures(kind: str, modes: list[str]) -> None:
    assert list(made(kind, here=resident())) == modes
    assert "fp8" in made(here=resident("fp8")), "the one that it is in, an administrator's choice"


def test_what_is_not_measured_is_assumed_to_take_less_and_be_slower_mode_by_mode() -> None:
    found = made(here=resident())
    assert (found["full"].rest_bytes, found["group_offload"].rest_bytes) == (GB, GB // 20)
    needs = [f.rest_bytes + f.peak_bytes for f in found.values()]
    assert needs == sorted(needs, reverse=True)
    blocks_s = found.pop("group_offload").serve_s
    seconds = [f.serve_s for f in found.values()]
    assert seconds == sorted(seconds)
    assert blocks_s > found["sequential_offload"].serve_s, "as it was on the GPU that was measured"


def test_a_profile_says_what_a_mode_takes() -> None:
    tiled = resident("tiled", 1.5, Room(7, 2, 3))
    found = made(profiled=(resident(room=Room(9, 1)), tiled))
    assert (found["tiled"].rest_bytes, found["tiled"].peak_bytes) == (7, 3)
    assert found["sliced"].rest_bytes == 9, "reckoned from what is measured"


def test_modes_are_compared_as_they_are_now_not_now_with_then() -> None:
    profiled = (resident(), resident("tiled", 1.2))
    found = made(here=resident(slower=3.0), profiled=profiled)
    assert found["tiled"].serve_s > found["full"].serve_s, "what slows the device slows every mode"


@pytest.mark.parametrize("changed", range(len(COSTS.steps)))
def test_what_is_learned_of_calls_of_some_rows_changes_what_is_served_in_no_mode_alone(
    changed: int,
) -> None:
    steps = [
        replace(row, seconds=row.seconds * (0.8 if i == changed else 1.0))
        for i, row in enumerate(COSTS.steps)
    ]
    here = replace(resident(), costs=replace(COSTS, steps=tuple(steps)))
    now, then = (
        made(here=here, profiled=(resident(), resident("tiled", 1.2))),
        made(here=resident(), profiled=(resident(), resident("tiled", 1.2))),
    )
    for told in ("serve_s", "latency_s", "draft_s"):
        ratios = [getattr(found["tiled"], told) / getattr(found["full"], told) for found in (now, then)]
        assert ratios[0] == pytest.approx(ratios[1])


def test_what_is_parked_returns_as_quickly_as_it_says() -> None:
    parked = replace(resident(), costs=replace(COSTS, load_s=0.1))
    assert made(parked=parked)["full"].load_s == 0.1
    assert made(estimated=resident())["full"].load_s == COSTS.load_s
