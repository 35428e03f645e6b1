"""The clients in examples/ speak the protocol with nothing of DIFS in them."""

import ast
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from difs import Client
from difs.actors.simulated import pattern
from difs.private import PrivateService

pytestmark = pytest.mark.process

EXAMPLES = Path(__file__).parents[2] / "examples"
RAW_CLIENT = EXAMPLES / "raw_client.py"
NODE_CLIENT = EXAMPLES / "node_client"
PROMPT = "red apple"
TOO_LONG = "x" * 5000
NO_NETWORK = re.compile(
    r"\b(ENOTFOUND|EAI_AGAIN|ECONN\w+|E\w*TIMEDOUT|E\w*TIMEOUT|E\w+UNREACH|ENOTCACHED|FETCH_ERROR)\b"
)
"""What npm says when it cannot reach its registry."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with PrivateService(["--device", "simulated"]) as service:
        yield service.address


@pytest.fixture(scope="module")
def node_client(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the command of the Node client, installed in a copy of its folder."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed")
    home = tmp_path_factory.mktemp("node") / "client"
    shutil.copytree(NODE_CLIENT, home, ignore=shutil.ignore_patterns("node_modules"))
    options = ["--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
    try:
        done = subprocess.run(
            [npm, "ci", *options], cwd=home, capture_output=True, text=True, timeout=90, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm ci did not end within 90 s: no network?")
    if done.returncode and (reason := NO_NETWORK.search(done.stderr)):
        pytest.skip(f"npm ci cannot reach its registry: {reason[0]}")
    assert done.returncode == 0, done.stderr
    return [node, str(home / "client.mjs")]


def run(command: list[str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=False)


def pixels(path: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (64, 64))
        return np.asarray(image)


def test_the_raw_client_paints_and_releases(address: str, tmp_path: Path) -> None:
    done = run([sys.executable, str(RAW_CLIENT)], address, PROMPT, str(tmp_path / "out.png"))
    assert done.returncode == 0, done.stderr
    painted = pixels(tmp_path / "out.png")
    assert (painted == painted[0]).all(), "the simulated engine paints equal rows"
    assert len(np.unique(painted)) > 2
    with Client(address) as client:
        deadline = time.monotonic() + 5
        while (device := client.status().devices[0]).slots_free < device.slots_total:
            assert time.monotonic() < deadline, "the lease was not released"
            time.sleep(0.01)
        assert "clients_lost" not in client.status().counts, "the lease was not released but lost"


def test_the_raw_client_is_short_and_has_nothing_of_difs() -> None:
    text = RAW_CLIENT.read_text("utf-8")
    assert len(text.splitlines()) < 60
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert imported - sys.stdlib_module_names == {"msgpack", "zmq"}


def test_the_node_client_paints(address: str, node_client: list[str], tmp_path: Path) -> None:
    done = run(node_client, address, PROMPT, str(tmp_path / "out.png"))
    assert done.returncode == 0, done.stderr
    seed = re.search(r"seed (\d+)$", done.stdout.strip())
    assert seed, done.stdout
    assert (pixels(tmp_path / "out.png") == pattern(PROMPT, int(seed[1]), 64, 64)).all()


def test_the_raw_client_tells_what_was_refused(address: str, tmp_path: Path) -> None:
    done = run([sys.executable, str(RAW_CLIENT)], address, TOO_LONG, str(tmp_path / "out.png"))
    assert done.returncode == 1
    assert done.stderr.startswith("invalid_request: prompt: 5000 bytes")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


def test_the_node_client_tells_what_was_refused(
    address: str, node_client: list[str], tmp_path: Path
) -> None:
    done = run(node_client, address, TOO_LONG, str(tmp_path / "out.png"))
    assert done.returncode == 1
    assert done.stderr.startswith("invalid_request: prompt: 5000 bytes")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


def test_the_lock_file_names_no_host() -> None:
    lock = (NODE_CLIENT / "package-lock.json").read_text("utf-8")
    assert '"integrity"' in lock
    assert "resolved" not in lock
    assert "://" not in lock
