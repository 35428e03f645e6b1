"""What serving is worth: the quality that a form reaches for a stream, and what all residents serve.

A service is worth, over the horizon, the sum over forecast requests of the quality that each gets; one
that comes too late gets little of it, one that no device has time for nothing.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from difs.autoscaler.base import Form, Stream, Want, Wants

LATE = 0.2
"""What a picture that comes too late is worth, of one in time;"""
POOR = 0.5
"""and one whose quality is below what was wanted, of one that is good enough."""
SECOND = 0.02
"""What a second of loading or switching costs, in pictures of quality 1."""
SPEED = 0.02
"""What a picture that nobody hurries for is worth more at once than after HASTE_S."""
HASTE_S = 10.0
MOST_PRICE = 1e4
"""Of a second of a device: above it nobody would be served,"""
PRICE_STEPS = 6
"""and it is found to a sixtieth of itself."""


def worth(form: Form, want: Want) -> float:
    """Return what one request is worth when a form serves it: 0..1."""
    latency_s = want.latency_s
    if latency_s is None or latency_s >= form.latency_s:
        quality, share = form.quality, 1.0
    elif latency_s < form.draft_s:
        quality, share = form.draft_quality, LATE
    else:
        span_s = form.latency_s - form.draft_s
        part = (latency_s - form.draft_s) / span_s if span_s > 0 else 1.0
        quality, share = form.draft_quality + part * (form.quality - form.draft_quality), 1.0
    if quality < want.floor:
        share *= POOR
    haste_s = form.latency_s
    return quality * share * (1.0 - SPEED * (haste_s / HASTE_S if haste_s < HASTE_S else 1.0))


class Offer(NamedTuple):
    """What one resident offers: on which device, its seconds, and what it is worth to which streams."""

    device: int
    serve_s: float
    worths: Sequence[tuple[int, float]]
    """(index of the stream, worth of one request)."""


def offer_of(form: Form, variant: str, family: str, wants: Wants, device: int) -> Offer:
    """Return what a form offers to all that is wanted."""
    worths = [(i, worth(form, want)) for i, want in heard(wants, variant, family)]
    return Offer(device, form.serve_s, worths)


@lru_cache(maxsize=1024)  # asked for each form of a variant on each device, at every plan
def heard(wants: Wants, variant: str, family: str) -> tuple[tuple[int, Want], ...]:
    """Return the wants that a variant may serve, each with the index of its stream."""
    return tuple([(i, want) for i, want in enumerate(wants.all) if want.allows(variant, family)])


def ceiling_of(forms: Iterable[Form], wants: Sequence[tuple[int, Want]]) -> tuple[tuple[int, float], ...]:
    """Return worths that no form of a variant exceeds: those of one that is the best in all respects.

    `worth` never falls with a better quality or fewer seconds, so that one look does for all forms.
    """
    quality = draft_quality = 0.0
    latency_s = draft_s = float("inf")
    for form in forms:  # plain comparisons: it is done for hundreds of variants at once
        quality = form.quality if form.quality > quality else quality
        draft_quality = form.draft_quality if form.draft_quality > draft_quality else draft_quality
        latency_s = form.latency_s if form.latency_s < latency_s else latency_s
        draft_s = form.draft_s if form.draft_s < draft_s else draft_s
    quality = max(quality, draft_quality)
    ideal = Form("full", 0, 0, 0.0, 0.0, quality, latency_s, draft_quality, draft_s)
    return tuple([(i, worth(ideal, want)) for i, want in wants])


class Served(NamedTuple):
    """What comes of a set of residents."""

    total: float
    by_offer: list[float]
    """What each offer serves."""
    missed: list[float]
    """Share of each stream that nobody serves."""
    mean: list[float]
    """What a served request of each stream is worth."""


def price_of(
    offers: Iterable[tuple[float, Sequence[tuple[int, float]]]],
    streams: Sequence[Stream],
    devices: int,
) -> float:
    """Return what a second of a device is worth to those who would have it; 0 where all have time.

    `offers`: the seconds of each, and its worths as in `Offer`. It is the Lagrange multiplier of the
    devices' time: at this price the offers that are worth their seconds leave time for all.
    """
    by_stream: list[list[tuple[float, float]]] = [[] for _ in streams]
    for serve_s, worths in offers:
        for stream, value in worths:
            by_stream[stream].append((serve_s, value))
    asked = [(s.rate_hz, _unbeaten(found)) for s, found in zip(streams, by_stream, strict=True) if found]

    def busy(price: float) -> float:
        taken = 0.0
        for rate_hz, found in asked:
            net, serve_s = max([(value - price * seconds, seconds) for seconds, value in found])
            taken += rate_hz * serve_s if net > 0 else 0.0
        return taken

    if busy(0.0) <= devices:
        return 0.0
    low, high = 0.0, 1.0
    while busy(high) > devices and high < MOST_PRICE:
        low, high = high, 4.0 * high
    for _ in range(PRICE_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if busy(middle) > devices else (low, middle)
    return high


def _unbeaten(found: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return those of (seconds, value) that are worth no less than all that take less."""
    found.sort()
    kept, most = found[:1], found[0][1]
    for one in found[1:]:
        if one[1] >= most:
            most = one[1]
            kept.append(one)
    return kept


Chance = tuple[float, float, float, int]
"""An offer to a stream: its price less its worth, its seconds, its worth, and its number."""


def serve(offers: Sequence[Offer], streams: Sequence[Stream], devices: int, price: float = 0.0) -> Served:
    """Return what `offers` are worth together.

    Streams are served in their order, each by the offer that is worth most beyond the `price` of its
    seconds and whose device has time left; a device has one second in a second. What is not worth its
    price gets the time that remains.
    """
    serving = _Serving(offers, streams, devices)
    chances: list[list[Chance]] = [[] for _ in streams]
    for i, (_, serve_s, worths) in enumerate(offers):
        cost = price * serve_s
        for stream, value in worths:
            chances[stream].append((cost - value, serve_s, value, i))
    dear: list[tuple[int, list[Chance]]] = []
    for s, found in enumerate(chances):
        if not found:
            continue
        found.sort()
        if price > 0.0 and found[-1][0] >= 0.0:
            worthy = bisect_left(found, (0.0,))
            dear.append((s, found[worthy:]))
            del found[worthy:]
        serving.give(s, found)
    for s, found in dear:
        serving.give(s, found)
    return serving.outcome()


class _Serving:
    """Time of devices that is given away."""

    def __init__(self, offers: Sequence[Offer], streams: Sequence[Stream], devices: int) -> None:
        self._devices = [offer.device for offer in offers]
        self._streams = streams
        self._left = [1.0] * devices
        self._by_offer, self._missed = [0.0] * len(offers), [1.0] * len(streams)
        self._values = [0.0] * len(streams)

    def give(self, s: int, chances: Sequence[Chance]) -> None:
        """Serve a stream by offers in their order, as far as their devices have time."""
        stream, missed = self._streams[s], self._missed[s]
        rate_hz, uses, left = stream.rate_hz, stream.uses, self._left
        for _, serve_s, each, i in chances:
            if missed <= 1e-12:
                break
            device, busy = self._devices[i], rate_hz * serve_s
            part = missed if busy * missed <= left[device] else left[device] / busy
            if part <= 0.0:
                continue
            left[device] -= part * busy
            missed -= part
            value = each * part * uses
            self._by_offer[i] += value
            self._values[s] += value
        self._missed[s] = missed if missed > 1e-12 else 0.0

    def outcome(self) -> Served:
        """Return what came of it."""
        served = zip(self._streams, self._missed, self._values, strict=True)
        mean = [
            value / (stream.uses * (1.0 - missed)) if missed < 1.0 and stream.uses > 0 else 0.0
            for stream, missed, value in served
        ]
        return Served(sum(self._by_offer), self._by_offer, self._missed, mean)
