"""LoRA files that do not fit their base: refused in words, and the base is as before."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from difs.actors.adapters import AdapterShelf
from difs.errors import EngineFailed
from tests.engine import tiny
from tests.engine.lora_files import ATTENTION, draw, save_diffusers, save_kohya
from tests.engine.scene import ROOMY, Scene, hooks

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tiny.make_sdxl(tmp_path_factory.mktemp("tiny") / "tiny-xl"))


Spoil = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


def _one_key(ending: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Spoil:
    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        key = next(key for key in tensors if key.endswith(ending))
        return tensors | {key: change(tensors[key])}

    return spoil


SPOILT: dict[str, tuple[Spoil, str]] = {
    "a layer of another width": (_one_key("lora_down.weight", lambda t: t[:, :-1]), "takes the shapes"),
    "halves of different ranks": (_one_key("lora_up.weight", lambda t: t[:, :-1]), "takes the shapes"),
    "a scalar": (_one_key("lora_down.weight", lambda t: t.sum()), "takes the shapes"),
    "not a number": (_one_key("lora_up.weight", lambda t: t / 0), "not finite"),
    "whole numbers": (_one_key("lora_up.weight", lambda t: t.to(torch.int8)), "not finite"),
    "two alphas": (_one_key(".alpha", lambda t: torch.ones(2)), "not one finite number"),
    "one half": (
        lambda tensors: {k: t for k, t in tensors.items() if not k.endswith("to_q.lora_up.weight")},
        "not both halves",
    ),
    "another architecture": (
        lambda tensors: {k.replace("mid_block", "mid_block_9"): t for k, t in tensors.items()},
        "tensors belong to none of its layers, as 'lora_unet_mid_block_9",
    ),
    "DoRA": (
        lambda tensors: tensors | {"lora_unet_mid_block_resnets_0_conv1.dora_scale": torch.ones(1)},
        "1 of .* tensors .*no DoRA",
    ),
    "a whole checkpoint": (lambda tensors: {"conv_in.weight": torch.ones(1)}, "1 of 1 tensors"),
    "nothing": (lambda tensors: {}, "holds no tensors"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_file_that_does_not_fit_is_refused_in_words_and_leaves_no_trace(
    scene: Scene, tmp_path: Path, case: str
) -> None:
    spoil, words = SPOILT[case]
    base, before = scene.unet([0]), hooks(scene.ours)
    path = save_kohya(
        tmp_path / "lora.safetensors", draw(scene.ours, 1, "mid_block.*to_q", parts=("unet",))
    )
    save_file({key: t.contiguous() for key, t in spoil(load_file(path)).items()}, path)
    shelf = AdapterShelf(scene.ours, ROOMY)
    with pytest.raises(EngineFailed, match=f"adapter my-lora does not load: lora.safetensors.*{words}"):
        shelf.load("my-lora", path)
    assert (shelf.names, shelf.nbytes) == ((), 0)
    assert hooks(scene.ours) == before
    assert torch.equal(scene.unet([0]), base)


def test_a_file_that_is_none_is_refused_in_words(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    shelf = AdapterShelf(scene.ours, ROOMY)
    with pytest.raises(EngineFailed, match="no readable safetensors file"):
        shelf.load("lora", path)
    path.write_bytes(b"not a tensor in sight" * 9)
    with pytest.raises(EngineFailed, match="no readable safetensors file"):
        shelf.load("lora", path)


def test_an_adapter_for_another_base_is_refused(scene: Scene, tmp_path: Path) -> None:
    other = tiny.make_sd2_v(tmp_path / "tiny-sd2")
    path = save_diffusers(tmp_path / "lora.safetensors", draw(Scene(other).ours, 1, ATTENTION))
    with pytest.raises(EngineFailed, match="does not fit its base"):
        AdapterShelf(scene.ours, ROOMY).load("lora", path)
