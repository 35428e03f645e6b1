"""From a file of prompts to a batch in the database: checked whole before anything of it is kept."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec
from msgspec import Struct

from difs.batches import folder, lines
from difs.batches.lines import MAX_LINE_BYTES, MAX_LINES, Form, Line
from difs.batches.store import Batch, Standing, Store
from difs.client import requests
from difs.errors import InvalidRequest

SHOWN_PROBLEMS = 5
_PARTS = ("requirements.", "overrides.")
"""What the protocol's field names have before the words of a line."""

Numbered = tuple[tuple[int, Line], ...]


class Wanted(Struct, frozen=True):
    """What is submitted."""

    source: Path
    folder: Path
    form: Form = "png"
    metadata: bool = True


def submit(store: Store, wanted: Wanted, home: Path, now: float) -> tuple[Standing, bool]:
    """Return the batch that a file is, and whether it is new: the same file for the same folder joins.

    Raises InvalidRequest that names the lines, IdConflict for a folder that another batch still paints
    into, OSError where nothing can be read or written. `now` in seconds since 1970.
    """
    found, digest = read(wanted.source)
    digest = hashlib.sha256(f"{digest} {wanted.form} {wanted.metadata}".encode()).hexdigest()
    place = Path(os.path.realpath(wanted.folder))
    if not _is_text(str(place)):
        raise InvalidRequest("--out: the folder's path is not UTF-8", field="out")
    for known in store.standings():
        if (known.batch.digest, known.batch.folder) == (digest, str(place)):
            return known, False
    folder.prepare(place, [name for number, line in found for name in _files(line, number, wanted)])
    batch = Batch(
        id=secrets.token_hex(4),
        source=wanted.source.name if _is_text(wanted.source.name) else "a file",
        digest=digest,
        folder=str(place),
        form=wanted.form,
        metadata=wanted.metadata,
        home=str(home),
        submitted_at=now,
    )
    store.add(batch, [(number, _with_seed(line)) for number, line in found])
    return store.standing(batch.id), True


def _is_text(path: str) -> bool:
    """Whether a path is UTF-8: the system allows any bytes, the database does not."""
    return path.encode(errors="replace") == os.fsencode(path)


def _files(line: Line, number: int, wanted: Wanted) -> tuple[str, ...]:
    return lines.files_of(line, number, wanted.form)


def _with_seed(line: Line) -> Line:
    """Draw the seed now: whoever paints the line, and however often it is begun, paints the same."""
    return line if line.seed is not None else msgspec.structs.replace(line, seed=secrets.randbits(32))


def read(path: Path) -> tuple[Numbered, str]:
    """Return the numbered lines of a file and its SHA-256; raises InvalidRequest naming bad lines."""
    found: list[tuple[int, Line]] = []
    problems: list[str] = []
    digest = hashlib.sha256()
    for number, raw in _raw_lines(path):
        digest.update(raw)
        text = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        if not text.strip():
            continue
        try:
            found.append((number, _checked(text)))
        except InvalidRequest as error:
            problems.append(f"line {number}: {_own_words(error.message)}")
    problems += _clashes(found)
    if not found and not problems:
        problems = ["no prompts in it"]
    if problems:
        raise InvalidRequest(f"{path}: {_listed(problems)}", field="prompts")
    return tuple(found), digest.hexdigest()


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number in range(1, MAX_LINES + 1):
            raw = file.readline(MAX_LINE_BYTES + 1)
            if not raw:
                return
            if len(raw) > MAX_LINE_BYTES:
                words = f"line {number}: more than {MAX_LINE_BYTES} bytes"
                raise InvalidRequest(
                    f"{path}: {words}", field="prompts", limit=f"<= {MAX_LINE_BYTES} bytes"
                )
            yield number, raw
        if file.read(1):
            words = f"{path}: more than {MAX_LINES} lines; split the file"
            raise InvalidRequest(words, field="prompts", limit=f"<= {MAX_LINES} lines")


def _checked(text: bytes) -> Line:
    """Return a line that the broker would take, too; raises InvalidRequest."""
    line = lines.decode(text)
    requests.build(line.prompt, cast(requests.Wishes, lines.wishes_of(line)), progress=False)
    return line


def _own_words(problem: str) -> str:
    for part in _PARTS:
        problem = problem.removeprefix(part)
    return problem


def _clashes(found: list[tuple[int, Line]]) -> list[str]:
    """Name lines whose files would have the same name, also where capitals make no difference."""
    first: dict[str, int] = {}
    problems = []
    for number, line in found:
        for name in lines.files_of(line, number, "png"):
            other = first.setdefault(name.casefold(), number)
            if other != number:
                problems.append(f"line {number}: its file {name} would be that of line {other}")
                break
    return problems


def _listed(problems: list[str]) -> str:
    left = len(problems) - SHOWN_PROBLEMS
    return "; ".join(problems[:SHOWN_PROBLEMS]) + (f"; and {left} others" if left > 0 else "")
