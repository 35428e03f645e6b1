"""Which of an engine's reports go to the broker, and when: steps that nobody watches go together.

A step that is reported costs the broker as much as a small decision, and an engine may do a thousand a
second. What the broker needs of them, an account of what is done, may be a little old. No sockets here.
"""

from msgspec.structs import replace

from difs.actor_messages import Ended, Execute, Finished, Stepped
from difs.actors.units import Report

REST_S = 0.05
"""Seconds between two reports of steps of one attempt: no eye and no estimate needs them sooner."""


class Reporter:
    """What was held back of each attempt, and since when."""

    def __init__(self) -> None:
        """Know no attempts."""
        self._told_at: dict[int, float] = {}
        self._held: dict[int, int] = {}

    def begin(self, order: Execute, now: float) -> None:
        """Note an attempt; all steps of one that is watched are passed on."""
        if not order.is_watched:
            self._told_at[order.attempt] = now

    def pass_on(self, report: Report, now: float) -> Report | None:
        """Return what is to be sent now; None: it is held back, and counted in the next one."""
        if isinstance(report, Stepped):
            return self._step(report, now)
        if isinstance(report, (Finished, Ended)):
            self._told_at.pop(report.attempt, None)
            self._held.pop(report.attempt, None)
        return report

    def _step(self, report: Stepped, now: float) -> Stepped | None:
        told_at = self._told_at.get(report.attempt)
        if told_at is None:
            return report
        calls = self._held.pop(report.attempt, 0) + report.calls
        if now - told_at < REST_S:
            self._held[report.attempt] = calls
            return None
        self._told_at[report.attempt] = now
        return replace(report, calls=calls)

    def forget(self) -> None:
        """Drop everything: a new broker knows none of the attempts."""
        self._told_at.clear()
        self._held.clear()
