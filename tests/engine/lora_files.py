"""LoRA files with random numbers, made on the fly in the formats of diffusers and of kohya."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

PARTS = ("unet", "text_encoder", "text_encoder_2")
ATTENTION = r"to_[qkv]$|to_out\.0$|[qkv]_proj$|out_proj$"
EVERYTHING = r".*"
KOHYA = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}


@dataclass(frozen=True)
class Low:
    """One layer's low-rank change."""

    down: torch.Tensor
    up: torch.Tensor
    alpha: float

    @property
    def matrix(self) -> torch.Tensor:
        """What it adds to the layer's weight."""
        scale = self.alpha / len(self.down)
        return scale * (self.up.flatten(1) @ self.down.flatten(1)).view(
            len(self.up), *self.down.shape[1:]
        )


Lora = dict[tuple[str, str], Low]
"""By part and name of the layer."""


def draw(
    pipe: Any,
    seed: int,
    layers: str = EVERYTHING,
    *,
    parts: tuple[str, ...] = PARTS,
    rank: int = 4,
    alphas: tuple[float, ...] = (4.0,),
    strength: float = 0.4,
) -> Lora:
    """Draw a change for every layer whose name `layers` finds; `alphas` are dealt out in turn."""
    numbers = torch.Generator().manual_seed(seed)
    lora: Lora = {}
    for part in parts:
        module = getattr(pipe, part, None)
        for name, layer in module.named_modules() if module is not None else ():
            if not isinstance(layer, nn.Linear | nn.Conv2d) or not re.search(layers, name):
                continue
            out, *ins = layer.weight.shape
            down = torch.randn(rank, *ins, generator=numbers) / layer.weight[0].numel() ** 0.5
            up = torch.randn(out, rank, *(1 for _ in ins[1:]), generator=numbers) * strength / rank**0.5
            lora[part, name] = Low(down, up, alphas[len(lora) % len(alphas)])
    return lora


def save_diffusers(path: Path, lora: Lora) -> Path:
    """Save as diffusers' trainers do, alphas in the metadata."""
    tensors: dict[str, torch.Tensor] = {}
    settings: dict[str, Any] = {}
    for (part, name), low in lora.items():
        tensors[f"{part}.{name}.lora_A.weight"] = low.down
        tensors[f"{part}.{name}.lora_B.weight"] = low.up
        settings.setdefault(f"{part}.r", len(low.down))
        settings.setdefault(f"{part}.lora_alpha", low.alpha)
        settings.setdefault(f"{part}.target_modules", []).append(name)
        settings.setdefault(f"{part}.alpha_pattern", {})[name] = low.alpha
    save_file(tensors, path, {"format": "pt", "lora_adapter_metadata": json.dumps(settings)})
    return path


def save_kohya(path: Path, lora: Lora, names: dict[str, str] | None = None, **cast: Any) -> Path:
    """Save as sd-scripts does; `names` are other spellings of the UNet's layers."""
    tensors = {}
    for (part, name), low in lora.items():
        spelled = (names or {}).get(name, name)
        if part != "unet" and not name.startswith("text_"):
            spelled = f"text_model.{name}"
        key = f"{KOHYA[part]}_{spelled.replace('.', '_')}"
        tensors[f"{key}.lora_down.weight"] = low.down.to(**cast)
        tensors[f"{key}.lora_up.weight"] = low.up.to(**cast)
        tensors[f"{key}.alpha"] = torch.tensor(low.alpha)
    save_file(tensors, path)
    return path
