"""What was asked against what was answered, and which answers are right."""

from collections import Counter
from dataclasses import dataclass, field

from difs.client.core import GRACE_S
from difs.errors import LeaseLost
from tests.model.lossy.faults import Call

RESULT, LEASE_LOST = "result", LeaseLost.code
LATE_S = 0.1


@dataclass(slots=True)
class Entry:
    """A call."""

    caller: str
    call: Call
    asked_at: float
    ends: list[str] = field(default_factory=list)
    is_given_up: bool = False


class Ledger:
    """All calls of a run."""

    def __init__(self, grace_s: float = GRACE_S) -> None:
        """Nothing was asked; `grace_s`: so long after its deadline a call must have ended
        that is not asked again.
        """
        self._grace_s = grace_s
        self.entries: dict[str, Entry] = {}
        self.problems: list[str] = []
        self.counts: Counter[str] = Counter()
        self.may_lose_leases = False
        """A broker was killed: what it had leased is the next one's to lease."""
        self.was_cut: set[str] = set()
        """Callers whose connection broke: what they held was taken back with it."""
        self._dead: set[str] = set()
        self._questions: dict[tuple[str, int], int] = {}
        """How often each was answered."""

    def asked(self, caller: str, call: Call, now: float) -> None:
        """Note a call."""
        self.entries[call.message.request_id] = Entry(caller, call, now)

    def wondered(self, caller: str, ticket: int) -> None:
        """Note a question."""
        self._questions[caller, ticket] = 0

    def replied(self, caller: str, ticket: int) -> None:
        """Note that a question was answered, or ended with an error."""
        self._questions[caller, ticket] += 1

    def given_up(self, name: str) -> None:
        """Note that a caller cancelled: it wants to hear no more of it."""
        self.entries[name].is_given_up = True

    def died(self, caller: str) -> None:
        """Note that a caller is gone; nobody owes it anything."""
        self._dead.add(caller)

    def has_ended(self, name: str) -> bool:
        """Whether a call has ended for its caller."""
        return bool(self.entries[name].ends)

    def ended(self, name: str, how: str, now: float, *, is_closing: bool = False) -> None:
        """Note how a call ended: `result`, an error's code, or what is wrong with a picture.

        `is_closing`: its caller ended it itself.
        """
        entry = self.entries[name]
        entry.ends.append(how)
        self.counts[how] += 1
        if entry.is_given_up:
            self._broken(name, f"ended with {how} after it was given up")
        if how == LEASE_LOST:
            if not self._may_lose(entry):
                self._broken(name, "its picture was written over, and nothing excuses that")
        elif how != RESULT and how not in entry.call.excused and not (how == "cancelled" and is_closing):
            self._broken(name, f"ended with {how}, and nothing excuses that")
        grace_s = GRACE_S if entry.call.retries else self._grace_s  # who asks again has time again
        if now > entry.asked_at + entry.call.message.timeout_s + grace_s + LATE_S:
            self._broken(name, f"ended late, at {now:.2f} s")

    def kept(self, name: str, how: str) -> None:
        """Note what a caller found when it looked at its pictures once more."""
        if how != RESULT and not (how == LEASE_LOST and self._may_lose(self.entries[name])):
            self._broken(name, f"kept pictures became {how}")

    def _may_lose(self, entry: Entry) -> bool:
        return self.may_lose_leases or entry.caller in self.was_cut

    def open(self) -> list[str]:
        """Return the calls that wait."""
        return [
            name
            for name, e in self.entries.items()
            if not (e.ends or e.is_given_up or e.caller in self._dead)
        ]

    def close(self) -> list[str]:
        """Return everything that breaks a promise."""
        for name in self.open():
            self._broken(name, "never ended")
        for name, entry in self.entries.items():
            if len(entry.ends) > 1:
                self._broken(name, f"ended {len(entry.ends)} times: {', '.join(entry.ends)}")
        for (caller, ticket), answers in self._questions.items():
            if answers != 1 and (answers or caller not in self._dead):
                self.problems.append(f"question {ticket} of {caller} was answered {answers} times")
        return self.problems

    def _broken(self, name: str, how: str) -> None:
        self.problems.append(f"call {name} {how}")
