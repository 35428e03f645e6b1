"""Unmodified clients against the door: the conformance cases, and every example of docs/clients."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.door import Door, opened
from tests.process.service import settings

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(sh|python|js)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    pytest.param(form, code, id=f"{page.stem}-{form}-{i}")
    for page in sorted((ROOT / "docs" / "clients").glob("*.md"))
    for i, (form, code) in enumerate(BLOCK.findall(page.read_text("utf-8")))
]
NODE_MODULES = os.environ.get("DIFS_NODE_MODULES", "")
"""Where npm put `openai`."""
FEWEST_CASES = 60


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    with opened(*settings("policy.name=modelless")) as door:
        yield door


def run(door: Door, command: list[str], cwd: Path) -> str:
    """Run a client to its end; returns what it printed."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def needs(*packages: str) -> None:
    """Skip where a client is not installed."""
    for name in packages:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


def test_unmodified_clients_get_what_they_ask_for_in_at_least_60_cases(
    door: Door, tmp_path: Path
) -> None:
    needs("openai", "webuiapi")
    told = run(
        door, [sys.executable, "-m", "bench.http_clients", f"http://127.0.0.1:{door.port}"], tmp_path
    )
    count = re.search(r"^(\d+) of (\d+) cases", told, re.MULTILINE)
    assert count is not None
    assert int(count[1]) == int(count[2]) >= FEWEST_CASES


@pytest.mark.parametrize(("form", "code"), EXAMPLES)
def test_every_example_of_the_docs_works_as_it_stands(
    door: Door, form: str, code: str, tmp_path: Path
) -> None:
    here = code.replace("127.0.0.1:7860", f"127.0.0.1:{door.port}").replace("7860", str(door.port))
    program = tmp_path / {"sh": "a.sh", "python": "a.py", "js": "a.mjs"}[form]
    program.write_text(here)
    if form == "sh":
        if shutil.which("curl") is None:
            pytest.skip("curl is not installed")
        told = run(door, ["bash", "-e", str(program)], tmp_path)
        assert told.strip()
    elif form == "python":
        needs(*re.findall(r"^(?:import|from) (openai|webuiapi)", code, re.MULTILINE))
        told = run(door, [sys.executable, str(program)], tmp_path)
    else:
        if shutil.which("node") is None or not NODE_MODULES:
            pytest.skip("needs node, and DIFS_NODE_MODULES: where npm put `openai`")
        (tmp_path / "node_modules").symlink_to(NODE_MODULES)
        told = run(door, ["node", str(program)], tmp_path)
    for name in re.findall(r"apple\.(?:png|webp)", code):
        assert (tmp_path / name).stat().st_size > 100
    assert told
