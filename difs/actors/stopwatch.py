"""Measures units of work; on CUDA by events, so that the host need not wait for each of them."""

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from difs.clock import Clock

AHEAD = 1
"""Units that a GPU may have before it while the host prepares the next: it never idles, and a cancel
still costs a step or two."""
T = TypeVar("T")


class Stopwatch:
    """Tells the seconds of a unit: at once on a CPU, one unit later on a GPU."""

    def __init__(self, device: torch.device, clock: Clock) -> None:
        """Measure on `device`."""
        self._device = device
        self._clock = clock
        self._pending: deque[tuple[Any, Any, Callable[[float], None]]] = deque()

    def measure(self, act: Callable[[], None], then: Callable[[float], None]) -> None:
        """Do `act`; `then` is told its seconds, when they are known."""
        if self._device.type != "cuda":
            started = self._clock.now()
            act()
            then(self._clock.now() - started)
            return
        stream = torch.cuda.current_stream(self._device)
        begin, end = (_event() for _ in range(2))
        begin.record(stream)
        act()
        end.record(stream)
        self._pending.append((begin, end, then))
        self.settle()

    def settle(self, *, everything: bool = False) -> None:
        """Tell what is known; waits until at most AHEAD units are still before the device."""
        while len(self._pending) > (0 if everything else AHEAD):
            begin, end, then = self._pending.popleft()
            end.synchronize()
            then(begin.elapsed_time(end) / 1e3)


def timed_whole(device: torch.device, clock: Clock, act: Callable[[], T]) -> tuple[T, float]:
    """Do `act` and wait for the device; returns its value and seconds."""
    started = clock.now()
    value = act()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return value, clock.now() - started


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
