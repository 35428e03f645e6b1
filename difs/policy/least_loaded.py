"""Policy `least_loaded`: every (variant, device) pair is a server, and the shortest queue is joined.

Join the shortest queue: Winston 1977, "Optimality of the shortest line discipline". It differs from
`round_robin`, which takes the same pairs in turn, by a look at the queues.
"""

from difs.messages import Generate, VariantInfo
from difs.policy import fixed, points
from difs.policy.base import Decision, DeviceView, Options, Reject, View


class LeastLoaded:
    """Take the pair that would begin the soonest; of equals, the one that fewest wait for."""

    name = "least_loaded"

    def __init__(self, options: Options) -> None:
        """Take no options."""

    def decide(self, view: View, request: Generate) -> Decision:
        """See Policy.decide."""
        found = points.allowed(view, request)
        if isinstance(found, Reject):
            return found

        def load(pair: tuple[VariantInfo, DeviceView]) -> tuple[float, int, str, str]:
            info, device = pair
            predicted = points.predict(device, info.name, fixed.work_of(info, request))
            wait_s = predicted.queue_s + predicted.load_s
            return wait_s, device.wants.get(info.name, 0), info.name, device.device

        pair = min(((info, device) for info in found for device in view.devices), key=load)
        wait_s, waiting, *_ = load(pair)
        reason = f"the shortest queue: {wait_s:.2f} s, {waiting} want this variant there"
        plan = fixed.plan_of(pair[1], pair[0], request, policy=self.name, reason=reason)
        return points.admit_or_refuse(plan, request)
