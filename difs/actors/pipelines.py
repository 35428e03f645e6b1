"""Recipes: a family's denoising loop, taken apart into encode, begin, step and decode.

Each part does what diffusers' own pipeline does between the same two points, so that at batch 1 the
image equals the pipeline's bit for bit for the same seed (tested for every sampler).
"""

import gc
import inspect
import os
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from difs.actor_messages import Execute
from difs.errors import EngineFailed
from difs.repository import Variant

os.environ["HF_HUB_OFFLINE"] = "1"  # before the imports: nothing may be asked of a hub at run time

from transformers.utils import logging as transformers_logging

transformers_logging.set_verbosity_error()  # before diffusers: it warns of what it does not find
transformers_logging.disable_progress_bar()

from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from diffusers.utils.torch_utils import randn_tensor

from difs.actors import schedulers

diffusers_logging.set_verbosity_error()
diffusers_logging.disable_progress_bar()

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class Conditioning:
    """An encoded prompt: (2, tokens, width) with guidance, negative first; else (1, ...)."""

    embeds: torch.Tensor
    is_guided: bool
    truncated_tokens: int


@dataclass
class Denoising:
    """One image between noise and latent."""

    scheduler: Any
    timesteps: torch.Tensor
    latents: torch.Tensor
    conditioning: Conditioning
    guidance_scale: float
    generator: torch.Generator
    extra: dict[str, Any]
    done: int = 0

    @property
    def total(self) -> int:
        """Return how many steps there are."""
        return len(self.timesteps)

    @property
    def is_done(self) -> bool:
        """Whether the latent is ready to decode."""
        return self.done == self.total


class Recipe(Protocol):
    """How one resident paints."""

    precision: str
    weight_bytes: int

    def encode(self, execute: Execute) -> Conditioning:
        """Encode the prompts of an attempt."""
        ...

    def begin(self, execute: Execute, seed: int, conditioning: Conditioning) -> Denoising:
        """Draw one image's noise and prepare its own scheduler."""
        ...

    def step(self, work: Denoising) -> None:
        """Evaluate the UNet once and step the image's scheduler."""
        ...

    def decode(self, work: Denoising) -> NDArray[np.uint8]:
        """Return the pixels, of shape (height, width, 3)."""
        ...


class StableDiffusion:
    """The recipe of SD 1.x: one text encoder, a UNet, an autoencoder."""

    def __init__(self, variant: Variant, device: torch.device) -> None:
        """Load the weights from safetensors; raises EngineFailed when they do not fit together."""
        self.precision: str = variant.manifest.precision if device.type == "cuda" else "fp32"
        dtype = DTYPES[self.precision]
        try:
            pipe = StableDiffusionPipeline.from_pretrained(
                variant.folder,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                safety_checker=None,
                requires_safety_checker=False,
            )
        except Exception as error:  # what a broken checkpoint raises has no common class
            raise EngineFailed(f"{variant.name} does not load: {_first_line(error)}") from error
        self._pipe = pipe.to(device)
        self._device = device
        self._dtype = dtype
        parts = (pipe.unet, pipe.vae, pipe.text_encoder)
        mixed = {p.dtype for part in parts for p in part.parameters() if p.is_floating_point()}
        if mixed != {dtype}:
            raise EngineFailed(f"{variant.name}: its parts have different precisions: {mixed}")
        self.weight_bytes = sum(
            t.numel() * t.element_size() for part in parts for t in part.state_dict().values()
        )

    def encode(self, execute: Execute) -> Conditioning:
        """See Recipe.encode."""
        pipe = self._pipe
        guided = execute.guidance_scale > 1 and pipe.unet.config.time_cond_proj_dim is None
        positive, negative = pipe.encode_prompt(
            execute.prompt, self._device, 1, guided, execute.negative_prompt
        )
        embeds = torch.cat([negative, positive]) if guided else positive
        room = pipe.tokenizer.model_max_length
        tokens = len(pipe.tokenizer(execute.prompt, truncation=False).input_ids)
        return Conditioning(embeds, guided, max(0, tokens - room))

    def begin(self, execute: Execute, seed: int, conditioning: Conditioning) -> Denoising:
        """See Recipe.begin; the noise is drawn on the CPU, whatever the device."""
        pipe = self._pipe
        factor = pipe.vae_scale_factor
        shape = (1, pipe.unet.config.in_channels, execute.height // factor, execute.width // factor)
        generator = torch.Generator("cpu").manual_seed(seed)
        scheduler = schedulers.build(execute.sampler, pipe.scheduler)
        scheduler.set_timesteps(execute.steps, device=self._device)
        noise = randn_tensor(shape, generator=generator, device=self._device, dtype=self._dtype)
        accepted = inspect.signature(scheduler.step).parameters
        extra: dict[str, Any] = {"eta": 0.0} if "eta" in accepted else {}
        if "generator" in accepted:
            extra["generator"] = generator
        return Denoising(
            scheduler=scheduler,
            timesteps=scheduler.timesteps,
            latents=noise * scheduler.init_noise_sigma,
            conditioning=conditioning,
            guidance_scale=execute.guidance_scale,
            generator=generator,
            extra=extra,
        )

    def step(self, work: Denoising) -> None:
        """See Recipe.step; guidance as in Ho & Salimans 2022, eq. 6."""
        t = work.timesteps[work.done]
        guided = work.conditioning.is_guided
        x = torch.cat([work.latents] * 2) if guided else work.latents
        x = work.scheduler.scale_model_input(x, t)
        eps = self._pipe.unet(
            x,
            t,
            encoder_hidden_states=work.conditioning.embeds,
            timestep_cond=self._timestep_cond(work.guidance_scale),
            return_dict=False,
        )[0]
        if guided:
            eps_negative, eps_positive = eps.chunk(2)
            eps = eps_negative + work.guidance_scale * (eps_positive - eps_negative)
        work.latents = work.scheduler.step(eps, t, work.latents, **work.extra, return_dict=False)[0]
        work.done += 1

    def _timestep_cond(self, guidance_scale: float) -> torch.Tensor | None:
        """Return the guidance embedding of a distilled UNet (LCM, Luo et al. 2023), else None."""
        width = self._pipe.unet.config.time_cond_proj_dim
        if width is None:
            return None
        embedding: torch.Tensor = self._pipe.get_guidance_scale_embedding(
            torch.tensor(guidance_scale - 1).repeat(1), embedding_dim=width
        )
        return embedding.to(device=self._device, dtype=self._dtype)

    def decode(self, work: Denoising) -> NDArray[np.uint8]:
        """See Recipe.decode; conversion to bytes happens on the device."""
        vae = self._pipe.vae
        image = vae.decode(
            work.latents / vae.config.scaling_factor, return_dict=False, generator=work.generator
        )[0]
        image = (image * 0.5 + 0.5).clamp(0, 1)[0].permute(1, 2, 0).float()
        pixels: NDArray[np.uint8] = (image * 255).round().to(torch.uint8).cpu().numpy()
        return pixels


RECIPES: dict[str, type[StableDiffusion]] = {"sd15": StableDiffusion}
"""Families that are executed step by step."""


def load(variant: Variant, device: torch.device) -> Recipe:
    """Load a variant, its digests checked first; raises EngineFailed or RepositoryError."""
    recipe = RECIPES.get(variant.manifest.family)
    if recipe is None:
        known = ", ".join(RECIPES)
        raise EngineFailed(f"{variant.name}: no recipe for family {variant.manifest.family!r} ({known})")
    variant.verify()
    return recipe(variant, device)


def free(device: torch.device) -> None:
    """Return the memory of dropped residents to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
