"""The engine's own loop against diffusers' `StableDiffusionPipeline.__call__`, bit for bit."""

from typing import Any

import numpy as np
import pytest
import torch

from difs.actors import schedulers
from difs.samplers import SAMPLERS, evaluations
from tests.engine.conftest import Bench

pytestmark = pytest.mark.torch


def reference(pipe: Any, sampler: str, prompt: str, seed: int, **call: Any) -> Any:
    """Return what diffusers paints, with a scheduler made as its documentation says."""
    own = pipe.scheduler
    cls, settings = schedulers.CLASSES[sampler]
    pipe.scheduler = cls.from_config(own.config, **settings)
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


def test_image_i_of_n_is_the_image_of_seed_plus_i(bench: Bench) -> None:
    together = bench.paint(bench.execute(sampler="euler_a", seeds=(40, 41, 42)))
    alone = [bench.paint(bench.execute(sampler="euler_a", seeds=(s,)))[0] for s in (40, 41, 42)]
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))
    assert not np.array_equal(together[0], together[1])


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_the_predicted_number_of_evaluations_is_the_scheduler_s(sampler: str, steps: int) -> None:
    from diffusers import DDIMScheduler

    scheduler = schedulers.build(sampler, DDIMScheduler(steps_offset=1))
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == evaluations(sampler, steps)
