"""The engine's own loop against diffusers' own pipelines, bit for bit, for every sampler and family."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from difs.actors import schedulers
from difs.samplers import SAMPLERS, evaluations
from tests.engine.conftest import Bench

pytestmark = pytest.mark.torch

FAMILIES = ["sd15", "sd2-v", "lcm", "sdxl", "sdxl-turbo"]


def reference(pipe: Any, sampler: str, prompt: str, seed: int, kind: str = "base", **call: Any) -> Any:
    """Return what diffusers paints, with a scheduler made as its documentation says."""
    own = pipe.scheduler
    cls, settings = schedulers.CLASSES[sampler]
    pipe.scheduler = cls.from_config(own.config, **settings, **schedulers.KINDS[kind])
    try:
        generator = torch.Generator("cpu").manual_seed(seed)
        return np.asarray(pipe(prompt, generator=generator, **call).images[0])
    finally:
        pipe.scheduler = own


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_every_sampler_paints_bit_for_bit_what_diffusers_paints(
    bench: Bench, pipeline: Any, sampler: str
) -> None:
    expected = reference(
        pipeline, sampler, "red apple", 7, num_inference_steps=8, guidance_scale=2.5,
        height=64, width=64,
    )  # fmt: skip
    (painted,) = bench.paint(bench.execute("red apple", sampler=sampler, steps=8))
    assert np.array_equal(painted, expected)


@pytest.mark.parametrize(
    ("guidance", "negative", "size", "seed"),
    [
        (1.0, "", (64, 64), 0),
        (7.5, "green leaf", (64, 64), 2**64 - 1),
        (2.5, "", (96, 64), 123456789),
    ],
)
def test_guidance_negative_prompt_size_and_seed_keep_the_bits(
    bench: Bench, pipeline: Any, guidance: float, negative: str, size: tuple[int, int], seed: int
) -> None:
    width, height = size
    expected = reference(
        pipeline, "euler_a", "a cute cat icon", seed, num_inference_steps=5,
        guidance_scale=guidance, negative_prompt=negative, width=width, height=height,
    )  # fmt: skip
    (painted,) = bench.paint(
        bench.execute(
            "a cute cat icon", sampler="euler_a", steps=5, guidance_scale=guidance,
            negative_prompt=negative, width=width, height=height, seeds=(seed,),
        )
    )  # fmt: skip
    assert np.array_equal(painted, expected)


# ---- families -------------------------------------------------------------------------------------


def pair(tiny: Bench, variant: str, **changes: Any) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return what the engine and what diffusers' pipeline of a family paint."""
    tiny.ensure(variant)
    manifest = tiny.repository.variant(variant).manifest
    sampler = changes.pop("sampler", manifest.sampler)
    facts = {"steps": 4, "guidance_scale": manifest.guidance_scale, "negative_prompt": ""} | changes
    execute = tiny.execute("a red apple", variant=variant, sampler=sampler, seeds=(11,), **facts)
    (painted,) = tiny.paint(execute)
    expected = reference(
        diffusers_pipeline(tiny.repository.variant(variant).folder), sampler, "a red apple", 11,
        manifest.kind, num_inference_steps=facts["steps"], guidance_scale=facts["guidance_scale"],
        negative_prompt=facts["negative_prompt"] or None, width=64, height=64,
    )  # fmt: skip
    return painted, expected


def diffusers_pipeline(folder: Path) -> Any:
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("variant", FAMILIES)
def test_every_family_paints_bit_for_bit_what_its_pipeline_paints(tiny: Bench, variant: str) -> None:
    painted, expected = pair(tiny, variant)
    assert np.array_equal(painted, expected)
    assert painted.std() > 5, "a picture that shows nothing proves nothing"


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_every_sampler_keeps_the_bits_with_sdxl(tiny: Bench, sampler: str) -> None:
    painted, expected = pair(tiny, "sdxl", sampler=sampler, steps=5)
    assert np.array_equal(painted, expected)


@pytest.mark.parametrize("variant", ["sd2-v", "sdxl"])
def test_a_negative_prompt_keeps_the_bits_of_every_family(tiny: Bench, variant: str) -> None:
    painted, expected = pair(tiny, variant, negative_prompt="blue")
    assert np.array_equal(painted, expected)
    without, _ = pair(tiny, variant)
    assert not np.array_equal(painted, without)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_the_predicted_number_of_evaluations_is_the_scheduler_s(sampler: str, steps: int) -> None:
    from diffusers import DDIMScheduler

    scheduler = schedulers.build(sampler, DDIMScheduler(steps_offset=1))
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == evaluations(sampler, steps)
