"""One line of a file of prompts: what may stand in it, and how its files are called.

The words are those of `generate`; its limits stand in `difs.messages` and are checked where a batch is
submitted. No files here.
"""

import difflib
import re
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import asdict, fields

from difs.errors import InvalidRequest

Form = Literal["png", "jpeg", "webp"]
FORMS: tuple[str, ...] = get_args(Form)
_SUFFIXES: dict[str, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}

MAX_LINES = 100_000
MAX_LINE_BYTES = 64 * 1024
MAX_ID_CHARS = 64

FileId = Annotated[str, Meta(max_length=MAX_ID_CHARS, pattern=r"^[A-Za-z0-9][A-Za-z0-9._\-]*\Z")]
"""The name of a file without its suffix; no separator and no leading dot, so it stays in its folder."""


class Line(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A prompt, and what of `generate` goes with it."""

    prompt: str
    id: FileId | None = None
    """How its files are called; by default the number of the line."""
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    n: int = 1
    seed: int | None = None
    latency_s: float | None = None
    quality: float | str | None = None
    on_infeasible: str | None = None
    variant: str | None = None
    family: str | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    adapters: dict[str, float] | tuple[str, ...] | None = None
    """Names with their weights, or names alone."""
    deterministic: bool | None = None


_decoder = msgspec.json.Decoder(Line)
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_AT = re.compile(r"^(?P<problem>.*) - at `\$\.?(?P<field>[^`]+)`$", re.DOTALL)


def decode(raw: bytes) -> Line:
    """Return the line that `raw` holds as JSON; raises InvalidRequest in words for people."""
    try:
        return _decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise InvalidRequest(_words(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"not a JSON object: {error}") from None


def _words(problem: str) -> str:
    """Turn msgspec's sentence into one that begins with the field and says what was expected."""
    if unknown := _UNKNOWN.match(problem):
        known = [field.name for field in fields(Line)]
        name = unknown["name"][:MAX_ID_CHARS]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        return f"{name!r} is no field of a line; the nearest is {near}"
    if found := _AT.match(problem):
        if found["field"] == "id":
            return (
                f"id: must be a file's name of at most {MAX_ID_CHARS} letters, digits, '.', '_', '-',"
                " the first a letter or digit"
            )
        return f"{found['field']}: {found['problem']}"
    return problem


def encode(line: Line) -> bytes:
    """Return a line as JSON."""
    return msgspec.json.encode(line)


def wishes_of(line: Line) -> dict[str, Any]:
    """Return a line as arguments of the client's `generate`, its prompt left out."""
    given = asdict(line)
    del given["prompt"], given["id"]
    return {name: value for name, value in given.items() if value is not None}


def files_of(line: Line, number: int, form: Form) -> tuple[str, ...]:
    """Return the names of a line's files, an image each: known before anything is painted."""
    stem, suffix = line.id or f"{number:06}", _SUFFIXES[form]
    if line.n == 1:
        return (f"{stem}{suffix}",)
    return tuple(f"{stem}-{i}{suffix}" for i in range(line.n))
