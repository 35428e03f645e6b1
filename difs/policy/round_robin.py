"""Policy `round_robin`: every (variant, device) pair in turn, whatever its load."""

from difs.messages import Generate
from difs.policy import points
from difs.policy.base import Decision, Options, Reject, View


class RoundRobin:
    """Take the pairs that the request's pins allow, one after the other."""

    name = "round_robin"

    def __init__(self, options: Options) -> None:
        """Take no options."""

    def decide(self, view: View, request: Generate) -> Decision:
        """See Policy.decide."""
        found = points.allowed(view, request)
        if isinstance(found, Reject):
            return found
        pairs = [(info, device) for info in found for device in view.devices]
        turn = view.decisions % len(pairs)
        info, device = pairs[turn]
        reason = f"turn {turn + 1} of {len(pairs)}"
        plan = points.point(device, info, request, policy=self.name, reason=reason)
        return points.admit_or_refuse(plan, request)
