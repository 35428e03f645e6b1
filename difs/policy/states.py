"""INFaaS's states of a variant on a device: inactive, active, overloaded, interfered. One definition.

Romero et al., "INFaaS: Automated Model-less Inference Serving", ATC 2021; limits as in its public code.
Policy `infaas` passes marked ones over, the autoscaler and `difs status` show them.
"""

from functools import lru_cache
from typing import Literal, NamedTuple

from difs.actor_messages import Costs
from difs.messages import Generate, VariantInfo
from difs.policy import fixed
from difs.policy.base import DeviceView, View
from difs.profiles import images_a_call, predict

State = Literal["inactive", "active", "overloaded", "interfered"]

PLAIN = Generate("plain", "")
"""A request with no wishes: what a resident can do is told by it."""


class Limits(NamedTuple):
    """When a resident is marked, and when the mark is taken off; times its profile."""

    slow: float
    """Seconds of its attempts, where it is asked for more than `busy` allows."""
    busy: float
    """Requests a second, of what it can do."""
    waiting: float
    """Requests that want it, of those that it can serve at once."""
    calm: float
    """Seconds of its attempts below which the mark goes."""


CPU, GPU = Limits(4.0, 1.0, 1.1, 1.5), Limits(1.5, 0.3, 0.8, 1.25)
"""The constants of the code; those of a CPU for a single replica, as a resident is one."""


def is_marked(view: View, device: DeviceView, info: VariantInfo, was_marked: bool) -> bool:
    """Return whether a resident is to be passed over; it takes more to be marked than to stay so."""
    limits, at_once, per_s = _capacity(device, info)
    activity = device.activity.get(info.name)
    slowness = activity.slowness(view.now) if activity is not None else 1.0
    is_crowded = device.wants.get(info.name, 0) > max(1.0, limits.waiting * at_once)
    if was_marked:
        return is_crowded or slowness >= limits.calm
    is_busy = device.rate(info.name, view.now) > limits.busy * per_s
    return is_crowded or (slowness > limits.slow and is_busy)


def state(view: View, device: DeviceView, name: str, *, is_marked: bool) -> State:
    """Return the state of a variant on a device, as the paper names it; the code has one mark for two."""
    if name not in device.residents:
        return "inactive"
    if not is_marked or name not in view.variants:
        return "active"
    limits, at_once, per_s = _capacity(device, view.variants[name])
    is_crowded = device.wants.get(name, 0) > max(1.0, limits.waiting * at_once)
    return "overloaded" if is_crowded or device.rate(name, view.now) > per_s else "interfered"


def _capacity(device: DeviceView, info: VariantInfo) -> tuple[Limits, float, float]:
    """Return the limits of a resident, the requests that it serves at once, and those in a second.

    There a second is long and a query short: what waits is held against a second's work. A picture may
    take longer, so here it is held against what one round of calls serves, or a second's work.
    """
    limits = CPU if device.device.startswith("cpu") else GPU
    images, per_s = _round(info, device.residents[info.name].costs)
    return limits, max(float(images), per_s), per_s


@lru_cache(maxsize=1024)  # of every resident, each second
def _round(info: VariantInfo, costs: Costs) -> tuple[int, float]:
    """Return how many usual pictures a round of calls serves, and how many are served in a second."""
    work = fixed.work_of(info, PLAIN)
    images = images_a_call(costs, work)
    return images, images / max(1e-6, predict(work, costs).total_s)
