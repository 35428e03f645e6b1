"""Recipes: what differs between the families that are executed step by step.

A recipe knows how diffusers' pipeline of its family encodes a text, conditions the UNet and decodes a
latent; each method does what that pipeline does between the same two points, so that a picture painted
alone equals the pipeline's bit for bit. The loop itself is `difs.actors.painter`'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline


@dataclass(frozen=True)
class Text:
    """An encoded text: embeds (1, tokens, width) and, for SDXL, pooled (1, width)."""

    embeds: torch.Tensor
    pooled: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Return the size of its tensors."""
        return sum(t.nbytes for t in (self.embeds, self.pooled) if t is not None)


class StableDiffusion:
    """SD 1.x and 2.x (epsilon or v-prediction, as the scheduler's config says): one text encoder."""

    pipeline: ClassVar[Any] = StableDiffusionPipeline
    options: ClassVar[dict[str, Any]] = {"safety_checker": None, "requires_safety_checker": False}
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    heeds_upcast: ClassVar[bool] = False
    """Whether an fp16 autoencoder computes in fp32 where its config says `force_upcast`."""

    def encode(self, pipe: Any, text: str, device: torch.device) -> Text:
        """Encode one text."""
        return Text(pipe.encode_prompt(text, device, 1, False)[0])

    def unconditional(self, pipe: Any, like: Text) -> Text | None:
        """Return what stands for an empty negative prompt if it needs no encoding, else None."""
        return None

    def conditions(
        self, pipe: Any, texts: Sequence[Text], sizes: Sequence[tuple[int, int]], dtype: torch.dtype
    ) -> dict[str, torch.Tensor] | None:
        """Return the UNet's added conditions, a row for each text; sizes are (height, width)."""
        return None

    def decode(self, pipe: Any, latents: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return the image (1, 3, height, width) in -1..1."""
        scaled = latents / pipe.vae.config.scaling_factor
        image: torch.Tensor = pipe.vae.decode(scaled, return_dict=False, generator=generator)[0]
        return image


class StableDiffusionXL(StableDiffusion):
    """SDXL base (Podell et al. 2023): two text encoders, sizes and a pooled text as added conditions."""

    pipeline: ClassVar[Any] = StableDiffusionXLPipeline
    options: ClassVar[dict[str, Any]] = {"add_watermarker": False}
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")
    heeds_upcast: ClassVar[bool] = True

    def encode(self, pipe: Any, text: str, device: torch.device) -> Text:
        """See StableDiffusion.encode."""
        embeds, _, pooled, _ = pipe.encode_prompt(
            text, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return Text(embeds, pooled)

    def unconditional(self, pipe: Any, like: Text) -> Text | None:
        """See StableDiffusion.unconditional: SDXL was trained with zeros."""
        if not pipe.config.force_zeros_for_empty_prompt:
            return None
        assert like.pooled is not None
        return Text(torch.zeros_like(like.embeds), torch.zeros_like(like.pooled))

    def conditions(
        self, pipe: Any, texts: Sequence[Text], sizes: Sequence[tuple[int, int]], dtype: torch.dtype
    ) -> dict[str, torch.Tensor] | None:
        """See StableDiffusion.conditions; no crop, the original size is the target's."""
        pooled = [text.pooled for text in texts if text.pooled is not None]
        width = pipe.text_encoder_2.config.projection_dim
        ids = [pipe._get_add_time_ids(size, (0, 0), size, dtype, width) for size in sizes]
        return {
            "text_embeds": torch.cat(pooled),
            "time_ids": torch.cat(ids).to(pooled[0].device, non_blocking=True),
        }

    def decode(self, pipe: Any, latents: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """See StableDiffusion.decode; some autoencoders have normalised latents."""
        config = pipe.vae.config
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is not None and std is not None:
            shape = (1, len(mean), 1, 1)
            spread, centre = (torch.tensor(v).view(shape).to(latents) for v in (std, mean))
            latents = latents * spread / config.scaling_factor + centre
        else:
            latents = latents / config.scaling_factor
        image: torch.Tensor = pipe.vae.decode(latents.to(pipe.vae.dtype), return_dict=False)[0]
        return image


RECIPES: dict[str, StableDiffusion] = {
    "sd15": StableDiffusion(),
    "sd2": StableDiffusion(),
    "sdxl": StableDiffusionXL(),
}
"""Families that are executed step by step; any other runs through its pipeline's own call."""
