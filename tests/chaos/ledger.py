"""The accounts of a run: what was asked, how each ended, and what breaks a promise."""

from collections import Counter
from dataclasses import dataclass, field

RIGHT = "the right picture"
WRONG = "a wrong picture"
UNTYPED = "an untyped error"


@dataclass
class Ledger:
    """Every call by its id."""

    open: set[str] = field(default_factory=set)
    ends: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def asked(self, name: str) -> None:
        """Enter a call."""
        self.open.add(name)

    def ended(self, name: str, how: str, seconds: float, timeout_s: float) -> None:
        """Enter the end of a call: RIGHT, or the code of a typed error, or worse."""
        if name not in self.open:
            self.problems.append(f"{name} ended twice, now with {how}")
            return
        self.open.discard(name)
        self.ends[how] += 1
        self.slowest_s = max(self.slowest_s, seconds)
        if how.startswith((WRONG, UNTYPED)):
            self.problems.append(f"{name} ended with {how}")
        if seconds > timeout_s:
            self.problems.append(f"{name} took {seconds:.1f} s, {timeout_s:g} s were allowed")

    def gave_up(self, name: str) -> None:
        """Enter that a caller was killed: nobody waits for its call any more."""
        self.open.discard(name)
        self.ends["its client was killed"] += 1

    def close(self) -> list[str]:
        """Return all that breaks a promise."""
        return [*self.problems, *(f"{name} never ended" for name in sorted(self.open))]
