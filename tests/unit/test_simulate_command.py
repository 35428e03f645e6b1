"""`difs simulate` as it is called: tables in, figures, a picture and a log out."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import difs.cli  # noqa: F401 -- adds the commands
from difs.cli.app import app
from tests.unit.test_simulation_world import RUN_TIMES


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "run_times_sdturbo.csv"
    path.write_text(RUN_TIMES)
    return path


def simulate(table: Path, *options: str) -> Result:
    command = ["simulate", "--tables", str(table), "--seconds", "5", "--rate", "2", "--latency", "4"]
    return CliRunner().invoke(app, [*command, *options])


def runs_of(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    runs: dict[str, Any] = json.loads(result.stdout)["runs"]
    return runs


def test_figures_of_one_run_as_json(table: Path) -> None:
    runs = runs_of(simulate(table, "--json", "--devices", "2"))
    told = runs["modelless"]
    assert told["requests"] == told["delivered"] > 0
    assert told["variants"].keys() <= {"sd15", "sd-turbo"}
    assert told["memory"][0][0] == 0.0
    assert (
        told["log_hash"] == runs_of(simulate(table, "--json", "--devices", "2"))["modelless"]["log_hash"]
    )


def test_policies_side_by_side_and_what_a_change_would_bring(table: Path) -> None:
    result = simulate(table, "--compare", "modelless, clipper_light", "--what-if", "devices=3", "--json")
    assert list(runs_of(result)) == [
        "modelless",
        "clipper_light",
        "modelless, devices=3",
        "clipper_light, devices=3",
    ]


def test_a_table_for_people_names_every_policy(table: Path) -> None:
    result = simulate(table, "--compare", "static,edf")
    assert result.exit_code == 0
    assert {"static", "edf"} <= {line.split(" ")[0] for line in result.stdout.splitlines()}
    assert "delivered" in result.stdout


def test_a_picture_is_drawn(table: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "picture.png"
    assert simulate(table, "--out", str(out)).exit_code == 0
    assert out.stat().st_size > 1000


def test_the_log_has_all_that_happened(table: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    assert simulate(table, "--log", str(log)).exit_code == 0
    lines = log.read_text().splitlines()
    assert sum(" result r" in line for line in lines) > 3
    assert lines[0].startswith("modelless 0.0")


def test_a_scenario_file_a_trace_and_settings_go_together(table: Path, tmp_path: Path) -> None:
    scenario, trace = tmp_path / "scenario.toml", tmp_path / "trace.txt"
    scenario.write_text("seed = 9\n[fleet]\ndevices = 2\n")
    trace.write_text("100,1\n300,2\n900,3\n")
    options = ("--scenario", str(scenario), "--trace", str(trace), "--set", "mishaps.slow_per_h=5")
    assert runs_of(simulate(table, *options, "--json"))["modelless"]["requests"] == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--what-if", "devices"), "key=value"),
        (("--set", "devics=3"), "devics"),
        (("--policy", "best"), "no policy 'best'"),
        (("--memory", "much"), "64MiB"),
    ],
)
def test_what_cannot_be_simulated_is_refused_in_words(
    table: Path, options: tuple[str, ...], words: str
) -> None:
    result = simulate(table, *options)
    assert result.exit_code == 78, result.output
    assert words in result.output
