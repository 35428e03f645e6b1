"""difs.profiling.grid: what is measured, what is not worth its time, and how long the rest takes."""

from itertools import pairwise

import pytest

from difs.messages import MAX_SIDE, MIN_SIDE, SIDE_MULTIPLE
from difs.profiling import grid
from difs.profiling.cells import Cell, StepCell, joined
from difs.profiling.grid import PAINS, Pains, Unit
from tests.unit.test_profiling_curves import grid_of, mode_cell, profile, timing

FEW = Pains((1.0, 2.0), 4, True, 10.0, (2, 4), 0.5, (1, 10))
SQUARE = ((64, 64),)


def test_units_come_mode_by_mode_the_native_size_and_few_rows_first() -> None:
    found = grid.units(["full", "tiled"], SQUARE, FEW, is_solo=False)
    assert [unit.words for unit in found[:5]] == [
        "full: load, encode",
        "full: step 64x64 x1",
        "full: step 64x64 x2",
        "full: step 64x64 x4",
        "full: decode 64x64",
    ]
    assert [unit.kind for unit in found] == 2 * (["mode"] + 2 * (3 * ["step"] + ["decode"]))
    assert len(set(found)) == len(found)


def test_images_that_share_no_call_are_measured_with_and_without_guidance_only() -> None:
    found = grid.units(["full"], SQUARE, PAINS["full"], is_solo=True)
    assert {unit.rows for unit in found if unit.kind == "step"} == {1, 2}


@pytest.mark.parametrize("effort", PAINS)
@pytest.mark.parametrize(
    "native", [((64, 64),), ((512, 512), (768, 512)), ((1024, 1024),), ((2048, 64),)]
)
def test_sizes_are_allowed_ones_each_number_of_pixels_once(
    effort: grid.Effort, native: tuple[tuple[int, int], ...]
) -> None:
    found = grid.sizes(native, PAINS[effort])
    assert found[0] == native[0]
    for width, height in found:
        assert MIN_SIDE <= min(width, height) <= max(width, height) <= MAX_SIDE
        assert width % SIDE_MULTIPLE == height % SIDE_MULTIPLE == 0
    pixels = sorted(w * h for w, h in found)
    assert all(b >= grid.DISTINCT * a for a, b in pairwise(pixels))


def test_more_pains_never_measure_less() -> None:
    counts = [len(grid.units(["full"], ((512, 512),), PAINS[e], is_solo=False)) for e in PAINS]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_what_was_measured_is_not_pending() -> None:
    wanted = grid.units(["full"], SQUARE, FEW, is_solo=False)
    once = profile(mode_cell(), *grid_of(0.1, 0.1, 0))
    assert grid.pending(wanted, once, FEW) == wanted, "128 and 64 with 1, 2 and 4 rows: once more each"
    assert grid.pending(wanted, profile(), FEW) == [*wanted, *wanted], "round by round"
    assert grid.pending(wanted, profile(mode_cell()), FEW) == [*wanted[1:], *wanted]
    twice = [joined(cell, cell) for cell in once.cells]
    assert grid.pending(wanted, profile(*twice), FEW) == []


def test_a_cell_that_was_disturbed_is_visited_more_often_but_not_for_ever() -> None:
    unit = Unit("step", "full", 64, 64, 1)
    cell: Cell = StepCell("full", 64, 64, 1, timing(1.0))
    left = []
    for seconds in (2.0, 3.0, 4.0):
        left.append(len(grid.pending([unit], profile(cell), FEW)))
        cell = joined(cell, StepCell("full", 64, 64, 1, timing(seconds)))
    assert left == [1, 1, 1], "one visit of two was calm"
    assert grid.pending([unit], profile(cell), FEW) == [], "after four it is what it is"


def test_what_broke_or_is_hardly_worth_one_visit_is_not_visited_again() -> None:
    wanted = [Unit("step", "full", 64, 64, 1), Unit("step", "full", 64, 64, 2)]
    broken = StepCell("full", 64, 64, 1, missing="out of memory")
    slow = StepCell("full", 64, 64, 2, timing(FEW.call_s))
    assert grid.pending(wanted, profile(broken, slow), FEW) == []


@pytest.mark.parametrize(
    ("seconds", "words"), [((1.0, 1.5), ""), ((1.0, 2.0), "costs no less"), ((1.0, 3.0), "costs no less")]
)
def test_more_rows_are_tried_only_while_they_pay(seconds: tuple[float, float], words: str) -> None:
    two, four = seconds
    known = profile(StepCell("full", 64, 64, 2, timing(two)), StepCell("full", 64, 64, 4, timing(four)))
    unit = Unit("step", "full", 64, 64, 8)
    found = grid.needless(unit, known, FEW)
    assert (words in found) if words else (found == "")
    assert grid.needless(unit, known, PAINS["full"]) == "", "unless it is asked for"


def test_rows_beyond_what_memory_holds_are_not_tried() -> None:
    known = profile(StepCell("full", 64, 64, 4, missing="out of memory"))
    assert "out of memory" in grid.needless(Unit("step", "full", 64, 64, 8), known, PAINS["full"])
    assert grid.needless(Unit("step", "full", 96, 96, 2), known, PAINS["full"]) == ""


def test_calls_that_would_take_too_long_are_not_made() -> None:
    known = profile(StepCell("full", 64, 64, 1, timing(4.0)))
    assert "would take about 16 s" in grid.needless(Unit("step", "full", 128, 128, 1), known, FEW)
    assert grid.needless(Unit("step", "full", 64, 64, 2), known, FEW) == ""


def test_a_mode_is_never_needless() -> None:
    known = profile(mode_cell(), *grid_of(100.0, 0, 0))
    assert grid.needless(Unit("mode", "tiled"), known, FEW) == ""


# ---- the time left --------------------------------------------------------------------------------


def test_a_slow_call_takes_its_fewest_samples_and_a_quick_one_its_time() -> None:
    slow = profile(StepCell("full", 64, 64, 1, timing(4.0)))
    quick = profile(StepCell("full", 64, 64, 1, timing(0.001)))
    unit = Unit("step", "full", 64, 64, 2)
    assert grid.seconds(unit, slow, FEW) == pytest.approx(8.0)
    assert grid.seconds(unit, quick, FEW) == pytest.approx(FEW.visit_s, rel=0.01)


def test_the_time_left_falls_to_nothing_and_needless_units_take_none() -> None:
    wanted = grid.units(["full"], SQUARE, FEW, is_solo=False)
    known = profile(mode_cell(), *grid_of(0.01, 0.001, 0))
    visits = grid.pending(wanted, known, FEW)
    spans = [grid.left_s(visits[i:], known, FEW) for i in range(len(visits) + 1)]
    assert spans == sorted(spans, reverse=True)
    assert spans[-1] == 0.0
    hopeless = profile(StepCell("full", 64, 64, 1, timing(100.0)))
    assert grid.pending([Unit("step", "full", 128, 128, 1)], hopeless, FEW) == []


def test_what_a_call_takes_is_told_by_its_own_mode_before_another() -> None:
    known = profile(StepCell("tiled", 64, 64, 1, timing(5.0)), StepCell("full", 64, 64, 1, timing(1.0)))
    for mode, seconds in (("full", 1.0), ("tiled", 5.0)):
        assert grid.call_seconds(Unit("step", mode, 64, 64, 1), known) == seconds  # type: ignore[arg-type]
    assert grid.call_seconds(Unit("decode", "full", 64, 64), known) is None
