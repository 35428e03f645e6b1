"""Batches through the command line and a real service whose processes are killed."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from difs import pictures
from difs.batches.store import Standing, Store, place
from tests.process.conftest import Start
from tests.process.service import (
    Service,
    assert_one_line,
    difs,
    picture,
    processes_of,
    script,
    settings,
    until,
)

pytestmark = pytest.mark.process

OPTIONS = ("--device", "simulated:2", *settings(script(["{kind='error', prompt='breaks'}"])))
FEW = (*OPTIONS, *settings("actors.credits=2"))
"""So that a batch comes little by little."""


@pytest.fixture(autouse=True)
def _data_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


COUNT = 16
LINES: list[dict[str, Any]] = [
    {"prompt": f"picture {i}", "seed": i, "width": 512, "height": 512, "steps": 3}
    for i in range(1, COUNT + 1)
]


def told(*arguments: str, status: int = 0) -> dict[str, Any]:
    """Return the JSON object that a command of `difs batch` prints."""
    ended = difs("batch", *arguments, "--json")
    assert ended.returncode == status, ended.stderr + ended.stdout
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def submitted(prompts: Path, out: Path, home: Path) -> str:
    """Submit a file and return the id of its batch."""
    found = told("submit", str(prompts), "--out", str(out), "--run-dir", str(home))
    name: str = found["standing"]["batch"]["id"]
    return name


def standing(name: str) -> Standing:
    """Return how far a batch is."""
    with Store(place()) as store:
        return store.standing(name)


def workers(home: Path) -> list[int]:
    """Return the processes that paint batches for a service."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = process.info["cmdline"] or []
        if "difs.batches" in words and str(home) in words:
            found.append(process.info["pid"])
    return found


def kept(out: Path) -> dict[str, tuple[int, int]]:
    """Return what tells each picture from one that is painted again in its place."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.glob("*.png")}


def assert_exact(name: str, out: Path) -> None:
    """Check that each line was done once, and that the right picture of each is there, nothing else."""
    found = standing(name)
    assert (found.done, found.waiting, found.failed) == (COUNT, 0, 0)
    assert sorted(path.name for path in out.iterdir()) == [f"{i:06}.png" for i in range(1, COUNT + 1)]
    for i in range(1, COUNT + 1):
        pixels = pictures.decode((out / f"{i:06}.png").read_bytes())
        assert np.array_equal(pixels, picture(f"picture {i}", i, 512))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_a_batch_survives_kill_9_of_its_worker_and_of_everything(
    start: Start, prompts: Path, tmp_path: Path, home: Path
) -> None:
    out = tmp_path / "out"
    first = start(*FEW, home=home)
    name = submitted(prompts, out, home)
    until(lambda: len(kept(out)) >= 3, 20, "the first pictures")
    (worker,) = workers(home)
    before = kept(out)
    os.kill(worker, signal.SIGKILL)
    until(lambda: len(kept(out)) >= len(before) + 3, 20, "more, by another worker")
    assert workers(home) != [worker]
    for pid in [first.pid, *workers(home), *first.children().values()]:
        os.kill(pid, signal.SIGKILL)
    first.end(5)
    until(lambda: not processes_of(home), 5, "the end of everything")
    then = kept(out)
    assert then.items() >= before.items()
    assert standing(name).waiting > 0

    start(*OPTIONS, home=home)
    ended = difs("batch", "status", name, "--watch")
    assert ended.returncode == 0, ended.stderr
    assert f"finished, {COUNT} of {COUNT} done" in ended.stdout
    assert kept(out).items() >= then.items(), "what was painted is painted no second time"
    assert_exact(name, out)
    until(lambda: not workers(home), 5, "the end of a worker that has nothing to do")


def test_a_batch_that_is_submitted_before_the_service_starts_waits_for_it(
    prompts: Path, tmp_path: Path, home: Path
) -> None:
    out = tmp_path / "out"
    ended = difs("batch", "submit", str(prompts), "--out", str(out), "--run-dir", str(home))
    assert ended.returncode == 0, ended.stderr
    assert f"no DIFS runs in {home}: `difs serve` goes on with it" in ended.stdout
    with Service(OPTIONS, home=home):
        name = submitted(prompts, out, home)  # joins
        with Store(place()) as store:
            assert len(store.standings()) == 1
        until(lambda: standing(name).state == "finished", 30, "the end")
        assert_exact(name, out)


def test_a_stopped_service_does_not_wait_for_its_batches(tmp_path: Path, home: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "x", "width": 512, "height": 512, "steps": 150}')
    slow = settings(script(step_s=0.2), "supervisor.drain=60s")
    with Service(("--device", "simulated", *slow), home=home) as service:
        name = submitted(path, tmp_path / "out", home)
        until(lambda: service.status().running, 10, "its beginning")
        assert service.process is not None
        service.process.send_signal(signal.SIGTERM)
        assert service.end(15) == 0, "it would take 30 s"
        assert not workers(home)
    assert standing(name).waiting == 1


def test_cancel_resume_and_forget(tmp_path: Path, home: Path) -> None:
    path, out = tmp_path / "p.jsonl", tmp_path / "out"
    lines: list[dict[str, Any]] = [
        {"prompt": "breaks"},
        {"prompt": "x", "variant": "no-such"},
        {"prompt": "good", "id": "fine", "n": 2},
    ]
    path.write_text("".join(json.dumps({**line, "seed": 1}) + "\n" for line in lines))
    with Service(OPTIONS, home=home):
        ended = difs("batch", "submit", str(path), "--out", str(out), "--run-dir", str(home), "--watch")
        assert ended.returncode == os.EX_TEMPFAIL, ended.stderr
        assert "finished, 1 of 3 done, 2 failed" in ended.stdout
        assert "line 1 failed (engine_failed): " in ended.stdout
        assert "line 2 failed (unknown_name): " in ended.stdout
        assert {p.name for p in out.iterdir()} == {"fine-0.png", "fine-1.png"}
        with Store(place()) as store:
            (name,) = [found.batch.id for found in store.standings()]
        (out / "fine-1.png").unlink()
        first = kept(out)
        assert told("resume", name)["standing"]["waiting"] == 3
        until(lambda: standing(name).state == "finished", 20, "the second end")
        assert {p.name for p in out.iterdir()} == {"fine-0.png", "fine-1.png"}
        assert kept(out).items() >= first.items()
    assert told("resume", name)["standing"]["waiting"] == 2
    ended = difs("batch", "forget", name)
    assert ended.returncode == os.EX_USAGE
    assert_one_line(ended.stderr)
    assert told("cancel", name)["state"] == "cancelled"
    assert difs("batch", "forget", name).returncode == 0
    assert told("status")["batches"] == []


def test_a_bad_file_costs_nothing_and_says_where(tmp_path: Path, home: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "x"}\n{"prompt": "y", "id": "../../etc/passwd"}\n{"prompt": 3}\n')
    ended = difs("batch", "submit", str(path), "--out", str(tmp_path / "out"), "--run-dir", str(home))
    assert ended.returncode == os.EX_USAGE
    assert_one_line(ended.stderr)
    assert "line 2: id: must be a file's name" in ended.stderr
    assert "line 3: prompt: Expected `str`, got `int`" in ended.stderr
    assert not (tmp_path / "out").exists()
    ended = difs("batch", "cancel", "nothing")
    assert ended.returncode == os.EX_USAGE
    assert_one_line(ended.stderr)
