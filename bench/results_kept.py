"""The dated results in bench/results/, read back: the newest of each, checked."""

import ast
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = re.compile(r"(\d{4}-\d\d-\d\d)-([a-z0-9-]+)\.json")
ROUGH = "-quick"
"""What ends the name of a result that is not for telling."""
BUSY = 1.5
"""A machine with more runnable threads than this many per core was not the bench's alone."""
IN_VIRTUAL_TIME = ("policy",)
"""Benches whose figures no load of the machine can change."""


@dataclass(frozen=True)
class Result:
    """One kept result."""

    name: str
    date: str
    path: Path
    command: str
    machine: dict[str, Any]
    figures: dict[str, Any]

    @property
    def goals(self) -> list[dict[str, Any]]:
        """Return the verdicts, if it has any."""
        found: list[dict[str, Any]] = self.figures.get("goals", [])
        return found

    @property
    def subject(self) -> tuple[str, ...]:
        """Return what it is of: its name, and what its command names before the first option."""
        words = self.command.split()
        ahead = words[: next((i for i, word in enumerate(words) if word.startswith("--")), len(words))]
        return (self.name, *ahead[3:])

    @property
    def was_busy(self) -> bool:
        """Whether others computed meanwhile, by the load at its end."""
        if self.name in IN_VIRTUAL_TIME:
            return False
        return bool(self.machine["load_1min"] > BUSY * self.machine["cores"])


def read(path: Path) -> Result:
    """Read one; raises ValueError naming the file where it is no result."""
    named = NAME.fullmatch(path.name)
    if named is None:
        raise ValueError(f"{path.name}: expected DATE-NAME.json, as `bench.report.keep` writes")
    try:
        kept = json.loads(path.read_text("utf-8"))
        return Result(named[2], kept["date"], path, kept["command"], kept["machine"], kept["figures"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name} is no result of a bench: {error!r}") from error


def newest(paths: Iterable[Path]) -> list[Result]:
    """Return the newest result on each subject, by name; rough ones are left out."""
    kept: dict[tuple[str, ...], Result] = {}
    for path in sorted(paths):
        result = read(path)
        if not result.name.endswith(ROUGH):
            kept[result.subject] = result
    return [kept[subject] for subject in sorted(kept)]


def purpose(command: str, root: Path) -> str:
    """Return what a bench says of itself: its docstring's first paragraph, if it has a module."""
    named = re.match(r"python -m (bench\.\w+)", command)
    path = root.joinpath(*named[1].split(".")).with_suffix(".py") if named else root
    if not path.is_file():
        return ""
    words = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return " ".join(words.split("\n\n")[0].split())
