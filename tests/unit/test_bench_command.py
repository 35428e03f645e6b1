"""`difs bench` as it is called: bad input costs nothing, and says what was expected."""

import json
from pathlib import Path

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner, Result

import difs.cli  # noqa: F401 -- adds the commands
from difs.cli.app import app
from difs.simulation.scenario import Arrivals
from difs.trials.records import encode
from tests.trials import delivered, trial


def bench(*options: str) -> Result:
    return CliRunner().invoke(app, ["bench", *options])


def assert_refused(result: Result, status: int, words: str) -> None:
    assert result.exit_code == status, result.output
    assert words in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (("--rate", "1", "--quality", "splendid"), 78, "quality"),
        (("--rate", "1", "--set", "mixed=1"), 78, "no 'mixed'"),
        (("--rate", "1", "--clients", "5000"), 78, "clients"),
        (("--rate", "0"), 78, "rate_hz"),
        (("--rate", "1", "--latency", "1e6"), 64, "mix, row 1"),
        (("--rate", "1", "--warmup", "-1"), 78, "warmup_s"),
        (("--seconds", "nan"), 78, "seconds"),
    ],
)
def test_bad_input_is_refused_before_anything_is_started(
    tmp_path: Path, options: tuple[str, ...], status: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("difs.private.PrivateService.start", lambda self: pytest.fail("it was started"))
    out = tmp_path / "never.jsonl"
    result = bench("--run-dir", str(tmp_path / "nothing"), "--out", str(out), *options)
    assert_refused(result, status, words)
    assert not out.exists()


@pytest.fixture
def result_file(tmp_path: Path) -> Path:
    path, made = tmp_path / "by-hand.jsonl", trial([delivered(i, 0.3) for i in range(30)])
    lines = [made.header, *made.requests, *made.looks, made.end]
    path.write_bytes(b"".join(encode(line) + b"\n" for line in lines))
    return path


def test_options_of_a_trial_are_not_lost_on_another_command(result_file: Path) -> None:
    assert_refused(bench("--rate", "3", "show", str(result_file)), 2, "not for show")


def test_what_is_asked_again_is_not_changed(result_file: Path) -> None:
    assert_refused(bench("--like", str(result_file), "--rate", "3"), 2, "leave out rate")


def test_what_cannot_be_asked_again_is_refused_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("difs.private.PrivateService.start", lambda self: pytest.fail("it was started"))
    path, lost = tmp_path / "traced.jsonl", Arrivals(pattern="file", file=str(tmp_path / "lost.txt"))
    made = trial([])
    header = replace(made.header, workload=replace(made.header.workload, arrivals=lost))
    path.write_bytes(encode(header) + b"\n")
    assert_refused(bench("--like", str(path), "--run-dir", str(tmp_path / "nothing")), 78, "lost.txt")


def test_a_result_is_shown_again_and_compared(result_file: Path) -> None:
    shown = bench("show", str(result_file), "--json")
    assert json.loads(shown.stdout)["figures"]["delivered"] == 30
    assert "30 of 30 requests delivered" in bench("show", str(result_file)).stdout
    assert "request by request" in bench("compare", str(result_file), str(result_file)).stdout


def test_a_picture_is_drawn_beside_the_result(result_file: Path) -> None:
    pytest.importorskip("matplotlib")
    assert bench("plot", str(result_file)).exit_code == 0
    assert result_file.with_suffix(".png").stat().st_size > 1000
    assert_refused(bench("plot", str(result_file), "--what", "nothing"), 64, "timeline")
    assert_refused(bench("plot", str(result_file), "--out", "a.pdf"), 64, "a chart is one of")


@pytest.mark.parametrize("command", [("show", 1), ("plot", 1), ("compare", 2)])
def test_a_file_that_is_no_trial_is_refused(tmp_path: Path, command: tuple[str, int]) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text('{"prompt": "a cat"}\n')
    assert_refused(bench(command[0], *[str(path)] * command[1]), 78, "other.jsonl, line 1")
