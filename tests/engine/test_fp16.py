"""As on a GPU: fp16. A CPU is slow in it, but what has to be cast is the same."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from difs import memory_modes
from difs.variants import Variant
from tests.engine.conftest import TINY, Bench

pytestmark = pytest.mark.torch

VARIANTS = ("emoji-small", "emoji-xl")
CLOSE = 4.0
"""Mean difference of values up to 255: rounding, and no other picture."""

Load = Callable[..., Any]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Return what loads a variant into an engine in the precision that its manifest names."""

    def do(engine: Bench, variant: str) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(Variant, "precision_on", lambda found, kind: found.manifest.precision)
            return engine.load(variant)

    return do


@pytest.fixture
def halves(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, max_rows=2)
    yield made
    made.close()


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_embedded_variant_paints_in_fp16_what_it_paints_in_fp32(
    bench: Bench, halves: Bench, load: Load, variant: str
) -> None:
    bench.ensure(variant)
    (whole,) = bench.paint(bench.execute(variant=variant))
    assert load(halves, variant).precision == "fp16"
    for mode in memory_modes.available("cpu"):
        halves.engine.switch_mode(variant, mode)
        halves.work()
        (half,) = halves.paint(halves.execute(variant=variant))
        assert np.abs(half.astype(int) - whole).mean() < CLOSE


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_an_autoencoder_is_upcast_only_where_its_pipeline_does_it(
    tmp_path: Path, load: Load, family: str
) -> None:
    folder = tmp_path / "models" / family
    TINY[family](folder)
    _say(folder / "vae" / "config.json", '"force_upcast": false', '"force_upcast": true')
    _say(folder / "variant.toml", 'precision = "fp32"', 'precision = "fp16"')
    made = Bench(tmp_path, tmp_path / "models", max_rows=4)
    load(made, family)
    pipe = made.engine._painters[family].pipe
    assert pipe.vae.config.force_upcast
    assert pipe.unet.dtype == torch.float16
    assert pipe.vae.dtype == (torch.float32 if family == "sdxl" else torch.float16)
    made.paint(made.execute(variant=family))
    made.close()


def _say(file: Path, before: str, after: str) -> None:
    file.write_text(file.read_text("utf-8").replace(before, after), "utf-8")
