"""The page of the command line, from the commands themselves."""

import re
from typing import Any

import typer.main

from difs.cli.app import app

Command = Any
"""typer carries a click of its own within it, whose types it does not show."""

OPENING = """# The command line

Generated from the commands by `python -m docs`. Every command takes `--help`, and those that answer take
`--json` and print one JSON object then. `--run-dir` says which service is meant where there are several.

Before a command's name:
"""


def page() -> str:
    """Return the page."""
    root = typer.main.get_command(app)
    parts = [OPENING, _table(root)]
    parts += [_section(name, command) for name, command in walk(root)]
    return "\n".join([*parts, f"## How a command ends\n\n{_prose(root.epilog)}\n"])


def walk(group: Command, prefix: str = "") -> list[tuple[str, Command]]:
    """Return all commands below a group with their whole names, in the order of the help."""
    found = []
    for name, command in group.commands.items():
        whole = f"{prefix} {name}".strip()
        is_group = hasattr(command, "commands")
        if not is_group or command.invoke_without_command:
            found.append((whole, command))
        found += walk(command, whole) if is_group else []
    return found


def _section(name: str, command: Command) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    words = [_bare(piece) for p in command.params for piece in p.get_usage_pieces(context)]
    said = [p.get_help_record(context) for p in command.params if p.param_type_name == "argument"]
    about = "".join(f"- `{word}`: {meaning}\n" for word, meaning in said if meaning != "[required]")
    title = " ".join(["difs", name, *words])
    return f"## `{title}`\n\n{_prose(command.help)}\n\n{about}\n{_table(command)}"


def _bare(piece: str) -> str:
    """Return an argument as its command names it: typer puts brackets around those that are there."""
    return re.sub(r"^\[(\[.*\](?:\.\.\.)?)\](?:\.\.\.)?$", r"\1", piece.strip("{}")).removesuffix(
        "......"
    )


def _table(command: Command) -> str:
    context = command.make_context("difs", [], resilient_parsing=True)
    options = [p for p in command.params if p.param_type_name == "option"]
    rows = [p.get_help_record(context) for p in options if p.name != "help" and not p.hidden]
    lines = [f"| `{said}` | {_prose(meaning)} |" for said, meaning in rows]
    return "\n".join(["| option | meaning |", "|---|---|", *lines, ""]) if lines else ""


def _prose(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")
