"""The diagrams of states, from the broker's tables (`difs.broker.states`), as Mermaid."""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from difs.broker import states

TABLES: Mapping[str, Mapping[Any, Mapping[states.Cause, Any]]] = {
    "request": states.REQUEST_TABLE,
    "attempt": states.ATTEMPT_TABLE,
    "actor": states.ACTOR_TABLE,
}


def diagram(table: Mapping[Any, Mapping[states.Cause, StrEnum]]) -> str:
    """Return one table as a Mermaid diagram: an arrow for each change, named by its causes."""
    lines = ["stateDiagram-v2", f"    [*] --> {next(iter(table))}"]
    for state, changes in table.items():
        causes: dict[StrEnum, list[str]] = {}
        for cause, following in changes.items():
            causes.setdefault(following, []).append(cause.value)
        lines += [f"    {state} --> {after}: {', '.join(why)}" for after, why in causes.items()]
        if not changes:
            lines.append(f"    {state} --> [*]")
    return "\n".join(lines)


def filled(page: str) -> str:
    """Return a page with the diagram of each table between its two marks."""
    for name, table in TABLES.items():
        marked = re.compile(rf"(<!-- states: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        made = f"```mermaid\n{diagram(table)}\n```\n"
        page, count = marked.subn(lambda found, made=made: found[1] + made + found[2], page)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"the page has {count} places for the states of {name}, not one")
    return page
