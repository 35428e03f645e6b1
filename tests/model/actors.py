"""The fake actors of the model: what a bystander knows of each from messages alone, and what each owes.

An actor answers what it was told about a variant in order, and about two variants in any order: loads
go on beside each other and beside the steps.
"""

from collections import Counter
from dataclasses import dataclass, field

from difs.actor_messages import EvictVariant, Execute, LoadVariant, Ready, SwitchMode


@dataclass(slots=True, eq=False)
class Order:
    """An `execute` that its actor has not answered."""

    execute: Execute
    actor: "FakeActor"
    is_suspect: bool = False
    is_wanted: bool = True
    recalled: object | None = None
    """What is known of its request, where that waits again: it gave way to others."""
    steps: int = 0

    def counts_for(self, entry: object) -> bool:
        """Whether it is an attempt at the request of `entry`, whose id may have been used before."""
        return self.is_wanted or self.recalled is entry


@dataclass(slots=True, eq=False)
class Task:
    """Something about a variant that an actor was told and has not answered."""

    message: LoadVariant | EvictVariant | SwitchMode
    is_asked: bool = False
    """A load that an administrator asked for."""
    is_cancelled: bool = False

    @property
    def is_live_load(self) -> bool:
        """Whether this is a load that nobody has given up."""
        return isinstance(self.message, LoadVariant) and not self.is_cancelled


@dataclass(slots=True, eq=False)
class FakeActor:
    """An actor that the broker may count on."""

    route: bytes
    ready: Ready
    heard_at: float
    progressed_at: float
    residents: dict[str, str] = field(default_factory=dict)
    """What the broker may take for loaded, with its memory mode."""
    parked: set[str] = field(default_factory=set)
    outdated: set[str] = field(default_factory=set)
    """What it has, or may have, of a repository that has changed since."""
    holds: set[str] = field(default_factory=set)
    """What is loaded after all that it has answered."""
    orders: dict[int, Order] = field(default_factory=dict)
    owed: list[Task] = field(default_factory=list)
    progress: int = 0
    is_leaving: bool = False

    def settle(self) -> None:
        """Begin with what the announcement names."""
        self.residents = {found.variant: found.memory_mode for found in self.ready.residents}
        self.holds = set(self.residents)

    def live_load(self, variant: str) -> Task | None:
        """Return the load of `variant` that is on its way, if there is one."""
        found = [t for t in self.owed if t.is_live_load and t.message.variant == variant]
        assert len(found) <= 1, "loads twice at a time"
        return found[0] if found else None

    def unanswered_loads(self) -> Counter[str]:
        """Return how many loads of each variant it owes an answer, given up or not."""
        return Counter(t.message.variant for t in self.owed if isinstance(t.message, LoadVariant))

    def may_execute(self, variant: str) -> bool:
        """Whether `variant` is loaded, or will be before what is sent now."""
        return variant in self.residents or self.live_load(variant) is not None

    def is_working(self) -> bool:
        """Whether it has an order that need not wait for a load."""
        return not all(self.waits(order) for order in self.orders.values())

    def waits(self, order: Order) -> bool:
        """Whether an order cannot begin before its variant is loaded."""
        variant = order.execute.variant
        return variant not in self.residents and self.live_load(variant) is not None

    def take(self, pick: int) -> Task:
        """Take one of the tasks that may be answered now: the first of each variant."""
        firsts = {task.message.variant: task for task in reversed(self.owed)}
        task = sorted(firsts.values(), key=self.owed.index)[pick % len(firsts)]
        self.owed.remove(task)
        return task
