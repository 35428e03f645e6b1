"""The engine, when what it has is not what is registered any more."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from difs import repository
from difs.actor_messages import Evicted, Loaded, LoadFailed
from difs.messages import Adapter
from difs.repository import Repository
from tests.engine.conftest import TINY, Bench
from tests.engine.lora_files import draw, save_kohya
from tests.engine.test_bitwise import diffusers_pipeline
from tests.engine.test_engine_adapters import register

pytestmark = pytest.mark.torch


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Return an engine with `mine` loaded, and the adapter `ink` for it."""
    root = tmp_path / "models"
    TINY["sd15"](root / "mine")
    pipe = diffusers_pipeline(root / "mine")
    register(root, "ink", lambda path, _: save_kohya(path, draw(pipe, 1, parts=("unet",))), pipe, "sd15")
    made = Bench(tmp_path, root)
    made.load("mine")
    yield made
    made.close()


def become(bench: Bench, **changes: object) -> None:
    """Let the repository have `mine` with a changed manifest; without changes, not at all."""
    known = bench.repository
    mine = known.variant("mine")
    changed = replace(mine, manifest=replace(mine.manifest, **changes))
    bench.engine._library = Repository({"mine": changed} if changes else {}, (), known.adapters)


def test_a_variant_that_is_gone_is_not_parked(bench: Bench) -> None:
    become(bench)
    bench.engine.evict("mine")
    assert bench.work() == [Evicted("mine", None, ("mine",))]
    assert bench.engine._parking.names == ()
    assert not bench.engine._painters


def test_a_parked_variant_that_is_gone_is_dropped(bench: Bench) -> None:
    bench.engine.evict("mine")
    (parked,) = bench.work()
    assert isinstance(parked, Evicted)
    assert parked.parked is not None
    become(bench)
    bench.engine.evict("mine")
    assert bench.work() == [Evicted("mine", None, ("mine",))]
    assert bench.engine._parking.names == ()


def test_a_parked_variant_that_changed_is_loaded_anew(bench: Bench) -> None:
    bench.engine.evict("mine")
    bench.work()
    become(bench, kind="turbo", description="other words")
    bench.engine.load("mine")
    (loaded,) = bench.work()
    assert isinstance(loaded, Loaded)
    assert bench.engine._painters["mine"]._kind == "turbo"


def test_a_parked_variant_whose_words_changed_returns(bench: Bench) -> None:
    painter = bench.engine._painters["mine"]
    bench.engine.evict("mine")
    bench.work()
    become(bench, description="other words")
    bench.engine.load("mine")
    bench.work()
    assert bench.engine._painters["mine"] is painter


def test_a_variant_that_is_gone_does_not_load(bench: Bench) -> None:
    bench.engine.evict("mine")
    bench.work()
    become(bench)
    bench.engine.load("mine")
    (failed,) = bench.work()
    assert isinstance(failed, LoadFailed)
    assert "no variant 'mine'" in failed.message


def test_an_adapter_with_other_weights_takes_the_place_of_the_old_one(
    bench: Bench, tmp_path: Path
) -> None:
    def paint(*adapters: Adapter) -> NDArray[np.uint8]:
        return bench.paint(bench.execute("red apple", adapters=adapters))[0]

    ink, plain = Adapter("ink"), paint()
    before = paint(ink)
    (tmp_path / "again").mkdir()
    pipe = diffusers_pipeline(tmp_path / "models" / "mine")
    register(
        tmp_path / "again",
        "ink",
        lambda path, _: save_kohya(path, draw(pipe, 9, parts=("text_encoder",))),
        pipe,
        "sd15",
    )
    other = repository.scan(tmp_path / "again").adapters
    bench.engine._library = Repository(bench.repository.variants, (), other)
    after = paint(ink)
    assert not np.array_equal(after, before)
    assert not np.array_equal(after, plain), "its text is that of the old one"
    bench.engine._library = bench.repository
    assert np.array_equal(paint(ink), before)
