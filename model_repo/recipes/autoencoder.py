"""Trains the autoencoder from nothing, on the drawings of both styles; normalises its latents.

The encoder is never trained again: every member computes in its latents. Plain L1 lost the colour green
altogether on the first try, hence the errors of colour differences and of the shrunken picture.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model_repo.recipes.loop import Run, schedule
from model_repo.recipes.material import BASE, Material, compute, dice_of, to_unit


def new(material: Material) -> Any:
    """Return an autoencoder in the base's shape with random weights."""
    from diffusers import AutoencoderKL

    torch.manual_seed(material.seed)
    vae = AutoencoderKL.from_config(AutoencoderKL.load_config(BASE / "vae"))
    return vae.to(material.device)


def train(material: Material) -> Any:
    """Train a new autoencoder; returns it with normalised latents."""
    vae = new(material)
    run = Run(material.out / "autoencoder", {"vae": vae}, schedule(material.settings["autoencoder"]))
    vae.to(memory_format=torch.channels_last).train()
    pictures = torch.cat([to_unit(material.drawn(style, 64)) for style in ("noto", "fluent")])
    pictures = pictures.to(material.device)

    def loss_of(update: int) -> Tensor:
        _, generator = dice_of(material.seed + 5, update)
        chosen = torch.randint(len(pictures), (run.schedule.batch,), generator=generator)
        wanted = pictures[chosen]
        if torch.rand((), generator=generator) < 0.5:
            wanted = wanted.flip(-1)
        with compute(material.device):
            latents = vae.encode(wanted).latent_dist
            noise = torch.randn(latents.mean.shape, generator=generator).to(latents.mean)
            made = vae.decode(latents.mean + latents.std * noise, return_dict=False)[0]
        blur = 1e-4 * latents.kl().mean() / latents.mean[0].numel()
        total: Tensor = _distance(made.float(), wanted) + blur
        return total

    run.train(loss_of)
    vae.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
    _normalise(vae, pictures)
    return vae


def _distance(made: Tensor, wanted: Tensor) -> Any:
    """Return L1, with the errors of edges, colour differences and the picture at a quarter beside it."""
    error = made - wanted
    across, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
    colour = (error[:, 1:] - error[:, :1]).abs().mean()
    shrunken = functional.avg_pool2d(error, 4).pow(2).mean()
    return error.abs().mean() + 0.5 * (across.abs().mean() + down.abs().mean()) + colour + 8 * shrunken


@torch.no_grad()
def _normalise(vae: Any, pictures: Tensor) -> None:
    """Make each latent channel's mean 0 and deviation 1, inside the convolutions at both ends."""
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in torch.split(pictures, 64)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    into, out = vae.quant_conv, vae.post_quant_conv
    into.weight[:channels] /= deviation[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / deviation
    into.bias[channels:] -= 2 * deviation.log()  # the logarithm of the variance goes along
    out.bias += (out.weight[:, :, 0, 0] * mean).sum(1)
    out.weight *= deviation[None, :, None, None]
