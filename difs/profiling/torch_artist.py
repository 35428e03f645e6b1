"""A loaded variant that paints many pictures, in batches, by diffusers' own pipeline: to be judged.

What the pictures are worth is for `agreement`, `clip` and `reference` to say.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from difs.actors import generic, loading, schedulers
from difs.actors.recipes import RECIPES
from difs.profiling.asking import Asked, Point
from difs.scorer import Pixels
from difs.variants import Variant

BATCH_PIXELS = {"cpu": 2**17, "cuda": 2**21}
"""Of the pictures that are painted together."""


class TorchArtist:
    """A variant on a device, with or without a LoRA adapter."""

    def __init__(self, variant: Variant, device: str = "cpu", adapter: Path | None = None) -> None:
        """Load it; raises DifsError. `device` as torch names it."""
        self.variant = variant
        self.manifest = variant.manifest
        self._device = torch.device(device)
        dtype = loading.DTYPES[variant.precision_on(self._device.type)]
        recipe = RECIPES.get(self.manifest.family)
        if recipe is None:
            variant.verify()
            pipe = generic.load_generic(variant.folder, dtype)
        else:
            pipe = loading.load_pipeline(variant, recipe, dtype, loading.PartStore(), lambda: None)
        if adapter is not None:
            pipe.load_lora_weights(adapter)
        self._pipe = pipe.to(self._device)
        self._own = pipe.scheduler
        self._has_recipe = recipe is not None
        self.width, self.height = self.manifest.native_sizes[0]
        self._batch = max(1, BATCH_PIXELS[self._device.type] // (self.width * self.height))

    @property
    def side(self) -> int:
        """Return the side at which its pictures are shown: of a square with as many pixels."""
        return math.isqrt(self.width * self.height)

    def paint(self, asked: Sequence[Asked], point: Point) -> list[Pixels]:
        """Return the pictures, in order."""
        painted: list[Pixels] = []
        for at in range(0, len(asked), self._batch):
            painted += self._call(asked[at : at + self._batch], point)
        return painted

    def _call(self, asked: Sequence[Asked], point: Point) -> list[Pixels]:
        if self._has_recipe:
            sampler, kind = self.manifest.sampler, self.manifest.kind
            self._pipe.scheduler = schedulers.build(sampler, self._own, kind)
        images = self._pipe(
            [one.text for one in asked],
            num_inference_steps=point.steps,
            guidance_scale=point.guidance,
            height=self.height,
            width=self.width,
            generator=[torch.Generator("cpu").manual_seed(one.seed) for one in asked],
            output_type="np",
        ).images
        return list((np.asarray(images) * 255).round().astype(np.uint8))

    def close(self) -> None:
        """Let go of it."""
        del self._pipe, self._own
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
