"""From a registered variant to a painter on a device, in a memory mode."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from difs import config, memory_modes
from difs.actors import generic, loading
from difs.actors.adapters import AdapterShelf
from difs.actors.loading import PartStore
from difs.actors.memory_modes import ModeKeeper
from difs.actors.painter import Painter
from difs.actors.prompts import PromptCache
from difs.actors.recipes import RECIPES
from difs.actors.runtime import Runtime
from difs.messages import MemoryMode
from difs.variants import Variant


def make(
    variant: Variant,
    device: torch.device,
    settings: config.Actors,
    parts: PartStore,
    prompts: PromptCache,
    *,
    memory_mode: MemoryMode | None = None,
    check: Callable[[], None],
) -> Any:
    """Load a variant, its digests checked first; raises EngineFailed or RepositoryError.

    `memory_mode`: into which one; None: the variant's default. `check` is called between parts and
    raises LoadCancelled.
    """
    manifest = variant.manifest
    dtype = loading.DTYPES[variant.precision_on(device.type)]
    recipe = RECIPES.get(manifest.family)
    if recipe is None:
        return generic.load_painter(variant, device, dtype)
    pipe = loading.load_pipeline(variant, recipe, dtype, parts, check)
    keeper = ModeKeeper(pipe, device, partial(loading.restore_denoiser, pipe, variant))
    mode = memory_mode or manifest.default_mode
    keeper.switch(mode if mode in memory_modes.available(device.type) else "full")
    return Painter(
        pipe,
        recipe,
        device,
        kind=manifest.kind,
        keeper=keeper,
        shelf=AdapterShelf(pipe, settings.adapter_budget),
        prompts=prompts,
        encoder_key=loading.encoder_key(variant, recipe, dtype),
        runtime=Runtime(pipe.unet, manifest.runtime),
    )
