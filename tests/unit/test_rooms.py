"""Which memory modes of a variant have room."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from difs import rooms
from difs.actor_messages import Resident, Room
from tests.builders import COSTS, resident

PIXELS = COSTS.pixels
FULL = replace(resident("wide"), room=Room(1000, 100, 300))
TILED = replace(resident("wide", memory_mode="tiled"), room=Room(1000, 100, 50))
OFFLOAD = replace(resident("wide", memory_mode="group_offload"), room=Room(200, 100, 300))
FP8 = replace(resident("wide", memory_mode="fp8"), room=Room(100, 10, 10))


def modes(*given: Resident, pixels: int = PIXELS, room_bytes: int | None) -> list[str]:
    return [found.memory_mode for found in rooms.fitting(given, pixels, room_bytes)]


def test_all_modes_that_have_room_are_offered_the_own_one_first() -> None:
    assert modes(FULL, TILED, OFFLOAD, room_bytes=1300) == ["full", "tiled", "group_offload"]
    assert modes(FULL, TILED, OFFLOAD, room_bytes=1299) == ["tiled", "group_offload"]
    assert modes(FULL, TILED, OFFLOAD, room_bytes=1099) == ["group_offload"]


def test_where_none_has_room_the_one_that_needs_least_is_tried() -> None:
    assert modes(FULL, TILED, OFFLOAD, room_bytes=10) == ["group_offload"]


def test_a_larger_picture_needs_more_room() -> None:
    assert modes(FULL, TILED, pixels=2 * PIXELS, room_bytes=1300) == ["tiled"]


def test_a_mode_that_changes_the_pictures_is_not_taken_for_room_unless_it_is_its_own() -> None:
    assert modes(FULL, FP8, room_bytes=500) == ["full"]
    assert modes(FP8, FULL, room_bytes=500) == ["fp8"]


def test_where_the_room_or_the_need_is_not_known_it_is_not_guessed() -> None:
    assert modes(FULL, TILED, room_bytes=None) == ["full"]
    assert modes(resident("wide"), TILED, room_bytes=0) == ["full"]


@given(
    st.lists(st.sampled_from([FULL, TILED, OFFLOAD, FP8]), min_size=1, unique=True),
    st.integers(1, 4 * PIXELS),
    st.integers(0, 2000),
    st.integers(0, 2000),
)
def test_more_room_never_takes_a_mode_away(
    given: list[Resident], pixels: int, room_bytes: int, more: int
) -> None:
    before = rooms.fitting(tuple(given), pixels, room_bytes)
    assert before
    if all((rooms.needed_bytes(r, pixels) or 0) <= room_bytes for r in before):
        assert set(before) <= set(rooms.fitting(tuple(given), pixels, room_bytes + more))


def test_what_nobody_waits_for_is_loaded_where_all_calls_have_room() -> None:
    assert rooms.may_join(FULL, [TILED], 2300)
    assert not rooms.may_join(FULL, [TILED], 2299)
    assert not rooms.may_join(TILED, [FULL], 2299), "the calls of those that are there need room, too"


def test_the_first_variant_is_loaded_and_what_was_never_measured() -> None:
    assert rooms.may_join(FULL, [], 10)
    assert rooms.may_join(replace(FULL, room=None), [FULL], 10)
    assert rooms.may_join(None, [FULL], 10)
