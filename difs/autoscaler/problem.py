"""From what a planner sees to the problem that is searched: a site for each variant on each device. Pure.

What a variant offers is made of its forms; most of it is remembered from plan to plan.
"""

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache, partial
from typing import NamedTuple

from difs.autoscaler import room, search
from difs.autoscaler.base import DeviceView, Form, ResidentView, View, Wants
from difs.autoscaler.search import Option, Problem
from difs.autoscaler.worth import ceiling_of, heard, offer_of, price_of

CHANGE = 0.1
"""What a second of a change costs in a search for the best set, in pictures of quality 1: more than the
second itself (`worth.SECOND`), for forecasts err, and who left for nothing is missed (bench.oracle)."""
SWITCH_S = 0.5
"""What a change of the memory mode is taken to cost."""
OVERLOADED = 1.5
"""Times its seconds, what a picture is taken to need where more is wanted than was forecast."""


Place = tuple[DeviceView, str, tuple[Form, ...]]


def of(
    view: View, calm: Collection[str], rested: Mapping[str, Collection[str]]
) -> tuple[list[Place], Problem]:
    """Return the search's problem, and the device, variant and forms of each of its sites."""
    places: list[Place] = []
    sites: list[search.Site] = []
    wants = room.wants_of(view)
    for number, device in enumerate(view.devices):
        free = set(rested.get(device.device, ())) if device.device in calm else set()
        removable = set(room.removable(device, (), view.options.min_residents)) & free
        free -= device.moving
        here = room.present(device)
        for variant, forms in device.forms.items():
            family = view.families.get(variant, "")
            if variant in here:
                resident = device.residents.get(variant)
                may_switch = variant in free and resident is not None and not _is_settled(resident)
                usable = forms if may_switch else (here[variant],)
                is_slow = resident is not None and resident.state == "overloaded"
                may_leave = variant in removable
                seat = Seat(variant, family, number, usable.index(here[variant]), is_slow, may_leave)
                sites.append(_present(usable, wants, seat))
                places.append((device, variant, usable))
            elif variant in free:
                site = _absent(forms, variant, family, wants, number)
                if site.ceiling:
                    sites.append(site)
                    places.append((device, variant, forms))
    budgets = tuple(room.budget(device, view.options) for device in view.devices)
    each = {
        variant: (forms[0].serve_s, site.ceiling)
        for (_, variant, forms), site in zip(places, sites, strict=True)
    }
    price = price_of(each.values(), view.streams, len(view.devices))
    return places, Problem(budgets, tuple(sites), view.streams, price)


def _is_settled(resident: ResidentView) -> bool:
    """Whether an administrator chose a resident's mode."""
    return resident.is_pinned or resident.is_chosen


class Seat(NamedTuple):
    """A variant that is on a device, or on its way there."""

    variant: str
    family: str
    number: int
    """Of the device."""
    current: int
    """Which of its forms it has."""
    is_overloaded: bool
    may_leave: bool


@lru_cache(maxsize=1024)  # the same from plan to plan, as long as nothing new is learned of it
def _present(forms: tuple[Form, ...], wants: Wants, seat: Seat) -> search.Site:
    """Return the site of a variant that is there."""
    options = [
        Option(
            form.rest_bytes,
            form.peak_bytes,
            0.0 if i == seat.current else CHANGE * SWITCH_S,
            offer_of(form, seat.variant, seat.family, wants, seat.number),
        )
        for i, form in enumerate(forms)
    ]
    if seat.is_overloaded:
        options = [_slower(option) for option in options]
    if seat.may_leave:
        options.append(_absence(forms, is_here=True))
    return search.Site.of(seat.number, options, seat.current)


def _slower(option: Option) -> Option:
    """Return what a resident offers that has too much to do: another one is worth more beside it."""
    offer = option.offer
    if offer is None:
        return option
    return option._replace(offer=offer._replace(serve_s=OVERLOADED * offer.serve_s))


@lru_cache(maxsize=1024)  # the same from plan to plan, but for what was learned of a variant
def _absent(forms: tuple[Form, ...], variant: str, family: str, wants: Wants, number: int) -> search.Site:
    """Return the site of a variant that is not there: its options are made when it may be worth it."""
    ceiling = ceiling_of(forms, heard(wants, variant, family))
    later = search.Later(partial(_arrivals, forms, variant, family, wants, number))
    return search.Site(number, later, len(forms), ceiling, is_vacant=True)


def _arrivals(
    forms: tuple[Form, ...], variant: str, family: str, wants: Wants, number: int
) -> list[Option]:
    """Return the options of a variant that is not there."""
    options = [
        Option(
            form.rest_bytes,
            form.peak_bytes,
            CHANGE * form.load_s,
            offer_of(form, variant, family, wants, number),
        )
        for form in forms
    ]
    return [*options, _absence(forms, is_here=False)]


def _absence(forms: Iterable[Form], *, is_here: bool) -> Option:
    """Return the option that a variant is absent: who leaves has a way back to go."""
    back_s = min(form.load_s for form in forms)
    return Option(0, 0, CHANGE * 0.5 * back_s if is_here else 0.0, None)
