"""From a device, a variant and a request to an operating point: what all policies share."""

import math

from msgspec.structs import replace

from difs import foresight, profiles, samplers
from difs.actor_messages import Resident
from difs.messages import AdapterInfo, Generate, Level, MemoryMode, Plan, Prediction, VariantInfo
from difs.policy import lateness
from difs.policy.base import Admit, Decision, DeviceView, Reject, View
from difs.profiles import Work

LEVELS: dict[Level, float] = {"draft": 0.0, "low": 0.25, "medium": 0.5, "high": 0.75, "best": 1.0}
"""Where a named quality stands on the dial from a variant's fewest to its most steps."""
SOON_S = 10.0
"""Where no latency is stated a picture is wanted this soon: quality beyond it is not waited for."""


def allowed(view: View, request: Generate) -> list[VariantInfo] | Reject:
    """Return the variants that may serve the request, by name; a Reject where nothing can now."""
    found = refuse_pins(request) or fitting_variants(view, request)
    return found if isinstance(found, Reject) or view.devices else no_device()


def fitting_variants(view: View, request: Generate) -> list[VariantInfo] | Reject:
    """Return the variants that the request's pins allow, by name; a Reject when there are none."""
    pins = request.overrides
    if pins.variant is not None:
        found = view.variants.get(pins.variant)
        if found is None or (pins.family is not None and found.family != pins.family):
            family = f" of family {pins.family!r}" if found is not None else ""
            return _unknown("variant", f"{pins.variant!r}{family}", list(view.variants))
        return _under_adapters(view, request, [found])
    by_name = sorted(view.variants.values(), key=lambda v: v.name)
    chosen = [v for v in by_name if pins.family in (None, v.family)]
    if not chosen and pins.family is not None:
        return _unknown("family", repr(pins.family), sorted({v.family for v in view.variants.values()}))
    if not chosen:
        return Reject("unavailable", "no variant is registered in the model repository")
    return _under_adapters(view, request, chosen)


def fits(adapter: AdapterInfo, info: VariantInfo) -> bool:
    """Whether `adapter` was made for a variant such as `info`."""
    return adapter.family == info.family and (not adapter.variants or info.name in adapter.variants)


def _under_adapters(
    view: View, request: Generate, chosen: list[VariantInfo]
) -> list[VariantInfo] | Reject:
    """Return those of the variants that every adapter of the request fits; a Reject names the first."""
    for pin in request.overrides.adapters:
        adapter = view.adapters.get(pin.name)
        if adapter is None:
            return _unknown("adapters", repr(pin.name), sorted(view.adapters))
        fitting = [info for info in chosen if fits(adapter, info)]
        if not fitting:
            made_for = f"variants {', '.join(adapter.variants)} of " if adapter.variants else ""
            allowed = ", ".join(f"{info.name} ({info.family})" for info in chosen)
            made_for += f"family {adapter.family}"
            words = f"adapter {adapter.name!r} is for {made_for}, not for {allowed}"
            return Reject("invalid_request", words, field="overrides.adapters")
        chosen = fitting
    return chosen


def refuse_pins(request: Generate) -> Reject | None:
    """Refuse a sampler that nobody has."""
    pins = request.overrides
    if pins.sampler is not None and samplers.canonical(pins.sampler) is None:
        return _unknown("sampler", repr(pins.sampler), list(samplers.SAMPLERS))
    return None


def _unknown(field: str, name: str, known: list[str]) -> Reject:
    what, offered = field.removesuffix("s"), ", ".join(known) or "none"
    words = f"no {what} {name}; there is: {offered}"
    return Reject("unknown_name", words, field=f"overrides.{field}")


def wanted_steps(info: VariantInfo, quality: float | Level | None) -> int:
    """Turn the quality dial: fewest steps at 0, the default at 0.5, most at 1."""
    if quality is None:
        return info.steps_default
    dial = LEVELS[quality] if isinstance(quality, str) else quality
    low, high = (
        (info.steps_min, info.steps_default) if dial <= 0.5 else (info.steps_default, info.steps_max)
    )
    return round(low + (high - low) * (2 * dial if dial <= 0.5 else 2 * dial - 1))


def size_of(info: VariantInfo, request: Generate) -> tuple[int, int]:
    """Return (width, height): as asked, else the variant's own."""
    if request.width is not None and request.height is not None:
        return request.width, request.height
    return info.native_sizes[0]


def side_of(info: VariantInfo, request: Generate) -> int:
    """Return the side of the square with as many pixels as the picture: the size that quality is for."""
    width, height = size_of(info, request)
    return round(math.sqrt(width * height))


def sampler_of(info: VariantInfo, request: Generate) -> str:
    """Return our name of the sampler: as pinned, else the variant's own."""
    return samplers.canonical(request.overrides.sampler or info.sampler) or info.sampler


def work_of(info: VariantInfo, request: Generate, steps: int, guidance: float) -> Work:
    """Return what a request is to compute with `info` in so many steps."""
    width, height = size_of(info, request)
    sampler = sampler_of(info, request)
    return Work(
        width * height,
        steps,
        sampler,
        guidance,
        request.n,
        is_alone=request.deterministic,
        size=(width, height),
    )


def point(
    device: DeviceView,
    info: VariantInfo,
    request: Generate,
    *,
    policy: str,
    reason: str,
    memory_mode: MemoryMode | None = None,
    goes_ahead: bool = False,
) -> Plan:
    """Return the plan of `request` with `info` on `device`; steps are cut to keep `latency_s`.

    `memory_mode`: into which it is loaded where it is not there yet; None: its own. `goes_ahead`: it has
    the first turn that others leave it.
    """
    width, height = size_of(info, request)
    pins, needs = request.overrides, request.requirements
    known = device.known(info.name)
    if memory_mode is not None:
        known = device.known_in(info.name, memory_mode)
    guidance = pins.guidance_scale if pins.guidance_scale is not None else info.guidance_scale
    sampler = sampler_of(info, request)
    steps, notes = _steps_of(sampler, pins.steps or wanted_steps(info, needs.wanted_quality))
    work = work_of(info, request, steps, guidance)
    within_s = wanted_within(request)
    predicted = predict(device, info.name, work, known, goes_ahead=goes_ahead, within_s=within_s)
    if needs.latency_s is not None and predicted.total_s > needs.latency_s and pins.steps is None:
        fitting = _steps_within(predicted.total_s - needs.latency_s, predicted.steps_s, steps)
        fewer = max(min(steps, info.steps_min), fitting)
        if fewer < steps:
            notes += (f"{fewer} steps instead of {steps} to keep latency_s {needs.latency_s:g}",)
            work = replace(work, steps=fewer)
            predicted = predict(device, info.name, work, known, within_s=within_s)
    keeps = None if needs.latency_s is None else predicted.total_s <= needs.latency_s
    if keeps is False and device.outlook is not None:  # who can be in time goes first
        waits_s = device.outlook.ends - device.outlook.firm
        queue_s, total_s = predicted.queue_s + waits_s, predicted.total_s + waits_s
        predicted = replace(predicted, queue_s=queue_s, total_s=total_s)
    if (width, height) not in info.native_sizes:
        notes += (f"{width}x{height} is not a native size of {info.name}",)
    return Plan(
        variant=info.name,
        family=info.family,
        precision=known.precision if known else info.precision,
        device=device.device,
        memory_mode=known.memory_mode if known else "full",
        width=width,
        height=height,
        steps=work.steps,
        guidance_scale=guidance,
        sampler=sampler,
        prediction=predicted,
        reason=reason,
        policy=policy,
        keeps_latency=keeps,
        notes=notes,
    )


def _steps_of(sampler: str, steps: int) -> tuple[int, tuple[str, ...]]:
    """Return as many steps as a sampler can do, with a note where that is fewer."""
    most = samplers.SAMPLERS[sampler].most_steps
    note = f"{most} steps instead of {steps}: {sampler} has no more"
    return (most, (note,)) if steps > most else (steps, ())


def pinned(request: Generate, steps: int, guidance: float) -> Generate:
    """Return a request as if it had asked for these steps and this guidance."""
    return replace(request, overrides=replace(request.overrides, steps=steps, guidance_scale=guidance))


def predict(
    device: DeviceView,
    variant: str,
    work: Work,
    known: Resident | None = None,
    *,
    goes_ahead: bool = False,
    within_s: float = math.inf,
) -> Prediction:
    """Return the prediction of `work` with `variant` on `device`, behind what is assigned to it.

    `known`: what the variant is taken to be there; None: what is known of it. `goes_ahead`: see `point`;
    `within_s`: see `wanted_within`.
    """
    known = known or device.known(variant)
    ahead_s = None
    if goes_ahead and known is not None:
        ahead_s = ahead_wait_s(device, variant, profiles.predict(work, known.costs).total_s, within_s)
    waits_s, later_s = wait_s(device, known, work, within_s) if ahead_s is None else (ahead_s, 0.0)
    return profiles.predict(
        work,
        known.costs if known else None,
        queue_s=waits_s,
        is_resident=variant in device.residents,
        later_s=later_s,
    )


def wait_s(
    device: DeviceView, known: Resident | None, work: Work, within_s: float = math.inf
) -> tuple[float, float]:
    """Return the seconds by which others make `work` later on a device than it would be alone.

    The second number is the part of them that stands for those who come later. What would else not be
    done in the `within_s` in which it is wanted shares calls even if others are later by that than they
    were told.
    """
    if known is None or device.outlook is None or known.variant not in device.residents:
        return device.backlog_s, 0.0
    task = foresight.task_of(known.costs, work, known.variant)
    if work.is_alone:
        task = task._replace(group=None)
    alone_s = task.encode_s + task.calls * task.call_s + task.decode_s
    pace = foresight.pace_of(known.costs, work.pixels)
    foreseen_s = device.outlook.done_in_s(task, pace, device.now)
    stretch = lateness.factor(device.lateness, task.calls)
    is_late = stretch * foreseen_s + device.way_s > within_s
    if is_late and not device.outlook.is_crowded:  # there all share anyhow
        foreseen_s = device.outlook.done_in_s(task, pace, device.now, is_in_haste=True)
    stretched_s = stretch * foreseen_s + device.way_s
    waits_s = max(0.0, stretched_s - alone_s)
    return waits_s, waits_s - max(0.0, foreseen_s - alone_s)


def wanted_within(request: Generate) -> float:
    """Return the seconds in which a request is to be done: done later it is late, or of no use."""
    return request.requirements.latency_s or request.timeout_s


def ahead_wait_s(device: DeviceView, variant: str, seconds: float, within_s: float) -> float | None:
    """Return the seconds until a variant's work of `seconds` could have a turn before others.

    It is wanted within `within_s`. None: nobody can wait for it.
    """
    if device.outlook is None or variant not in device.residents:
        return None
    turn = device.outlook.turn_before(seconds, device.now, device.now + within_s)
    return turn.in_s if turn is not None else None


def _steps_within(excess_s: float, steps_s: float, steps: int) -> int:
    """Return how many of `steps` steps remain when `excess_s` of their `steps_s` seconds must go."""
    if steps_s <= 0:
        return steps
    return math.floor(steps * max(0.0, steps_s - excess_s) / steps_s)


def admit_or_refuse(plan: Plan, request: Generate) -> Decision:
    """Admit `plan`, unless it breaks a latency that the request wants kept or refused."""
    needs = request.requirements
    if plan.keeps_latency is not False or needs.on_infeasible == "degrade":
        return Admit(plan)
    predicted = plan.prediction
    waiting_s = predicted.queue_s + predicted.load_s
    words = f"latency_s {needs.latency_s:g} cannot be kept: {predicted.total_s:.2f} s predicted"
    assert needs.latency_s is not None
    if predicted.total_s - waiting_s <= needs.latency_s:
        return Reject(
            "overloaded",
            f"{words}, {waiting_s:.2f} s of them waiting",
            field="requirements.latency_s",
            retry_after_s=predicted.total_s - needs.latency_s,
        )
    return Reject(
        "infeasible",
        f"{words} with {plan.variant} at {plan.steps} steps;"
        f" the nearest feasible latency_s is {predicted.total_s - waiting_s:.2f}",
        field="requirements.latency_s",
        limit=f">= {predicted.total_s - waiting_s:.2f}",
    )


def no_device() -> Reject:
    """Refuse because no device is ready."""
    return Reject("unavailable", "no device is ready; one may be starting", retry_after_s=1.0)


def least_backlog(devices: tuple[DeviceView, ...], variant: str) -> DeviceView:
    """Return the device that would start `variant` first: where it is loaded, else parked, else any.

    Of several, the one with the least backlog.
    """
    return min(
        devices,
        key=lambda d: (variant not in d.residents, variant not in d.parked, d.backlog_s, d.device),
    )
