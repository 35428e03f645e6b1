"""Planners by name: our own, and those that installed packages offer (entry points `difs.planners`)."""

from difs import config, plugins
from difs.autoscaler.base import Options, Planner

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


def configured(asked: config.Autoscaler, parking_bytes: int) -> tuple[Planner, Options] | None:
    """Return who plans what is loaded, and with what in mind; None: nobody. Raises ConfigError."""
    planner = load(asked.planner)
    if planner is None:
        return None
    options = Options(
        headroom_bytes=asked.headroom,
        cooldown_s=asked.cooldown,
        settle_s=asked.settle,
        idle_unload_s=asked.idle_unload,
        min_residents=asked.min_residents,
        parking_bytes=parking_bytes,
    )
    return planner, options
