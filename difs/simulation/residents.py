"""What is loaded on a simulated device, parked beside it, and on its way: see `difs.actors.residency`.

Moves (loads and parks) go one after the other, beside the steps. Bytes are taken from `Memory` before a
move begins and given back when a park ends. No batches and no messages to the broker here but reports.
"""

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from difs import memory_modes, rooms
from difs.actor_messages import Evicted, Loaded, LoadFailed, Resident, Switched, SwitchFailed
from difs.actors.parking import ParkingLot
from difs.messages import MemoryMode
from difs.simulation.memory import Memory
from difs.simulation.tables import Mode, Model

Report = Loaded | LoadFailed | Evicted | Switched | SwitchFailed


@dataclass(eq=False)
class Move:
    """A variant on its way to the device, or from it."""

    variant: str
    mode: MemoryMode
    is_park: bool
    began: Resident | None = None
    """What it will be where it goes to; None: it has not begun."""
    due: float = math.inf
    was_parked: bool = False


class Residents:
    """The residents of one device."""

    def __init__(
        self, kind: str, models: Mapping[str, Model], memory: Memory, parking_bytes: int
    ) -> None:
        """Start empty; `kind` is the device's, for its memory modes."""
        self._kind = kind
        self._models = models
        self._memory = memory
        self._lot: ParkingLot[Resident] = ParkingLot(parking_bytes)
        self._moves: deque[Move] = deque()
        self._reports: list[Report] = []
        self.here: dict[str, Resident] = {}
        """What is loaded, with the costs that the actor believes."""
        self.counts: Counter[str] = Counter()

    @property
    def parked_bytes(self) -> int:
        """Return the bytes of host memory that are taken."""
        return self._lot.nbytes

    @property
    def next_due(self) -> float:
        """Return when the next move ends."""
        return self._moves[0].due if self._moves else math.inf

    @property
    def has_news(self) -> bool:
        """Whether `collect` has something to report."""
        return bool(self._reports)

    def is_coming(self, variant: str) -> bool:
        """Whether a variant is on its way here."""
        return any(move.variant == variant and not move.is_park for move in self._moves)

    def truth(self, variant: str, mode: MemoryMode) -> Mode:
        """Return what a variant in a mode really costs; a mode not measured costs as the first."""
        modes = self._models[variant].modes
        return modes.get(mode) or next(iter(modes.values()))

    def put(self, variant: str) -> bool:
        """Have a variant here at once, before time begins; False where memory lacks."""
        mode = self._first_mode(variant)
        if not self.may_join(variant):
            return False
        if not self._memory.take(variant, self.truth(variant, mode).rest_bytes):
            return False
        self.here[variant] = self.truth(variant, mode).resident
        return True

    def may_join(self, variant: str) -> bool:
        """Whether a variant for which nobody waits has room beside those that are here."""
        truth = self.truth(variant, self._first_mode(variant)).resident
        return rooms.may_join(truth, self.here.values(), self._memory.total - self._memory.others)

    def load(self, variant: str, mode: MemoryMode | None, now: float) -> None:
        """See Engine.load; None: the mode that a variant is loaded into."""
        if variant in self.here:
            self._reports.append(Loaded(self.here[variant]))
        elif variant not in self._models:
            self._reports.append(LoadFailed(variant, f"no variant {variant!r}"))
        elif not self.is_coming(variant):
            self._moves.append(Move(variant, mode or self._first_mode(variant), is_park=False))
            self._begin(now)

    def cancel(self, variant: str, now: float) -> None:
        """See Engine.cancel_load."""
        for move in [m for m in self._moves if m.variant == variant and not m.is_park]:
            self._moves.remove(move)
            if move.began is not None:
                self._memory.give_back(variant)
                if move.was_parked:
                    self._lot.park(variant, move.began, move.began.weight_bytes)
            self._fail(variant, "cancelled")
        self._begin(now)

    def evict(self, variant: str, now: float, *, is_final: bool = False) -> None:
        """See Engine.evict: parked where there is room, unless it `is_final`."""
        found = self.here.pop(variant, None)
        if is_final:
            self._lot.take(variant)
            if found is not None:
                self.counts["evictions"] += 1
                self._memory.give_back(variant)
            self._reports.append(Evicted(variant, None, (variant,)))
            return
        if found is None:
            self._reports.append(Evicted(variant))
            return
        self.counts["evictions"] += 1
        leaving = Move(variant, found.memory_mode, is_park=True)
        self._moves.append(leaving)
        self._begin(now)

    def switch(self, variant: str, mode: MemoryMode) -> float | None:
        """Change a resident's mode; returns the seconds that it takes, None where it stays as it is."""
        found = self.here.get(variant)
        problem = self._no_switch(variant, mode) if found is not None else f"{variant} is not loaded"
        if problem or found is None:
            self._reports.append(SwitchFailed(variant, problem))
            return None
        truth = self.truth(variant, mode)
        costs = replace(truth.resident.costs, load_s=found.costs.load_s)
        self.here[variant] = replace(truth.resident, memory_mode=mode, costs=costs)
        self.counts["switches"] += 1
        self._reports.append(Switched(self.here[variant]))
        moved = truth.rest_bytes != self.truth(variant, found.memory_mode).rest_bytes
        return truth.parked_s if moved else 0.0

    def _no_switch(self, variant: str, mode: MemoryMode) -> str:
        """Return why a resident cannot change to `mode`; empty: its bytes are changed."""
        usable = memory_modes.available(self._kind)
        if mode not in usable:
            return f"memory mode {mode} does not work on {self._kind}; {', '.join(usable)} do"
        if not self._memory.take(variant, self.truth(variant, mode).rest_bytes):
            return "out of memory"
        return ""

    def collect(self, now: float) -> list[Report]:
        """End the moves that are due, begin the next; returns what there is to report."""
        while self._moves and self._moves[0].due <= now:
            self._land(self._moves.popleft())
            self._begin(now)
        reports, self._reports = self._reports, []
        return reports

    # ---- moves ----------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        """Begin the first move, if it has not begun; one that memory lacks for fails."""
        while self._moves and self._moves[0].began is None:
            move = self._moves[0]
            truth = self.truth(move.variant, move.mode)
            fresh = replace(truth.resident, memory_mode=move.mode)
            if move.is_park:
                move.began = replace(fresh, costs=replace(fresh.costs, load_s=truth.parked_s))
                move.due = now + truth.parked_s
                return
            if self._memory.take(move.variant, truth.rest_bytes):
                parked = self._lot.take(move.variant)
                move.began, move.was_parked = parked or fresh, parked is not None
                move.due = now + (truth.parked_s if move.was_parked else fresh.costs.load_s)
                return
            self._moves.popleft()
            self._fail(move.variant, f"out of memory: {self._memory.free} bytes are free")

    def _land(self, move: Move) -> None:
        assert move.began is not None
        if not move.is_park:
            self.counts["loads"] += 1
            truth = self.truth(move.variant, move.mode).resident
            self.here[move.variant] = replace(truth, memory_mode=move.mode)
            self._reports.append(Loaded(self.here[move.variant]))
            return
        self._memory.give_back(move.variant)
        dropped = self._lot.park(move.variant, move.began, move.began.weight_bytes)
        stays = move.variant not in dropped
        others = tuple(name for name in dropped if name != move.variant)
        self._reports.append(Evicted(move.variant, move.began if stays else None, others))

    def _fail(self, variant: str, words: str) -> None:
        self.counts["loads_failed"] += words != "cancelled"
        self._reports.append(LoadFailed(variant, words))

    def _first_mode(self, variant: str) -> MemoryMode:
        return next(iter(self._models[variant].modes))
