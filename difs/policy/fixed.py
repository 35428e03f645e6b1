"""A variant as one point: what policies share that know no dial of steps, as most model servers do.

Its steps and guidance are its defaults (or the request's), its accuracy is one number.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from difs import quality
from difs.messages import Generate, Plan, VariantInfo
from difs.policy import points
from difs.policy.base import DeviceView
from difs.profiles import Work


def steps_of(info: VariantInfo, request: Generate) -> int:
    """Return the steps that `info` always does, unless the request pins others."""
    return request.overrides.steps or info.steps_default


def guidance_of(info: VariantInfo, request: Generate) -> float:
    """Return the guidance that `info` always has, unless the request pins another."""
    pinned = request.overrides.guidance_scale
    return info.guidance_scale if pinned is None else pinned


def accuracy(info: VariantInfo, request: Generate) -> float:
    """Return the one number that stands for the quality of `info`; assumed where it is not known."""
    found = _measured(info, request)
    return quality.assumed(info, steps_of(info, request)) if found is None else found


def _measured(info: VariantInfo, request: Generate) -> float | None:
    side = points.side_of(info, request)
    return quality.expected(info.quality, steps_of(info, request), guidance_of(info, request), side)


def floor_of(found: Sequence[VariantInfo], request: Generate) -> float:
    """Return the least accuracy that the request wants: a number, or a share of the best there is."""
    asked = request.requirements.wanted_quality
    if asked is None:
        return 0.0
    if isinstance(asked, str):
        return quality.SHARES[asked] * max(accuracy(info, request) for info in found)
    return asked


def work_of(info: VariantInfo, request: Generate) -> Work:
    """Return what a request is to compute with `info`."""
    return points.work_of(info, request, steps_of(info, request), guidance_of(info, request))


def own_s(device: DeviceView, info: VariantInfo, request: Generate) -> float:
    """Return the seconds of a request with `info` on `device`, without waiting and loading."""
    predicted = points.predict(device, info.name, work_of(info, request))
    return predicted.total_s - predicted.queue_s - predicted.load_s


def plan_of(
    device: DeviceView, info: VariantInfo, request: Generate, *, policy: str, reason: str
) -> Plan:
    """Return the plan of a request with `info` on `device`, its steps as they always are."""
    settled = points.pinned(request, steps_of(info, request), guidance_of(info, request))
    plan = points.point(device, info, settled, policy=policy, reason=reason)
    expected = _measured(info, request)
    if expected is None:
        return plan
    return replace(plan, expected_quality=round(expected, 2), quality_source=info.quality_source)


def least_s(devices: Sequence[DeviceView], info: VariantInfo, request: Generate) -> float:
    """Return the seconds of a request with `info` on the device where it takes the least."""
    return min(own_s(device, info, request) for device in devices)


def light_of(
    devices: Sequence[DeviceView], found: Sequence[VariantInfo], request: Generate, name: str
) -> VariantInfo:
    """Return the light variant: the one called `name` if it is allowed, else the one of least seconds."""
    named = next((info for info in found if info.name == name), None)
    return named or min(found, key=lambda info: (least_s(devices, info, request), info.name))


def heavy_of(
    devices: Sequence[DeviceView], found: Sequence[VariantInfo], request: Generate, name: str
) -> VariantInfo:
    """Return the heavy variant: the one called `name` if it is allowed, else the most accurate.

    Of equal ones, the one of the most seconds.
    """
    named = next((info for info in found if info.name == name), None)
    return named or max(
        found, key=lambda info: (accuracy(info, request), least_s(devices, info, request), info.name)
    )
