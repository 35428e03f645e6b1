"""Trains LoRA adapters on the finished base: styles of drawing, and few-step sampling (emoji-turbo).

Turbo: a caption of this family names one drawing, so the many-step result is the drawing itself, and
distillation is regression onto it at the few timesteps that the LCM sampler visits (Luo et al. 2023,
"LCM-LoRA", has the sampler and the adapter's form).
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model_repo.recipes.denoiser import learn_drawings
from model_repo.recipes.loop import Run, schedule
from model_repo.recipes.material import Material, to_unit

LAYERS = (
    "conv", "conv1", "conv2", "conv_shortcut", "time_emb_proj", "proj_in", "proj_out",
    "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2",
)  # fmt: skip
"""Ends of the names of the layers that adapters change: all of the UNet's but the first and last."""


def mono(pictures: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return pictures as grey pencil drawings would be: luminance (ITU-R BT.601), a little softer."""
    grey = pictures.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.asarray(np.repeat(np.round(40 + grey * (215 / 255))[..., None], 3, axis=-1), np.uint8)


def train(material: Material, name: str, unet: Any, encoder: Any) -> Path:
    """Train adapter `name` on the base; returns its file, in diffusers' format."""
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    known = dict(material.settings["adapters"][name])
    rank, target, timesteps = known.pop("rank"), known.pop("target"), known.pop("timesteps", None)
    torch.manual_seed(material.seed)
    unet.requires_grad_(False)
    layers = {n: m for n, m in unet.named_modules() if n.endswith(LAYERS)}
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers), lora_dropout=0.0))
    run = Run(material.out / name, {"unet": unet}, schedule(known))
    parts = unet, encoder.requires_grad_(False)
    learn_drawings(run, material, parts, _latents(material, target), timesteps, stream=3)
    weights = get_peft_model_state_dict(unet)  # with its own names, which diffusers loads without a loss
    StableDiffusionPipeline.save_lora_weights(
        run.folder,
        unet_lora_layers={key: weight.half().contiguous() for key, weight in weights.items()},
        weight_name="lora.safetensors",
    )
    unet.delete_adapters(["default"])
    return run.folder / "lora.safetensors"


def _latents(material: Material, target: str) -> Tensor:
    if target == "mono":
        return material.encode(to_unit(mono(material.drawn("noto", 64))).to(material.device))
    return material.latents(target, 64)
