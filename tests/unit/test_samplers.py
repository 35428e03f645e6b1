"""difs.samplers: every name that other tools have for a sampler means ours."""

import pytest

from difs.samplers import SAMPLERS, canonical, evaluations

A1111 = {
    "DDIM": "ddim",
    "Euler": "euler",
    "Euler a": "euler_a",
    "Heun": "heun",
    "DPM++ 2M": "dpmpp_2m",
    "DPM++ 2M Karras": "dpmpp_2m_karras",
    "UniPC": "unipc",
    "LCM": "lcm",
    "PLMS": "pndm",
}
COMFYUI = {
    "ddim": "ddim",
    "euler": "euler",
    "euler_ancestral": "euler_a",
    "heun": "heun",
    "dpmpp_2m": "dpmpp_2m",
    "uni_pc": "unipc",
    "lcm": "lcm",
}


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
    names = [n.lower() for s in SAMPLERS.values() for n in s.aliases] + list(SAMPLERS)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["", " ", "eule", "euler  a", "dpm++", "../ddim", "ddim\0", "x" * 9999])
def test_an_unknown_name_means_nothing(name: str) -> None:
    assert canonical(name) is None


@pytest.mark.parametrize("steps", [1, 2, 20, 150])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_evaluates_at_least_once_a_step(name: str, steps: int) -> None:
    extra = {"heun": steps - 1, "pndm": int(steps > 1)}.get(name, 0)
    assert evaluations(name, steps) == steps + extra
