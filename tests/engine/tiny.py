"""Tiny pipelines of the true architectures, with random weights, made on the fly and offline.

Each `make_*` writes a variant's folder that `difs.repository.scan` accepts; its name is the folder's.
The same seed gives the same weights. Pictures are 64x64 (a latent of 16x16); they mean nothing, but
they differ visibly with prompt, guidance, steps and seed.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
)

SIZE = 64
LATENT = 16
TOKENIZER = Path(__file__).parents[2] / "model_repo" / "emoji-base" / "tokenizer"
VOCABULARY = 1706
WIDTH = 32
"""Of a text encoder's embeddings."""
NOISE_SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
SD_SCHEDULE = NOISE_SCHEDULE | {"steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False}
XL_SCHEDULE = NOISE_SCHEDULE | {"steps_offset": 1}
"""Of Euler, which needs no more."""

MANIFEST = """\
name = "{name}"
task = "text-to-image"
family = "{family}"
kind = "{kind}"
path = "."
description = "random weights"
precision = "fp32"
sampler = "{sampler}"
guidance_scale = {guidance}
native_sizes = [[64, 64]]
licence = "none: random weights"

[steps]
min = 1
default = {steps}
max = 50

[digests]
{digests}
"""


def make_sd15(folder: Path, seed: int = 0) -> Path:
    """SD 1.x: one text encoder, epsilon prediction."""
    with seeded(seed):
        pipe = _sd(unet(), DDIMScheduler(**SD_SCHEDULE))
    return _save(pipe, folder, family="sd15", sampler="ddim", guidance=5.0, steps=8)


def make_sd2_v(folder: Path, seed: int = 0) -> Path:
    """SD 2.x: v-prediction, linear projections, heads by level, an encoder of OpenCLIP's kind."""
    with seeded(seed):
        denoiser = unet(use_linear_projection=True, attention_head_dim=(2, 4))
        scheduler = DDIMScheduler(**SD_SCHEDULE, prediction_type="v_prediction")
        pipe = _sd(denoiser, scheduler, hidden_act="gelu")
    return _save(pipe, folder, family="sd2", sampler="ddim", guidance=5.0, steps=8)


def make_lcm(folder: Path, seed: int = 0) -> Path:
    """A latent consistency model of SD 1.x: the guidance scale is embedded in the UNet's time."""
    with seeded(seed):
        denoiser = unet(time_cond_proj_dim=32)
        _amplify(denoiser.time_embedding.cond_proj, 10.0)
        pipe = _sd(denoiser, LCMScheduler(**SD_SCHEDULE))
    return _save(pipe, folder, family="sd15", kind="lcm", sampler="lcm", guidance=8.0, steps=4)


def make_sdxl(folder: Path, seed: int = 0) -> Path:
    """SDXL: two text encoders, size and crop as added conditions, an autoencoder to be upcast."""
    with seeded(seed):
        pipe = _xl(EulerDiscreteScheduler(**XL_SCHEDULE, timestep_spacing="leading"))
    return _save(pipe, folder, family="sdxl", sampler="euler", guidance=5.0, steps=8)


def make_sdxl_turbo(folder: Path, seed: int = 0) -> Path:
    """SDXL-Turbo: SDXL's structure, one step of Euler a with trailing spacing, no guidance."""
    with seeded(seed):
        pipe = _xl(EulerAncestralDiscreteScheduler(**XL_SCHEDULE, timestep_spacing="trailing"))
    return _save(pipe, folder, family="sdxl", kind="turbo", sampler="euler_a", guidance=0.0, steps=1)


def make_generic(folder: Path, seed: int = 0) -> Path:
    """A pipeline without a recipe: Stable Diffusion 3 (a transformer, flow matching), without its T5."""
    with seeded(seed):
        transformer = SD3Transformer2DModel(
            sample_size=LATENT,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=2 * WIDTH,
            caption_projection_dim=32,
            pooled_projection_dim=2 * WIDTH,
            pos_embed_max_size=LATENT,
        )
        _amplify(transformer.proj_out, 3.0)
        pipe = StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=vae(shift_factor=0.1),
            text_encoder=encoder(CLIPTextModelWithProjection),
            tokenizer=_tokenizer(),
            text_encoder_2=encoder(CLIPTextModelWithProjection, hidden_act="gelu"),
            tokenizer_2=_tokenizer(),
            text_encoder_3=None,
            tokenizer_3=None,
        )
    return _save(pipe, folder, family="sd3", sampler="euler", guidance=5.0, steps=8)


def make_clip(folder: Path, seed: int = 0) -> Path:
    """CLIP, which sees how a picture fits a text: no variant, but a folder as transformers saves it."""
    small = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2}
    tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "max_position_embeddings": 24}
    text = CLIPTextConfig(vocab_size=VOCABULARY, **small, **heads, **tokens)
    vision = CLIPVisionConfig(image_size=32, patch_size=8, **small, **heads)
    with seeded(seed):
        model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict()))
    model.save_pretrained(folder, safe_serialization=True)
    _tokenizer().save_pretrained(folder)
    return folder


# ---- parts --------------------------------------------------------------------------------------


def _sd(denoiser: Any, scheduler: Any, **changes: Any) -> Any:
    autoencoder = vae()
    return sd_of(denoiser, autoencoder, encoder(CLIPTextModel, **changes), scheduler)


def sd_of(denoiser: Any, autoencoder: Any, text_encoder: Any, scheduler: Any) -> Any:
    """Return a pipeline of Stable Diffusion."""
    return StableDiffusionPipeline(
        unet=denoiser,
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=_tokenizer(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _xl(scheduler: Any) -> Any:
    denoiser, autoencoder = xl_unet(), vae(force_upcast=True)
    first, second = encoder(CLIPTextModel), encoder(CLIPTextModelWithProjection, hidden_act="gelu")
    return xl_of(denoiser, autoencoder, first, second, scheduler)


def xl_unet(**changes: Any) -> Any:
    """Return a UNet of SDXL's structure."""
    facts: dict[str, Any] = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2),
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "cross_attention_dim": 2 * WIDTH,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
    }
    return unet(**facts | changes)


def xl_of(denoiser: Any, autoencoder: Any, first: Any, second: Any, scheduler: Any) -> Any:
    """Return a pipeline of SDXL."""
    return StableDiffusionXLPipeline(
        unet=denoiser,
        vae=autoencoder,
        text_encoder=first,
        tokenizer=_tokenizer(),
        text_encoder_2=second,
        tokenizer_2=_tokenizer(),
        scheduler=scheduler,
    )


def unet(**changes: Any) -> Any:
    """Return a UNet, as drawn but for a prompt that is seen and an input that is found again."""
    facts: dict[str, Any] = {
        "sample_size": LATENT,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "norm_num_groups": 8,
        "attention_head_dim": 2,
        "cross_attention_dim": WIDTH,
    }
    made = UNet2DConditionModel(**facts | changes)
    for name, module in made.named_modules():
        if name.endswith("attn2.to_out.0"):
            _amplify(module, 8.0)  # as it is drawn, the prompt would hardly be seen
    _find_the_noise(made)
    return made


def _find_the_noise(unet: Any) -> None:
    """Let the UNet predict its input, about: latents then stay as small as a trained model's.

    The input and its negative travel in eight channels along the outermost skip connection, past
    `silu(x) - silu(-x) = x`.
    """
    last = unet.up_blocks[-1].resnets[-1].conv_shortcut
    with torch.no_grad():
        for part in (unet.conv_in, last):
            part.weight[:8] = 0
            part.bias[:8] = 0
        unet.conv_out.weight[:, :8] = 0
        for i in range(8):
            sign = 1 if i < 4 else -1
            unet.conv_in.weight[i, i % 4, 1, 1] = sign
            last.weight[i, last.in_channels - unet.conv_in.out_channels + i] = 1
            unet.conv_out.weight[i % 4, i, 1, 1] = sign


def vae(**changes: Any) -> Any:
    """Return an autoencoder."""
    made = AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIZE,
        **{"scaling_factor": 0.18215, "force_upcast": False} | changes,
    )
    _amplify(made.decoder.conv_out, 2.0)
    return made


def encoder(cls: Any, **changes: Any) -> Any:
    """Return a text encoder."""
    facts: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "projection_dim": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 24,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    made = cls(CLIPTextConfig(**facts | changes))
    _amplify(made.get_input_embeddings(), 50.0)  # else all words are alike beside their positions
    return made.eval()


def _tokenizer() -> Any:
    return CLIPTokenizer.from_pretrained(TOKENIZER)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw weights from `seed`, and leave the process' own numbers alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _amplify(module: Any, factor: float) -> None:
    with torch.no_grad():
        module.weight.mul_(factor)


# ---- disk ---------------------------------------------------------------------------------------


def _save(
    pipe: DiffusionPipeline,
    folder: Path,
    *,
    family: str,
    kind: str = "base",
    sampler: str,
    guidance: float,
    steps: int,
) -> Path:
    pipe.save_pretrained(folder, safe_serialization=True)
    digests = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.safetensors"))
    }
    manifest = MANIFEST.format(
        name=folder.name,
        family=family,
        kind=kind,
        sampler=sampler,
        guidance=guidance,
        steps=steps,
        digests="\n".join(f'"{name}" = "sha256:{digest}"' for name, digest in digests.items()),
    )
    (folder / "variant.toml").write_text(manifest, "utf-8")
    return folder
