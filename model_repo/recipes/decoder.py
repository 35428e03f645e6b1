"""Trains the autoencoder's decoder, last of all: on what the members' samplers really give it.

The encoder stays as it is, so every member fits. The decoder sees the latents of drawings and those that
the members sampled for their captions, and is to return the drawing in both cases.
"""

from typing import Any

import torch
from torch import Tensor

from model_repo.recipes.loop import Run, schedule
from model_repo.recipes.material import Material, compute, dice_of

Pairs = list[tuple[Tensor, Tensor]]
"""Latents and the pictures (-1..1) to make of them."""


def train(material: Material, pairs: Pairs) -> Any:
    """Train the decoder on `pairs`; returns the autoencoder."""
    vae = material.autoencoder
    vae.post_quant_conv.requires_grad_(True)
    vae.decoder.requires_grad_(True)
    known = dict(material.settings["decoder"])
    blur: float = known.pop("noise")
    parts = {"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder}
    run = Run(material.out / "decoder", parts, schedule(known))
    vae.decoder.to(memory_format=torch.channels_last).train()
    weights = [float(len(latents)) for latents, _ in pairs]

    def loss_of(update: int) -> Tensor:
        dice, generator = dice_of(material.seed + 4, update)
        latents, pictures = dice.choices(pairs, weights)[0]
        size = run.schedule.batch
        chosen = torch.randint(len(latents), (size,), generator=generator)
        noise = torch.randn((size, *latents.shape[1:]), generator=generator).to(latents)
        with compute(material.device):
            made = vae.decode(latents[chosen] + blur * noise, return_dict=False)[0]
        return _distance(made.float(), pictures[chosen])

    run.train(loss_of)
    vae.decoder.to(memory_format=torch.contiguous_format)
    return vae.eval().requires_grad_(False)


def _distance(made: Tensor, wanted: Tensor) -> Tensor:
    """Return the squared error, with the error of edges and of colour differences beside it."""
    error = made - wanted
    edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (
        error[..., 1:, :] - error[..., :-1, :]
    ).abs().mean()
    colour = (error[:, 1:] - error[:, :1]).pow(2).mean()
    return error.pow(2).mean() + 0.05 * edges + 0.25 * colour
