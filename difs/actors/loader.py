"""A thread that loads and parks, so that the step loop goes on meanwhile."""

import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """What became of a task."""

    key: Any
    """What the task was submitted with."""
    value: Any
    error: Exception | None


class Loader:
    """Does one task at a time, in order; what becomes of them is taken with `outcomes`."""

    def __init__(self, wake: Callable[[], None], prepare: Callable[[], None]) -> None:
        """Both are called from the thread: `wake` when there is an outcome, `prepare` at its start."""
        self._wake = wake
        self._prepare = prepare
        self._tasks: queue.SimpleQueue[tuple[Any, Callable[[], Any]] | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, key: Any, task: Callable[[], Any]) -> None:
        """Have `task` done in the background; its outcome bears `key`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="loader", daemon=True)
            self._thread.start()
        self._tasks.put((key, task))

    def outcomes(self) -> list[Outcome]:
        """Take what was done since the last time."""
        found = []
        while not self._outcomes.empty():
            found.append(self._outcomes.get())
        return found

    def close(self) -> None:
        """End the thread when the task at work is done."""
        if self._thread is not None:
            self._tasks.put(None)
            self._thread.join()

    def _run(self) -> None:
        self._prepare()
        while (task := self._tasks.get()) is not None:
            key, work = task
            try:
                outcome = Outcome(key, work(), None)
            except Exception as error:
                outcome = Outcome(key, None, error)
            self._outcomes.put(outcome)
            self._wake()
