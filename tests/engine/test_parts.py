"""Variants made of others' parts and of fused adapters: the same pictures, the weights only once."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from difs.actors import loading
from difs.messages import Adapter
from tests.engine.conftest import TINY, Bench
from tests.engine.lora_files import draw, save_diffusers
from tests.engine.test_bitwise import diffusers_pipeline
from tests.engine.test_engine_adapters import largest, register

pytestmark = pytest.mark.torch

BORROWED = ("text_encoder", "tokenizer", "vae")


def manifest(folder: Path, pattern: str, instead: str) -> None:
    """Change a folder's manifest."""
    file = folder / "variant.toml"
    text, count = re.subn(pattern, instead, file.read_text("utf-8"), flags=re.S)
    assert count == 1
    file.write_text(text, "utf-8")


def borrow(root: Path, name: str, lender: str) -> None:
    """Copy the lender's folder as variant `name` without what it borrows from it."""
    folder = root / name
    shutil.copytree(root / lender, folder)
    for part in BORROWED:
        shutil.rmtree(folder / part)
    manifest(folder, f'^name = "{lender}"', f'name = "{name}"')
    table = "[parts]\n" + "".join(f'{part} = "{lender}"\n' for part in BORROWED)
    manifest(folder, r"\[digests\]\n", f"{table}\n[digests]\n")
    text = (folder / "variant.toml").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith(('"text_', '"vae'))]
    (folder / "variant.toml").write_text("\n".join(lines) + "\n", "utf-8")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Return an engine with `whole`, `lean` (whole's parts) and `fast` (an adapter fused)."""
    root = tmp_path_factory.mktemp("family")
    TINY["sd15"](root / "whole")
    pipe = diffusers_pipeline(root / "whole")
    register(
        root, "ink", lambda path, _: save_diffusers(path, draw(pipe, 3, parts=("unet",))), pipe, "sd15"
    )
    borrow(root, "lean", "whole")
    borrow(root, "fast", "whole")
    manifest(root / "fast", r"\[parts\]\n", "[fused]\nink = 0.6\n\n[parts]\n")
    made = Bench(tmp_path_factory.mktemp("segments"), root, max_rows=16)
    for name in ("whole", "lean", "fast"):
        made.load(name)
    yield made
    made.close()


def paint(bench: Bench, variant: str, *adapters: Adapter) -> NDArray[np.uint8]:
    bench.variant = variant
    return bench.paint(bench.execute("red apple", adapters=adapters))[0]


def test_borrowed_parts_paint_the_same_bits_and_are_in_memory_once(family: Bench) -> None:
    assert np.array_equal(paint(family, "lean"), paint(family, "whole"))
    pipes = [family.engine._painters[name].pipe for name in ("whole", "lean", "fast")]
    assert len({id(pipe.vae) for pipe in pipes}) == 1
    assert len({id(pipe.text_encoder) for pipe in pipes}) == 1
    assert pipes[0].unet is pipes[1].unet
    assert pipes[2].unet is not pipes[0].unet, "what is fused would be in whole's pictures"


def test_a_fused_adapter_paints_what_a_request_with_it_would(family: Bench) -> None:
    fused, added = paint(family, "fast"), paint(family, "whole", Adapter("ink", 0.6))
    assert largest(fused, added) <= 1
    assert largest(fused, paint(family, "whole")) > 8, "the adapter does nothing"


def test_exact_weights_come_back_with_what_was_fused(family: Bench) -> None:
    before = paint(family, "fast")
    painter = family.engine._painters["fast"]
    for weight in painter.pipe.unet.parameters():
        weight.data.add_(0.01)
    assert largest(paint(family, "fast"), before) > 0
    loading.restore_denoiser(painter.pipe, family.repository.variant("fast"), torch.float32)
    assert np.array_equal(paint(family, "fast"), before)


def test_families_without_a_recipe_take_no_parts(tmp_path: Path) -> None:
    TINY["other"](tmp_path / "other")
    TINY["sd15"](tmp_path / "sd")
    shutil.rmtree(tmp_path / "other" / "vae")
    manifest(tmp_path / "other", r"\[digests\]\n", '[parts]\nvae = "sd"\n\n[digests]\n')
    manifest(tmp_path / "other", r'"vae/[^\n]*\n', "")
    (tmp_path / "segments").mkdir()
    bench = Bench(tmp_path / "segments", tmp_path)
    try:
        bench.engine.load("other")
        (failed,) = bench.work()
        assert "parts and fused are not for family" in failed.message  # type: ignore[union-attr]
    finally:
        bench.close()
