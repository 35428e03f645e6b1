"""difs.profiling.curves: from cells to costs, and the error that leaving out shows."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from difs.messages import MemoryMode
from difs.profiles import step_seconds
from difs.profiling import cells, curves
from difs.profiling.cells import (
    Cell,
    DecodeCell,
    DeviceFacts,
    Key,
    ModeCell,
    Profile,
    StepCell,
    Timing,
    Visit,
    timing_of,
)
from tests.unit.test_sizes import call_s

FACTS = DeviceFacts("cpu", "a processor", 16 * 2**30, 2, 1)
KEY = Key("tiny", "f" * 32, "fp32", FACTS, cells.Software("2.13", "0.42", "0.1"))
SIDES, ROWS = (64, 80, 96, 128), (1, 2, 4, 8)


def timing(seconds: float, visits: int = 1) -> Timing:
    return timing_of(visits * (Visit(seconds, seconds * 1.1, 9),))


def mode_cell(mode: MemoryMode = "full", **changes: object) -> ModeCell:
    whole = ModeCell(mode, 3.0, 0.5, timing(0.01), 1000, 900)
    return replace(whole, **changes)


def grid_of(a: float, b: float, c: float, mode: MemoryMode = "full") -> list[Cell]:
    """Return a whole grid of a device with such calls."""
    found: list[Cell] = []
    for side in SIDES:
        for rows in ROWS:
            seconds = call_s(a, b, c, side * side, rows)
            found.append(StepCell(mode, side, side, rows, timing(seconds), 100 * rows * side))
        decode_s = call_s(0.0, b, c, side * side)
        found.append(DecodeCell(mode, side, side, timing(decode_s), 7 * side))
    return found


def profile(*found: Cell) -> Profile:
    return Profile(KEY, (64, 64), "full", cells=found)


WHOLE = profile(mode_cell(), *grid_of(0.05, 0.02, 0.002))


def without(whole: Profile, *gone: tuple[int, int]) -> Profile:
    """Return a profile without the step cells (side, rows)."""
    left = [
        c for c in whole.cells if not (isinstance(c, StepCell) and (c.width, c.rows) in gone)
    ]  # fmt: skip
    return replace(whole, cells=tuple(left))


# ---- costs ----------------------------------------------------------------------------------------


def test_a_profile_becomes_a_resident_with_all_sizes_anchored_at_the_native_one() -> None:
    (found,) = curves.residents(WHOLE)
    assert (found.variant, found.memory_mode, found.precision) == ("tiny", "full", "fp32")
    assert (found.weight_bytes, found.costs.load_s, found.costs.encode_s) == (1000, 3.0, 0.01)
    assert found.costs.pixels == 64 * 64
    assert [size.pixels for size in found.costs.sizes] == [side * side for side in SIDES[1:]]
    for side in SIDES:
        for rows in ROWS:
            measured = call_s(0.05, 0.02, 0.002, side * side, rows)
            assert step_seconds(found.costs, side * side, rows) == pytest.approx(measured)


def test_the_room_is_that_of_one_guided_image_of_the_native_size() -> None:
    (found,) = curves.residents(WHOLE)
    assert found.room is not None
    assert found.room.rest_bytes == 900
    assert found.room.step_peak_bytes == 100 * 2 * 64
    assert found.room.decode_peak_bytes == 7 * 64


def test_a_peak_that_was_not_measured_is_not_known() -> None:
    bare = [replace(c, peak_bytes=None) for c in WHOLE.cells if not isinstance(c, ModeCell)]
    (found,) = curves.residents(profile(mode_cell(), *bare))
    assert found.room is not None
    assert (found.room.step_peak_bytes, found.room.decode_peak_bytes) == (None, None)


def test_the_mode_that_a_variant_is_loaded_into_stands_first() -> None:
    both = [mode_cell("full"), *grid_of(0.1, 0, 0), mode_cell("tiled"), *grid_of(0.2, 0, 0, "tiled")]
    modes = [r.memory_mode for r in curves.residents(replace(profile(*both), default_mode="tiled"))]
    assert modes == ["tiled", "full"]


def test_a_mode_of_which_nothing_is_known_is_left_out() -> None:
    assert curves.residents(profile(mode_cell())) == ()
    assert curves.residents(profile(*grid_of(0.1, 0, 0))) == ()


def test_a_cell_that_broke_has_no_seconds() -> None:
    broken = StepCell("full", 64, 64, 16, missing="out of memory")
    found = curves.costs_of(replace(WHOLE, cells=(*WHOLE.cells, broken)), "full")
    assert found is not None
    assert max(cost.rows for cost in found.steps) == 8


@pytest.mark.parametrize("gone", [(128, 8), (96, 4), (64, 1), (128, 1)])
def test_a_size_that_lacks_a_row_takes_it_from_its_neighbours(gone: tuple[int, int]) -> None:
    side, rows = gone
    found = curves.costs_of(without(WHOLE, gone), "full")
    assert found is not None
    measured = call_s(0.05, 0.02, 0.002, side * side, rows)
    assert step_seconds(found, side * side, rows) == pytest.approx(measured, rel=0.1)


# ---- the error ------------------------------------------------------------------------------------


POSITIVE = st.floats(0.01, 100.0)


@settings(max_examples=200)
@given(st.lists(POSITIVE, min_size=2, max_size=5), st.lists(POSITIVE, min_size=2, max_size=5), st.data())
def test_where_all_sizes_bend_alike_a_cell_that_is_missing_is_known_exactly(
    sizes: list[float], rows: list[float], data: st.DataObject
) -> None:
    steps = {
        4096 * (p + 1): {1 << r: size * row for r, row in enumerate(rows)} for p, size in enumerate(sizes)
    }
    pixels = data.draw(st.sampled_from(sorted(steps)))
    gone = data.draw(st.sampled_from(sorted(steps[pixels])))
    told = steps[pixels].pop(gone)
    costs = curves.assemble(steps, dict.fromkeys(steps, 1.0), 4096)
    assert costs is not None
    assert step_seconds(costs, pixels, gone) == pytest.approx(told)


def test_the_goal_of_a_tenth_is_kept_where_calls_are_what_they_are_thought_to_be() -> None:
    """Devices without noise, of every mixture; the smallest and the largest size are left out, too."""
    dice = random.Random(0)
    found = []
    for _ in range(300):
        a, b, c = (10 ** dice.uniform(-3, 1) for _ in range(3))
        error = curves.with_errors(profile(mode_cell(), *grid_of(a, b, c / 10))).left_out_cell
        assert error is not None
        assert error.cells == len(SIDES) * (len(ROWS) + 1)
        found.append(error.p90)
    found.sort()
    assert found[int(0.9 * len(found))] <= 0.10
    assert found[-1] <= 0.15


def test_one_cell_that_is_not_what_the_others_say_shows_up() -> None:
    odd = [
        replace(c, timing=timing(2 * c.timing.median_s))
        if isinstance(c, StepCell) and (c.width, c.rows) == (96, 4) and c.timing
        else c
        for c in WHOLE.cells
    ]
    good, bad = (curves.with_errors(profile(*found)).left_out_cell for found in (WHOLE.cells, odd))
    assert good is not None
    assert bad is not None
    assert good.worst < 0.1 < 0.4 < bad.worst
    assert bad.median < 0.05, "one odd cell is no odd device"


def test_an_error_is_stated_only_where_something_could_be_left_out() -> None:
    one = profile(
        mode_cell(), StepCell("full", 64, 64, 1, timing(1.0)), DecodeCell("full", 64, 64, timing(1.0))
    )
    found = curves.with_errors(one)
    assert (found.left_out_cell, found.left_out_size) == (None, None)


def test_a_whole_size_is_predicted_from_the_others() -> None:
    found = curves.with_errors(WHOLE).left_out_size
    assert found is not None
    assert found.cells == len(SIDES) * (len(ROWS) + 1)
    assert found.p90 < 0.2


def test_a_summary_counts_the_tenth_worst() -> None:
    found = curves.summary([i / 100 for i in range(1, 11)])
    assert found == cells.ErrorOf(10, 0.055, 0.09, 0.1)
    assert curves.summary([]) is None


# ---- the file -------------------------------------------------------------------------------------


def test_a_file_says_what_was_measured_and_nothing_is_lost() -> None:
    whole = curves.with_errors(WHOLE)
    assert cells.decode(cells.encode(whole)) == whole


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", cells.encode(WHOLE)[:-40]])
def test_a_damaged_file_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        cells.decode(data)


def test_every_part_of_a_key_counts() -> None:
    others = [
        replace(KEY, variant="other"),
        replace(KEY, fingerprint="0" * 32),
        replace(KEY, precision="fp16"),
        replace(KEY, device=replace(FACTS, threads=2)),
        replace(KEY, device=replace(FACTS, memory_bytes=1)),
        replace(KEY, device=replace(FACTS, name="another")),
        replace(KEY, software=replace(KEY.software, torch="2.14")),
        replace(KEY, software=replace(KEY.software, diffusers="0.43")),
        replace(KEY, software=replace(KEY.software, difs="0.2")),
        replace(KEY, version=cells.VERSION + 1),
    ]
    assert len({key.slug for key in [KEY, *others]}) == len(others) + 1
