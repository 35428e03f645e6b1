"""How LoRA files spell layers, and what their metadata says; diffusers' loader is the reference."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from difs.actors import lora_format
from difs.errors import EngineFailed
from tests.engine import tiny
from tests.engine.lora_files import ATTENTION, Lora, draw, save_diffusers, save_kohya

pytestmark = pytest.mark.torch

XL_PER_BLOCK = 2
"""Resnets of a block of the true SDXL."""

SGM_OF_SDXL = [
    ("input_blocks_0_0", "conv_in"),
    ("input_blocks_1_0_in_layers_2", "down_blocks_0_resnets_0_conv1"),
    ("input_blocks_3_0_op", "down_blocks_0_downsamplers_0_conv"),
    ("input_blocks_4_0_skip_connection", "down_blocks_1_resnets_0_conv_shortcut"),
    (
        "input_blocks_5_1_transformer_blocks_1_attn2_to_k",
        "down_blocks_1_attentions_1_transformer_blocks_1_attn2_to_k",
    ),
    ("input_blocks_8_1_proj_in", "down_blocks_2_attentions_1_proj_in"),
    ("middle_block_0_emb_layers_1", "mid_block_resnets_0_time_emb_proj"),
    (
        "middle_block_1_transformer_blocks_9_ff_net_0_proj",
        "mid_block_attentions_0_transformer_blocks_9_ff_net_0_proj",
    ),
    ("middle_block_2_out_layers_3", "mid_block_resnets_1_conv2"),
    ("output_blocks_0_1_proj_out", "up_blocks_0_attentions_0_proj_out"),
    ("output_blocks_2_2_conv", "up_blocks_0_upsamplers_0_conv"),
    ("output_blocks_8_0_in_layers_2", "up_blocks_2_resnets_2_conv1"),
    ("time_embed_2", "time_embedding_linear_2"),
    ("label_emb_0_0", "add_embedding_linear_1"),
    ("out_2", "conv_out"),
    ("down_blocks_1_attentions_0_proj_in", "down_blocks_1_attentions_0_proj_in"),
]

SGM_OF_TINY = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "down_blocks.0.resnets.0.conv1": "input_blocks.1.0.in_layers.2",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0.conv_shortcut": "input_blocks.3.0.skip_connection",
    "down_blocks.1.attentions.0.proj_in": "input_blocks.3.1.proj_in",
    "mid_block.resnets.1.time_emb_proj": "middle_block.2.emb_layers.1",
    "mid_block.attentions.0.transformer_blocks.1.attn1.to_out.0": (
        "middle_block.1.transformer_blocks.1.attn1.to_out.0"
    ),
    "up_blocks.0.attentions.1.transformer_blocks.0.ff.net.2": (
        "output_blocks.1.1.transformer_blocks.0.ff.net.2"
    ),
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    "up_blocks.1.resnets.1.conv2": "output_blocks.3.0.out_layers.3",
}
"""The tiny SDXL has one resnet a block."""


def _pipe(folder: Path) -> Any:
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return _pipe(tiny.make_sdxl(tmp_path_factory.mktemp("tiny") / "tiny-xl"))


@pytest.fixture
def theirs(tmp_path: Path) -> Any:
    """A pipeline for diffusers' own loader, with the layers of `xl`."""
    return _pipe(tiny.make_sdxl(tmp_path / "tiny-xl"))


def parts(pipe: Any) -> dict[str, Any]:
    return {part: getattr(pipe, part) for part in ("unet", "text_encoder", "text_encoder_2")}


def read(pipe: Any, path: Path) -> dict[tuple[str, str], lora_format.Delta]:
    """Read a file; layers by part and name."""
    named = {
        layer: (part, name)
        for part, module in parts(pipe).items()
        for name, layer in module.named_modules()
    }
    return {named[layer]: delta for layer, delta in lora_format.read(path, parts(pipe)).items()}


def diffusers_reads(pipe: Any, path: Path) -> dict[tuple[str, str], tuple[torch.Tensor, float]]:
    """Let diffusers load a file; returns the product of both halves and the scale, by part and name."""
    from peft.tuners.lora import LoraLayer

    pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name="lora")
    return {
        (part, name): (
            _product(layer.lora_A["lora"].weight, layer.lora_B["lora"].weight),
            layer.scaling["lora"],
        )
        for part, module in parts(pipe).items()
        for name, layer in module.named_modules()
        if isinstance(layer, LoraLayer)
    }


def _product(down: Any, up: Any) -> Any:
    return up.flatten(1) @ down.flatten(1)


def agrees(pipe: Any, theirs: Any, path: Path) -> bool:
    ours, expected = read(pipe, path), diffusers_reads(theirs, path)
    assert ours.keys() == expected.keys()
    return all(
        torch.equal(_product(ours[key].down, ours[key].up), product)
        and math.isclose(ours[key].alpha / ours[key].divisor, scale)
        for key, (product, scale) in expected.items()
    )


@pytest.mark.parametrize(("spelled", "name"), SGM_OF_SDXL)
def test_stability_s_names_are_known(spelled: str, name: str) -> None:
    assert lora_format.from_sgm(spelled, XL_PER_BLOCK) == name


def test_a_kohya_file_with_stability_s_names_is_read_as_diffusers_reads_it(
    xl: Any, theirs: Any, tmp_path: Path
) -> None:
    lora = draw(xl, 1, parts=("unet",), alphas=(2.0,))
    chosen: Lora = {key: lora[key] for key in lora if key[1] in SGM_OF_TINY}
    assert len(chosen) == len(SGM_OF_TINY)
    path = save_kohya(tmp_path / "lora.safetensors", chosen, SGM_OF_TINY)
    assert read(xl, path).keys() == chosen.keys()
    assert agrees(xl, theirs, path)


def test_text_encoders_of_a_kohya_file_are_read_as_diffusers_reads_them(
    xl: Any, theirs: Any, tmp_path: Path
) -> None:
    lora = draw(xl, 1, parts=("text_encoder", "text_encoder_2"), alphas=(2.0,))
    path = save_kohya(tmp_path / "lora.safetensors", lora)
    assert read(xl, path).keys() == lora.keys()
    assert agrees(xl, theirs, path)


def _of_processors(part: str, name: str) -> str:
    """Spell a layer as diffusers did up to 0.17."""
    block, leaf = name.removesuffix(".0").rsplit(".", 1)
    if part == "unet":
        return f"unet.{block}.processor.{leaf}_lora"
    return f"text_encoder.text_model.{block}.to_{leaf.removesuffix('_proj')}_lora"


def _of_layers(part: str, name: str) -> str:
    """Spell a layer as diffusers did before it had peft."""
    if part == "unet":
        return f"unet.{name}.lora"
    return f"text_encoder.text_model.{name}.lora_linear_layer"


@pytest.mark.parametrize("spell", [_of_processors, _of_layers])
def test_the_older_spellings_of_diffusers_are_read(
    xl: Any, theirs: Any, tmp_path: Path, spell: Callable[[str, str], str]
) -> None:
    lora = draw(xl, 1, r"attn\d\.to_|self_attn\.", parts=("unet", "text_encoder"))
    tensors: dict[str, torch.Tensor] = {}
    for key, low in lora.items():
        tensors |= {f"{spell(*key)}.down.weight": low.down, f"{spell(*key)}.up.weight": low.up}
    path = tmp_path / "lora.safetensors"
    save_file(tensors, path)
    assert read(xl, path).keys() == lora.keys()
    assert agrees(xl, theirs, path)


def test_a_file_of_the_unet_alone_needs_no_prefix(xl: Any, tmp_path: Path) -> None:
    lora = draw(xl, 1, ATTENTION, parts=("unet",))
    path = save_diffusers(tmp_path / "lora.safetensors", lora)
    save_file({key.removeprefix("unet."): t for key, t in load_file(path).items()}, path)
    assert read(xl, path).keys() == lora.keys()


@pytest.mark.parametrize("padding", ["", "8 bytes.", "16 bytes........"])
def test_tensors_lie_in_memory_as_in_the_file_and_outlive_it(
    xl: Any, tmp_path: Path, padding: str
) -> None:
    lora = draw(xl, 1, ATTENTION, parts=("unet",))
    path = save_diffusers(tmp_path / "lora.safetensors", lora)
    save_file(load_file(path), path, {"padding": padding})
    mapped = load_file(path)
    ours = read(xl, path)
    for (part, name), delta in ours.items():
        theirs = mapped[f"{part}.{name}.lora_A.weight"]
        assert delta.down.data_ptr() % 64 == theirs.data_ptr() % 64
    del mapped, theirs
    path.write_bytes(b"")
    assert all(torch.equal(ours[key].down, low.down) for key, low in lora.items())


# ---- what the metadata says ---------------------------------------------------------------------


def _with_settings(path: Path, settings: Any) -> Path:
    save_file(load_file(path), path, {"lora_adapter_metadata": json.dumps(settings)})
    return path


@pytest.mark.parametrize("use_rslora", [False, True])
def test_alphas_and_rslora_are_read_as_diffusers_reads_them(
    xl: Any, theirs: Any, tmp_path: Path, use_rslora: bool
) -> None:
    lora = draw(xl, 1, "to_q$|to_k$", parts=("unet",))
    names = [name for _, name in lora]
    settings = {
        "unet.r": 4,
        "unet.lora_alpha": 2.0,
        "unet.use_rslora": use_rslora,
        "unet.target_modules": names,
        "unet.alpha_pattern": {"attn1.to_k": 8.0, f"^{names[0]}": 16.0},
    }
    path = _with_settings(save_diffusers(tmp_path / "lora.safetensors", lora), settings)
    assert agrees(xl, theirs, path)
    ours = read(xl, path)
    assert {delta.alpha for delta in ours.values()} == {2.0, 8.0, 16.0}
    assert {delta.divisor for delta in ours.values()} == {2.0 if use_rslora else 4}


def test_without_metadata_a_layer_s_alpha_is_its_rank(xl: Any, tmp_path: Path) -> None:
    path = save_diffusers(tmp_path / "lora.safetensors", draw(xl, 1, ATTENTION, rank=3, alphas=(9.0,)))
    save_file(load_file(path), path)
    assert {(d.alpha, d.divisor) for d in read(xl, path).values()} == {(3, 3)}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"unet.alpha_pattern": {"to_(q|k)": 2.0}}, "is not the name of a layer"),
        ({"unet.lora_alpha": "much"}, "does not fit its base"),
        ([1], "does not fit its base"),
    ],
)
def test_settings_that_are_not_understood_are_refused(
    xl: Any, tmp_path: Path, settings: Any, words: str
) -> None:
    path = save_diffusers(tmp_path / "lora.safetensors", draw(xl, 1, ATTENTION, parts=("unet",)))
    with pytest.raises(EngineFailed, match=words):
        lora_format.read(_with_settings(path, settings), parts(xl))
