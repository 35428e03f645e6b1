"""docs/RELIABILITY.md promises nothing without a test of that name, and names none that is not there."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "RELIABILITY.md").read_text("utf-8")

LINKS = re.findall(r"\[`(test_\w+)`\]\(\.\./([\w/]+\.py)\)", TEXT)


@cache
def names_in(path: str) -> frozenset[str]:
    return frozenset(re.findall(r"^def (test_\w+)\(", (ROOT / path).read_text("utf-8"), re.MULTILINE))


def chapter(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title!r}"
    return found[1]


@pytest.mark.parametrize(("name", "path"), sorted(set(LINKS)))
def test_a_named_test_is_there(name: str, path: str) -> None:
    assert name in names_in(path)


def test_every_test_that_is_named_is_linked() -> None:
    assert set(re.findall(r"`(test_\w+)`", TEXT)) == {name for name, _ in LINKS}


def test_every_promise_has_a_test_that_bears_its_name() -> None:
    promises = re.findall(r"^\d+\. (.*?)(?=^\d+\. |\Z)", chapter("What DIFS promises"), re.M | re.S)
    assert len(promises) == 8
    for promise in promises:
        assert re.search(r"\[`test_\w+`\]", promise), promise


def test_every_fault_is_listed_once_with_a_test_or_the_reason_why_there_is_none() -> None:
    rows = [line.split("|")[1:-1] for line in chapter("Faults").splitlines() if re.match(r"\| \d", line)]
    numbers = [int(row[0]) for row in rows]
    assert numbers == [*range(1, 8), *range(10, 29), *range(30, 37)]
    for row in rows:
        assert "[`test_" in row[2] or "elsewhere" in row[2], row


def test_other_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((\.\.[^)#]+)\)", TEXT):
        assert (ROOT / "docs" / target).exists(), target
