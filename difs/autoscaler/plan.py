"""Planner `utility`: the residents and modes that forecast requests get most of, within free memory.

Every plan first looks at pressure: a device whose residents need more than others leave steps down, then
parks. Where it is calm, what was forced is undone, what is idle leaves, and now and then the best set of
residents is searched (`difs.autoscaler.search`). A resident changes at most once in a cooldown; a device
that keeps coming under pressure as soon as it recovered is given more and more time.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

from msgspec import Struct

from difs.autoscaler import problem, room, search
from difs.autoscaler.base import (
    Action,
    DeviceView,
    Form,
    Load,
    Plan,
    Replicate,
    SetMode,
    Site,
    View,
)
from difs.autoscaler.search import Problem
from difs.messages import MemoryMode

SEARCH_S = 1.0
"""How often the best set is searched."""

SLIGHT = 1.1
"""A resident is made slower for others' sake only where its device gets worth so many times more;"""
URGENT = 1.6
"""one that is busy, so many times: its requests were promised what they are told by its mode."""
ERRS = 0.1
"""A mode that takes as much memory must save more of the seconds than profiles err by, or residents would
follow their noise from mode to mode, and no picture have the bits of the one before."""
PATIENCE_MOST = 8.0
"""Pressure that returns soon after a recovery doubles the wait for the next, up to so many times;"""
RELAPSE_S = 30.0
"""soon is this."""


class Memory(Struct, frozen=True):
    """What is remembered from plan to plan."""

    changed_at: Mapping[Site, float] = {}
    displaced: Mapping[Site, MemoryMode] = {}
    """What pressure changed or took, and the mode that it was in."""
    pressed_at: Mapping[str, float] = {}
    """When each device was under pressure last,"""
    recovered_at: Mapping[str, float] = {}
    """when something came back after that,"""
    patience: Mapping[str, float] = {}
    """and how many times longer than `settle_s` it waits now."""
    others: Mapping[str, int] = {}
    """What others took of each device when it was last under none."""
    searched_at: float = float("-inf")


class Utility:
    """See the module."""

    name = "utility"

    def plan(self, view: View) -> Plan:
        """See Planner.plan."""
        return _Planning(view).run()


class _Planning:
    """One plan in the making."""

    def __init__(self, view: View) -> None:
        self._view = view
        memory = view.memory if isinstance(view.memory, Memory) else Memory()
        self._before = memory
        long_ago = view.now - max(RELAPSE_S, view.options.cooldown_s, view.options.settle_s)
        self._changed_at = {s: at for s, at in memory.changed_at.items() if at > long_ago}
        self._displaced = dict(memory.displaced)
        self._pressed_at = dict(memory.pressed_at)
        self._recovered_at = dict(memory.recovered_at)
        self._patience = dict(memory.patience)
        self._others = dict(memory.others)
        self._searched_at = memory.searched_at
        self._pressure: dict[str, int] = {}
        self._actions: list[Action] = []

    def run(self) -> Plan:
        calm = []
        view = self._view
        for device in view.devices:
            short = room.shortage(device, view.options)
            if short > 0:
                self._under_pressure(device, short)
                continue
            self._others[device.device] = device.others_bytes
            if not self._could_restore(device):
                self._pressed_at[device.device] = view.now  # it only looks calm, so much has left
            elif self._is_calm(device.device) and not (
                self._restore(device) or self._unload_idle(device)
            ):
                calm.append(device)
        if calm and view.streams and view.now - self._searched_at >= SEARCH_S:
            self._searched_at = view.now
            self._improve(calm)
        for action in self._actions:
            self._changed_at[action.device, action.variant] = view.now
        memory = Memory(
            changed_at=self._changed_at,
            displaced=self._displaced,
            pressed_at=self._pressed_at,
            recovered_at=self._recovered_at,
            patience=self._patience,
            others=self._others,
            searched_at=self._searched_at,
        )
        return Plan(tuple(self._actions), self._pressure, memory)

    def _rested(self, device: DeviceView, seconds: float) -> set[str]:
        """Return the variants that were not changed within so many seconds."""
        now = self._view.now
        names = device.forms.keys() | device.residents.keys()
        never = float("-inf")
        return {n for n in names if now - self._changed_at.get((device.device, n), never) >= seconds}

    def _is_calm(self, device: str) -> bool:
        since = self._view.now - self._pressed_at.get(device, float("-inf"))
        return since >= self._view.options.settle_s * self._patience.get(device, 1.0)

    # ---- pressure -------------------------------------------------------------------------------

    def _under_pressure(self, device: DeviceView, short: int) -> None:
        name, now = device.device, self._view.now
        self._pressure[name] = short
        was_calm = self._is_calm(name)
        if was_calm and now - self._recovered_at.get(name, float("-inf")) < RELAPSE_S:
            self._patience[name] = min(PATIENCE_MOST, 2.0 * self._patience.get(name, 1.0))
        elif was_calm:
            self._patience[name] = 1.0
        self._pressed_at[name] = now
        fixed = device.residents.keys() - self._rested(device, self._view.options.cooldown_s)
        # what others did not take, ours takes more of than was known: nothing of that is to come back
        is_ours = device.others_bytes <= self._others.get(name, -1)
        for action in room.relieve(self._view, device, fixed):
            resident = device.residents.get(action.variant)
            if resident is not None and not is_ours:
                self._displaced.setdefault((name, action.variant), resident.memory_mode)
            self._actions.append(action)

    def _owed(self, device: str) -> list[tuple[str, MemoryMode]]:
        return [(variant, mode) for (where, variant), mode in self._displaced.items() if where == device]

    def _could_restore(self, device: DeviceView) -> bool:
        """Whether anything that pressure changed or took would have room again."""
        owed = [(v, device.form(v, mode)) for v, mode in self._owed(device.device)]
        if not owed:
            return True
        here, limit = room.present(device), room.budget(device, self._view.options)
        return any(f is None or _fits(here, v, f, limit) for v, f in owed)

    def _restore(self, device: DeviceView) -> bool:
        """Bring back what pressure changed or took, as it fits; returns whether something comes back."""
        options, name = self._view.options, device.device
        owed = self._owed(name)
        if not owed:
            return False
        here, limit = room.present(device), room.budget(device, options)
        rested = self._rested(device, options.settle_s)
        acted = False
        for variant, mode in sorted(owed, key=lambda owed: _haste(device, owed[0])):
            wanted, resident = device.form(variant, mode), device.residents.get(variant)
            is_back = resident is not None and resident.memory_mode == mode
            if is_back or wanted is None or (resident is not None and resident.is_pinned):
                del self._displaced[name, variant]
                continue
            if variant in device.moving or variant not in rested:
                continue
            if not _fits(here, variant, wanted, limit):
                continue
            here[variant] = wanted
            acted = True
            self._recovered_at[name] = self._view.now
            why = "memory is free again"
            back: Action = (
                Load(name, variant, mode, why) if resident is None else SetMode(name, variant, mode, why)
            )
            self._actions.append(back)
        return acted

    # ---- idleness -------------------------------------------------------------------------------

    def _unload_idle(self, device: DeviceView) -> bool:
        """Let go what nobody wanted for long, and nobody is expected to."""
        options, now = self._view.options, self._view.now
        long_ago = now - options.idle_unload_s
        if not options.idle_unload_s or all(r.wanted_at > long_ago for r in device.residents.values()):
            return False
        rested = self._rested(device, options.settle_s)
        expected = {s.want.variant for s in self._view.streams if s.uses >= 1.0}
        idle = [
            name
            for name in room.removable(device, (), options.min_residents)
            if now - device.residents[name].wanted_at >= options.idle_unload_s
            and name in rested
            and name not in expected
        ]
        idle.sort(key=lambda n: device.residents[n].wanted_at)
        going = idle[: max(0, len(device.residents) - options.min_residents)]
        for name in going:
            why = f"idle for {now - device.residents[name].wanted_at:.0f} s"
            self._actions += room.leave(self._view, device, name, why)
        return bool(going)

    # ---- the best set ---------------------------------------------------------------------------

    def _improve(self, calm: Collection[DeviceView]) -> None:
        """Do the first part of what leads to the best set: who leaves first, then what fits by then."""
        view = self._view
        rested = {d.device: self._rested(d, view.options.settle_s) for d in calm}
        places, found = problem.of(view, {d.device for d in calm}, rested)
        picks = search.best(found)
        changes = [
            (device, variant, forms, site.current, pick)
            for (device, variant, forms), site, pick in zip(places, found.sites, picks, strict=True)
            if pick != site.current
        ]
        leaving = [(device, variant) for device, variant, forms, _, pick in changes if pick == len(forms)]
        arriving = [
            (device, variant, forms[pick])
            for device, variant, forms, _, pick in changes
            if pick < len(forms) and variant not in device.residents
        ]
        switches = [
            Switch(device, variant, forms[current], forms[pick])
            for device, variant, forms, current, pick in changes
            if pick < len(forms) and variant in device.residents
        ]
        wanted = {device.device for device, *_ in arriving}
        here = self._switch(switches, wanted, _gain(found, picks))
        for device in calm:
            going = [name for there, name in leaving if there is device]
            coming = [form for there, _, form in arriving if there is device]
            self._make_way(device, going, here[device.device], coming)
        for device, variant, form in arriving:
            if self._has_room_now(device, form):
                self._actions.append(self._arrival(device, variant, form))

    def _switch(
        self, switches: Sequence["Switch"], wanted: Collection[str], gain: float
    ) -> dict[str, dict[str, Form]]:
        """Change the modes of residents, as far as there is room now; returns what is meant to be where.

        One is made slower for others' sake only: on the `wanted` devices something arrives, on others one
        grows. And only for a `gain` that is worth it.
        """
        view = self._view
        meant = {device.device: room.present(device) for device in view.devices}
        now = {name: dict(found) for name, found in meant.items()}
        wanted = {*wanted, *(s.device.device for s in switches if s.grows)}
        for switch in sorted(switches, key=attrgetter("grows")):  # the last
            device, variant, old, new = switch
            name = device.device
            least = URGENT if device.residents[variant].is_busy else SLIGHT
            if new.serve_s > old.serve_s and (name not in wanted or gain < least):
                continue
            if switch.is_for_time and new.serve_s > (1 - ERRS) * old.serve_s:
                continue
            meant[name][variant] = new
            if _fits(now[name], variant, new, room.budget(device, view.options)):
                now[name][variant] = new
                self._actions.append(SetMode(name, variant, new.memory_mode, "serves more so"))
        return meant

    def _make_way(
        self, device: DeviceView, going: Sequence[str], here: Mapping[str, Form], coming: Sequence[Form]
    ) -> None:
        """Let those leave in whose place others are worth more, as many as must for what is coming.

        Who has room beside it stays, busy as the device may be: to be there takes nobody's time.
        `here`: in the modes that they are to have.
        """
        limit = room.budget(device, self._view.options)
        kept = [*coming, *(form for name, form in here.items() if name not in going)]
        spare = len(device.residents) - self._view.options.min_residents
        for variant in going:
            if room.footprint([*kept, here[variant]]) <= limit:
                kept.append(here[variant])
            elif spare > 0:
                spare -= 1
                why = "others are worth more in its place"
                self._actions += room.leave(self._view, device, variant, why)

    def _has_room_now(self, device: DeviceView, form: Form) -> bool:
        """Whether a form fits beside what is there, what leaves included, and what this plan brings."""
        coming = [
            found
            for a in self._actions
            if isinstance(a, (Load, Replicate))
            and a.device == device.device
            and (found := device.form(a.variant, a.memory_mode)) is not None
        ]
        here = [*room.present(device).values(), *coming, form]
        return room.footprint(here) <= room.budget(device, self._view.options)

    def _arrival(self, device: DeviceView, variant: str, form: Form) -> Action:
        elsewhere = [d.device for d in self._view.devices if variant in d.residents]
        if elsewhere:
            why = f"more is expected than {', '.join(elsewhere)} can serve"
            return Replicate(device.device, variant, form.memory_mode, why)
        return Load(device.device, variant, form.memory_mode, "expected requests are worth more with it")


def _fits(here: Mapping[str, Form], variant: str, form: Form, limit: int) -> bool:
    """Whether a variant has room in a form, in place of the one in which it may be here."""
    return room.footprint([*(f for n, f in here.items() if n != variant), form]) <= limit


class Switch(NamedTuple):
    """A resident that is to change its mode."""

    device: DeviceView
    variant: str
    old: Form
    new: Form

    @property
    def grows(self) -> bool:
        """Whether it needs more memory then."""
        return _most_bytes(self.new) > _most_bytes(self.old)

    @property
    def is_for_time(self) -> bool:
        """Whether it takes as much memory as before, so that only time is gained."""
        return _most_bytes(self.new) == _most_bytes(self.old)


def _most_bytes(form: Form) -> int:
    return form.rest_bytes + form.peak_bytes


def _gain(asked: Problem, picks: search.Picks) -> float:
    """Return how many times as much picks are worth as what is there, as if all came of one device."""
    before = search.value(asked, search.current(asked))
    more = search.value(asked, picks) - before
    return 1.0 + len(asked.budgets) * more / before if before > 0 else math.inf


def _haste(device: DeviceView, variant: str) -> tuple[bool, bool, str]:
    """Return the order in which variants recover: what has too much to do, what is there, what is not."""
    resident = device.residents.get(variant)
    return resident is None, resident is not None and resident.state != "overloaded", variant
