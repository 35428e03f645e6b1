"""The names of the samplers that DIFS offers, with the names other tools give them.

Pure names and numbers: how a sampler is built stands in `difs.actors.schedulers`.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from difs.messages import MAX_STEPS


def _once(steps: int) -> int:
    return steps


def _twice(steps: int) -> int:
    """Second-order methods evaluate twice a step; the last one, down to sigma 0, is Euler's."""
    return 2 * steps - 1


def _plms(steps: int) -> int:
    """PLMS has no past to extrapolate from at first: it repeats its second step."""
    return steps + 1 if steps > 1 else 1


class Sampler(NamedTuple):
    """One sampler: its label and schedule in A1111's metadata, and ComfyUI's names of it."""

    label: str
    schedule: str | None = None
    aliases: tuple[str, ...] = ()
    evaluations: Callable[[int], int] = _once
    most_steps: int = MAX_STEPS
    """LCM and TCD were distilled to skip between 50 steps: there are no more to choose from."""
    is_elastic: bool = False
    """Whether a run can be cut short on its way: its step goes from any timestep to any later one."""


_2M_SDE = ("dpmpp_2m_sde", "dpmpp_2m_sde_gpu")
_3M_SDE = ("dpmpp_3m_sde", "dpmpp_3m_sde_gpu")

SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler("DDIM", is_elastic=True),
    "ddpm": Sampler("DDPM"),
    "euler": Sampler("Euler", is_elastic=True),
    "euler_karras": Sampler("Euler", "Karras", ("euler",), is_elastic=True),
    "euler_a": Sampler("Euler a", None, ("euler_ancestral",), is_elastic=True),
    "heun": Sampler("Heun", None, (), _twice),
    "heun_karras": Sampler("Heun", "Karras", ("heun",), _twice),
    "dpm2": Sampler("DPM2", None, ("dpm_2",), _twice),
    "dpm2_karras": Sampler("DPM2", "Karras", ("dpm_2",), _twice),
    "dpm2_a": Sampler("DPM2 a", None, ("dpm_2_ancestral",), _twice),
    "dpm2_a_karras": Sampler("DPM2 a", "Karras", ("dpm_2_ancestral",), _twice),
    "dpmpp_2m": Sampler("DPM++ 2M", is_elastic=True),
    "dpmpp_2m_karras": Sampler("DPM++ 2M", "Karras", ("dpmpp_2m",), is_elastic=True),
    "dpmpp_2m_sde": Sampler("DPM++ 2M SDE", None, _2M_SDE, is_elastic=True),
    "dpmpp_2m_sde_karras": Sampler("DPM++ 2M SDE", "Karras", _2M_SDE, is_elastic=True),
    "dpmpp_2m_sde_exponential": Sampler("DPM++ 2M SDE", "Exponential", _2M_SDE, is_elastic=True),
    "dpmpp_3m_sde": Sampler("DPM++ 3M SDE", None, _3M_SDE),
    "dpmpp_3m_sde_karras": Sampler("DPM++ 3M SDE", "Karras", _3M_SDE),
    "dpmpp_3m_sde_exponential": Sampler("DPM++ 3M SDE", "Exponential", _3M_SDE),
    "unipc": Sampler("UniPC", None, ("uni_pc",)),
    "deis": Sampler("DEIS"),
    "pndm": Sampler("PLMS", None, ("plms",), _plms),
    "lcm": Sampler("LCM", most_steps=50),
    "tcd": Sampler("TCD", most_steps=50),
}


def _names(name: str, sampler: Sampler) -> set[str]:
    """Return all names of a sampler, in lower case: `dpm++ 2m karras`, `dpmpp_2m karras`, ..."""
    stems = {sampler.label.lower(), *sampler.aliases}
    if sampler.schedule is None:
        return {name, *stems}
    schedule = sampler.schedule.lower()
    return {name} | {f"{stem}{join}{schedule}" for stem in stems for join in " _"}


_BY_ANY_NAME: dict[str, str] = {
    alias: name for name, sampler in SAMPLERS.items() for alias in _names(name, sampler)
}


@lru_cache(maxsize=256)  # asked for at every point of every decision
def canonical(name: str) -> str | None:
    """Return our name of the sampler that `name` means (any case), or None."""
    return _BY_ANY_NAME.get(name.strip().lower())


def evaluations(name: str, steps: int) -> int:
    """Return how often a run of `steps` steps calls the UNet."""
    return SAMPLERS[name].evaluations(steps)
