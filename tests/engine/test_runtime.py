"""The runtime options of a variant: compiled code runs where it may, never where bits must be exact."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from difs import manifests
from difs.actor_messages import Finished
from difs.actors import runtime
from tests.engine.conftest import TINY, Bench

pytestmark = pytest.mark.torch


class Compiler:
    """A compiler that changes nothing and counts what it compiles and how often that runs."""

    def __init__(self) -> None:
        self.compiled = self.runs = 0

    def __call__(self, module: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        self.compiled += 1

        def run(*args: Any) -> Any:
            self.runs += 1
            return module.forward(*args)

        return run


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    made = Compiler()
    monkeypatch.setattr(runtime, "COMPILER", made)
    torch.compiler.reset()
    yield made
    torch.compiler.reset()


def bench_with(tmp_path: Path, options: str) -> Bench:
    """Return an engine with a tiny variant of these runtime options, loaded."""
    root = tmp_path / "repo"
    TINY["sd15"](root / "sd15")
    manifest = root / "sd15" / "variant.toml"
    manifest.write_text(manifest.read_text().replace("[steps]", f"[runtime]\n{options}\n\n[steps]"))
    made = Bench(tmp_path, root, max_rows=2)
    made.load("sd15")
    return made


def finished(reports: list[Any]) -> list[Finished]:
    return [r for r in reports if isinstance(r, Finished)]


@pytest.fixture
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = bench_with(tmp_path_factory.mktemp("plain"), "")
    picture = made.paint(made.execute("red"))[0]
    made.close()
    return picture


def test_compiled_code_paints_and_an_exact_request_runs_without_it(
    tmp_path: Path, compiler: Compiler, plain: Any
) -> None:
    made = bench_with(tmp_path, 'compilation = "regional"')
    assert compiler.compiled > 0
    runs, fast, exact = compiler.runs, made.execute("red"), made.execute("red", is_alone=True)
    (done,) = finished(made.run(fast))
    assert compiler.runs > runs
    assert done.seed_contract == "same-noise"
    runs = compiler.runs
    (done,) = finished(made.run(exact))
    assert compiler.runs == runs
    assert done.seed_contract == "bitwise"
    made.close()
    assert np.array_equal(made.pixels(exact), plain)
    assert np.abs(made.pixels(fast).astype(int) - plain).max() <= 1


def test_all_of_a_denoiser_can_be_compiled(compiler: Compiler) -> None:
    layer = torch.nn.Linear(2, 2)
    made = runtime.Runtime(layer, manifests.Runtime(compilation="full"))
    x = torch.ones(1, 2)
    with torch.inference_mode(), made.around(exact=False):
        assert torch.equal(made.unet(x), layer(x))
    assert compiler.runs == 1
    with torch.inference_mode(), made.around(exact=True):
        made.unet(x)
    assert compiler.runs == 1


@pytest.mark.parametrize("options", ['attention = "math"', "channels_last = true"])
def test_other_kernels_paint_the_same_picture(tmp_path: Path, plain: Any, options: str) -> None:
    made = bench_with(tmp_path, options)
    picture = made.paint(made.execute("red"))[0]
    made.close()
    assert np.abs(picture.astype(int) - plain).max() <= 1
