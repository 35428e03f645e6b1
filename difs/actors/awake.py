"""Keeps the processor's cores from sleeping while pictures follow each other. No decisions, no tensors.

A core that sleeps between two pictures wakes slowly: at a lower clock, with cold caches, and in a virtual
machine perhaps somewhere else. Linux lets a process ask for less (PM QoS: Documentation/power/
pm_qos_interface.rst, "CPU latency QoS"): as long as it holds the device open in which it wrote how many
microseconds a core may take to wake, idle cores are put into no deeper sleep than that.
"""

import logging
import os
import struct
from pathlib import Path

log = logging.getLogger(__name__)

REQUEST = Path("/dev/cpu_dma_latency")
AT_ONCE = struct.pack("i", 0)
"""0 us: idle cores wait in the running state."""


class Cores:
    """The machine's cores, as one process may ask for them."""

    def __init__(self, awake_s: float, request: Path = REQUEST) -> None:
        """`awake_s`: how long they are kept awake after work. `request`: where that is asked."""
        self._awake_s = awake_s
        self._request = request
        self._held: int | None = None
        self._is_refused = False

    @property
    def are_held(self) -> bool:
        """Whether they are kept awake now, by this process."""
        return self._held is not None

    def rouse(self, rested_s: float) -> None:
        """Keep the cores awake, or let them sleep: their last work is `rested_s` ago, 0: it goes on."""
        if rested_s >= self._awake_s:
            self.close()
        elif not self.are_held and not self._is_refused:
            self._ask()

    def close(self) -> None:
        """Let the cores sleep again, as the kernel also does when this process ends."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _ask(self) -> None:
        """Write the request; where that is not allowed, it is said once, and not tried again."""
        try:
            self._held = os.open(self._request, os.O_WRONLY | os.O_CLOEXEC)
            os.write(self._held, AT_ONCE)
        except OSError as error:
            self.close()
            self._is_refused = True
            log.info(
                "cores sleep between pictures, which then take longer: %s may not be asked (%s); "
                "docs/guides/GOALS.md says how to allow it, actors.awake = 0 asks for nothing",
                self._request,
                error.strerror,
            )
