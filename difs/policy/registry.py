"""Policies by name: our own, and those that installed packages offer (entry points `difs.policies`)."""

from difs import plugins
from difs.errors import ConfigError
from difs.policy.base import Options, Policy

GROUP = "difs.policies"
OURS = {
    "cascade": "difs.policy.cascade:Cascade",
    "clipper_heavy": "difs.policy.clipper:ClipperHeavy",
    "clipper_light": "difs.policy.clipper:ClipperLight",
    "edf": "difs.policy.edf:Edf",
    "infaas": "difs.policy.infaas:Infaas",
    "least_loaded": "difs.policy.least_loaded:LeastLoaded",
    "modelless": "difs.policy.modelless:Modelless",
    "proteus": "difs.policy.proteus:Proteus",
    "round_robin": "difs.policy.round_robin:RoundRobin",
    "static": "difs.policy.static:Static",
}
"""Where our own policies stand. No package can take one's place."""


def names() -> list[str]:
    """Return the names of all policies, our own and installed ones."""
    return plugins.names(GROUP, OURS)


def load(name: str, options: Options | None = None) -> Policy:
    """Make the policy called `name`; raises ConfigError when there is none or it does not load."""
    made = plugins.load(GROUP, OURS, name, key="policy.name", what="policy")
    try:
        policy: Policy = made(options or Options())
    except Exception as error:  # it is another's code
        words = f"{type(error).__name__}: {error}"
        raise ConfigError(f"policy.name: {name!r} does not load: {words}") from error
    return policy
