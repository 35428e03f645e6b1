"""Every sampler: its diffusers scheduler, its noise, and where it ends on data whose answer is known."""

import inspect
import math
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from difs.actors import schedulers
from difs.actors.schedulers import CLASSES, KINDS, build
from difs.samplers import SAMPLERS, evaluations
from tests.engine.tiny import NOISE_SCHEDULE, SD_SCHEDULE

pytestmark = [
    pytest.mark.torch,
    # DPM2 and DEIS take numpy's logarithm of tensors; torch's answer is not numpy 2's yet
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

SPREAD = 2.0
"""Of the data. More than 1, so that a clip to [-1, 1] would show."""
NOISY = {
    "ddpm", "euler_a", "dpm2_a", "dpm2_a_karras", "lcm",
    *(name for name in SAMPLERS if "sde" in name),
}  # fmt: skip
"""Samplers that draw noise on their way."""


def base(**changes: Any) -> Any:
    return DDIMScheduler(**SD_SCHEDULE | {"timestep_spacing": "leading"} | changes)


BASE = base()


def epsilon(x: torch.Tensor, t: float, *, is_consistent: bool) -> torch.Tensor:
    """Return the exact answer at time t of a model of independent pixels ~ N(0, SPREAD).

    `is_consistent`: of its consistency model, which answers with the end of the ODE (Song et al. 2023).
    """
    root = np.linspace(NOISE_SCHEDULE["beta_start"] ** 0.5, NOISE_SCHEDULE["beta_end"] ** 0.5, 1000)
    sigmas = np.sqrt(1 / np.cumprod(1 - root**2) - 1)
    sigma = math.exp(float(np.interp(t, np.arange(1000), np.log(sigmas))))
    alpha, noise = 1 / math.hypot(1, sigma), sigma / math.hypot(1, sigma)
    spread = math.hypot(alpha * SPREAD, noise)
    clean = x * (SPREAD / spread if is_consistent else alpha * SPREAD**2 / spread**2)
    return (x - alpha * clean) / noise


def sample(
    name: str, scheduler: Any, steps: int, seed: int = 5, cut: tuple[int, int] | None = None
) -> torch.Tensor:
    """Denoise 8192 pixels as a pipeline does; `cut`: after so many steps, so many are left."""
    return list(denoise(name, scheduler, steps, seed, cut))[-1]


def denoise(
    name: str, scheduler: Any, steps: int, seed: int, cut: tuple[int, int] | None = None
) -> Iterator[torch.Tensor]:
    """Yield the pixels after each step."""
    generator = torch.Generator("cpu").manual_seed(seed)
    scheduler.set_timesteps(steps, device="cpu")
    accepted = inspect.signature(scheduler.step).parameters
    extra: dict[str, Any] = {"generator": generator} if "generator" in accepted else {}
    if "eta" in accepted:
        extra["eta"] = 0.0
    x: torch.Tensor = torch.randn((1, 2, 64, 64), generator=generator) * scheduler.init_noise_sigma
    timesteps, done = scheduler.timesteps, 0
    while done < len(timesteps):
        if cut is not None and done == cut[0]:
            timesteps = schedulers.respace(scheduler, timesteps, *cut)
        t = timesteps[done]
        done += 1
        eps = epsilon(scheduler.scale_model_input(x, t), float(t), is_consistent=name == "lcm")
        x = scheduler.step(eps, t, x, **extra, return_dict=False)[0]
        yield x


def test_every_sampler_can_be_built_and_no_other() -> None:
    assert set(CLASSES) == set(SAMPLERS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_ends_at_the_data(name: str) -> None:
    x = sample(name, build(name, BASE), 50)
    assert x.std().item() == pytest.approx(SPREAD, rel=0.08)
    assert abs(x.mean().item()) < 0.1


ELASTIC = [name for name, sampler in SAMPLERS.items() if sampler.is_elastic]


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("cut", [(1, 24), (10, 20), (30, 8), (45, 5)])
@pytest.mark.parametrize("name", ELASTIC)
def test_what_is_cut_short_ends_at_the_data(name: str, cut: tuple[int, int], spacing: str) -> None:
    x = sample(name, build(name, base(timestep_spacing=spacing)), 50, cut=cut)
    assert x.std().item() == pytest.approx(SPREAD, rel=0.12)
    assert abs(x.mean().item()) < 0.1


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(ELASTIC),
    spacing=st.sampled_from(["leading", "trailing"]),
    steps=st.integers(1, 60),
    data=st.data(),
)
def test_a_run_that_is_cut_goes_on_downwards_from_where_it_is(
    name: str, spacing: str, steps: int, data: st.DataObject
) -> None:
    done = data.draw(st.integers(0, steps - 1))
    left = data.draw(st.integers(1, steps - done))
    scheduler = build(name, base(timestep_spacing=spacing))
    scheduler.set_timesteps(steps, device="cpu")
    before = scheduler.timesteps.clone()
    after = schedulers.respace(scheduler, scheduler.timesteps, done, left)
    assert torch.equal(after[: done + 1], before[: done + 1])
    assert left <= len(after) - done <= steps - done
    assert bool((after[done:].diff() <= 0).all())
    if name != "ddim":
        assert len(after) == done + left
        assert len(scheduler.sigmas) == len(after) + 1
        assert scheduler.sigmas[-1] == 0
        assert left < steps - done or torch.equal(after, before)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 30, 50])
def test_the_predicted_evaluations_are_the_schedulers(name: str, steps: int) -> None:
    scheduler = build(name, BASE)
    scheduler.set_timesteps(steps, device="cpu")
    assert len(scheduler.timesteps) == evaluations(name, steps)


@pytest.mark.parametrize("name", SAMPLERS)
def test_all_noise_comes_from_the_images_own_generator(name: str) -> None:
    torch.manual_seed(1)
    first = sample(name, build(name, BASE), 6)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(sample(name, build(name, BASE), 6), first)
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state), "it drew from the process' own generator"


@pytest.mark.parametrize("name", SAMPLERS)
def test_images_that_are_stepped_in_turn_share_no_state(name: str) -> None:
    runs = ((6, 1), (9, 2))
    alone = [list(denoise(name, build(name, BASE), *run)) for run in runs]
    in_turn = zip_longest(*[denoise(name, build(name, BASE), *run) for run in runs])
    for here, there in zip(in_turn, zip_longest(*alone), strict=True):
        for one, other in zip(here, there, strict=True):
            assert one is other is None or torch.equal(one, other)


@pytest.mark.parametrize("name", SAMPLERS)
def test_which_samplers_draw_noise_on_their_way(name: str) -> None:
    drawn = sample(name, build(name, BASE), 6, seed=5)
    start = torch.randn((1, 2, 64, 64), generator=torch.Generator("cpu").manual_seed(5))
    # a model of independent pixels keeps their order; noise does not
    kept = torch.corrcoef(torch.stack([drawn.flatten(), start.flatten()]))[0, 1].item()
    assert (kept > 0.999) == (name not in NOISY)


OTHERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dpm": (
        DPMSolverMultistepScheduler,
        {
            "algorithm_type": "sde-dpmsolver++",
            "solver_order": 3,
            "solver_type": "heun",
            "use_karras_sigmas": True,
        },
    ),
    "deis": (DEISMultistepScheduler, {"solver_order": 3}),
    "unipc": (UniPCMultistepScheduler, {"solver_type": "bh1", "use_exponential_sigmas": True}),
    "euler": (EulerDiscreteScheduler, {"use_karras_sigmas": True}),
    "ddpm": (DDPMScheduler, {"variance_type": "fixed_large", "clip_sample": True}),
}
"""Schedulers that a checkpoint could come with."""


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_is_the_same_whatever_scheduler_a_checkpoint_came_with(name: str, other: str) -> None:
    cls, settings = OTHERS[other]
    came_with = cls.from_config(SD_SCHEDULE | {"timestep_spacing": "leading"} | settings)
    expected = sample(name, build(name, BASE), 7)
    assert torch.equal(sample(name, build(name, came_with), 7), expected)


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_the_model_predicts_is_the_checkpoints(name: str) -> None:
    assert build(name, base(prediction_type="v_prediction")).config.prediction_type == "v_prediction"


@pytest.mark.parametrize("kind", ["turbo", "lightning"])
@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"lcm", "tcd"}))
def test_turbo_and_lightning_begin_at_the_last_timestep(name: str, kind: str) -> None:
    plain, distilled = build(name, BASE), build(name, BASE, kind)
    plain.set_timesteps(4, device="cpu")
    distilled.set_timesteps(4, device="cpu")
    assert distilled.timesteps[0].item() > 997.5  # exponential ones are rounded down to 998
    if "karras" not in name and "exponential" not in name:
        assert plain.timesteps[0].item() < 990


@pytest.mark.parametrize("kind", ["base", "lcm"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_other_kinds_keep_the_schedulers_own_spacing(name: str, kind: str) -> None:
    assert build(name, BASE, kind).config.timestep_spacing == "leading"


def test_the_manifests_kinds_are_all_known() -> None:
    from typing import get_args, get_type_hints

    from difs.manifests import Manifest

    assert set(get_args(get_type_hints(Manifest)["kind"])) == set(KINDS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_two_images_never_share_a_schedulers_state(name: str) -> None:
    first, second = build(name, BASE), build(name, BASE)
    expected = sample(name, first, 5)
    assert torch.equal(sample(name, second, 5), expected)
    assert torch.equal(sample(name, build(name, BASE), 5), expected)


def test_a_scheduler_is_constructed_once_for_each_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    construct = CLASSES["dpm2"][0].from_config

    def counted(*args: Any, **kwargs: Any) -> Any:
        made.append(kwargs)
        return construct(*args, **kwargs)

    monkeypatch.setattr(CLASSES["dpm2"][0], "from_config", counted)
    own = base()
    for _ in range(3):
        build("dpm2", own)
    assert len(made) == 1
    build("dpm2", own, "turbo")
    build("dpm2", base())
    assert len(made) == 3


def test_what_was_built_goes_with_its_pipeline() -> None:
    own = base()
    build("ddim", own)
    count = len(schedulers._BUILT)
    del own
    assert len(schedulers._BUILT) == count - 1
