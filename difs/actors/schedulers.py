"""How each sampler of `difs.samplers` is built: a diffusers scheduler class and its settings.

A row says all that makes a sampler what it is, so that its name means the same on every checkpoint,
whatever scheduler that came with. Left to the checkpoint: its noise schedule and what it predicts.
"""

from copy import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)

Settings = dict[str, Any]

# a clip of the predicted image to [-1, 1] is right for pixels, never for latents
_LATENTS: Settings = {"clip_sample": False}
_PLAIN: Settings = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}
_KARRAS = _PLAIN | {"use_karras_sigmas": True}
_EXPONENTIAL = _PLAIN | {"use_exponential_sigmas": True}
_2M: Settings = {"algorithm_type": "dpmsolver++", "solver_type": "midpoint", "solver_order": 2}
_2M_SDE = _2M | {"algorithm_type": "sde-dpmsolver++"}
_3M_SDE = _2M_SDE | {"solver_order": 3}

CLASSES: dict[str, tuple[Any, Settings]] = {
    "ddim": (DDIMScheduler, _LATENTS),
    "ddpm": (DDPMScheduler, _LATENTS | {"variance_type": "fixed_small"}),
    "euler": (EulerDiscreteScheduler, _PLAIN),
    "euler_karras": (EulerDiscreteScheduler, _KARRAS),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "heun": (HeunDiscreteScheduler, _LATENTS | _PLAIN),
    "heun_karras": (HeunDiscreteScheduler, _LATENTS | _KARRAS),
    "dpm2": (KDPM2DiscreteScheduler, _PLAIN),
    "dpm2_karras": (KDPM2DiscreteScheduler, _KARRAS),
    "dpm2_a": (KDPM2AncestralDiscreteScheduler, _PLAIN),
    "dpm2_a_karras": (KDPM2AncestralDiscreteScheduler, _KARRAS),
    "dpmpp_2m": (DPMSolverMultistepScheduler, _2M | _PLAIN),
    "dpmpp_2m_karras": (DPMSolverMultistepScheduler, _2M | _KARRAS),
    "dpmpp_2m_sde": (DPMSolverMultistepScheduler, _2M_SDE | _PLAIN),
    "dpmpp_2m_sde_karras": (DPMSolverMultistepScheduler, _2M_SDE | _KARRAS),
    "dpmpp_2m_sde_exponential": (DPMSolverMultistepScheduler, _2M_SDE | _EXPONENTIAL),
    "dpmpp_3m_sde": (DPMSolverMultistepScheduler, _3M_SDE | _PLAIN),
    "dpmpp_3m_sde_karras": (DPMSolverMultistepScheduler, _3M_SDE | _KARRAS),
    "dpmpp_3m_sde_exponential": (DPMSolverMultistepScheduler, _3M_SDE | _EXPONENTIAL),
    "unipc": (UniPCMultistepScheduler, _PLAIN | {"solver_type": "bh2", "solver_order": 2}),
    "deis": (
        DEISMultistepScheduler,
        _PLAIN | {"algorithm_type": "deis", "solver_type": "logrho", "solver_order": 2},
    ),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
    "lcm": (LCMScheduler, _LATENTS),
    "tcd": (TCDScheduler, _LATENTS),
}

KINDS: dict[str, Settings] = {
    "base": {},
    "turbo": {"timestep_spacing": "trailing"},
    "lightning": {"timestep_spacing": "trailing"},
    "lcm": {},
}
"""What a kind of checkpoint wants of every sampler.

Turbo and Lightning were distilled at the last of the training's timesteps, where trailing spacing
begins (Lin et al. 2023, table 2; the model cards of SDXL-Turbo and SDXL-Lightning); LCMScheduler
has a spacing of its own.
"""


_BUILT: WeakKeyDictionary[Any, dict[tuple[str, str], Any]] = WeakKeyDictionary()
"""By the pipeline's own scheduler: those already built, to be copied.

The constructors of DPM2 work through the whole of the training's schedule: 0.4 s, during which no
other image would be stepped.
"""


def build(sampler: str, base: Any, kind: str = "base") -> Any:
    """Return a new scheduler for one image; `base` is the pipeline's own, for its noise schedule.

    Schedulers keep state: one is never shared between two images. A shallow copy is enough, for
    `set_timesteps` begins all anew that a step writes into.
    """
    built = _BUILT.setdefault(base, {})
    if (sampler, kind) not in built:
        cls, settings = CLASSES[sampler]
        built[sampler, kind] = cls.from_config(base.config, **settings, **KINDS[kind])
    return copy(built[sampler, kind])


def respace(scheduler: Any, timesteps: torch.Tensor, done: int, left: int) -> torch.Tensor:
    """Return the timesteps of a run that has done `done` of them and does `left` more, evenly spaced.

    The scheduler is changed to go them: it must be of an elastic sampler (see `difs.samplers`). DDIM's
    step has one stride for all: somewhat more than `left` may come of it, or all that there were.
    Multistep solvers keep their past: their formulas are of steps of any length (Lu et al. 2022,
    "DPM-Solver++").
    """
    if isinstance(scheduler, DDIMScheduler):
        training, at = scheduler.config.num_train_timesteps, int(timesteps[done])
        whole_run = min(training, -(-training * left // (at + 1)))
        following = torch.arange(at, -1, -(training // whole_run))
        if len(following) >= len(timesteps) - done:
            return timesteps
        scheduler.num_inference_steps = whole_run
    else:
        chosen = torch.linspace(done, len(timesteps), left + 1)[:-1].round().long()
        following = timesteps[chosen]
        sigmas = scheduler.sigmas
        scheduler.sigmas = torch.cat([sigmas[:done], sigmas[chosen], sigmas[-1:]])
        scheduler.num_inference_steps = done + left
    respaced = torch.cat([timesteps[:done], following])
    scheduler.timesteps = respaced
    return respaced
