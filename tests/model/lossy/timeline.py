"""The events to come, in their order. Time moves here and nowhere else."""

import heapq
from collections.abc import Callable
from itertools import count


class Timeline:
    """What happens when; `now` is the time in seconds."""

    def __init__(self) -> None:
        """Begin at 0.0."""
        self.now = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Let something happen then; what is due already happens after all that is."""
        heapq.heappush(self._heap, (max(when, self.now), next(self._numbers), act))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Let something happen so much later."""
        self.at(self.now + seconds, act)

    def run(self, until: float) -> None:
        """Let everything happen that is due until then."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, act = heapq.heappop(heap)
            self.events += 1
            act()
        self.now = max(self.now, until)
