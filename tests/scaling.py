"""A small world for planners: devices with memory, variants, requests that come. No sockets."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from difs.autoscaler import room
from difs.autoscaler.base import (
    Action,
    DeviceView,
    Evict,
    Form,
    Load,
    Options,
    Park,
    Plan,
    Planner,
    Replicate,
    ResidentView,
    SetMode,
    Site,
    Stream,
    View,
    Want,
)
from difs.autoscaler.forecast import Trace
from difs.messages import MemoryMode
from difs.policy.states import State

GB = 10**9
TICK_S = 0.25


def form(mode: MemoryMode = "full", rest: int = GB, peak: int = 0, **facts: Any) -> Form:
    """Return a form that serves in 0.5 s and loads in 2 s."""
    known: dict[str, Any] = {"serve_s": 0.5, "load_s": 2.0, "quality": 0.8, "latency_s": 0.5}
    known |= {"draft_quality": 0.4, "draft_s": 0.1}
    return Form(mode, rest, peak, **known | facts)


MODES = (form("full", GB, GB // 2), form("tiled", GB, GB // 8), form("model_offload", GB // 4, GB // 8))
"""Three forms, each needs less than the one before."""


def stream(variant: str | None = None, uses: float = 3.0, **facts: Any) -> Stream:
    """Return requests of which `uses` are expected."""
    rate_hz = facts.pop("rate_hz", uses / 30.0)
    return Stream(Want(variant, **facts), rate_hz, uses)


def device(
    name: str = "cuda-0",
    residents: Mapping[str, ResidentView] | None = None,
    forms: Mapping[str, tuple[Form, ...]] | None = None,
    **facts: Any,
) -> DeviceView:
    """Return a device of 8 GB that others leave alone."""
    known: dict[str, Any] = {"total_bytes": 8 * GB, "others_bytes": 0}
    return DeviceView(name, residents=residents or {}, forms=forms or {}, **known | facts)


def view(
    *devices: DeviceView, streams: Sequence[Stream] = (), options: Options | None = None, **facts: Any
) -> View:
    """Return what a planner sees."""
    names = {name for d in devices for name in d.forms}
    known: dict[str, Any] = {"now": 100.0, "families": dict.fromkeys(names, "sd15")}
    return View(
        devices=devices,
        streams=tuple(streams),
        options=options or Options(parking_bytes=100 * GB),
        **known | facts,
    )


@dataclass
class World:
    """Devices that obey a planner, and requests that want one variant each."""

    planner: Planner | None
    forms: dict[str, tuple[Form, ...]]
    total: int
    options: Options
    devices: tuple[str, ...] = ("cuda-0",)
    now: float = 0.0
    others: int = 0
    here: dict[Site, MemoryMode] = field(default_factory=dict)
    parked: set[Site] = field(default_factory=set)
    coming: dict[Site, tuple[float, MemoryMode]] = field(default_factory=dict)
    wanted_at: dict[Site, float] = field(default_factory=dict)
    busy: set[Site] = field(default_factory=set)
    pinned: set[Site] = field(default_factory=set)
    states: dict[Site, State] = field(default_factory=dict)
    traces: dict[str, Trace] = field(default_factory=dict)
    memory: object = None
    changes: list[tuple[float, Action]] = field(default_factory=list)
    hits: int = 0
    misses: int = 0

    def view(self) -> View:
        """Return the world as a planner sees it."""
        streams = tuple(
            Stream(Want(name), trace.rhythm_hz(self.now), trace.uses(self.now))
            for name, trace in sorted(self.traces.items())
        )
        devices = tuple(self._device(name) for name in self.devices)
        families = dict.fromkeys(self.forms, "sd15")
        return View(self.now, devices, families, streams, self.options, self.memory)

    def _device(self, name: str) -> DeviceView:
        residents = {
            v: ResidentView(
                mode,
                is_busy=(d, v) in self.busy,
                is_pinned=(d, v) in self.pinned,
                state=self.states.get((d, v), "active"),
                wanted_at=self.wanted_at.get((d, v), 0.0),
            )
            for (d, v), mode in self.here.items()
            if d == name
        }
        arriving = {v: mode for (d, v), (_, mode) in self.coming.items() if d == name}
        return DeviceView(
            name,
            self.total,
            self.others,
            residents,
            self.forms,
            {v: self.forms[v][0].rest_bytes for d, v in self.parked if d == name},
            frozenset(arriving),
            arriving,
        )

    def tick(self, seconds: float = TICK_S) -> Plan:
        """Let time pass and ask the planner."""
        self.now += seconds
        for site, (due, mode) in list(self.coming.items()):
            if due <= self.now:
                del self.coming[site]
                self.here[site] = mode
                self.wanted_at.setdefault(site, self.now)
        plan = self.planner.plan(self.view()) if self.planner is not None else Plan()
        self.memory = plan.memory or self.memory
        self.obey(plan.actions)
        return plan

    def obey(self, actions: Iterable[Action]) -> None:
        """Do what is planned; it must be possible and allowed."""
        for action in actions:
            site = (action.device, action.variant)
            self.changes.append((self.now, action))
            match action:
                case Load() | Replicate():
                    assert site not in self.here
                    assert site not in self.coming
                    load_s = 0.2 if site in self.parked else self.forms[action.variant][0].load_s
                    self.parked.discard(site)
                    self.coming[site] = (self.now + load_s, action.memory_mode)
                case SetMode():
                    self.here[site] = action.memory_mode
                case Park():
                    assert site not in self.busy | self.pinned
                    del self.here[site]
                    self.parked.add(site)
                case Evict():
                    assert site not in self.busy | self.pinned
                    self.here.pop(site, None)
                    self.parked.discard(site)

    def used(self, name: str | None = None) -> int:
        """Return the bytes that a device's residents need."""
        where = name or self.devices[0]
        return room.footprint(room.present(self._device(where)).values())

    def ask(self, variant: str) -> None:
        """Let a request for a variant come: a hit where it is loaded, else it is loaded for it."""
        self.traces[variant] = self.traces.get(variant, Trace()).arrived(self.now)
        where = self.devices[0]
        site = (where, variant)
        self.wanted_at[site] = self.now
        if site in self.here:
            self.hits += 1
            return
        self.misses += 1
        if site not in self.coming:
            made = room.make(self.view(), self._device(where), variant)
            self.obey(made.leaving)
            mode = made.memory_mode or "full"
            self.obey([Load(where, variant, mode, "wanted")])
