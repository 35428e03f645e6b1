"""Which of an engine's reports go to the broker, and when: steps that nobody watches go together.

A step that is reported costs the broker as much as a small decision, and an engine may do a thousand a
second. So the steps of all attempts are counted in one message, and none is due sooner than it is of
use. Whatever else is said takes the count along: at that moment the broker knows what is done of all
attempts, and runs ahead from there (`difs.broker.outlooks`). No sockets here.
"""

from collections.abc import Iterable

from difs.actor_messages import Counted, Ended, Execute, Finished, Stepped
from difs.actors.units import Report

REST_S = 0.01
"""Seconds between two counts: no prediction is better for a hundredth of a second."""


class Reporter:
    """What was held back of each attempt, and since when."""

    def __init__(self) -> None:
        """Know no attempts."""
        self._watched: set[int] = set()
        self._held: dict[int, int] = {}
        self._counted_at = 0.0

    def begin(self, order: Execute) -> None:
        """Note an attempt; all steps of one that is watched are passed on."""
        if order.is_watched:
            self._watched.add(order.attempt)

    def pass_on(self, reports: Iterable[Report], now: float) -> list[Report | Counted]:
        """Return what is to be sent now of a turn's reports, the count of what was held back first."""
        passed: list[Report | Counted] = []
        for report in reports:
            if isinstance(report, Stepped) and report.attempt not in self._watched:
                self._held[report.attempt] = self._held.get(report.attempt, 0) + 1
                continue
            if isinstance(report, (Finished, Ended)):
                self._watched.discard(report.attempt)
                self._held.pop(report.attempt, None)
            passed.append(report)
        if self._held and (passed or now - self._counted_at >= REST_S):
            passed.insert(0, Counted(tuple(self._held.items())))
            self._held.clear()
            self._counted_at = now
        return passed

    def forget(self) -> None:
        """Drop everything: a new broker knows none of the attempts."""
        self._watched.clear()
        self._held.clear()
