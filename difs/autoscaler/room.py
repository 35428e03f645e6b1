"""Who gives way when device memory is short: lighter modes before parking, parking before dropping. Pure.

What leaves is what is missed least (regret): the forecast requests that nobody else would serve as well,
and the seconds of the way back, for each byte. When it was used last does not count: a working set a
little larger than memory, asked for in turns, would lose every time (as LRU does).
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from difs.autoscaler.base import Action, DeviceView, Evict, Form, Options, Park, SetMode, View, Wants
from difs.autoscaler.worth import SECOND, offer_of, price_of, serve
from difs.messages import MemoryMode


def footprint(forms: Iterable[Form]) -> int:
    """Return the bytes that residents take: all that rests, and the largest call of any."""
    rest = peak = 0
    for form in forms:
        rest += form.rest_bytes
        peak = max(peak, form.peak_bytes)
    return rest + peak


def present(device: DeviceView) -> dict[str, Form]:
    """Return the forms of what is on a device, or on its way there."""
    modes = {name: found.memory_mode for name, found in device.residents.items()} | dict(device.arriving)
    return {
        name: form
        for name, mode in modes.items()
        for form in device.forms.get(name, ())
        if form.memory_mode == mode
    }


def budget(device: DeviceView, options: Options) -> int:
    """Return the bytes that residents may take, with the headroom left free."""
    return device.total_bytes - device.others_bytes - options.headroom_bytes


def shortage(device: DeviceView, options: Options) -> int:
    """Return how many bytes a device has too few; negative: how many it has left."""
    return footprint(present(device).values()) - budget(device, options)


def wants_of(view: View) -> Wants:
    """Return what the streams of a view want."""
    return Wants(tuple([stream.want for stream in view.streams]))


def uses_of(view: View, variant: str) -> float:
    """Return how many requests are expected that a variant may serve."""
    family = view.families.get(variant, "")
    return sum(s.uses for s in view.streams if s.want.allows(variant, family))


# ---- regret -------------------------------------------------------------------------------------


def regrets(view: View, device: DeviceView) -> dict[str, float]:
    """Return what would be missed of each resident, in pictures of quality 1 within the horizon."""
    offers, places = [], []
    wants = wants_of(view)
    for number, other in enumerate(view.devices):
        for name, form in present(other).items():
            offers.append(offer_of(form, name, view.families.get(name, ""), wants, number))
            places.append((other.device, name))
    devices = len(view.devices)
    price = price_of([(o.serve_s, o.worths) for o in offers], view.streams, devices)
    total = serve(offers, view.streams, devices, price).total
    found = {}
    for i, (where, name) in enumerate(places):
        if where == device.device:
            rest = serve(offers[:i] + offers[i + 1 :], view.streams, devices, price).total
            found[name] = max(0.0, total - rest) + _return(view, device, name)
    return found


def _return(view: View, device: DeviceView, name: str) -> float:
    """Return what the way back costs, as likely as it is."""
    forms = device.forms.get(name)
    if not forms:
        return 0.0
    return SECOND * forms[0].load_s * min(1.0, 0.01 + uses_of(view, name))


def removable(device: DeviceView, kept: Collection[str], least: int) -> list[str]:
    """Return the residents that may leave: not busy, pinned, moving or `kept`; none of `least`."""
    if len(device.residents) <= least:
        return []
    return [
        name
        for name, found in device.residents.items()
        if not (found.is_busy or found.is_pinned or name in device.moving or name in kept)
    ]


def by_regret(
    device: DeviceView, here: Mapping[str, Form], regret: Mapping[str, float], kept: Collection[str]
) -> list[str]:
    """Return who may leave, the least missed for its bytes first.

    Of those missed alike, the one that was wanted last: in a cycle its turn comes last, too.
    """
    return _sorted(device, here, regret, removable(device, kept, 0))


def _sorted(
    device: DeviceView, here: Mapping[str, Form], regret: Mapping[str, float], names: Iterable[str]
) -> list[str]:
    def key(name: str) -> tuple[float, float, str]:
        each = regret.get(name, 0.0) / max(1, here[name].rest_bytes)
        return float(f"{each:.1e}"), -device.residents[name].wanted_at, name

    return sorted([name for name in names if name in here], key=key)


def _awaited(device: DeviceView) -> list[str]:
    """Return the residents that only queued requests keep."""
    return [
        name
        for name, found in device.residents.items()
        if found.is_awaited and not (found.is_pinned or name in device.moving)
    ]


# ---- room for a variant that is wanted ----------------------------------------------------------


class Room(NamedTuple):
    """How a variant finds room on a device."""

    memory_mode: MemoryMode | None
    """None: whatever its actor would choose."""
    leaving: tuple[Action, ...]
    fits: bool


UNKNOWN = Room(None, (), fits=True)
"""Nothing is known of the memory: it may come as it likes."""


def make(view: View, device: DeviceView, variant: str, *, is_next: bool = False) -> Room:
    """Return how to make room for a variant that a request or an administrator wants now.

    Of its modes, the one that costs least: what must leave for it, and how much slower it serves.
    `is_next`: the next request that is served wants it, so what only later ones want leaves, too, after
    all others; it comes back in its turn.
    """
    forms = device.forms.get(variant, ())
    if not forms:
        return UNKNOWN
    here = present(device)
    here.pop(variant, None)
    regret = regrets(view, device)
    candidates = by_regret(device, here, regret, (variant,))
    if is_next:
        candidates += _sorted(device, here, regret, _awaited(device))
    limit = budget(device, view.options)
    ways = [_way(form, here, candidates, limit) for form in forms]
    possible = [(form, way) for form, way in zip(forms, ways, strict=True) if way is not None]
    if not possible:
        return Room(forms[-1].memory_mode, (), fits=False)
    uses = max(1.0, sum(s.uses for s in view.streams if s.want.variant == variant))

    def price(entry: tuple[Form, list[str]]) -> float:
        form, leaving = entry
        back_s = sum(
            device.forms[name][0].load_s for name in leaving if device.residents[name].is_awaited
        )
        return (
            sum(regret[name] for name in leaving)
            + SECOND * back_s
            + SECOND * uses * (form.serve_s - forms[0].serve_s)
        )

    form, leaving = min(possible, key=price)
    why = f"makes room for {variant}, which is wanted now"
    actions = [action for name in leaving for action in leave(view, device, name, why)]
    return Room(form.memory_mode, tuple(actions), fits=True)


def _way(form: Form, here: Mapping[str, Form], candidates: list[str], limit: int) -> list[str] | None:
    """Return who leaves so that a form fits, the least missed first; None: nobody can make it fit."""
    staying = dict(here)
    leaving: list[str] = []
    for name in [*candidates, None]:
        if footprint([*staying.values(), form]) <= limit:
            return leaving
        if name is not None:
            del staying[name]
            leaving.append(name)
    return None


# ---- leaving ------------------------------------------------------------------------------------


def leave(view: View, device: DeviceView, variant: str, reason: str) -> list[Action]:
    """Return how a resident leaves: parked, where what is parked and missed less makes room for it."""
    nbytes = max(form.rest_bytes for form in device.forms[variant])  # those of all its weights
    most = view.options.parking_bytes
    if nbytes > most:
        return [Evict(device.device, variant, f"{reason}; host memory has no room to park it")]
    uses = {name: uses_of(view, name) for name in (*device.parked, variant)}
    actions: list[Action] = []
    left = sum(nbytes for name, nbytes in device.parked.items() if name != variant)
    for name in sorted(device.parked.keys() - {variant}, key=lambda n: (uses[n], n)):
        if left + nbytes <= most:
            break
        if uses[name] > uses[variant]:
            return [Evict(device.device, variant, f"{reason}; what is parked is wanted more")]
        left -= device.parked[name]
        actions.append(Evict(device.device, name, f"host memory is wanted for {variant}"))
    return [*actions, Park(device.device, variant, reason)]


# ---- pressure -----------------------------------------------------------------------------------


def relieve(view: View, device: DeviceView, fixed: Collection[str]) -> list[Action]:
    """Return what brings a device back to its budget: `fixed` ones are left as they are.

    First the lighter modes that cost the fewest seconds for the bytes that they save, those of busy
    residents, too; then the residents leave that are missed least.
    """
    here, limit = present(device), budget(device, view.options)
    short = footprint(here.values()) - limit
    why = f"{_size(short)} too few: others take {_size(device.others_bytes)}"
    changed: set[str] = set()
    steppable = [
        name
        for name, found in device.residents.items()
        if not (found.is_pinned or name in device.moving or name in fixed) and name in here
    ]
    while footprint(here.values()) > limit:
        step = _next_step(device, here, steppable)
        if step is None:
            break
        here[step[0]] = step[1]
        changed.add(step[0])
    actions: list[Action] = []
    leaving: list[str] = []
    if footprint(here.values()) > limit:
        regret = regrets(view, device)
        spare = len(device.residents) - view.options.min_residents
        for name in by_regret(device, here, regret, fixed):
            if footprint(here.values()) <= limit or len(leaving) >= spare:
                break
            del here[name]
            leaving.append(name)
    for name in leaving:
        actions += leave(view, device, name, why)
    for name in sorted(changed - set(leaving)):
        actions.append(SetMode(device.device, name, here[name].memory_mode, why, is_forced=True))
    return actions


def _next_step(
    device: DeviceView, here: Mapping[str, Form], steppable: Iterable[str]
) -> tuple[str, Form] | None:
    """Return the lighter form that costs fewest seconds for the bytes that it saves.

    A smaller call saves nothing while another's is as large: then what it needs itself counts.
    """
    before = footprint(here.values())
    found = []
    for name in steppable:
        form = here[name]
        for lighter in lighter_than(device.forms[name], form):
            saved = before - footprint([*(f for n, f in here.items() if n != name), lighter])
            own = _need(form) - _need(lighter)
            slower_s = max(0.0, lighter.serve_s - form.serve_s) + 1e-9
            found.append((saved <= 0, slower_s / max(1, saved if saved > 0 else own), name, lighter))
    if not found:
        return None
    _, _, name, form = min(found, key=lambda entry: entry[:3])
    return name, form


def lighter_than(forms: Iterable[Form], form: Form) -> list[Form]:
    """Return the forms that need less memory than `form`."""
    return [f for f in forms if _need(f) < _need(form)]


def _need(form: Form) -> int:
    return form.rest_bytes + form.peak_bytes


def _size(nbytes: int) -> str:
    """Return bytes for people."""
    return f"{nbytes / 1e9:.2f} GB" if abs(nbytes) >= 1e7 else f"{nbytes / 1e6:.2f} MB"
