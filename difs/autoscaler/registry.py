"""Planners by name: our own, and those that installed packages offer (entry points `difs.planners`)."""

from difs import plugins
from difs.autoscaler.base import Planner

GROUP = "difs.planners"
OURS = {
    "infaas": "difs.autoscaler.baselines:Infaas",
    "infaas_individual": "difs.autoscaler.baselines:Individual",
    "infaas_static": "difs.autoscaler.baselines:Static",
    "utility": "difs.autoscaler.plan:Utility",
}
OFF = "off"
"""Nobody plans: variants come when they are asked for, and none gives way."""


def load(name: str) -> Planner | None:
    """Make the planner called `name`, None for `off`; raises ConfigError when there is none."""
    if name == OFF:
        return None
    planner: Planner = plugins.load(GROUP, OURS, name, key="autoscaler.planner", what="planner")()
    return planner
