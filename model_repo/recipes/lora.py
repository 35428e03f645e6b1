"""Trains LoRA adapters on the finished base: styles of drawing, and few-step sampling (emoji-turbo).

Turbo: a caption of this family names one drawing, so the many-step result is the drawing itself, and
distillation is regression onto it at the few timesteps that the LCM sampler visits (Luo et al. 2023,
"LCM-LoRA", has the sampler and the adapter's form).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model_repo.recipes.denoiser import alphas, noised, single_names
from model_repo.recipes.loop import Run, schedule
from model_repo.recipes.material import Material, compute, dice_of, to_unit

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
    from diffusers.utils import convert_state_dict_to_diffusers
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
    fit(run, material, parts, _latents(material, target), timesteps)
    weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
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


def fit(
    run: Run,
    material: Material,
    parts: tuple[Any, Any],
    latents: Tensor,
    timesteps: Sequence[int] | None,
) -> None:
    """Let an adapter learn on (UNet, text encoder); `timesteps`: the only ones it will meet, or None."""
    unet, encoder = parts
    cumulative = alphas(material.device)
    steps = torch.tensor(timesteps if timesteps is not None else range(len(cumulative)))
    draw = single_names(material, latents, run.schedule.batch)

    def loss_of(update: int) -> Tensor:
        x, captions = draw(update)
        _, generator = dice_of(material.seed + 3, update)
        noise = torch.randn(x.shape, generator=generator).to(x)
        t = steps[torch.randint(len(steps), (len(x),), generator=generator)].to(x.device)
        inputs, wanted = noised(x, noise, cumulative[t])
        with compute(x.device):
            words = encoder(material.tokens(captions)).last_hidden_state
            said = unet(inputs, t, words, return_dict=False)[0]
        return torch.nn.functional.mse_loss(said.float(), wanted)

    run.train(loss_of)
