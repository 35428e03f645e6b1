"""A device's memory in bytes: who has how much of it. It is never given twice.

Other programs get what is free: what they want beyond that they get as soon as it is given back.
"""

UNBOUNDED = 2**60
"""Stands for a device whose memory nobody told."""


class Memory:
    """The accounts of one device."""

    def __init__(self, total_bytes: int) -> None:
        """Start empty; 0 bytes: without bound."""
        self.total = total_bytes or UNBOUNDED
        self._rests: dict[str, int] = {}
        self._peak = 0
        self.wanted = 0
        """What other programs want."""
        self.others = 0
        """What other programs have."""

    @property
    def own(self) -> int:
        """Return the bytes of residents, of what is on its way, and of the unit under way."""
        return sum(self._rests.values()) + self._peak

    @property
    def free(self) -> int:
        """Return the bytes that nobody has."""
        return self.total - self.own - self.others

    def take(self, name: str, nbytes: int) -> bool:
        """Let `name` have `nbytes` instead of what it has; False, and nothing changes, if they lack."""
        if nbytes - self._rests.get(name, 0) > self.free:
            return False
        self._rests[name] = nbytes
        self._settle()
        return True

    def give_back(self, name: str) -> None:
        """Take back what `name` has."""
        self._rests.pop(name, None)
        self._settle()

    def begin(self, peak_bytes: int) -> bool:
        """Let a unit have `peak_bytes` until `end`; False, and nothing changes, if they lack."""
        if peak_bytes > self.free + self._peak:
            return False
        self._peak = peak_bytes
        self._settle()
        return True

    def end(self) -> None:
        """End the unit."""
        self._peak = 0
        self._settle()

    def want(self, nbytes: int) -> None:
        """Let other programs want `nbytes` in all from now on."""
        self.wanted = nbytes
        self._settle()

    def _settle(self) -> None:
        self.others = min(self.wanted, self.total - self.own)
