"""`difs bench` on a real service: refusals, faults, Ctrl-C and a dying service are counted, not fatal."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from difs.trials import results
from difs.trials.comparing import compare
from difs.trials.records import UNFINISHED, Trial
from tests.process.service import Service, assert_one_line, difs, script, settings, until

pytestmark = pytest.mark.process

SCENARIO = """
seed = 3
clients = 3
prompts = ["a cat", "a dog", "this breaks"]
[arrivals]
rate_hz = 40
seconds = 1.0
[[mix]]
share = 2
[[mix]]
latency_s = 20
"""


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    faults = ["{kind='error', prompt='breaks'}"]
    with Service(["--device", "simulated:2", *settings(script(faults, step_s=0.2))]) as service:
        yield service


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "scenario.toml"
    path.write_text(SCENARIO)
    return path


def bench(service: Service, out: Path, *options: str) -> dict[str, Any]:
    ended = difs("bench", "--json", "--run-dir", str(service.home.path), "--out", str(out), *options)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    facts: dict[str, Any] = json.loads(ended.stdout)
    assert facts["file"] == str(out)
    return dict(facts["figures"])


def begun(service: Service, out: Path, *options: str) -> "subprocess.Popen[str]":
    """Start a trial, and return when the first of its requests has ended."""
    where = ("--run-dir", str(service.home.path), "--out", str(out))
    process = subprocess.Popen(
        [sys.executable, "-m", "difs", "bench", *where, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: out.exists() and b'"type":"request"' in out.read_bytes(), 60, "the first end")
    return process


def test_a_trial_is_counted_kept_asked_again_and_compared(
    service: Service, scenario: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    told = bench(service, first, "--scenario", str(scenario), "--warmup", "0.2")
    kept = results.read(first)
    assert told["requests"] == len(kept.counted) == kept.header.requests > 20
    assert told["failed"] == {"engine_failed": told["requests"] - told["delivered"]}
    assert told["attainment"] < 1.0, "what failed was not in time"
    assert told["variants"].keys() == {"emoji-base"}
    assert told["promises_kept"] is not None
    assert kept.looks
    assert kept.header.settings is not None
    assert kept.header.settings["policy"]["name"] == "static"
    assert {r.number for r in kept.requests} == set(range(kept.requests[0].number, kept.header.requests))
    assert_whole(kept)

    bench(service, second, "--like", str(first))
    assert results.read(second).header.digest == kept.header.digest
    compared = compare(kept, results.read(second))
    assert compared.paired
    assert compared.warnings == ()


def assert_whole(trial: Trial) -> None:
    """Check that a latency counts from when a request was due, and is made of its phases."""
    for r in trial.counted:
        assert r.sent_s >= r.due_s
        assert r.latency_s >= r.ended_s - r.sent_s
        if r.is_delivered:
            assert sum(r.phases().values()) == pytest.approx(r.latency_s)
            assert r.phases()["hand-over"] > 0
            assert r.predicted_s is not None


def test_goals_and_rate_are_found_where_nothing_is_said(service: Service, tmp_path: Path) -> None:
    out = tmp_path / "plain.jsonl"
    bench(service, out, "--seconds", "0.5", "--warmup", "0")
    asked = results.read(out).header.workload
    assert len(asked.mix) == 5
    assert "red apple" in asked.prompts
    assert asked.arrivals.rate_hz != 1.0


def test_ctrl_c_keeps_what_came(service: Service, tmp_path: Path) -> None:
    out = tmp_path / "cut.jsonl"
    process = begun(service, out, "--rate", "60", "--seconds", "600", "--warmup", "0", "--quality", "low")
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=90)
    assert process.returncode == 130, errors
    assert "requests delivered" in said
    assert "interrupted" in said
    kept = results.read(out)
    assert kept.end is not None
    assert kept.end.interrupted
    assert kept.counted
    assert all(r.code in ("", UNFINISHED, "engine_failed") for r in kept.requests)


def test_a_service_that_dies_is_a_result(tmp_path: Path) -> None:
    out = tmp_path / "died.jsonl"
    with Service(["--device", "simulated:1", *settings(script(step_s=0.2))]) as service:
        process = begun(
            service, out, *shlex.split("--rate 30 --seconds 3 --warmup 0 --clients 2 --quality low")
        )
        os.kill(service.children()["broker"], signal.SIGSTOP)  # its supervisor ends it after a while
        said, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    assert "failed: broker_lost" in said
    told = results.read(out)
    assert {r.code for r in told.counted} == {"", "broker_lost"}, "before it, and after"
    assert told.end is not None
    assert told.end.missed_looks > 0
    assert len(told.counted) == told.header.requests


def test_what_the_service_would_never_take_is_refused_before_it_is_asked(
    service: Service, scenario: Path, tmp_path: Path
) -> None:
    scenario.write_text(SCENARIO + 'variant = "emoji-bose"\n')
    out = tmp_path / "never.jsonl"
    where = ("--run-dir", str(service.home.path), "--out", str(out))
    ended = difs("bench", "--scenario", str(scenario), *where)
    assert ended.returncode == 64, ended.stderr
    assert "mix, row 2" in ended.stderr
    assert "emoji-bose" in ended.stderr
    assert not out.exists(), "a trial that never began leaves no file"


def test_an_earlier_result_is_not_written_over(service: Service, tmp_path: Path) -> None:
    out = tmp_path / "mine.jsonl"
    out.write_text("mine")
    ended = difs("bench", "--rate", "1", "--run-dir", str(service.home.path), "--out", str(out))
    assert ended.returncode == 64
    assert_one_line(ended.stderr)
    assert out.read_text() == "mine"
