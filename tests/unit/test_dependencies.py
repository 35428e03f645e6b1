"""What gets installed: all that pyproject names, and all that these need, is pinned, and nothing else."""

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
NAMED = [
    Requirement(text) for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"])
]
PINS = re.findall(r"^(\S+)==(\S+)$", (ROOT / "requirements.lock").read_text("utf-8"), re.MULTILINE)
LOCKED = {canonicalize_name(name): Version(version) for name, version in PINS}
OF_A_GPU = re.compile(r"nvidia-.*|cuda-.*|triton")
"""What torch's builds for GPUs need besides; the lock is of the build for CPUs."""


def needed() -> set[str]:
    """Return everything that must be installed here, by what the installed packages say themselves."""
    seen: set[tuple[str, frozenset[str]]] = set()
    ahead = list(NAMED)
    while ahead:
        wanted = ahead.pop()
        entry = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if entry in seen:
            continue
        seen.add(entry)
        try:
            texts = requires(wanted.name) or []
        except PackageNotFoundError:
            pytest.fail(f"{wanted.name} is not installed")
        for found in map(Requirement, texts):
            extras = ["", *wanted.extras]
            if found.marker is None or any(found.marker.evaluate({"extra": e}) for e in extras):
                ahead.append(found)
    return {name for name, _ in seen}


def test_every_line_of_the_lock_pins_one_version() -> None:
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    assert len([line for line in lines if line and not line.startswith("#")]) == len(PINS) == len(LOCKED)


@pytest.mark.parametrize("wanted", NAMED, ids=lambda wanted: wanted.name)
def test_what_the_project_names_is_pinned_to_a_version_that_it_allows(wanted: Requirement) -> None:
    assert wanted.specifier.contains(LOCKED[canonicalize_name(wanted.name)])


def ours(names: set[str]) -> set[str]:
    return {name for name in names if not OF_A_GPU.fullmatch(name)}


def test_nothing_is_installed_that_is_not_pinned() -> None:
    assert ours(needed()) <= set(LOCKED)


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="later Pythons need fewer; the lock is of 3.11"
)
def test_nothing_is_pinned_that_is_not_needed() -> None:
    assert ours(set(LOCKED)) <= needed()
