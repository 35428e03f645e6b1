"""difs.registration.keys and lora_keys, on real-size models: what a file is, or why it is refused."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from bench import checkpoints
from difs.errors import RepositoryError
from difs.registration import headers, keys, lora_keys
from difs.registration.keys import Wishes
from tests.safetensors_files import header

pytestmark = pytest.mark.torch

Shapes = dict[str, tuple[int, ...]]
FAMILIES = ("sd15", "sd2", "sdxl")
CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.fixture(scope="module")
def real() -> dict[str, Shapes]:
    """Return the tensors of each family's checkpoint at real size."""
    return {family: checkpoints.shapes(family) for family in FAMILIES}


def recognise(shapes: Shapes, stem: str = "model", **facts: Any) -> keys.Checkpoint:
    metadata, dtype = facts.pop("metadata", None), facts.pop("dtype", "F16")
    return keys.recognise(header(shapes, metadata, dtype), stem, **facts)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_known_by_its_tensors(real: dict[str, Shapes], family: str) -> None:
    found = recognise(real[family])
    assert (found.family, found.kind, found.prediction, found.precision) == (
        family, "base", "epsilon", "fp16",
    )  # fmt: skip
    covered = tuple(start for starts in found.parts.values() for start in starts)
    assert all(key.startswith(covered) for key in real[family])


@pytest.mark.parametrize(("dtype", "precision"), [("F32", "fp32"), ("BF16", "bf16"), ("F8_E4M3", "fp16")])
def test_the_precision_is_that_of_the_denoiser(
    real: dict[str, Shapes], dtype: str, precision: str
) -> None:
    assert recognise(real["sd15"], dtype=dtype).precision == precision


@pytest.mark.parametrize(
    ("stem", "metadata", "kind"),
    [
        ("sd_xl_turbo_1.0_fp16", {}, "turbo"),
        ("DreamShaperXL_Lightning", {}, "lightning"),
        ("dreamshaper_8LCM", {}, "lcm"),
        ("dreamshaper-lcm", {}, "lcm"),
        ("dreamshaperXL_v21TurboDPMSDE", {}, "turbo"),
        ("MyXLTurbo", {}, "turbo"),
        ("turbocharged", {}, "base"),
        ("model", {"modelspec.title": "My SDXL Turbo"}, "turbo"),
    ],
)
def test_how_it_was_distilled_is_taken_from_name_or_metadata(
    real: dict[str, Shapes], stem: str, metadata: dict[str, str], kind: str
) -> None:
    found = recognise(real["sdxl"], stem, metadata=metadata)
    assert found.kind == kind
    assert (found.notes != ()) == (kind != "base"), "a guess must be told"
    assert recognise(real["sdxl"], stem, metadata=metadata, wishes=Wishes(kind="base")).kind == "base"


@pytest.mark.parametrize(
    ("stem", "facts", "prediction"),
    [
        ("v2-1_512", {"spread": [0.01, -0.01] * 160}, "epsilon"),
        ("v2-1_768", {"spread": [0.2, -0.2] * 160}, "v_prediction"),
        ("anything", {"metadata": {"modelspec.prediction_type": "v"}, "spread": [0.0]}, "v_prediction"),
        (
            "anything",
            {"metadata": {"modelspec.prediction_type": "epsilon"}, "spread": [1, -1]},
            "epsilon",
        ),
        ("noob_v-pred", {}, "v_prediction"),
        ("mine", {"wishes": Wishes(prediction="v_prediction")}, "v_prediction"),
    ],
)
def test_what_sd2_predicts_is_taken_from_what_there_is(
    real: dict[str, Shapes], stem: str, facts: dict[str, Any], prediction: str
) -> None:
    found = recognise(real["sd2"], stem, **facts)
    assert found.prediction == prediction
    assert any(prediction in note for note in found.notes)


def test_a_marker_tensor_says_that_sdxl_predicts_velocity(real: dict[str, Shapes]) -> None:
    found = recognise(real["sdxl"] | {"v_pred": (), "ztsnr": ()})
    assert (found.prediction, found.zero_snr) == ("v_prediction", True)


# ---- refusals -----------------------------------------------------------------------------------


def takes(channels: int) -> Callable[[Shapes], Shapes]:
    return lambda shapes: shapes | {CONV_IN: (320, channels, 3, 3)}


def without(start: str) -> Callable[[Shapes], Shapes]:
    return lambda shapes: {key: shape for key, shape in shapes.items() if not key.startswith(start)}


def reads(width: int) -> Callable[[Shapes], Shapes]:
    return lambda shapes: {
        k: (s[0], width) if re.search(r"attn2\.to_[kv]\.weight$", k) else s for k, s in shapes.items()
    }


@pytest.mark.parametrize(
    ("family", "change", "complaint"),
    [
        ("sd15", takes(9), "inpainting"),
        ("sdxl", takes(9), "inpainting"),
        ("sd15", takes(8), "InstructPix2Pix"),
        ("sd2", takes(5), "depth"),
        ("sd2", takes(7), "upscaling"),
        ("sd15", takes(12), "unknown model: it takes 12"),
        ("sdxl", reads(1280), "refiner"),
        ("sd15", reads(4096), "a text of 4096 numbers"),
        ("sd15", without("first_stage_model."), "has no vae"),
        ("sd15", without("cond_stage_model."), "has no text encoder"),
        ("sdxl", without("conditioner.embedders.1."), "has no text encoder 2"),
        ("sdxl", without("model.diffusion_model.middle_block.1."), "it was cut down"),
        ("sd2", lambda s: s | {"model.diffusion_model.label_emb.0.0.weight": (4, 4)}, "unCLIP"),
        ("sdxl", lambda s: s | {"edm_mean": (1,)}, "EDM"),
        ("sd15", lambda s: s | {"control_model.time_embed.0.weight": (4,)}, "ControlNet"),
    ],
)
def test_what_cannot_be_painted_with_is_refused_with_the_reason(
    real: dict[str, Shapes], family: str, change: Callable[[Shapes], Shapes], complaint: str
) -> None:
    with pytest.raises(RepositoryError, match=complaint):
        recognise(change(real[family]))


@pytest.mark.parametrize(
    ("key", "complaint"),
    [
        ("double_blocks.0.img_attn.norm.key_norm.scale", "Flux"),
        ("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "Flux"),
        ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "Stable Diffusion 3"),
        ("control_model.input_blocks.0.0.weight", "ControlNet"),
        ("controlnet_cond_embedding.conv_in.weight", "ControlNet"),
        ("down_blocks.0.motion_modules.0.proj_in.weight", "AnimateDiff"),
        ("first_stage_model.encoder.conv_in.weight", "autoencoder"),
        ("decoder.conv_in.weight", "autoencoder"),
        ("down_blocks.0.resnets.0.conv1.weight", "part of a diffusers folder"),
        ("text_model.embeddings.token_embedding.weight", "text encoder"),
        ("emb_params", "textual inversion"),
        ("image_proj.proj.weight", "IP-Adapter"),
        ("conv_first.weight", "upscaler"),
        ("something.else", "unknown weights, as 'something.else'"),
    ],
)
def test_other_weights_are_named(key: str, complaint: str) -> None:
    with pytest.raises(RepositoryError, match=complaint):
        recognise({key: (4, 4)})


# ---- LoRAs --------------------------------------------------------------------------------------


def lora(start: str, width: int, down: str, up: str, layer: str) -> Shapes:
    return {f"{start}{layer}{down}": (8, width), f"{start}{layer}{up}": (320, 8)}


KOHYA = ("lora_unet_", ".lora_down.weight", ".lora_up.weight")
DIFFUSERS = ("unet.", ".lora_A.weight", ".lora_B.weight")
OLD = ("unet.", ".lora.down.weight", ".lora.up.weight")
K = "down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
DOTTED = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
OLDEST = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora"


@pytest.mark.parametrize(("width", "family"), [(768, "sd15"), (1024, "sd2"), (2048, "sdxl")])
@pytest.mark.parametrize(
    ("form", "layer"),
    [(KOHYA, K), (KOHYA, "input_blocks_4_1_transformer_blocks_0_attn2_to_k"), (DIFFUSERS, DOTTED),
     (OLD, DOTTED), (("unet.", ".down.weight", ".up.weight"), OLDEST)],
)  # fmt: skip
def test_a_loras_base_is_known_by_the_width_of_its_text(
    width: int, family: str, form: tuple[str, str, str], layer: str
) -> None:
    start, down, up = form
    found = header(lora(start, width, down, up, layer))
    assert lora_keys.is_lora(found.tensors)
    assert lora_keys.recognise(found, "style").family == family


@pytest.mark.parametrize(
    ("metadata", "shapes", "family"),
    [
        ({"ss_base_model_version": "sdxl_base_v1-0"}, {}, "sdxl"),
        ({"ss_base_model_version": "sd_v1"}, {}, "sd15"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, {}, "sdxl"),
        ({}, {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (8, 1280)}, "sdxl"),
    ],
)
def test_a_lora_that_reads_no_text_tells_its_base_otherwise(
    metadata: dict[str, str], shapes: Shapes, family: str
) -> None:
    plain = lora(*KOHYA[:1], 320, *KOHYA[1:], "down_blocks_0_resnets_0_conv1")
    found = header(plain | shapes, metadata)
    assert lora_keys.recognise(found, "style").family == family


@pytest.mark.parametrize(
    ("shapes", "complaint"),
    [
        (lora("lora_unet_", 3072, *KOHYA[1:], "double_blocks_0_img_attn_proj"), "Flux"),
        (lora("transformer.", 64, *DIFFUSERS[1:], "transformer_blocks.0.attn.to_k"), "Diffusion 3"),
        (lora("lora_unet_", 4096, *KOHYA[1:], K), "reads 4096 numbers"),
        (lora("lora_unet_", 320, *KOHYA[1:], "down_blocks_0_resnets_0_conv1"), "does not tell"),
        ({"lora_unet_x.hada_w1_a": (4, 4)}, "LoHa"),
        ({"lora_unet_x.lokr_w1": (4, 4)}, "LoKr"),
        ({**lora("lora_unet_", 768, *KOHYA[1:], K), f"lora_unet_{K}.dora_scale": (1,)}, "DoRA"),
    ],
)
def test_a_lora_that_cannot_be_used_is_refused_with_the_reason(shapes: Shapes, complaint: str) -> None:
    found = header(shapes)
    assert lora_keys.is_lora(found.tensors)
    with pytest.raises(RepositoryError, match=complaint):
        lora_keys.recognise(found, "style")


def test_a_lora_for_few_steps_is_known_by_its_name() -> None:
    found = header(lora("lora_unet_", 768, *KOHYA[1:], K))
    assert lora_keys.recognise(found, "lcm-lora-sdv1-5").kind == "lcm"
    assert lora_keys.recognise(found, "oil-paint").kind == "base"


def test_a_checkpoint_is_no_lora(real: dict[str, Shapes]) -> None:
    assert not any(lora_keys.is_lora(header(shapes).tensors) for shapes in real.values())


def test_the_tensor_that_tells_what_sd2_predicts_is_there(real: dict[str, Shapes]) -> None:
    assert real["sd2"][keys.SPREAD] == (320,)
    assert headers.SIZES["F16"] == 2
