"""Policy `edf`: what must be done first is dispatched first; the variant is always the same.

Earliest deadline first: Liu and Layland 1973, "Scheduling Algorithms for Multiprogramming in a
Hard-Real-Time Environment". A request's deadline is its `latency_s`, else its `timeout_s`, from its
arrival. The order takes the place of clients' shares. Which variant serves is decided as by `static`, so
the two differ by the order alone.
"""

from msgspec.structs import replace

from difs.messages import Generate
from difs.policy.base import Admit, Decision, Options, View
from difs.policy.static import Static


class Edf:
    """As `static`, in the order of the deadlines."""

    name = "edf"

    def __init__(self, options: Options) -> None:
        """Prefer `options.variant` where the request does not pin another."""
        self._static = Static(options)

    def decide(self, view: View, request: Generate) -> Decision:
        """See Policy.decide."""
        decision = self._static.decide(view, request)
        if not isinstance(decision, Admit):
            return decision
        due = view.now + (request.requirements.latency_s or request.timeout_s)
        return Admit(replace(decision.plan, policy=self.name), order=due)
