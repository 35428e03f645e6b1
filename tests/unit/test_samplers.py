"""difs.samplers: every tool's name for a sampler leads to ours."""

import pytest

from difs import samplers


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("euler", "euler"),
        ("Euler a", "euler_a"),
        ("euler_ancestral", "euler_a"),
        ("DPM++ 2M", "dpmpp_2m"),
        ("DPM++ 2M Karras", "dpmpp_2m_karras"),
        ("UniPC", "unipc"),
        (" uni_pc ", "unipc"),
        ("PLMS", "pndm"),
        ("", None),
        ("unheard-of", None),
    ],
)
def test_a_sampler_is_known_by_any_of_its_names(name: str, found: str | None) -> None:
    assert samplers.canonical(name) == found


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_our_own_names_mean_themselves(name: str) -> None:
    assert samplers.canonical(name) == name == samplers.canonical(name.upper())


def test_no_name_means_two_samplers() -> None:
    names = [alias for name, sampler in samplers.SAMPLERS.items() for alias in (name, *sampler.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "steps", "evaluations"),
    [("euler", 20, 20), ("heun", 20, 39), ("heun", 1, 1), ("pndm", 20, 21), ("pndm", 1, 1)],
)
def test_evaluations_are_those_of_diffusers(name: str, steps: int, evaluations: int) -> None:
    assert samplers.evaluations(name, steps) == evaluations
