"""Request bodies to typed values: the one door through which JSON enters. Pure."""

from typing import TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import fields

from difs import wire
from difs.errors import DifsError, InvalidRequest

T = TypeVar("T", bound=Struct)

MOST_UNKNOWN = 16
"""Unknown fields that a note names."""
MOST_NAME_CHARS = 40


def decode(body: bytes, kind: type[T]) -> T:
    """Return the body as `kind`; raises a DifsError that names the field. Unknown fields are left out."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None
    except (msgspec.DecodeError, RecursionError, ValueError) as error:  # bad UTF-8, endless digits
        raise InvalidRequest(f"the body is not JSON: {_words(error)}") from None


def _words(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _refusal(text: str) -> DifsError:
    if text.startswith("Expected `object`") and " - at " not in text:
        return InvalidRequest("the body must be one JSON object")
    return wire.refusal(text)


def unknown(body: bytes, kind: type[Struct], neutral: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Return the names in a body, decoded once already, that `kind` does not know; `neutral` ones not."""
    names = msgspec.json.decode(body or b"{}", type=dict[str, msgspec.Raw]).keys()
    known = {field.encode_name for field in fields(kind)} | neutral
    found = sorted(name[:MOST_NAME_CHARS] for name in names if name not in known)
    return tuple(found[:MOST_UNKNOWN])
