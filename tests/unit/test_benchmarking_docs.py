"""What docs/BENCHMARKING.md says of trials is so."""

import re
from pathlib import Path

from typer.main import get_command

from difs.cli.bench import bench
from difs.simulation import scenario
from difs.trials import comparing, drawing, figures
from difs.trials.records import PHASES
from difs.trials.workload import MAX_CLIENTS
from tests.trials import delivered, trial

TEXT = (Path(__file__).parents[2] / "docs" / "BENCHMARKING.md").read_text("utf-8")
SCENARIO = re.search(r"    seed = 7\n.*?timeout_s\n", TEXT, re.DOTALL)


def rows(before: str) -> set[str]:
    """Return the names in the first column of the table that follows some words."""
    table = TEXT.partition(before)[2].partition("\n\n")[0]
    return set(re.findall(r"`([\w-]+)`", " ".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE))))


def test_the_scenario_in_the_text_is_read() -> None:
    assert SCENARIO is not None
    plain = "\n".join(line[4:] for line in SCENARIO[0].splitlines())
    found = scenario.parse(plain)
    assert found.arrivals.pattern == "burst"
    assert [wish.share for wish in found.mix] == [3.0, 1.0]
    words = re.findall(r"\w+", plain.rpartition("also:")[2])
    assert set(words) <= set(scenario.Wish.__struct_fields__)


def test_the_table_names_figures_that_are_told() -> None:
    assert rows("## What is told\n\n") <= figures.of_trial(trial([delivered(0, 0.2)])).keys()


def test_the_table_names_every_phase() -> None:
    assert rows("add up to its latency:\n\n") == set(PHASES)


def test_every_option_and_command_in_the_text_is_there() -> None:
    command = get_command(bench)
    lines = re.findall(r"^    (?:difs|.*) bench (.*?)(?:  +#.*)?$", TEXT, re.MULTILINE)
    assert len(lines) > 6
    for line in lines:
        first, *_ = line.split()
        known = command.commands.get(first, command)  # type: ignore[attr-defined]
        options = {name for parameter in known.params for name in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", line)) <= options


def test_the_numbers_in_the_text_are_those_of_the_code() -> None:
    text = " ".join(TEXT.split())
    assert f"at most {MAX_CLIENTS}" in text
    assert f"p95 of {figures.ENOUGH[95]}, p99 of {figures.ENOUGH[99]}" in text
    assert f"{comparing.LEVEL:.0%}".replace("%", " %") in text
    assert all(what in text for what in drawing.WHATS)
