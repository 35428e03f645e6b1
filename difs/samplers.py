"""The names of the samplers that DIFS offers, with the names other tools give them.

Pure names: how a sampler is built stands in `difs.actors.schedulers`.
"""

from typing import NamedTuple


class Sampler(NamedTuple):
    """One sampler: its label in A1111's metadata and its other names."""

    label: str
    schedule: str | None
    aliases: tuple[str, ...]


SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler("DDIM", None, ()),
    "euler": Sampler("Euler", None, ()),
    "euler_a": Sampler("Euler a", None, ("euler_ancestral",)),
    "heun": Sampler("Heun", None, ()),
    "dpmpp_2m": Sampler("DPM++ 2M", None, ()),
    "dpmpp_2m_karras": Sampler("DPM++ 2M", "Karras", ("dpm++ 2m karras",)),
    "unipc": Sampler("UniPC", None, ("uni_pc",)),
    "lcm": Sampler("LCM", None, ()),
    "pndm": Sampler("PLMS", None, ()),
}

_BY_ANY_NAME: dict[str, str] = {
    alias: name
    for name, sampler in SAMPLERS.items()
    for alias in (name, *sampler.aliases, *(() if sampler.schedule else (sampler.label.lower(),)))
}


def canonical(name: str) -> str | None:
    """Return our name of the sampler that `name` means (any case), or None."""
    return _BY_ANY_NAME.get(name.strip().lower())


def evaluations(name: str, steps: int) -> int:
    """Return how often a run of `steps` steps calls the UNet.

    Heun calls it twice a step but the last; PNDM repeats its second (diffusers' timestep lists).
    """
    if name == "heun":
        return 2 * steps - 1
    if name == "pndm":
        return steps + 1 if steps > 1 else 1
    return steps
