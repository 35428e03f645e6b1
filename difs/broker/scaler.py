"""The broker's record of its planner: what it is shown, and what it decided. No decisions here."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from difs.autoscaler.base import Action, Options, Planner, Site, Want
from difs.autoscaler.forecast import Trace

DECISIONS_KEPT = 50


class Decided(NamedTuple):
    """An action that was taken."""

    at: float
    action: Action


@dataclass(eq=False)
class Scaling:
    """The planner, what it is shown, and what it decided."""

    planner: Planner
    options: Options
    next_at: float = float("-inf")
    memory: object = None
    traces: dict[Want, Trace] = field(default_factory=dict)
    pressure: Mapping[str, int] = field(default_factory=dict)
    decisions: deque[Decided] = field(default_factory=lambda: deque(maxlen=DECISIONS_KEPT))
    pins: set[Site] = field(default_factory=set)
