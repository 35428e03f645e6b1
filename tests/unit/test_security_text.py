"""docs/SECURITY.md claims nothing without a test: every test that it names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "SECURITY.md").read_text("utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", TEXT)


def test_every_test_that_is_named_exists() -> None:
    assert len(NAMED) > 15
    for path, name in NAMED:
        text = (ROOT / path).read_text("utf-8")
        assert f"def {name}(" in text or not name, f"{path} has no {name}"


def test_the_fuzzing_targets_are_those_there_are() -> None:
    from tests.fuzz.targets import TARGETS

    (listed,) = re.findall(r"with the targets (.*?)\. With", TEXT, re.DOTALL)
    assert re.findall(r"`(\w+)`", listed) == list(TARGETS)
