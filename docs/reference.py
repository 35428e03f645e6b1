"""The pages of settings, errors and messages, from the code that reads, raises and decodes them."""

import re
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, UNSET, Meta, Struct, UnsetType
from msgspec.structs import FieldInfo, fields

from difs import errors, messages
from difs.messages import BrokerMessage, ClientMessage

SETTINGS = Path(__file__).parents[1] / "configs" / "default.toml"

CONFIG_OPENING = """# Settings

Generated from [configs/default.toml](../configs/default.toml) by `python -m docs`. Put what you change
into a file of your own (`difs serve --config FILE`), or change single keys:
`difs serve --set broker.lease="10s"`. A key that does not exist is refused, and the nearest one is named.
Durations and sizes are texts with units: `"250ms"` `"30s"` `"2min"` `"1h"`, `"64KiB"` `"8MiB"` `"1GiB"`
`"500MB"`.
"""

ERRORS_OPENING = """# Errors

Generated from `difs.errors` by `python -m docs`. Over ZeroMQ an error is a message with a `code`; the
Python client raises the class that has it; HTTP doors answer with the status. *Again*: whether the same
request may succeed later; then `retry_after_s` says when, if it can be said.

| class | is a | code | HTTP | again | what happened |
|---|---|---|---|---|---|
"""

MESSAGES_OPENING = """# Messages

Generated from `difs.messages` by `python -m docs`: each map that goes over the client protocol, with the
types and limits of its fields. What they mean, and how to speak them, is told in
[PROTOCOL.md](PROTOCOL.md).
"""

LIMITS = {
    "ge": "at least {}",
    "gt": "more than {}",
    "le": "at most {}",
    "lt": "less than {}",
    "multiple_of": "a multiple of {}",
    "min_length": "length at least {}",
    "max_length": "length at most {}",
    "pattern": "as `{}`",
}


def config_page() -> str:
    """Return the page of settings: each key of default.toml, with the comment beside and below it."""
    parts = [CONFIG_OPENING]
    for line in SETTINGS.read_text("utf-8").splitlines():
        if heading := re.fullmatch(r"\[(.*)\]\s*(?:#.*)?", line):
            about = line.partition("#")[2].strip()
            parts += [f"\n## `[{heading[1]}]`\n", *([f"{about}\n"] if about else [])]
            parts += ["| key | default | meaning |", "|---|---|---|"]
        elif key := re.fullmatch(r"(\"?[\w.]+\"?(?:\w+)?\"?) = (.*?)(?:\s+# (.*))?", line):
            name = key[1].strip('"')
            parts.append(f"| `{name}` | `{key[2]}` | {key[3] or ''} |")
        elif (more := re.fullmatch(r"\s+# *(.*)", line)) and parts[-1].endswith(" |"):
            parts[-1] = f"{parts[-1][:-2]} {more[1]} |"
    return "\n".join(parts) + "\n"


def errors_page() -> str:
    """Return the page of errors."""
    return ERRORS_OPENING + "\n".join(_errors_below(errors.DifsError)) + "\n"


def _errors_below(cls: type[errors.DifsError]) -> list[str]:
    rows = []
    for below in cls.__subclasses__():
        if below.__module__ == errors.__name__:
            what = " ".join((below.__doc__ or "").split("\n\n")[0].split())
            again = "yes" if below.retryable else ""
            names = f"`{below.__name__}` | `{cls.__name__}` | `{below.code}`"
            rows += [f"| {names} | {below.http_status} | {again} | {what} |", *_errors_below(below)]
    return rows


def messages_page() -> str:
    """Return the page of messages."""
    sides = (("What clients send", ClientMessage), ("What the broker sends", BrokerMessage))
    told: set[type[Struct]] = set()
    parts = [MESSAGES_OPENING]
    for title, union in sides:
        parts.append(f"\n## {title}\n")
        parts += [_map(cls) for cls in get_args(union)]
        told |= set(get_args(union))
    parts.append("\n## Maps within them\n")
    within = [cls for cls in vars(messages).values() if isinstance(cls, type) and issubclass(cls, Struct)]
    parts += [_map(cls) for cls in within if cls is not Struct and cls not in told]
    return "\n".join(parts) + "\n"


def _map(cls: type[Struct]) -> str:
    tag = cls.__struct_config__.tag
    about = " ".join((cls.__doc__ or "").split("\n\n")[0].split())
    rows = [f"| `{f.encode_name}` | {_type(f.type)} | {_default(f)} |" for f in fields(cls)]
    table = "\n".join(["| field | type | without it |", "|---|---|---|", *rows]) if rows else "No fields."
    return f"### `{tag or cls.__name__}`\n\n{about}\n\n{table}\n"


def _default(field: FieldInfo) -> str:
    if field.default_factory is not NODEFAULT:
        made = field.default_factory()
        return f"`{made!r}`" if not isinstance(made, Struct) else f"an empty `{type(made).__name__}`"
    if field.default is NODEFAULT:
        return "**needed**"
    if field.default is UNSET or field.default is None:
        return ""
    return f"`{msgspec.to_builtins(field.default)!r}`"


def _type(kind: Any) -> str:
    """Return a type in words, with its limits."""
    if get_origin(kind) is Annotated:
        inner, *notes = get_args(kind)
        limits = [_limits(note) for note in notes if isinstance(note, Meta)]
        return ", ".join([_type(inner), *(limit for limit in limits if limit)])
    if get_origin(kind) in {UnionType, Union}:
        parts = [a for a in get_args(kind) if a not in {type(None), UnsetType}]
        return " or ".join(_type(a) for a in parts)
    if get_origin(kind) is Literal:
        return " ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) in {tuple, list, frozenset}:
        return f"list of {_type(get_args(kind)[0])}"
    if get_origin(kind) is not None:
        return "map of " + " to ".join(_type(a) for a in get_args(kind))
    names = {
        str: "text",
        bytes: "bytes",
        int: "integer",
        float: "number",
        bool: "truth",
        type(None): "nil",
    }
    return names.get(kind, f"`{getattr(kind, '__name__', kind)}`")


def _limits(meta: Meta) -> str:
    found = [(words, getattr(meta, name)) for name, words in LIMITS.items()]
    return ", ".join(words.format(value) for words, value in found if value is not None).replace(
        "|", "\\|"
    )
