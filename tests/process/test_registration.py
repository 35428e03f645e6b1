"""Registering from the command line, with and without a service; one that runs notices."""

import json
from pathlib import Path
from typing import Any

import pytest

from difs.errors import UnknownName
from tests.process.conftest import Start
from tests.process.service import assert_one_line, difs, until
from tests.safetensors_files import LORA, SD15, write

pytestmark = pytest.mark.process


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a user who has registered nothing."""
    return {"XDG_DATA_HOME": str(tmp_path / "data"), "XDG_RUNTIME_DIR": str(tmp_path)}


def listed(found: str) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(found)
    return tree


def test_register_show_and_unregister_without_a_service(tmp_path: Path, data: dict[str, str]) -> None:
    lora = write(tmp_path / "Oil Paint.safetensors", LORA)
    done = difs("register", str(lora), "--licence", "CC0", env=data)
    assert done.returncode == 0
    assert "oil-paint" in done.stdout
    made = difs("derive", "emoji-base", "--make", "unipc", "--name", "quick", "--json", env=data)
    assert listed(made.stdout)["made"] == ["quick"]
    found = listed(difs("variants", "quick", "--json", env=data).stdout)
    assert [v["name"] for v in found["variants"]] == ["quick"]
    assert {f["state"] for f in found["files"]} == {"pinned"}
    found = listed(difs("variants", "oil-paint", "--verify", "--json", env=data).stdout)
    assert [(a["name"], a["licence"]) for a in found["adapters"]] == [("oil-paint", "CC0")]
    assert [(f["state"], f["stands_in"]) for f in found["files"]] == [("verified", str(lora))]
    refused = difs("register", str(lora), "--onto", "emoji-base", env=data)
    assert (refused.returncode, "not for emoji-base" in refused.stderr) == (78, True)
    assert difs("unregister", "quick", env=data).returncode == 0
    assert difs("unregister", "oil-paint", env=data).returncode == 0
    gone = difs("unregister", "oil-paint", env=data)
    assert gone.returncode == 64
    assert_one_line(gone.stderr)
    assert lora.exists()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("register", "/nonexistent"), 78, "is not there"),
        (("register", "model.ckpt"), 78, "can run code"),
        (("register", "bad.safetensors"), 78, "cut down"),
        (("register", "bad.safetensors", "--kind", "fast"), 2, "is not one of base, turbo"),
        (("register", "bad.safetensors", "--onto", "none"), 64, "no variant 'none'"),
        (("unregister", "emoji-base"), 78, "shipped"),
        (("derive", "none"), 64, "no variant 'none'"),
        (("derive", "emoji-base", "--make", "magic"), 64, "no proposal 'magic'"),
        (("derive", "emoji-base", "--name", "x"), 2, "a name is for one proposal"),
        (("variants", "--verify"), 2, "say of which variant"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    tmp_path: Path, data: dict[str, str], arguments: tuple[str, ...], status: int, words: str
) -> None:
    write(tmp_path / "bad.safetensors", SD15)
    (tmp_path / "model.ckpt").write_bytes(b"\x80")
    placed = [str(tmp_path / a) if a.startswith(("bad", "model.")) else a for a in arguments]
    done = difs(*placed, env=data)
    assert done.returncode == status, done.stderr
    assert words in " ".join(done.stderr.split()).replace("│ ", "")
    if status != 2:
        assert_one_line(done.stderr)
    assert not (tmp_path / "data" / "difs").exists() or not list(
        (tmp_path / "data" / "difs" / "models").iterdir()
    )


def test_a_whole_folder_says_what_became_of_each_file(tmp_path: Path, data: dict[str, str]) -> None:
    write(tmp_path / "models" / "loras" / "oil.safetensors", LORA)
    write(tmp_path / "models" / "checkpoints" / "bad.safetensors", SD15)
    done = difs("register", str(tmp_path / "models"), env=data)
    assert done.returncode == 0
    assert "oil: adapter for sd15" in done.stdout
    assert "1 registered, 0 registered before, 1 not registered" in done.stdout
    assert "cut down" in done.stderr
    again = listed(difs("register", str(tmp_path / "models"), "--json", env=data).stdout)
    assert [o["is_new"] for o in again["registered"] if o["problem"] is None] == [False]


def test_a_running_service_notices_what_comes_and_goes(start: Start) -> None:
    service = start("--device", "simulated:1")
    here = ("--run-dir", str(service.home.path))
    assert difs("derive", "emoji-base", "--make", "unipc", "--name", "fresh", *here).returncode == 0

    def names() -> set[str]:
        return {info.name for info in service.client.variants()}

    until(lambda: "fresh" in names(), 10, "the service's notice of a new variant")
    with service.client.generate("red apple", variant="fresh") as result:
        assert (result.plan.variant, result.plan.sampler) == ("fresh", "unipc")
    assert difs("unregister", "fresh", *here).returncode == 0
    until(lambda: "fresh" not in names(), 10, "the service's notice of a variant that is gone")
    with pytest.raises(UnknownName):
        service.client.generate("red apple", variant="fresh")
    report = service.status()
    assert "fresh" not in (*report.devices[0].residents, *report.devices[0].parked)
    with service.client.generate("red apple") as result:
        assert result.plan.variant == "emoji-base"
