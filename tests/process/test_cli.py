"""The command line against a running service: output, exit codes, and errors that people can read."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from difs import pictures
from difs.messages import DeviceStatus
from tests.process.service import Service, assert_one_line, difs, picture, script, settings, until

pytestmark = pytest.mark.process

BIG = ("--size", "512x512")


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    faults = ["{kind='error', prompt='breaks'}", "{kind='oom', prompt='hungry'}"]
    with Service(["--device", "simulated:2", *settings(script(faults))]) as service:
        yield service


@pytest.fixture
def here(service: Service) -> tuple[str, str]:
    """Return the option that names the running service."""
    return ("--run-dir", str(service.home.path))


@pytest.fixture
def nowhere(tmp_path: Path) -> tuple[str, str]:
    """Return the option that names a place where no service runs."""
    return ("--run-dir", str(tmp_path / "nothing"))


def refused(status: int, *arguments: str) -> str:
    """Return the one line on standard error of a command that fails."""
    ended = difs(*arguments)
    assert ended.returncode == status, ended.stderr
    assert ended.stdout == ""
    assert_one_line(ended.stderr)
    return ended.stderr


# ---- a service that starts ------------------------------------------------------------------------


def test_a_service_that_was_started_just_now_is_waited_for(tmp_path: Path) -> None:
    home = tmp_path / "run"
    slow = settings("actors.script='load_s = 3.0'", 'actors.preload=["emoji-base"]')
    command = [
        sys.executable,
        "-m",
        "difs",
        "serve",
        "--run-dir",
        str(home),
        "--device",
        "simulated",
        *slow,
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as serving:
        until((home / "clients.sock").is_socket, 20, "the service's socket")
        here = ("--run-dir", str(home))
        ended = difs("generate", "red apple", "--out", str(tmp_path / "a.png"), *here)
        serving.send_signal(signal.SIGINT)
    assert ended.returncode == 0, ended.stderr
    assert "no device ready yet: waiting for one" in ended.stdout + ended.stderr
    assert (tmp_path / "a.png").is_file()


# ---- output ---------------------------------------------------------------------------------------


def test_generate_prints_one_json_object(here: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "new" / "apple.png"
    ended = difs("generate", "red apple", "--json", "--seed", "7", "-n", "2", "--out", str(out), *here)
    assert (ended.returncode, ended.stderr) == (0, "")
    facts = json.loads(ended.stdout)
    assert set(facts) == {
        *("paths", "seeds", "plan", "timings", "seed_contract", "seed_bound", "notes", "request_id")
    }
    assert facts["seeds"] == [7, 8]
    assert facts["plan"]["variant"] == "emoji-base"
    assert facts["plan"]["reason"]
    assert facts["timings"]["total_s"] > 0
    for path, seed in zip(facts["paths"], facts["seeds"], strict=True):
        assert Path(path).parent == out.parent
        assert np.array_equal(pictures.decode(Path(path).read_bytes()), picture("red apple", seed))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_generate_for_people_names_the_file_and_the_plan(
    here: tuple[str, str], tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"pear.{suffix}"
    ended = difs("generate", "pear", "--seed", "3", "--steps", "5", "--out", str(out), *here)
    assert ended.returncode == 0, ended.stderr
    assert str(out) in ended.stdout
    for words in ("emoji-base", "5 steps", "64x64", "policy static", "predicted", "measured"):
        assert words in ended.stdout
    off = np.abs(pictures.decode(out.read_bytes()).astype(int) - picture("pear", 3)).mean()
    assert off < (1e-9 if suffix == "png" else 8)


def test_the_closing_line_tells_when_steps_were_shared(here: tuple[str, str], tmp_path: Path) -> None:
    command = ("generate", "x", *BIG, "--steps", "3", "-n", "2", "--out", str(tmp_path), *here)
    ended = difs(*command)
    assert ended.returncode == 0, ended.stderr
    assert "steps shared by 2.0 images on average; same-noise" in ended.stdout.splitlines()[-1]
    ended = difs(*command, "--deterministic")
    assert ended.returncode == 0, ended.stderr
    assert "shared" not in ended.stdout
    assert json.loads(difs(*command, "--deterministic", "--json").stdout)["seed_contract"] == "bitwise"


@pytest.mark.parametrize("extra", [(), ("--json",)])
def test_previews_are_files_in_a_folder(
    here: tuple[str, str], tmp_path: Path, extra: tuple[str, ...]
) -> None:
    folder = tmp_path / "new" / "previews"
    options = ("--previews", str(folder), "--preview-every", "2", "--steps", "5", "-n", "2")
    out = tmp_path / "out.png"
    ended = difs("generate", "y", "--seed", "3", *options, *extra, "--out", str(out), *here)
    assert ended.returncode == 0, ended.stderr
    names = [f"preview-{image}-{step:03}.png" for image in (0, 1) for step in (2, 4)]
    assert sorted(path.name for path in folder.iterdir()) == names
    for path in folder.iterdir():
        seed = 3 + int(path.name.split("-")[1])
        assert np.array_equal(pictures.decode(path.read_bytes()), picture("y", seed)[::8, ::8])


def test_a_folder_gets_a_name_made_of_the_prompt(here: tuple[str, str], tmp_path: Path) -> None:
    ended = difs("generate", "../Ünïc/ode *?", "--json", "--seed", "1", "--out", str(tmp_path), *here)
    [path] = json.loads(ended.stdout)["paths"]
    assert Path(path) == tmp_path / "ünïc-ode-1.png"
    assert Path(path).is_file()


def test_no_metadata_leaves_no_trace(here: tuple[str, str], tmp_path: Path) -> None:
    told, silent = tmp_path / "told.png", tmp_path / "silent.png"
    difs("generate", "secretly", "--out", str(told), *here)
    difs("generate", "secretly", "--no-metadata", "--out", str(silent), *here)
    assert b"secretly" in told.read_bytes()
    assert b"secretly" not in silent.read_bytes()
    assert str(tmp_path).encode() not in told.read_bytes()


def test_explain_says_why_and_does_nothing(service: Service, here: tuple[str, str]) -> None:
    before = service.status().counts
    ended = difs("explain", "red apple", "--steps", "9", "--latency", "30", *here)
    assert (ended.returncode, ended.stderr) == (0, "")
    for words in ("emoji-base", "9 steps", "policy static", "predicted"):
        assert words in ended.stdout
    ended = difs("explain", "red apple", "--steps", "9", "--json", *here)
    assert json.loads(ended.stdout)["plan"]["steps"] == 9
    assert service.status().counts == before


def test_variants_of_a_service_and_of_the_repository(
    here: tuple[str, str], nowhere: tuple[str, str]
) -> None:
    for where, resident_on in ((here, ["simulated-0", "simulated-1"]), (nowhere, None)):
        ended = difs("variants", "--json", *where)
        assert (ended.returncode, ended.stderr) == (0, "")
        found = json.loads(ended.stdout)
        [info] = [v for v in found["variants"] if v["name"] == "emoji-base"]
        assert info.get("resident_on") == resident_on
        assert found["problems"] == []
        assert isinstance(found["adapters"], list)
    assert "emoji-base" in difs("variants", *here).stdout


def test_status_for_machines_and_for_people(here: tuple[str, str]) -> None:
    ended = difs("status", "--json", *here)
    assert (ended.returncode, ended.stderr) == (0, "")
    report = json.loads(ended.stdout)
    assert [d["device"] for d in report["devices"]] == ["simulated-0", "simulated-1"]
    assert report["ready"] is True
    ended = difs("status", *here)
    assert "ready" in ended.stdout
    assert "simulated-1" in ended.stdout


def test_a_variant_is_evicted_loaded_and_switched(service: Service, here: tuple[str, str]) -> None:
    there = ("--device", "simulated-1", *here)

    def told(*arguments: str) -> str:
        ended = difs(*arguments)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert "emoji-base" in ended.stdout
        return ended.stdout

    def second() -> DeviceStatus:
        return service.status().devices[1]

    told("set-mode", "emoji-base", "sliced", *there)
    until(lambda: second().memory_modes.get("emoji-base") == "sliced", 5, "the switch")
    shown = " ".join(told("status", *here).split())
    assert "simulated-1 emoji-base loaded sliced" in shown
    told("set-mode", "emoji-base", "full", *there)
    told("evict", "emoji-base", *there)
    until(lambda: "emoji-base" in second().parked, 5, "the parking")
    told("load", "emoji-base", *there)
    until(lambda: second().memory_modes.get("emoji-base") == "full", 5, "the variant's return")


def test_the_run_directory_is_found_by_the_environment(service: Service) -> None:
    """XDG_RUNTIME_DIR/difs is where a service runs unless told otherwise."""
    link = service.home.path.parent / f"{service.home.path.name}-xdg"
    link.mkdir(mode=0o700)
    try:
        (link / "difs").symlink_to(service.home.path)
        ended = difs("status", "--json", env={"XDG_RUNTIME_DIR": str(link)})
        assert json.loads(ended.stdout)["ready"] is True
    finally:
        (link / "difs").unlink()
        link.rmdir()


# ---- exit codes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--variant", "no-such"], "no-such"),
        (["--sampler", "no-such"], "euler"),
        (["--steps", "1000"], "<= 150"),
        (["--steps", "0"], "steps"),
        (["--size", "65x64"], "width"),
        (["--quality", "banana"], "quality"),
        (["--quality", "nan"], "quality"),
        (["--seed", "-1"], "seed"),
        (["--seed", str(2**64)], "seed"),
        (["-n", "9"], "n:"),
        (["--timeout", "0"], "timeout_s"),
        (["--adapter", "no-such:0.5"], "no-such"),
        (["--adapter", "no-such"], "no-such"),
        (["--adapter", "x:5"], "weight"),
        (["--previews", "out", "--preview-every", "151"], "preview_every"),
        (["--out", "picture.gif"], ".gif"),
    ],
)
def test_a_bad_request_is_64(here: tuple[str, str], options: list[str], words: str) -> None:
    assert words in refused(64, "generate", "x", *options, *here)


@pytest.mark.parametrize("prompt", ["x" * 5000, b"\xff\xfe".decode("utf-8", "surrogateescape")])
def test_a_bad_prompt_is_64(here: tuple[str, str], prompt: str) -> None:
    refused(64, "generate", prompt, *here)


@pytest.mark.parametrize(
    "command",
    [["status"], ["load", "emoji-base"], ["evict", "emoji-base"], ["set-mode", "emoji-base", "full"]],
)
def test_no_service_is_69(nowhere: tuple[str, str], command: list[str]) -> None:
    assert "difs serve" in refused(69, *command, *nowhere)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["load", "no-such"], "no-such"),
        (["evict", "emoji-base", "--device", "cuda-7"], "cuda-7"),
        (["set-mode", "emoji-base", "fast"], "sequential_offload"),
    ],
)
def test_a_bad_admin_command_is_64(here: tuple[str, str], command: list[str], words: str) -> None:
    assert words in refused(64, *command, *here)


@pytest.mark.parametrize("prompt", ["it breaks", "a hungry one"])
def test_an_error_of_the_service_is_70(here: tuple[str, str], prompt: str) -> None:
    assert "scripted" in refused(70, "generate", prompt, *here)


def test_a_second_service_is_73(here: tuple[str, str]) -> None:
    assert "running already" in refused(73, "serve", "--device", "simulated:1", *here)


def test_a_request_without_a_picture_is_75(here: tuple[str, str]) -> None:
    late = refused(75, "generate", "x", *BIG, "--steps", "100", "--timeout", "0.3", *here)
    assert "timeout_s" in late
    strict = refused(75, "explain", "x", *BIG, "--latency", "0.01", "--strict", *here)
    assert "latency_s" in strict
    assert "nearest feasible" in strict
    assert strict == refused(75, "generate", "x", *BIG, "--latency", "0.01", "--strict", *here)


def test_a_wrong_configuration_is_78(nowhere: tuple[str, str]) -> None:
    assert "broker.lease" in refused(78, "serve", "--set", "broker.leese=1", *nowhere)


def test_wrong_arguments_are_2() -> None:
    for arguments in (["generate"], ["paint"], ["generate", "x", "--size", "big"], ["status", "--jason"]):
        ended = difs(*arguments)
        assert ended.returncode == 2
        assert "Traceback" not in ended.stderr
        assert ended.stdout == ""


def test_a_place_that_cannot_be_written_is_told_in_one_line(
    here: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file" / "x.png", Path("/proc/nothing/x.png")):
        assert str(out.parent) in refused(os.EX_IOERR, "generate", "x", "--out", str(out), *here)
    folder = str(tmp_path / "file" / "previews")
    options = ("--out", str(tmp_path / "x.png"), "--previews", folder)
    assert folder in refused(os.EX_IOERR, "generate", "x", *options, *here)
    assert not (tmp_path / "x.png").exists()


def test_an_error_as_json_is_one_object(here: tuple[str, str]) -> None:
    ended = difs("generate", "x", "--variant", "no-such", "--json", *here)
    assert (ended.returncode, ended.stderr) == (64, "")
    error = json.loads(ended.stdout)["error"]
    assert error["code"] == "unknown_name"
    assert error["field"] == "overrides.variant"
    assert error["retryable"] is False
    assert "no-such" in error["message"]


def test_debug_shows_where_an_error_came_from(here: tuple[str, str]) -> None:
    ended = difs("--debug", "generate", "x", "--variant", "no-such", *here)
    assert ended.returncode != 0
    assert "Traceback" in ended.stderr
    assert "UnknownName" in ended.stderr


def test_interrupting_generate_is_130_and_cancels(service: Service, here: tuple[str, str]) -> None:
    before = service.count("cancelled")
    command = [sys.executable, "-m", "difs", "generate", "x", "--steps", "150", *BIG, *here]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            until(lambda: service.status().running == 1, 20, "the request")
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    until(lambda: service.count("cancelled") == before + 1, 3, "the cancel")


def test_a_closed_pipe_is_no_traceback(here: tuple[str, str]) -> None:
    """As in `difs status | head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "difs", "status", *here],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )
    finally:
        os.close(writer)
    assert "Traceback" not in ended.stderr
