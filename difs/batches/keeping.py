"""When the worker of batches is started and stopped: decisions only, time passed in."""

from typing import Literal

BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0

Action = Literal["start", "stop"]


class Keeping:
    """One worker: it runs while it is called for, and ends by itself when there is nothing to do."""

    def __init__(self) -> None:
        """Nothing runs."""
        self._is_up = False
        self._is_told = False
        self._due_at = 0.0
        self._failures = 0

    def started(self) -> None:
        """Note that the worker runs."""
        self._is_up, self._is_told = True, False

    def ended(self, status: int, now: float) -> None:
        """Note that it ended; one that failed (status not 0) rests, longer each time."""
        self._is_up = False
        self._failures = 0 if status == 0 else self._failures + 1
        rest_s = min(MAX_BACKOFF_S, BACKOFF_S * 2 ** min(self._failures - 1, 10)) if status else 0.0
        self._due_at = now + rest_s

    def decide(self, now: float, *, is_called: bool, is_draining: bool) -> Action | None:
        """Return what is to be done now; one that failed is called for until it ends well."""
        if is_draining:
            if not self._is_up or self._is_told:
                return None
            self._is_told = True
            return "stop"
        is_wanted = is_called or self._failures > 0
        return "start" if is_wanted and not self._is_up and now >= self._due_at else None
