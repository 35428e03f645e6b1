"""Things by name: our own, and those that installed packages offer as entry points of a group."""

import difflib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from difs.errors import ConfigError


def names(group: str, ours: Mapping[str, str]) -> list[str]:
    """Return all names of a group, our own and installed ones."""
    return sorted({*ours, *(point.name for point in entry_points(group=group))})


def load(group: str, ours: Mapping[str, str], name: str, *, key: str, what: str) -> Any:
    """Return what is called `name`; none that is installed can take the place of one of `ours`.

    Raises ConfigError, about the configuration's `key`, when there is none or it does not load.
    """
    if name in ours:
        found: EntryPoint | None = EntryPoint(name, ours[name], group)
    else:
        found = next(iter(entry_points(group=group, name=name)), None)
    if found is None:
        known = names(group, ours)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        nearest = f"; the nearest is {near[0]}" if near else ""
        raise ConfigError(f"{key}: no {what} {name!r}{nearest}; installed: {known}")
    try:
        return found.load()
    except Exception as error:  # it is another's code
        words = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{key}: {name!r} does not load: {words}") from error
