"""Nothing that decides reads the wall clock: it may jump, and nothing shall happen."""

from pathlib import Path

import pytest

from tests.unit.test_house import FILES, name_of, names_of, tree_of

TELLS_THE_TIME = {"time.time", "time.localtime", "time.gmtime", "datetime.now", "datetime.utcnow"}
FOR_PEOPLE = {
    "batches/runner.py",
    "cli/batch.py",
    "cli/bench.py",
    "doors/openai_routes.py",
    "keys.py",
    "logs.py",
    "profiling/runner.py",
}
"""What dates a line of the log, a profile, a batch, a trial, a key, or an OpenAI answer."""


@pytest.mark.parametrize("path", [path for path in FILES if name_of(path) not in FOR_PEOPLE], ids=name_of)
def test_a_jump_of_the_wall_clock_changes_nothing(path: Path) -> None:
    assert TELLS_THE_TIME.isdisjoint(names_of(tree_of(path)))


def test_this_rule_finds_what_it_looks_for() -> None:
    for path in FILES:
        if name_of(path) == "profiling/runner.py":
            assert "datetime.now" in set(names_of(tree_of(path)))
            return
    pytest.fail("the file is gone")
