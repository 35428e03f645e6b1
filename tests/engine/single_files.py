"""Single-file checkpoints in the true layout with tiny tensors, and configurations that fit them.

The texts' widths are the true ones, since families are told apart by them; all else is `tiny`'s.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from bench import ldm_layout
from difs import repository
from difs.registration import keys, presets
from tests.engine import tiny

SHORT = {"intermediate_size": 64}


def make(family: str, seed: int = 0) -> Any:
    """Return a tiny pipeline of a family with random weights."""
    with tiny.seeded(seed):
        if family == "sdxl":
            return _xl()
        width = {"sd15": 768, "sd2": 1024}[family]
        more: dict[str, Any] = {"hidden_act": "gelu"} if family == "sd2" else {}
        unet = tiny.unet(
            cross_attention_dim=width,
            **({"use_linear_projection": True, "attention_head_dim": (2, 4)} if more else {}),
        )
        encoder = tiny.encoder(CLIPTextModel, hidden_size=width, projection_dim=width, **SHORT, **more)
        return tiny.sd_of(unet, tiny.vae(), encoder, DDIMScheduler(**tiny.SD_SCHEDULE))


def _xl() -> Any:
    unet = tiny.xl_unet(cross_attention_dim=2048, projection_class_embeddings_input_dim=6 * 8 + 1280)
    first = tiny.encoder(CLIPTextModel, hidden_size=768, projection_dim=768, **SHORT)
    second = tiny.encoder(
        CLIPTextModelWithProjection,
        hidden_size=1280,
        projection_dim=1280,
        hidden_act="gelu",
        **SHORT,
    )
    scheduler = EulerDiscreteScheduler(**tiny.XL_SCHEDULE, timestep_spacing="leading")
    return tiny.xl_of(unet, tiny.vae(force_upcast=True), first, second, scheduler)


def save(
    pipe: Any, family: str, path: Path, metadata: dict[str, str] | None = None, **extra: torch.Tensor
) -> Path:
    """Save a pipeline's weights as a single file of `family`."""
    tensors = ldm_layout.checkpoint(family, pipe.components)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: t.contiguous() for k, t in (tensors | extra).items()}, path, metadata)
    return path


def fit_configurations(patch: pytest.MonkeyPatch, root: Path) -> dict[str, Any]:
    """Let `configs/pipelines` be what fits the tiny pipelines; returns those, by family."""
    pipes = {family: make(family) for family in ("sd15", "sd2", "sdxl")}
    for family, pipe in pipes.items():
        pipe.save_pretrained(root / family)
        for weights in (root / family).rglob("*.safetensors"):
            weights.unlink()
    shutil.copytree(repository.PIPELINES / "clip", root / "clip")
    patch.setattr(repository, "PIPELINES", root)
    small = ((64, 64),)
    patch.setattr(presets, "SIZES", dict.fromkeys(pipes, small))
    patch.setattr(presets, "AT_768", small)
    counts = {family: len(pipe.unet.state_dict()) for family, pipe in pipes.items()}
    fitting = tuple(s._replace(unet_tensors=counts[s.family]) for s in keys.STRUCTURES)
    patch.setattr(keys, "STRUCTURES", fitting)
    return pipes
