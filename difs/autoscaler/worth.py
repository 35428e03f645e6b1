"""What serving is worth: the quality that a form reaches for a stream, and what all residents serve.

A service is worth, over the horizon, the sum over forecast requests of the quality that each gets; one
that comes too late gets little of it, one that no device has time for nothing.
"""

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


def serve(offers: Sequence[Offer], streams: Sequence[Stream], devices: int) -> Served:
    """Return what `offers` are worth together.

    Streams are served in their order, each by the best offer whose device has time left; a device has
    one second in a second.
    """
    left = [1.0] * devices
    by_offer, missed, mean = [0.0] * len(offers), [1.0] * len(streams), [0.0] * len(streams)
    for_stream: list[list[tuple[float, float, int]]] = [[] for _ in streams]
    for i, offer in enumerate(offers):
        for stream, value in offer.worths:
            for_stream[stream].append((-value, offer.serve_s, i))
    for s, found in enumerate(for_stream):
        if not found:
            continue
        stream_value, rate_hz, uses = 0.0, streams[s].rate_hz, streams[s].uses
        for negative, serve_s, i in sorted(found):
            device = offers[i].device
            busy = rate_hz * serve_s
            part = missed[s] if busy * missed[s] <= left[device] else left[device] / busy
            if part <= 0.0:
                continue
            left[device] -= part * busy
            missed[s] -= part
            value = -negative * part * uses
            by_offer[i] += value
            stream_value += value
            if missed[s] <= 1e-12:
                missed[s] = 0.0
                break
        part = 1.0 - missed[s]
        mean[s] = stream_value / (uses * part) if part > 0 and uses > 0 else 0.0
    return Served(sum(by_offer), by_offer, missed, mean)
