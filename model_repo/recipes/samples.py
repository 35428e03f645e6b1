"""What the decoder learns from: latents of drawings, and latents that finished members sampled."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from difs import repository
from difs.actors import loading, schedulers
from difs.actors.recipes import RECIPES
from difs.variants import Variant
from model_repo.recipes import compositions, lora
from model_repo.recipes.decoder import Pairs
from model_repo.recipes.material import REPOSITORY, Material, to_unit

SAMPLED = {
    "emoji-base": ((8, 1.5), (20, 2.0), (20, 1.5)),
    "emoji-small": ((8, 1.5), (20, 1.5)),
    "emoji-turbo": ((1, 1.0), (2, 1.0), (4, 1.0)),
    "emoji-xl": ((12, 1.5), (20, 2.0)),
}
"""(steps, guidance) with which each member samples every caption once."""
BATCH = 32


def pairs(material: Material) -> Pairs:
    """Return all latents that there are, beside the pictures to make of them."""
    drawn = {style: material.drawn(style, 64) for style in ("noto", "fluent")}
    drawn["mono"] = lora.mono(drawn["noto"])
    device = material.device
    small = {style: to_unit(pictures).to(device) for style, pictures in drawn.items()}
    found = [(material.encode(pictures), pictures) for pictures in small.values()]
    found.append(scenes(material))
    repo = repository.scan(REPOSITORY)
    for member, points in SAMPLED.items():
        if member not in repo.variants:
            print(f"samples: there is no {member} yet")
            continue
        found += [(sampled(material, repo, member, point), small["noto"]) for point in points]
    return found


def scenes(material: Material, count: int = 600) -> tuple[Tensor, Tensor]:
    """Return latents and pictures of coloured and paired drawings, as emoji-xl learns them."""
    drawn = material.drawn("noto", 64).astype(np.float32) / 255
    dice = np.random.default_rng(material.seed)
    can_turn = [material.names.index(name) for name in compositions.colourable(material.captions)]
    made = []
    for i in range(count):
        if i % 2:
            left, right = dice.choice(len(drawn), 2, replace=False)
            made.append(compositions.pair(drawn[left], drawn[right]))
        else:
            colour = compositions.COLOURS[i // 2 % len(compositions.COLOURS)]
            made.append(compositions.recolour(drawn[dice.choice(can_turn)], colour))
    pictures = to_unit(np.round(np.stack(made) * 255).astype(np.uint8)).to(material.device)
    return material.encode(pictures), pictures


def sampled(
    material: Material, repo: repository.Repository, name: str, point: tuple[int, float]
) -> Tensor:
    """Return what a member's sampler gives for every caption, in the order of the names."""
    steps, guidance = point
    variant = repo.variant(name)
    digests = [*variant.part("unet").digests.values(), *(a.manifest.digest for a, _ in variant.fused)]
    mark = "-".join(digest[7:13] for digest in digests)
    kept: Path = material.out / f"sampled-{name}-{steps}-{guidance:g}-{mark}.safetensors"
    if not kept.is_file():
        recipe = RECIPES[variant.manifest.family]
        pipe = loading.load_pipeline(variant, recipe, torch.float32, loading.PartStore(), lambda: None)
        save_file({"latents": _sample(material, pipe.to(material.device), variant, point)}, kept)
    return load_file(kept)["latents"].to(material.device)


def _sample(material: Material, pipe: Any, variant: Variant, point: tuple[int, float]) -> Tensor:
    own, found = pipe.scheduler, []
    for at in range(0, len(material.names), BATCH):
        names = material.names[at : at + BATCH]
        pipe.scheduler = schedulers.build(variant.manifest.sampler, own, variant.manifest.kind)
        made = pipe(
            [material.captions[name] for name in names],
            num_inference_steps=point[0],
            guidance_scale=point[1],
            generator=[torch.Generator().manual_seed(50_000 + at + i) for i in range(len(names))],
            output_type="latent",
        )
        found.append(made.images.float().cpu())
    return torch.cat(found).contiguous()
