"""A thread that loads and parks, so that the step loop goes on meanwhile."""

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """What became of a task."""

    key: Any
    """What the task was submitted with."""
    value: Any
    error: Exception | None


class Loader:
    """Does one task at a time, in order; what becomes of them is taken with `outcomes`.

    The thread ends with its last task. One that waited for more would keep its OpenMP team, and libgomp
    lets all threads sleep between two loops as soon as there are more of them than cores: a step of a
    small UNet then takes twice as long.
    """

    def __init__(self, wake: Callable[[], None], prepare: Callable[[], None]) -> None:
        """Both are called from the thread: `wake` when there is an outcome, `prepare` at its start."""
        self._wake = wake
        self._prepare = prepare
        self._lock = threading.Lock()
        self._tasks: deque[tuple[Any, Callable[[], Any]]] = deque()
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, key: Any, task: Callable[[], Any]) -> None:
        """Have `task` done in the background; its outcome bears `key`."""
        with self._lock:
            self._tasks.append((key, task))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="loader", daemon=True)
                self._thread.start()

    def outcomes(self) -> list[Outcome]:
        """Take what was done since the last time."""
        found = []
        while not self._outcomes.empty():
            found.append(self._outcomes.get())
        return found

    def close(self) -> None:
        """Wait until all tasks are done."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        self._prepare()
        while (task := self._next()) is not None:
            key, work = task
            try:
                outcome = Outcome(key, work(), None)
            except Exception as error:
                outcome = Outcome(key, None, error)
            self._outcomes.put(outcome)
            self._wake()

    def _next(self) -> tuple[Any, Callable[[], Any]] | None:
        """Return the next task; without one the thread is no longer ours."""
        with self._lock:
            if self._tasks:
                return self._tasks.popleft()
            self._thread = None
            return None
