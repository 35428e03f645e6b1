"""What docs/BATCHES.md, the help and the example say of batches is so."""

import re
from pathlib import Path

from msgspec.structs import fields

from difs.batches import decisions, keeping, lines, submission
from difs.batches.lines import Line
from difs.cli import batch

ROOT = Path(__file__).parents[2]
SPEC = (ROOT / "docs" / "BATCHES.md").read_text("utf-8")
EXAMPLE = ROOT / "examples" / "batch"
WORDS = {field.name for field in fields(Line)}


def test_the_table_has_the_fields_of_a_line_and_no_others() -> None:
    rows = [row.split("|")[1] for row in SPEC.splitlines() if row.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", "".join(rows))) == WORDS


def test_the_help_of_submit_names_every_field() -> None:
    said = set(re.findall(r"\w+", batch.submit.__doc__ or ""))
    assert said >= WORDS


def test_the_numbers_in_the_text_are_those_of_the_code() -> None:
    text = " ".join(SPEC.split())
    for words in (
        f"at most {lines.MAX_LINES} lines of {lines.MAX_LINE_BYTES} bytes",
        f"at most {lines.MAX_ID_CHARS} letters",
        f"less than {decisions.MIN_FREE_BYTES // 2**20} MiB free",
        f"at most every {keeping.MAX_BACKOFF_S:g} s",
        {3: "is tried three times"}[decisions.MAX_TRIES],
    ):
        assert words in text


def test_every_command_is_told() -> None:
    names = {command.callback.__name__ for command in batch.batch.registered_commands if command.callback}
    assert set(re.findall(r"difs batch (\w+)", SPEC)) == names


def test_the_example_is_taken_and_makes_the_files_that_it_says() -> None:
    found, _ = submission.read(EXAMPLE / "prompts.jsonl")
    made = [name for number, line in found for name in lines.files_of(line, number, "png")]
    told = (EXAMPLE / "README.md").read_text("utf-8")
    assert re.findall(r"`([\w-]+\.png)`", told) == made
