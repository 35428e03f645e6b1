"""Policies by name: ours and those that installed packages offer (entry points `difs.policies`)."""

import difflib
from importlib.metadata import entry_points

from difs.errors import ConfigError
from difs.policy.base import Options, Policy

GROUP = "difs.policies"


def names() -> list[str]:
    """Return the names of all installed policies."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load(name: str, options: Options | None = None) -> Policy:
    """Make the policy called `name`; raises ConfigError when there is none or it does not load."""
    found = next(iter(entry_points(group=GROUP, name=name)), None)
    if found is None:
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.0)
        nearest = f"; the nearest is {near[0]}" if near else ""
        raise ConfigError(f"policy.name: no policy {name!r}{nearest}; installed: {names()}")
    try:
        policy: Policy = found.load()(options or Options())
    except Exception as error:  # it is another's code
        words = f"{type(error).__name__}: {error}"
        raise ConfigError(f"policy.name: {name!r} does not load: {words}") from error
    return policy
