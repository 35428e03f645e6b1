"""The forms of a variant on a device: what it would take and give in each memory mode. Pure arithmetic.

Bytes and seconds come from a profile of the mode where there is one (`Resident.room`, `costs`), else they
are reckoned from what is known of another mode with the shares below: those of one other machine.
"""

from functools import lru_cache
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from difs import memory_modes, profiles
from difs.actor_messages import Costs, Resident, Room
from difs.autoscaler.base import Form
from difs.messages import MemoryMode, VariantInfo
from difs.policy import fixed, points
from difs.policy.states import PLAIN


class Share(NamedTuple):
    """What a mode takes where no profile says: of the weights' bytes, times the seconds in `full`."""

    rest: float
    peak: float
    slower: float


ASSUMED: dict[MemoryMode, Share] = {
    "full": Share(1.0, 0.75, 1.0),
    "sliced": Share(1.0, 0.75, 1.05),
    "tiled": Share(1.0, 0.3, 1.1),
    "model_offload": Share(0.0, 0.9, 1.5),
    "group_offload": Share(0.05, 0.75, 4.4),
    "sequential_offload": Share(0.02, 0.3, 2.2),
}
"""Bytes: the larger share of SD 1.5's and SDXL's on an H100; seconds: of one SDXL picture there, where
weights come at 55 GB/s (`bench.gpu_engine`). Modes that change the weights are left out: a planner never
enters them, an administrator may."""


class Known(Struct, frozen=True, cache_hash=True):
    """What is known of a variant in one mode."""

    memory_mode: MemoryMode
    weight_bytes: int
    costs: Costs
    room: Room | None


def of(
    info: VariantInfo,
    kind: str,
    *,
    here: Resident | None,
    parked: Resident | None,
    profiled: tuple[Resident, ...],
    estimated: Resident | None,
) -> tuple[Form, ...]:
    """Return the forms of a variant on a device of a kind, the one that needs most memory first.

    Empty where nothing is known of it there.
    """
    nearest = here or parked or next(iter(profiled), None) or estimated
    if nearest is None:
        return ()
    back_s = parked.costs.load_s if parked is not None and here is None else nearest.costs.load_s
    by_profile = tuple(_known(found) for found in profiled)
    return _forms(info, kind, _known(nearest), by_profile, back_s)


@lru_cache(maxsize=1024)  # asked for at every plan
def _known(found: Resident) -> Known:
    return Known(found.memory_mode, found.weight_bytes, found.costs, found.room)


@lru_cache(maxsize=1024)  # asked for at every plan
def _forms(
    info: VariantInfo, kind: str, nearest: Known, by_profile: tuple[Known, ...], load_s: float
) -> tuple[Form, ...]:
    modes = [
        mode for mode in memory_modes.available(kind) if mode in ASSUMED or mode == nearest.memory_mode
    ]
    known, at = {k.memory_mode: k for k in by_profile}, nearest.memory_mode
    now = _form(info, at, nearest, nearest, load_s)
    then = _form(info, at, known[at], nearest, load_s) if at in known else now
    others = {mode: _form(info, mode, known.get(mode), nearest, load_s) for mode in modes if mode != at}
    as_now = {mode: _changed(form, then, now) if mode in known else form for mode, form in others.items()}
    return tuple(as_now.get(mode, now) for mode in modes)


def _form(
    info: VariantInfo, mode: MemoryMode, known: Known | None, nearest: Known, load_s: float
) -> Form:
    costs = known.costs if known is not None else _slowed(nearest, mode)
    rest_bytes, peak_bytes = room_of(mode, _weights(nearest), known.room if known is not None else None)
    usual = fixed.work_of(info, PLAIN)
    few = points.pinned(PLAIN, info.steps_min, info.guidance_scale)
    draft = fixed.work_of(info, few)
    return Form(
        memory_mode=mode,
        rest_bytes=rest_bytes,
        peak_bytes=peak_bytes,
        serve_s=profiles.shared_seconds(usual, costs),
        load_s=load_s,
        quality=fixed.accuracy(info, PLAIN),
        latency_s=profiles.predict(usual, costs).total_s,
        draft_quality=fixed.accuracy(info, few),
        draft_s=profiles.predict(draft, costs).total_s,
    )


def _changed(form: Form, then: Form, now: Form) -> Form:
    """Return a form of a profile as another one of it has changed since: modes are compared as of now."""
    return replace(
        form,
        serve_s=form.serve_s * _ratio(now.serve_s, then.serve_s),
        latency_s=form.latency_s * _ratio(now.latency_s, then.latency_s),
        draft_s=form.draft_s * _ratio(now.draft_s, then.draft_s),
    )


def _ratio(now_s: float, then_s: float) -> float:
    return now_s / then_s if then_s > 0 else 1.0


def _weights(known: Known) -> int:
    """Return the bytes that the shares are of: as a measured room says, where there is one."""
    share = ASSUMED.get(known.memory_mode, ASSUMED["full"]).rest
    if known.room is not None and share >= 1.0:
        return known.room.rest_bytes
    return known.weight_bytes


def room_of(mode: MemoryMode, weight_bytes: int, room: Room | None) -> tuple[int, int]:
    """Return the bytes that a mode takes between two calls, and at most beyond that: known or assumed."""
    share = ASSUMED.get(mode, ASSUMED["full"])
    if room is None:
        return round(share.rest * weight_bytes), round(share.peak * weight_bytes)
    peaks = [p for p in (room.step_peak_bytes, room.decode_peak_bytes) if p is not None]
    return room.rest_bytes, max(peaks, default=round(share.peak * weight_bytes))


def _slowed(nearest: Known, mode: MemoryMode) -> Costs:
    """Return the costs of a mode from those of another."""
    slower = ASSUMED[mode].slower / ASSUMED.get(nearest.memory_mode, ASSUMED["full"]).slower
    return profiles.slowed(nearest.costs, steps=slower, decode=slower)
