"""difs.profiling.runner and store: what is missing is measured, kept at once, and not measured again."""

from collections.abc import Callable, Generator, Iterator
from itertools import count
from pathlib import Path

import pytest
from msgspec.structs import replace

from difs import repository
from difs.errors import EngineFailed
from difs.messages import MemoryMode
from difs.profiling import runner, store
from difs.profiling.cells import (
    STEADY,
    Cell,
    DecodeCell,
    DeviceFacts,
    Key,
    Profile,
    StepCell,
    Visit,
    calm_of,
    timing_of,
)
from difs.profiling.grid import Pains, Unit, failed
from difs.profiling.reports import Broken, Doing, Noted, Report, Timed
from difs.variants import Variant
from tests.unit.test_profiling_curves import FACTS, mode_cell, timing
from tests.unit.test_repository import add

PAINS = Pains((1.0, 2.0), 4, True, 100.0, (3, 9), 0.5, (1, 10))
UNITS = 1 + 2 * (3 + 1)
"""Of one mode: itself, and for each of two sizes three numbers of rows and the decoding."""


class FakeMeter:
    """Measures at once what it is told to."""

    is_solo = False
    peaks_are = "nothing"

    def __init__(
        self, seconds: Callable[[Unit], float | str] = lambda unit: 0.01 * unit.rows**0.5
    ) -> None:
        self.measured: list[Unit] = []
        self.opened = self.closed = 0
        self._seconds = seconds

    def open(self) -> "FakeMeter":
        self.opened += 1
        return self

    def measure(self, unit: Unit, pains: Pains, *, is_again: bool) -> Cell:
        assert is_again or unit not in self.measured
        self.measured.append(unit)
        if unit.kind == "mode":
            if unit.memory_mode == "sliced":
                raise EngineFailed("it cannot be sliced")
            return mode_cell(unit.memory_mode)
        found = self._seconds(unit)
        if isinstance(found, str):
            return failed(unit, found)
        size = (unit.memory_mode, unit.width, unit.height)
        if unit.kind == "step":
            return StepCell(*size, unit.rows, timing(found), 5)
        return DecodeCell(*size, timing(0.02), 5)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "user data"))


@pytest.fixture
def variant(tmp_path: Path) -> Variant:
    add(tmp_path / "models", native_sizes="[[64, 64]]")
    return repository.scan(tmp_path / "models").variant("tiny")


def here(variant: Variant) -> Key:
    return store.key_of(variant, FACTS)


def run(
    variant: Variant, meter: FakeMeter, modes: tuple[MemoryMode, ...] = ("full",), *, fresh: bool = False
) -> Generator[Report, None, None]:
    return runner.run(variant, here(variant), meter.open, modes, PAINS, is_fresh=fresh)


def kept(variant: Variant) -> Profile:
    found = store.find(variant, here(variant))
    assert found is not None
    return found


def last(reports: Iterator[Report]) -> Timed:
    *_, report = reports
    assert isinstance(report, Timed)
    return report


# ---- going through --------------------------------------------------------------------------------


def test_every_cell_is_visited_in_rounds_and_kept_with_the_error(variant: Variant) -> None:
    meter = FakeMeter()
    report = last(run(variant, meter))
    assert (report.cells, report.fresh_cells) == (UNITS, UNITS)
    assert len(set(meter.measured)) == UNITS
    assert meter.measured == PAINS.visits[0] * meter.measured[:UNITS], "round by round"
    assert (meter.opened, meter.closed) == (1, 1)
    profile = kept(variant)
    assert Path(report.path).is_relative_to(variant.home / "profiles")
    assert profile.left_out_cell == report.left_out_cell is not None
    assert profile.peaks_are == "nothing"
    assert profile.measured_at


def test_a_profile_that_is_whole_is_used_again_and_nothing_is_loaded(variant: Variant) -> None:
    first, meter = last(run(variant, FakeMeter())), FakeMeter()
    again = last(run(variant, meter))
    assert (meter.opened, meter.measured) == (0, [])
    assert again == replace(first, fresh_cells=0)


def test_whoever_is_interrupted_goes_on_where_it_stood(variant: Variant) -> None:
    meter = FakeMeter()
    reports = run(variant, meter)
    while len(meter.measured) < 4:
        next(reports)
    reports.close()
    assert meter.closed == 1
    assert len(kept(variant).cells) == 4
    other = FakeMeter()
    report = last(run(variant, other))
    assert (report.cells, report.fresh_cells) == (UNITS, UNITS)
    assert other.measured[: UNITS - 4] == [u for u in other.measured[-UNITS:] if u not in meter.measured]
    assert len(meter.measured) + len(other.measured) == PAINS.visits[0] * UNITS


def test_a_slow_spell_spoils_visits_and_no_cell(variant: Variant) -> None:
    """Every third visit falls into one: the costs are those of the others."""
    calls = count()
    meter = FakeMeter(lambda unit: 0.03 if next(calls) % 3 == 1 else 0.01)
    last(run(variant, meter))
    steps = [c for c in kept(variant).cells if isinstance(c, StepCell)]
    assert {c.timing.median_s for c in steps if c.timing} == {0.01}
    assert all(c.timing and calm_of(c.timing.visits) == STEADY for c in steps)


def test_a_visit_that_breaks_takes_nothing_from_what_was_seen_before(variant: Variant) -> None:
    seen: list[Unit] = []

    def seconds(unit: Unit) -> float | str:
        seen.append(unit)
        return "out of memory" if seen.count(unit) == 2 and unit.rows == 2 else 0.01

    meter = FakeMeter(seconds)
    last(run(variant, meter))
    for cell in kept(variant).cells:
        if isinstance(cell, StepCell):
            assert cell.timing is not None
            assert len(cell.timing.visits) == (1 if cell.rows == 2 else PAINS.visits[0])
    again = FakeMeter(lambda unit: 0.01)
    again.measured += meter.measured
    last(run(variant, again))
    assert len(again.measured) == len(meter.measured) + 2 * 2, "only these are tried once more"


def test_fresh_measures_everything_again(variant: Variant) -> None:
    last(run(variant, FakeMeter()))
    meter = FakeMeter(lambda unit: 7.0)
    last(run(variant, meter, fresh=True))
    step = next(c for c in kept(variant).cells if isinstance(c, StepCell))
    assert step.timing == timing(7.0, PAINS.visits[0])


def test_another_mode_is_added_to_what_is_there(variant: Variant) -> None:
    last(run(variant, FakeMeter()))
    meter = FakeMeter()
    last(run(variant, meter, ("full", "tiled")))
    assert {unit.memory_mode for unit in meter.measured} == {"tiled"}
    assert set(kept(variant).modes) == {"full", "tiled"}


def test_a_mode_that_cannot_be_entered_is_told_and_left_out(variant: Variant) -> None:
    reports = list(run(variant, FakeMeter(), ("sliced", "full")))
    assert [r.words for r in reports if isinstance(r, Noted)] == ["it cannot be sliced"]
    assert set(kept(variant).modes) == {"full"}
    assert isinstance(reports[-1], Timed)


def test_a_cell_that_breaks_is_kept_with_its_reason_and_not_tried_again(variant: Variant) -> None:
    def seconds(unit: Unit) -> float | str:
        return "out of memory" if unit.rows == 2 and unit.width == 64 else 0.01

    meter = FakeMeter(seconds)
    last(run(variant, meter))
    assert Unit("step", "full", 64, 64, 4) not in meter.measured, "more rows need more memory"
    again = FakeMeter()
    last(run(variant, again))
    assert again.measured == []


def test_what_is_not_worth_its_time_is_not_measured(variant: Variant) -> None:
    meter = FakeMeter(lambda unit: 60.0)
    last(run(variant, meter))
    assert {(u.width, u.rows) for u in meter.measured if u.kind == "step"} == {(64, 1)}
    assert {u.width for u in meter.measured if u.kind == "decode"} == {64, 128}, "no decoding was slow"


@pytest.mark.parametrize("p90_s", [0.014, 0.016])
def test_a_profile_that_was_disturbed_says_so(variant: Variant, p90_s: float) -> None:
    class Disturbed(FakeMeter):
        def measure(self, unit: Unit, pains: Pains, *, is_again: bool) -> Cell:
            cell = super().measure(unit, pains, is_again=is_again)
            if isinstance(cell, StepCell) and unit.width == 64:
                return replace(cell, timing=timing_of((Visit(0.01, p90_s, 9),)))
            return cell

    notes = [r.words for r in run(variant, Disturbed()) if isinstance(r, Noted)]
    assert [("3 of 9 cells were disturbed" in note) for note in notes] == (
        [True] if p90_s > 0.015 else []
    )


def test_progress_counts_up_and_tells_the_time_left(variant: Variant) -> None:
    doing = [r for r in run(variant, FakeMeter()) if isinstance(r, Doing)]
    shares = [r.done / r.total for r in doing]
    assert shares == sorted(shares)
    assert all(r.left_s is not None and r.left_s >= 0 for r in doing[1:])


def test_a_variant_that_does_not_load_is_told(variant: Variant) -> None:
    def refuse() -> FakeMeter:
        raise EngineFailed("its weights are gone")

    reports = list(runner.run(variant, here(variant), refuse, ("full",), PAINS, is_fresh=False))
    assert reports[-1] == Broken("tiny", "its weights are gone")
    assert store.find(variant, here(variant)) is None


# ---- what is valid --------------------------------------------------------------------------------


def test_a_profile_of_another_device_or_software_is_stale(variant: Variant) -> None:
    last(run(variant, FakeMeter()))
    faster = replace(FACTS, name="another processor")
    assert store.find(variant, store.key_of(variant, faster)) is None
    assert store.residents([variant], faster) == ()
    assert [r.variant for r in store.residents([variant], FACTS)] == ["tiny"]


def test_a_profile_of_other_weights_is_stale(variant: Variant, tmp_path: Path) -> None:
    last(run(variant, FakeMeter()))
    manifest = variant.home / "variant.toml"
    manifest.write_text(manifest.read_text().replace('"ddim"', '"euler"'))
    changed = repository.scan(tmp_path / "models").variant("tiny")
    assert changed.fingerprint != variant.fingerprint
    assert store.find(changed, here(changed)) is None


def test_a_profile_that_says_it_is_another_is_not_believed(variant: Variant) -> None:
    """The name of the file is a digest, but what counts is what stands in it."""
    last(run(variant, FakeMeter()))
    whole = kept(variant)
    path = store.keep(variant, whole)
    other = replace(whole.key, fingerprint="0" * 32)
    path.write_bytes(
        path.read_bytes().replace(whole.key.fingerprint.encode(), other.fingerprint.encode())
    )
    assert store.find(variant, whole.key) is None


@pytest.mark.parametrize("data", [b"", b"{", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_profile_is_no_profile(variant: Variant, data: bytes) -> None:
    last(run(variant, FakeMeter()))
    store.place(variant, here(variant)).write_bytes(data)
    assert store.find(variant, here(variant)) is None
    assert last(run(variant, FakeMeter())).fresh_cells == UNITS


def test_the_mode_that_the_manifest_names_now_stands_first(variant: Variant, tmp_path: Path) -> None:
    last(run(variant, FakeMeter(), ("full", "tiled")))
    text = (variant.home / "variant.toml").read_text()
    (variant.home / "variant.toml").write_text(f'default_mode = "tiled"\n{text}')
    changed = repository.scan(tmp_path / "models").variant("tiny")
    assert [r.memory_mode for r in store.residents([changed], FACTS)] == ["tiled", "full"]


def test_what_a_device_is_decides_its_facts() -> None:
    one, two = (store.device_facts("cpu-0", threads) for threads in (1, 2))
    assert (one.kind, one.threads, two.threads) == ("cpu", 1, 2)
    assert replace(one, threads=2) == two
    assert one.memory_bytes % store.GIB == 0
    assert one.name
    assert isinstance(one, DeviceFacts)
    assert store.software().torch[0].isdigit()
