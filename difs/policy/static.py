"""Policy `static`: always the same variant, on the device with the least backlog.

What a plain model server does; the baseline that every other policy is compared with.
"""

from difs.messages import Generate
from difs.policy import points
from difs.policy.base import Decision, Options, Reject, View


class Static:
    """Serve the configured variant, or the first by name that the request's pins allow."""

    name = "static"

    def __init__(self, options: Options) -> None:
        """Prefer `options.variant` where the request does not pin another."""
        self._variant = options.variant

    def decide(self, view: View, request: Generate) -> Decision:
        """See Policy.decide."""
        found = points.allowed(view, request)
        if isinstance(found, Reject):
            return found
        info = next((v for v in found if v.name == self._variant), found[0])
        device = points.least_backlog(view.devices, info.name)
        pinned = request.overrides.variant or request.overrides.family
        why = "pinned by the request" if pinned else "the configured variant"
        plan = points.point(
            device, info, request, policy=self.name, reason=f"{why}; {_where(device.backlog_s)}"
        )
        return points.admit_or_refuse(plan, request)


def _where(backlog_s: float) -> str:
    return "the device is idle" if backlog_s <= 0 else f"least backlog: {backlog_s:.2f} s"
