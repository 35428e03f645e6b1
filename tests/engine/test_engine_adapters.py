"""Requests that name LoRA adapters, through the engine: in one batch with others, each as if alone."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from difs.actor_messages import Ended, Finished
from difs.messages import Adapter
from tests.engine.conftest import TINY, Bench
from tests.engine.lora_files import draw, save_diffusers, save_kohya
from tests.engine.test_bitwise import diffusers_pipeline

pytestmark = pytest.mark.torch

IMAGE_BOUND = 1


def register(root: Path, name: str, save: Any, pipe: Any, family: str) -> None:
    """Put a LoRA file with random numbers and its manifest into a model repository."""
    folder = root / name
    folder.mkdir()
    file = save(folder / "lora.safetensors", draw(pipe, len(name)))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "adapter.toml").write_text(
        f'name = "{name}"\nfamily = "{family}"\nfile = "lora.safetensors"\n'
        f'digest = "sha256:{digest}"\nlicence = "none: random numbers"\n'
    )


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def styled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Return an engine with a variant of a family and two adapters of it, one of each format."""
    family: str = request.param
    root = tmp_path_factory.mktemp("styled")
    TINY[family](root / family)
    pipe = diffusers_pipeline(root / family)
    register(root, "oil-paint", save_diffusers, pipe, family)
    register(root, "flat", save_kohya, pipe, family)
    made = Bench(tmp_path_factory.mktemp("segments"), root, max_rows=16)
    made.load(family)
    yield made
    made.close()


def paint(bench: Bench, *adapters: Adapter) -> NDArray[np.uint8]:
    return bench.paint(bench.execute("red apple", adapters=adapters))[0]


def largest(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


OIL, HALF, FLAT = Adapter("oil-paint"), Adapter("oil-paint", 0.5), Adapter("flat", 0.8)


def drop_all(shelf: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shelf, "_budget_bytes", 0)
        shelf.trim(())
    assert shelf.names == ()


def test_an_adapter_changes_the_picture_and_the_base_keeps_its_bits(styled: Bench) -> None:
    base = paint(styled)
    oil = paint(styled, OIL)
    assert largest(base, oil) > 8
    assert np.array_equal(paint(styled), base)
    assert np.array_equal(paint(styled, Adapter("oil-paint", 0.0)), base)


def test_different_adapters_weights_and_none_share_a_batch_and_paint_what_they_paint_alone(
    styled: Bench,
) -> None:
    wishes: list[tuple[Adapter, ...]] = [(OIL,), (), (FLAT,), (HALF,), (OIL, FLAT), ()]
    alone = [paint(styled, *adapters) for adapters in wishes]
    executes = [styled.execute("red apple", adapters=adapters) for adapters in wishes]
    with styled.sharing(styled.variant):
        reports = styled.run(*executes)
    shared = {r.attempt: r.shared_by for r in reports if isinstance(r, Finished)}
    for execute, picture in zip(executes, alone, strict=True):
        assert largest(styled.pixels(execute), picture) <= IMAGE_BOUND
    assert max(shared.values()) > 3


def test_loading_an_adapter_does_not_load_the_base_again(
    styled: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from difs.actors import loading

    def no_load(*args: Any) -> Any:
        raise AssertionError("the base was loaded again")

    monkeypatch.setattr(loading, "load_pipeline", no_load)
    painter = styled.engine._painters[styled.variant]
    drop_all(painter.shelf, monkeypatch)
    assert largest(paint(styled, OIL), paint(styled)) > 8
    assert painter.shelf.names == ("oil-paint",)


def test_an_unused_adapter_is_dropped_by_size(styled: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = styled.engine._painters[styled.variant].shelf
    paint(styled, OIL)
    monkeypatch.setattr(shelf, "_budget_bytes", 1)
    paint(styled, FLAT)
    assert shelf.names == ("flat",)


def test_an_adapter_whose_file_has_changed_or_that_nobody_knows_ends_its_request_alone(
    styled: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    mate, lost = styled.execute(), styled.execute(adapters=(Adapter("nobody"),))
    reports = styled.run(mate, lost)
    (ended,) = (r for r in reports if isinstance(r, Ended))
    assert ended.attempt == lost.attempt
    assert "no adapter 'nobody'" in ended.message
    assert [r.attempt for r in reports if isinstance(r, Finished)] == [mate.attempt]
    drop_all(styled.engine._painters[styled.variant].shelf, monkeypatch)
    path = styled.repository.adapter("flat").path
    data = bytearray(path.read_bytes())
    path.write_bytes(bytes(data[:-1]) + bytes([data[-1] ^ 1]))
    try:
        (ended,) = (r for r in styled.run(styled.execute(adapters=(FLAT,))) if isinstance(r, Ended))
        assert "has changed since it was registered" in ended.message
    finally:
        path.write_bytes(bytes(data))
