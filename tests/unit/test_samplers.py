"""difs.samplers: every name that other tools have for a sampler means ours."""

import pytest

from difs.samplers import SAMPLERS, canonical, evaluations

A1111 = {
    "DDIM": "ddim",
    "Euler": "euler",
    "Euler a": "euler_a",
    "Heun": "heun",
    "DPM2": "dpm2",
    "DPM2 Karras": "dpm2_karras",
    "DPM2 a": "dpm2_a",
    "DPM2 a Karras": "dpm2_a_karras",
    "DPM++ 2M": "dpmpp_2m",
    "DPM++ 2M Karras": "dpmpp_2m_karras",
    "DPM++ 2M SDE": "dpmpp_2m_sde",
    "DPM++ 2M SDE Karras": "dpmpp_2m_sde_karras",
    "DPM++ 2M SDE Exponential": "dpmpp_2m_sde_exponential",
    "DPM++ 3M SDE": "dpmpp_3m_sde",
    "DPM++ 3M SDE Karras": "dpmpp_3m_sde_karras",
    "DPM++ 3M SDE Exponential": "dpmpp_3m_sde_exponential",
    "UniPC": "unipc",
    "LCM": "lcm",
    "TCD": "tcd",
    "DDPM": "ddpm",
    "DEIS": "deis",
    "PLMS": "pndm",
}
"""As A1111 and Forge write them, before 1.9 with the schedule in the name."""
COMFYUI = {
    "ddim": "ddim",
    "ddpm": "ddpm",
    "euler": "euler",
    "euler_karras": "euler_karras",
    "euler_ancestral": "euler_a",
    "heun": "heun",
    "heun karras": "heun_karras",
    "dpm_2": "dpm2",
    "dpm_2_karras": "dpm2_karras",
    "dpm_2_ancestral": "dpm2_a",
    "dpm_2_ancestral_karras": "dpm2_a_karras",
    "dpmpp_2m": "dpmpp_2m",
    "dpmpp_2m karras": "dpmpp_2m_karras",
    "dpmpp_2m_sde": "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu": "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu karras": "dpmpp_2m_sde_karras",
    "dpmpp_2m_sde_exponential": "dpmpp_2m_sde_exponential",
    "dpmpp_3m_sde": "dpmpp_3m_sde",
    "dpmpp_3m_sde_gpu_exponential": "dpmpp_3m_sde_exponential",
    "uni_pc": "unipc",
    "deis": "deis",
    "lcm": "lcm",
}
"""Its sampler, with its scheduler behind where that is not `normal`."""
TWICE = {"heun", "heun_karras", "dpm2", "dpm2_karras", "dpm2_a", "dpm2_a_karras"}


@pytest.mark.parametrize(("theirs", "ours"), [*A1111.items(), *COMFYUI.items()])
def test_the_names_of_other_tools_are_understood_in_any_case(theirs: str, ours: str) -> None:
    for name in (theirs, theirs.upper(), theirs.lower(), theirs.title(), f"  {theirs} \t"):
        assert canonical(name) == ours


def test_each_sampler_has_its_own_name() -> None:
    assert {canonical(name) for name in SAMPLERS} == set(SAMPLERS)
    assert all(canonical(name) == name for name in SAMPLERS)


def test_no_two_samplers_look_alike_in_a_files_metadata() -> None:
    assert len({(s.label, s.schedule) for s in SAMPLERS.values()}) == len(SAMPLERS)


def test_no_name_means_two_samplers() -> None:
    names = [(n.lower(), s.schedule) for s in SAMPLERS.values() for n in {s.label.lower(), *s.aliases}]
    assert len(names) == len(set(names))
    for name, sampler in SAMPLERS.items():
        for stem in (sampler.label, *sampler.aliases):
            assert canonical(f"{stem} {sampler.schedule}" if sampler.schedule else stem) == name


@pytest.mark.parametrize(
    "name",
    ["", " ", "eule", "euler  a", "dpm++", "../ddim", "ddim\0", "x" * 9999, "karras", "ddim karras"],
)
def test_an_unknown_name_means_nothing(name: str) -> None:
    assert canonical(name) is None


@pytest.mark.parametrize("steps", [1, 2, 20, 150])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_evaluates_at_least_once_a_step(name: str, steps: int) -> None:
    extra = steps - 1 if name in TWICE else int(steps > 1) if name == "pndm" else 0
    assert evaluations(name, steps) == steps + extra
