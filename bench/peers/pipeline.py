"""diffusers' own pipeline as its documentation says: what every system but DIFS computes with."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.load import Ask, Pixels
from difs import processes


def load(model: Path, threads: int = 0) -> Any:
    """Load a model folder on the CPU, with so many threads for torch; 0: one for each core."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    import torch
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import logging as progress
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    progress.disable_progress_bar()
    torch.set_num_threads(threads or processes.cores())
    pipe = StableDiffusionPipeline.from_pretrained(model, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def paint(pipe: Any, asks: Sequence[Ask]) -> list[Pixels]:
    """Return the pictures of `asks`, each of shape (height, width, 3).

    One call of the pipeline for all that it takes together: prompts and seeds may differ within a
    call, steps and guidance may not.
    """
    groups: dict[tuple[int, float], list[int]] = {}
    for i, ask in enumerate(asks):
        groups.setdefault((ask.steps, ask.guidance_scale), []).append(i)
    pictures: dict[int, Pixels] = {}
    for members in groups.values():
        pictures |= dict(zip(members, _call(pipe, [asks[i] for i in members]), strict=True))
    return [pictures[i] for i in range(len(asks))]


def _call(pipe: Any, asks: Sequence[Ask]) -> list[Pixels]:
    import torch

    images = pipe(
        [ask.prompt for ask in asks],
        num_inference_steps=asks[0].steps,
        guidance_scale=asks[0].guidance_scale,
        generator=[torch.Generator("cpu").manual_seed(ask.seed) for ask in asks],
        output_type="np",
    ).images
    return list((images * 255).round().astype(np.uint8))
