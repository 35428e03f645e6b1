"""difs.profiling on torch: real cells of tiny and embedded variants, real pictures, a tiny CLIP."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from difs import repository
from difs.actor_messages import Costs, Resident, Room, RowCost, SizeCost, Switched
from difs.errors import DifsError, InvalidRequest
from difs.messages import MemoryMode
from difs.profiling import asking, clip, curves, peaks, runner, store, torch_artist
from difs.profiling.asking import Asked, Point
from difs.profiling.cells import Cell, DecodeCell, ModeCell, StepCell
from difs.profiling.clip import Clip
from difs.profiling.grid import Pains, Unit
from difs.profiling.reports import Timed
from difs.profiling.torch_artist import TorchArtist
from difs.profiling.torch_meter import TorchMeter
from difs.scorer import Pixels
from tests.engine import tiny as tiny_models
from tests.engine.conftest import TINY, Bench

pytestmark = pytest.mark.torch

HASTE = Pains((1.0, 2.0), 4, False, 60.0, (2, 4), 0.0, (2, 4))
CPU = torch.device("cpu")


def measure(meter: TorchMeter, *units: Unit) -> list[Cell]:
    return [meter.measure(unit, HASTE) for unit in units]


@pytest.fixture(scope="module")
def sd15(tiny_repo: Path) -> Any:
    made = TorchMeter(repository.scan(tiny_repo).variant("sd15"), "cpu-0", 1)
    yield made
    made.close()


# ---- cells ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_every_family_is_measured(name: str, tiny_repo: Path) -> None:
    meter = TorchMeter(repository.scan(tiny_repo).variant(name), "cpu-0", 1)
    rows = 1 if name == "lcm" else 2
    mode, step, decode = measure(
        meter, Unit("mode", "full"), Unit("step", "full", 64, 64, rows), Unit("decode", "full", 64, 64)
    )
    assert isinstance(mode, ModeCell)
    assert mode.load_cold_s > 0
    assert mode.encode is not None
    assert mode.rest_bytes == mode.weight_bytes > 0
    for cell in (step, decode):
        assert isinstance(cell, (StepCell, DecodeCell))
        assert cell.missing == ""
        assert cell.timing is not None
        assert 0 < cell.timing.median_s <= cell.timing.p90_s
        assert cell.timing.samples == HASTE.samples[0]
        if meter.is_solo:
            assert cell.peak_bytes is None, "it cannot be seen, and is not invented"
        else:
            assert cell.peak_bytes is not None
            assert cell.peak_bytes > 64 * 64 * 3
    meter.close()


def test_more_rows_take_more_memory_but_never_in_more_than_proportion(sd15: TorchMeter) -> None:
    found = measure(sd15, *(Unit("step", "full", 64, 64, rows) for rows in (1, 2, 4)))
    one, two, four = (c.peak_bytes for c in found if isinstance(c, StepCell))
    assert one is not None
    assert two is not None
    assert four is not None
    assert one < two < four
    assert four <= 4 * one


def test_lighter_modes_are_entered_and_peak_lower(sd15: TorchMeter) -> None:
    modes: tuple[MemoryMode, ...] = ("full", "tiled")
    peaked = []
    for mode in modes:
        entered, cell = measure(sd15, Unit("mode", mode), Unit("decode", mode, 128, 128))
        assert isinstance(entered, ModeCell)
        assert entered.memory_mode == mode
        assert isinstance(cell, DecodeCell)
        assert cell.peak_bytes is not None
        peaked.append(cell.peak_bytes)
    assert peaked[1] < peaked[0]


def test_cells_may_be_measured_in_any_order_of_modes(sd15: TorchMeter) -> None:
    """Whoever goes on with a profile begins in the middle."""
    for mode in ("tiled", "full"):
        (cell,) = measure(sd15, Unit("step", mode, 64, 64, 1))
        assert isinstance(cell, StepCell)
        assert cell.timing is not None


def test_a_size_that_breaks_is_a_cell_with_a_reason(
    sd15: TorchMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")

    monkeypatch.setattr(sd15._painter, "step", lacks)
    (cell,) = measure(sd15, Unit("step", "full", 64, 64, 2))
    assert isinstance(cell, StepCell)
    assert (cell.missing, cell.timing, cell.peak_bytes) == ("out of memory", None, None)


def test_a_whole_profile_predicts_what_it_measured(
    tiny_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "user data"))
    shutil.copytree(tiny_repo / "sd15", tmp_path / "models" / "sd15")
    variant = repository.scan(tmp_path / "models").variant("sd15")
    facts = store.device_facts("cpu-0", 1)
    key = store.key_of(variant, facts)
    *_, report = runner.run(
        variant, key, lambda: TorchMeter(variant, "cpu-0", 1), ("full",), HASTE, is_fresh=False
    )
    assert isinstance(report, Timed)
    assert report.fresh_cells == 1 + 2 * (3 + 1)
    assert repository.scan(tmp_path / "models").problems == (), "a profile does not harm its variant"
    (resident,) = store.residents([variant], facts)
    profile = store.find(variant, key)
    assert profile is not None
    steps, _ = curves.tables(profile, "full")
    assert {cost.rows: cost.seconds for cost in resident.costs.steps} == steps[64 * 64]
    assert resident.room is not None
    assert resident.room.step_peak_bytes


# ---- peaks ----------------------------------------------------------------------------------------


def test_a_peak_is_what_a_call_holds_at_once() -> None:
    def act() -> None:
        for _ in range(3):
            held = torch.zeros(1000, dtype=torch.float32)
            both = torch.cat([held, held])
            del held, both

    assert peaks.peak_bytes(CPU, act, 0) == pytest.approx(3 * 4000, rel=0.05)


def test_standard_error_is_as_it_was_after_a_peak(capfd: pytest.CaptureFixture[str]) -> None:
    peaks.peak_bytes(CPU, lambda: torch.zeros(1000), 0)
    os.write(2, b"still here\n")
    assert capfd.readouterr().err == "still here\n"


# ---- the engine knows profiles --------------------------------------------------------------------


def test_a_resident_has_its_profiles_other_sizes_and_modes(tiny_repo: Path, tmp_path: Path) -> None:
    far = SizeCost(128 * 128, (RowCost(1, 4.0), RowCost(2, 8.0)), 2.0)
    costs = Costs(64 * 64, 0.5, (RowCost(1, 1.0), RowCost(2, 2.0)), 1.0, 3.0, (far,))
    tiled = Costs(64 * 64, 0.5, (RowCost(1, 7.0),), 7.0, 3.0)
    profiled = (
        Resident("sd15", "full", "fp32", 1, costs, room=Room(5)),
        Resident("sd15", "tiled", "fp32", 1, tiled, room=Room(6)),
    )
    made = Bench(tmp_path, tiny_repo)
    made.engine._profiled = {(r.variant, r.memory_mode): r for r in profiled}
    loaded = made.load("sd15")
    (size,) = loaded.costs.sizes
    assert size.pixels == far.pixels
    assert size.steps[1].seconds == pytest.approx(4 * loaded.costs.steps[1].seconds)
    assert loaded.room == Room(5)
    load_s = loaded.costs.load_s
    made.engine.switch_mode("sd15", "tiled")
    (switched,) = made.work()
    assert isinstance(switched, Switched)
    assert switched.resident.costs.steps == tiled.steps
    assert switched.resident.costs.load_s == load_s, "as it was when it was loaded"
    assert switched.resident.room == Room(6)
    made.engine.switch_mode("sd15", "sliced")
    (switched,) = made.work()
    assert isinstance(switched, Switched)
    assert switched.resident.room is None, "this mode has no profile"
    made.close()


# ---- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd15", "sdxl", "other"])
def test_an_artist_paints_what_is_asked_and_the_same_again(
    name: str, tiny_repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(torch_artist.BATCH_PIXELS, "cpu", 2 * 64 * 64)
    artist = TorchArtist(repository.scan(tiny_repo).variant(name))
    asked = asking.spread(asking.plain(["red apple", "blue cat", "green pear"]), 3, 0)
    first = artist.paint(asked, Point(2, 3.0))
    assert [picture.shape for picture in first] == 3 * [(64, 64, 3)]
    assert (first[0] != first[1]).any()
    again = artist.paint(asked[2:], Point(2, 3.0))
    assert np.abs(again[0].astype(int) - first[2]).max() <= 1, "whatever it shared a batch with"
    artist.close()


# ---- CLIP -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny CLIP with random weights, as transformers saves it."""
    return tiny_models.make_clip(tmp_path_factory.mktemp("clip") / "tiny-clip")


def pictures(count: int) -> list[Pixels]:
    dice = np.random.default_rng(0)
    return [dice.integers(0, 256, (48, 64, 3)).astype(np.uint8) for _ in range(count)]


def test_clip_scores_are_clipscores(clip_folder: Path) -> None:
    judge = Clip(clip_folder, "cpu", 64)
    texts = [f"thing {i}" for i in range(20)]
    shown = pictures(20)
    cosines = [judge._cosines([p], [t])[0] for p, t in zip(shown, texts, strict=True)]
    expected = [min(1.0, max(0.0, 2.5 * cosine)) for cosine in cosines]
    assert judge.scores(shown, texts) == pytest.approx(expected, abs=1e-5)
    assert len(set(cosines)) == 20, "it tells them apart"


def test_clip_makes_a_row_of_each_point(clip_folder: Path) -> None:
    judge = Clip(clip_folder, "cpu", 64)
    asked = [[Asked("red apple", "", 1), Asked("blue cat", "", 2)], [Asked("red apple", "", 3)]]
    painted = [pictures(2), pictures(1)]
    judge.prepare(lambda asked, point: [], asked)
    (row,) = judge.rows(Point(4, 2.5), painted, asked)
    by_seed = [
        float(np.mean(judge.scores(p, [a.text for a in ones])))
        for p, ones in zip(painted, asked, strict=True)
    ]
    assert (row.side, row.steps, row.guidance) == (64, 4, 2.5)
    assert row.score == pytest.approx(np.mean(by_seed), abs=1e-4)
    assert row.spread == pytest.approx(np.std(by_seed), abs=1e-4)


def test_long_texts_are_cut_and_not_refused(clip_folder: Path) -> None:
    assert len(Clip(clip_folder, "cpu", 64).scores(pictures(1), ["apple " * 200])) == 1


def test_a_judge_is_named_by_its_weights_and_never_by_a_path(clip_folder: Path, tmp_path: Path) -> None:
    one = Clip(clip_folder, "cpu", 64)
    moved = shutil.copytree(clip_folder, tmp_path / "moved")
    assert Clip(moved, "cpu", 64).judge == one.judge
    assert str(clip_folder.parent) not in one.source
    assert "tiny-clip" in one.source
    weights = moved / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert Clip(moved, "cpu", 64).judge != one.judge


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def unnamed(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize("spoil", [pickled, unnamed])
def test_a_folder_that_is_no_clip_model_is_refused_before_anything_is_painted(
    spoil: Callable[[Path], None], clip_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(clip_folder, tmp_path / "spoilt")
    spoil(folder)
    with pytest.raises(InvalidRequest, match=r"no CLIP model.*pickled"):
        Clip(folder, "cpu", 64)


def test_broken_weights_are_refused_in_words(clip_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clip_folder, tmp_path / "broken")
    (folder / "model.safetensors").write_bytes(b"nothing")
    judge = clip.Clip(folder, "cpu", 64)
    with pytest.raises(DifsError, match="broken"):
        judge.prepare(lambda asked, point: [], [])
