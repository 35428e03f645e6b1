"""SD 1.5 and SDXL with random weights of the true architecture, and tiny ones of the same build.

Times, memory and kernels are those of the real models; pictures are noise. Every name that a reader
sees says so (LABEL). The sizes are checked against the published numbers of parameters.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from difs import repository

LABEL = "random weights, true architecture"
TINY_LABEL = "random weights, tiny architecture: the figures mean nothing"
TOKENIZER = Path(__file__).parents[1] / "model_repo" / "emoji-base" / "tokenizer"
VOCABULARY = 49_408
TOKENS = 77
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}

Facts = dict[str, Any]

CLIP_L: Facts = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
BIG_G: Facts = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
SD15_UNET: Facts = {"sample_size": 64, "cross_attention_dim": 768}
"""The rest is what UNet2DConditionModel is without being told: it was made for SD 1."""
SDXL_UNET: Facts = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE: Facts = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
TINY_CLIP: Facts = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 32,
}
TINY_VAE: Facts = {"block_out_channels": (16, 16, 32, 32), "norm_num_groups": 8, "layers_per_block": 1}


@dataclass(frozen=True)
class Architecture:
    """What a pipeline is made of; `side` in pixels."""

    family: str
    side: int
    sampler: str
    guidance_scale: float
    unet: Facts
    vae: Facts
    encoders: tuple[Facts, ...]
    parameters: dict[str, int]
    """Published numbers, by part; empty for tiny ones."""
    label: str = LABEL


SD15 = Architecture(
    family="sd15",
    side=512,
    sampler="ddim",
    guidance_scale=7.5,
    unet=SD15_UNET,
    vae=VAE | {"sample_size": 512, "scaling_factor": 0.18215},
    encoders=(CLIP_L,),
    parameters={"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
)
SDXL = Architecture(
    family="sdxl",
    side=1024,
    sampler="euler",
    guidance_scale=5.0,
    unet=SDXL_UNET,
    vae=VAE | {"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
    encoders=(CLIP_L, BIG_G),
    parameters={
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
)
TRUE = {"sd15": SD15, "sdxl": SDXL}
TINY = {
    "sd15": Architecture(
        family="sd15",
        side=64,
        sampler="ddim",
        guidance_scale=7.5,
        unet=SD15_UNET
        | {
            "sample_size": 8,
            "block_out_channels": (32, 32, 64, 64),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "cross_attention_dim": 32,
        },
        vae=SD15.vae | TINY_VAE | {"sample_size": 64},
        encoders=(TINY_CLIP,),
        parameters={},
        label=TINY_LABEL,
    ),
    "sdxl": Architecture(
        family="sdxl",
        side=64,
        sampler="euler",
        guidance_scale=5.0,
        unet=SDXL_UNET
        | {
            "sample_size": 8,
            "block_out_channels": (32, 32, 64),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "transformer_layers_per_block": (1, 1, 2),
            "attention_head_dim": (2, 2, 4),
            "cross_attention_dim": 64,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 32,
        },
        vae=SDXL.vae | TINY_VAE | {"sample_size": 64},
        encoders=(TINY_CLIP, TINY_CLIP),
        parameters={},
        label=TINY_LABEL,
    ),
}

MANIFEST = """\
name = "{name}"
task = "text-to-image"
family = "{family}"
path = "{path}"
description = "{label}"
precision = "{precision}"
sampler = "{sampler}"
guidance_scale = {guidance}
native_sizes = [[{side}, {side}]]
licence = "none: random weights"

[steps]
min = 1
default = 20
max = 100

[runtime]
compilation = "{compilation}"

[digests]
{digests}
"""


def count(made: Architecture) -> dict[str, int]:
    """Return the parameters of each part, without making its weights."""
    with torch.device("meta"):
        return {name: sum(p.numel() for p in part.parameters()) for name, part in _modules(made).items()}


def write(made: Architecture, root: Path, device: torch.device, dtype: torch.dtype) -> str:
    """Write the folder `<root>/<family>` with a manifest; returns the variant's name.

    The weights are drawn on `device`, in `dtype`: the largest part of SDXL takes 5 GiB of it in fp16.
    """
    folder = root / made.family
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        with device, _default_dtype(dtype):
            parts = _modules(made)
    _pipeline(made, parts).save_pretrained(folder, safe_serialization=True)
    files = sorted(folder.rglob("*.safetensors"))
    digests = {path.relative_to(folder).as_posix(): _digest(path) for path in files}
    _write_manifest(folder, made, dtype, digests, name=made.family, path=".", compilation="none")
    return made.family


def write_compiled(made: Architecture, root: Path, dtype: torch.dtype) -> str:
    """Write a second variant of the same files whose runtime compiles the UNet's repeated blocks."""
    name = f"{made.family}-compiled"
    digests = repository.scan(root).variant(made.family).manifest.digests
    (root / name).mkdir(exist_ok=True)
    path = f"../{made.family}"
    _write_manifest(root / name, made, dtype, digests, name=name, path=path, compilation="regional")
    return name


def _write_manifest(
    folder: Path, made: Architecture, dtype: torch.dtype, digests: dict[str, str], **facts: str
) -> None:
    text = MANIFEST.format(
        family=made.family,
        label=made.label,
        precision="fp16" if dtype is torch.float16 else "fp32",
        sampler=made.sampler,
        guidance=made.guidance_scale,
        side=made.side,
        digests="\n".join(f'"{name}" = "{digest}"' for name, digest in digests.items()),
        **facts,
    )
    (folder / "variant.toml").write_text(text, "utf-8")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _modules(made: Architecture) -> dict[str, Any]:
    """Return the parts that have weights."""
    encoders: list[Any] = [CLIPTextModel, CLIPTextModelWithProjection]
    names = ("text_encoder", "text_encoder_2")
    parts: dict[str, Any] = {
        "unet": UNet2DConditionModel(**made.unet),
        "vae": AutoencoderKL(**made.vae),
    }
    for name, cls, facts in zip(names, encoders, made.encoders, strict=False):
        config = CLIPTextConfig(
            vocab_size=VOCABULARY, max_position_embeddings=TOKENS, **_token_ids(), **facts
        )
        parts[name] = cls(config)
    return {name: part.eval() for name, part in parts.items()}


def _token_ids() -> dict[str, int]:
    """Return the special tokens of the embedded model's tokenizer: its words stand in for CLIP's."""
    tokenizer = _tokenizer()
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _tokenizer() -> Any:
    return CLIPTokenizer.from_pretrained(TOKENIZER, model_max_length=TOKENS)


def _pipeline(made: Architecture, parts: dict[str, Any]) -> Any:
    if len(made.encoders) == 1:
        return StableDiffusionPipeline(
            **parts,
            tokenizer=_tokenizer(),
            scheduler=DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    return StableDiffusionXLPipeline(
        **parts,
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        scheduler=EulerDiscreteScheduler(**NOISE, timestep_spacing="leading"),
    )


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
