"""The reference that the broker's heart is held against: what a bystander can know from messages alone.

The ledger reads every event and every effect, never the books. It knows which requests are open and
whose they are, which actor works on what, which slots are in whose hands, and it refuses whatever
breaks a promise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from difs.actor_messages import (
    Abort,
    CancelLoad,
    EvictVariant,
    Execute,
    Fleet,
    KillActor,
    LoadVariant,
    Ready,
    Stop,
    SwitchMode,
    Welcome,
)
from difs.broker.effects import Effect, Exit, TellActor, TellClient, TellSupervisor
from difs.messages import Accepted, Beat, Error, Generate, Progress, Result
from difs.shm import layout
from tests import builders
from tests.model.actors import FakeActor, Order, Task


@dataclass(slots=True, eq=False)
class Entry:
    """An accepted request that has not ended."""

    message: Generate
    owner: bytes
    seq: int
    arrived_at: float
    deadline: float
    device: str | None = None
    executes: int = 0
    seeds: tuple[int, ...] = ()
    running: "Order | None" = None
    told: tuple[object, ...] | None = None
    """Attempt and operating point as its client knows them; empty when they no longer hold."""
    repainted: bool = False
    """Its first pictures were not good enough."""
    deaths: int = 0
    """So often it was at work on an actor that died."""
    below_bytes: float = float("inf")
    """A variant of so many bytes ran out of memory."""

    @property
    def urgency(self) -> int:
        """Return its class, the first to be served least."""
        needs = self.message.requirements
        return 1 if needs.best_effort else -needs.priority

    def is_before(self, other: "Entry") -> bool:
        """Whether it must be dispatched before `other`, as the protocol promises it."""
        if self.urgency != other.urgency:
            return self.urgency < other.urgency
        timed = (e.message.requirements.latency_s is not None for e in (self, other))
        return self.owner == other.owner and self.seq < other.seq and not any(timed)

    @property
    def variant(self) -> str | None:
        """Return the variant of its plan; None when it has none."""
        if self.running is not None:
            return self.running.execute.variant
        point = self.told[1] if self.told else None
        return point[1] if isinstance(point, tuple) else None


@dataclass(slots=True, eq=False)
class Lease:
    """A slot in a client's hands."""

    owner: bytes
    device: str
    index: int
    expires_at: float


class Ledger:
    """See the module."""

    def __init__(
        self,
        *,
        max_attempts: int,
        lease_s: float,
        silence_s: float,
        stall_s: float,
        sizes: Mapping[str, int],
    ) -> None:
        self.sizes = sizes
        self.is_admin_loading = False
        self.max_attempts = max_attempts
        self.lease_s = lease_s
        self.silence_s = silence_s
        self.stall_s = stall_s
        self.now = 0.0
        self.open: dict[str, Entry] = {}
        self.actors: dict[str, FakeActor] = {}
        self.lost: list[FakeActor] = []
        self.old: list[tuple[bytes, Execute]] = []
        self.leases: dict[int, Lease] = {}
        self.taken: dict[str, set[int]] = {}
        self.is_draining = False
        self.asking: tuple[bytes, Generate | str] | None = None
        self.refusals: list[Error] = []
        self.results = 0
        self._reporting: Order | None = None
        self._strays: set[int] = set()
        self._attempts: set[int] = set()
        self._generations: dict[str, int] = {}
        self._seq = 0

    # ---- what is done to the broker ---------------------------------------------------------

    def orders(self) -> list[Order]:
        """Return everything that actors work on."""
        return [order for actor in self.actors.values() for order in actor.orders.values()]

    def join(self, actor: FakeActor) -> None:
        """Enter an actor that is new to the broker; it takes over from an earlier one of its device."""
        device = actor.ready.device
        if device in self.actors:
            self.lose(device)
        self.actors[device] = actor
        actor.settle()
        self.announce(actor.ready)

    def announce(self, ready: Ready) -> None:
        """Enter that an actor names what it holds: what the broker does not want must be aborted."""
        wanted = {order.execute.attempt for order in self.orders()}
        self._strays = set(ready.attempts) - wanted

    def lose(self, device: str, *, died: bool = True) -> None:
        """Enter that an actor is gone, with all it had; `died`: not on purpose."""
        actor = self.actors.pop(device)
        self.lost.append(actor)
        for order in list(actor.orders.values()):
            self.forget(order)
            entry = self.open.get(order.execute.request_id)
            if entry is not None and entry.running is None and order.counts_for(entry):
                entry.deaths += died
        self.empty_queue(device)

    def retire(self, device: str) -> None:
        """Enter that an actor wants nothing new."""
        self.actors[device].is_leaving = True
        self.empty_queue(device)

    def empty_queue(self, device: str) -> None:
        """Enter that what is queued for a device stands there no longer."""
        for entry in self.open.values():
            if entry.device == device and entry.running is None:
                entry.device, entry.told = None, ()

    def forget(self, order: Order) -> None:
        """Enter that an order is over and its slots are free; reports of it are late from now on."""
        execute, actor = order.execute, order.actor
        del actor.orders[execute.attempt]
        self.old.append((actor.route, execute))
        self.taken[actor.ready.device] -= {slot.index for slot in execute.slots}
        if order.is_wanted:
            entry = self.open[execute.request_id]
            entry.running, entry.device, entry.told = None, None, ()

    def report(self, order: Order) -> None:
        """Enter that an actor reports an order done as asked: a result may follow."""
        entry = self.open.get(order.execute.request_id)
        if order.is_wanted and entry is not None and entry.deadline >= self.now:
            self._reporting = order
        else:
            self.forget(order)

    def give_back(self, lease: int) -> None:
        """Enter that a slot is no longer in a client's hands."""
        held = self.leases.pop(lease)
        self.taken[held.device].remove(held.index)

    # ---- what the broker does ---------------------------------------------------------------

    def read(self, effects: Sequence[Effect]) -> None:
        """Enter what the broker does, in order; an AssertionError where it breaks a promise."""
        for effect in effects:
            match effect:
                case TellClient(route, Accepted() as message):
                    self._accepted(route, message)
                case TellClient(route, Result() as message):
                    self._result(route, message, effect)
                case TellClient(route, Error() as message):
                    self._error(route, message)
                case TellClient(route, Progress(request_id=name)):
                    assert self.open[name].owner == route, "progress goes to whom it belongs"
                case TellActor(route, message):
                    self._to_actor(route, message)
                case TellSupervisor(_, KillActor() as message):
                    self._kill(message)
                case Exit():
                    assert self.is_draining, "nobody asked the broker to exit"
                    assert not self.open, "the broker exits with open requests"
                    assert not self.actors, "the broker exits before its actors"
        self._check_recalled()
        self._check_loads()
        assert not self._strays, "an actor goes on with what nobody wants"
        assert self._reporting is None, "a finished request gets its result at once, or a new attempt"
        assert all(entry.told is not None for entry in self.open.values()), "at work, but never accepted"

    def _accepted(self, route: bytes, message: Accepted) -> None:
        entry = self.open.get(message.request_id) or self._enter(message.request_id)
        assert entry.owner == route, "a plan goes to whom it belongs"
        if self._reporting is not None and self._reporting is entry.running:
            self._painted_again(entry, self._reporting, message)
        plan = message.plan
        facts = (message.attempt, plan and (plan.device, plan.variant, plan.steps))
        is_answer = self.asking is not None and self.asking[1] == entry.message
        assert is_answer or facts != entry.told, "told again what its client knows"
        entry.told = facts
        assert message.attempt == entry.executes
        entry.device = plan.device if plan is not None else None
        if plan is not None and entry.running is not None and plan.keeps_latency is not None:
            is_held = entry.running.execute.latest > 0.0
            is_promised = plan.keeps_latency and not entry.message.requirements.best_effort
            assert is_held == is_promised, "an actor is held to what was promised, and to nothing else"

    def _painted_again(self, entry: Entry, order: Order, message: Accepted) -> None:
        """Enter that pictures were judged and not good enough: once, and its client is told."""
        assert order.execute.is_judged, "painted again though nobody judged it"
        assert message.plan is not None
        assert message.plan.variant != order.execute.variant
        assert any(note.startswith("painted again") for note in message.plan.notes)
        self._reporting = None
        entry.repainted = True
        self.forget(order)

    def _enter(self, name: str) -> Entry:
        """Enter the request that is being asked: it must be the one called `name`."""
        assert self.asking is not None, f"nobody asks for {name}"
        asker, asked = self.asking
        assert isinstance(asked, Generate)
        assert asked.request_id == name, "the broker speaks of a request that is not open"
        assert not self.refusals, "accepted after its end"
        self._seq += 1
        self.open[name] = Entry(asked, asker, self._seq, self.now, self.now + asked.timeout_s)
        return self.open[name]

    def _result(self, route: bytes, message: Result, effect: TellClient) -> None:
        order, self._reporting = self._reporting, None
        assert order is not None, "a result without a report"
        assert order.execute.request_id == message.request_id
        entry = self.open.pop(message.request_id)
        assert entry.owner == route, "a result goes to whom it belongs"
        assert entry.running is order
        assert entry.deadline >= self.now, "a result after the deadline"
        assert message.attempt == entry.executes
        execute, device = order.execute, order.actor.ready.device
        assert [image.seed for image in message.images] == list(execute.seeds)
        order.is_wanted = False
        self.forget(order)
        self.results += 1
        for image, slot in zip(message.images, execute.slots, strict=True):
            if entry.message.delivery.mode == "inline":
                continue
            assert isinstance(image.lease, int)
            assert (image.offset, image.generation) == (slot.offset, slot.generation)
            assert image.lease not in self.leases
            self.taken[device].add(slot.index)
            self.leases[image.lease] = Lease(route, device, slot.index, self.now + self.lease_s)
        inline = [payload.offset for payload in effect.payloads]
        wanted = (
            [] if message.images[0].lease else [s.offset + layout.HEADER_BYTES for s in execute.slots]
        )
        assert inline == wanted, "an image travels in a frame or lies in a slot"

    def _error(self, route: bytes, message: Error) -> None:
        name = message.request_id
        is_answer = name not in self.open or message.code in ("id_conflict", "not_found")
        if is_answer:
            assert self.asking is not None, f"nobody asked for {message}"
            asker, asked = self.asking
            assert asker == route
            assert name == (asked.request_id if isinstance(asked, Generate) else asked or None)
            self.refusals.append(message)
            return
        assert name is not None
        entry = self.open.pop(name)
        assert entry.owner == route, "an end goes to whom it belongs"
        assert entry.running is None or not entry.running.is_wanted, "its actor was not told to stop"
        if message.code == "expired":
            assert entry.deadline <= self.now, "expired before its deadline"

    def _to_actor(self, route: bytes, message: object) -> None:
        actor = next((a for a in self.actors.values() if a.route == route), None)
        if isinstance(message, Welcome):
            return
        assert actor is not None, f"{message} goes to an actor that is gone"
        match message:
            case Execute():
                self._execute(actor, message)
            case Abort(attempt) if attempt in self._strays:
                self._strays.remove(attempt)
            case Abort(attempt):
                order = actor.orders[attempt]
                assert order.is_wanted, "aborted twice"
                order.is_wanted = False
            case Stop():
                assert not self.open, "stopped with open requests"
                actor.is_leaving = True
            case LoadVariant() | CancelLoad() | EvictVariant() | SwitchMode():
                self._about_variant(actor, message)

    def _about_variant(
        self, actor: FakeActor, message: LoadVariant | CancelLoad | EvictVariant | SwitchMode
    ) -> None:
        name = message.variant
        match message:
            case LoadVariant():
                assert not actor.may_execute(name), "loaded though it is there or on its way"
                actor.owed.append(Task(message, is_asked=self.is_admin_loading))
            case CancelLoad():
                load = actor.live_load(name)
                assert load is not None, "cancelled a load that is not on its way"
                assert not load.is_asked, "cancelled what an administrator asked for"
                assert not self._is_wanted(actor, name), "cancelled a load that a request waits for"
                if not actor.is_working():
                    actor.progressed_at = self.now
                load.is_cancelled = True
            case EvictVariant():
                assert all(o.execute.variant != name for o in actor.orders.values()), "evicted while used"
                is_due = name in actor.outdated
                assert is_due or not self._is_wanted(actor, name), "evicted though a request wants it"
                assert name in actor.residents or (is_due and name in actor.parked), "evicts what is not"
                actor.residents.pop(name, None)
                if is_due:
                    actor.outdated.discard(name)
                    actor.parked.discard(name)
                actor.owed.append(Task(message))
            case SwitchMode():
                assert name in actor.residents, "switches what is not loaded"
                actor.owed.append(Task(message))

    def _is_wanted(self, actor: FakeActor, variant: str) -> bool:
        device = actor.ready.device
        return any(e.device == device and e.variant == variant for e in self.open.values())

    def _check_recalled(self) -> None:
        """What was told to stop and has not ended begins anew: it gave its place.

        Best effort to anybody; what had not begun to whom a latency was promised.
        """
        for entry in self.open.values():
            if entry.running is not None and not entry.running.is_wanted:
                here = [e for e in self.open.values() if e.device == entry.device and e.running is None]
                if not entry.message.requirements.best_effort:
                    assert not entry.running.steps, "stopped on its way, and neither ended nor yielding"
                    here = [e for e in here if e.message.requirements.latency_s is not None]
                assert any(e.urgency < 1 for e in here), "gave its place to nobody"
                entry.running.recalled, entry.running = entry, None

    def _check_loads(self) -> None:
        for actor in self.actors.values():
            for task in actor.owed:
                if task.is_live_load and not task.is_asked:
                    wanted = self._is_wanted(actor, task.message.variant)
                    assert wanted, "goes on with a load that nobody waits for"

    def _execute(self, actor: FakeActor, execute: Execute) -> None:
        device = actor.ready.device
        entry = self.open.get(execute.request_id) or self._enter(execute.request_id)
        assert not self._strays, "dispatched before old work was aborted: it may still write"
        assert not actor.is_leaving, "dispatched to an actor that leaves"
        assert len(actor.orders) < actor.ready.credits, "dispatched beyond the credits"
        assert entry.running is None, "dispatched twice"
        assert execute.deadline == entry.deadline > self.now, "dispatched after the deadline"
        assert execute.attempt not in self._attempts, "an attempt's number was used before"
        assert actor.may_execute(execute.variant), "neither loaded nor asked to load"
        assert self.sizes[execute.variant] < entry.below_bytes, "as heavy as what ran out of memory"
        for other in self.open.values():
            is_waiting = other.device == device and other.running is None
            assert not (is_waiting and other.is_before(entry)), "dispatched before one of higher rank"
        is_suspect = entry.deaths or any(order.is_suspect for order in actor.orders.values())
        assert not (is_suspect and actor.orders), "what was on an actor that died must run alone"
        self._attempts.add(execute.attempt)
        entry.executes += 1
        assert entry.deaths < self.max_attempts, "dispatched though it killed too often"
        assert entry.seeds in ((), execute.seeds), "another attempt would paint another picture"
        entry.seeds = execute.seeds
        self._check_wishes(entry, execute)
        self._take_slots(device, execute, entry.message)
        entry.device = device
        if not actor.is_working():
            actor.progressed_at = self.now
        entry.running = Order(execute, actor, is_suspect=entry.deaths > 0)
        actor.orders[execute.attempt] = entry.running

    def _check_wishes(self, entry: Entry, execute: Execute) -> None:
        """An actor learns what it needs to serve a request as its client wants it."""
        asked, needs = entry.message, entry.message.requirements
        assert execute.is_alone == (asked.deterministic or entry.deaths > 0)
        assert not (entry.repainted and execute.is_judged), "what was painted again is final"
        assert execute.is_best_effort == needs.best_effort
        assert execute.preview_every == asked.delivery.preview_every
        if needs.best_effort:
            assert (execute.due, execute.latest) == (entry.deadline, 0.0), "a best effort yields"
        elif needs.latency_s is not None:
            stated = min(entry.deadline, entry.arrived_at + needs.latency_s)
            assert execute.latest in (stated, 0.0), (
                "what was stated, or nothing where that was not promised"
            )
        else:
            assert execute.latest == 0.0
        assert needs.best_effort or entry.arrived_at < execute.due <= entry.deadline

    def _take_slots(self, device: str, execute: Execute, asked: Generate) -> None:
        assert len(execute.slots) == len(execute.seeds) == asked.n
        taken = self.taken.setdefault(device, set())
        encoded = execute.format != "raw"
        nbytes = layout.needed_bytes(execute.height, execute.width, 3, encoded=encoded)
        for slot in execute.slots:
            assert slot.index not in taken, "a slot was leased twice"
            assert slot.nbytes >= nbytes, "the image does not fit its slot"
            assert slot.generation > self._generations.get(device, builders.EPOCH << 32), (
                "an old generation"
            )
            self._generations[device] = slot.generation
            taken.add(slot.index)

    def _kill(self, message: KillActor) -> None:
        """Enter that the broker gave an actor up, which it may only with a reason."""
        actor = self.actors.get(message.device)
        if actor is None or actor.ready.pid != message.pid:
            assert self.lost, "killed an actor that never was"
            return
        is_silent = self.now >= actor.heard_at + self.silence_s
        is_stalled = actor.is_working() and self.now - actor.progressed_at > self.stall_s
        assert is_silent or is_stalled, f"killed without a reason: {message.reason}"
        self.lose(message.device)

    # ---- time -------------------------------------------------------------------------------

    def before_tick(self) -> None:
        """Begin a tick on which heartbeats are due: leases whose time is over end first."""
        for lease in [n for n, held in self.leases.items() if held.expires_at <= self.now]:
            self.give_back(lease)

    def after_tick(self, effects: Sequence[Effect], *, is_beat: bool) -> None:
        """Check what must hold once time has passed."""
        assert all(entry.deadline > self.now for entry in self.open.values()), "not expired in time"
        if not is_beat:
            return
        for actor in self.actors.values():
            assert self.now - actor.heard_at <= self.silence_s, "a silent actor was not given up"
            is_stalled = actor.is_working() and self.now - actor.progressed_at > self.stall_s
            assert not is_stalled, "an actor that hangs was not given up"
        fleet = builders.told(effects, Fleet)[-1]
        ready = {device for device, actor in self.actors.items() if not actor.is_leaving}
        assert set(fleet.ready) >= ready
        if not self.is_draining:
            beaten = [
                e.route for e in effects if isinstance(e, TellClient) and isinstance(e.message, Beat)
            ]
            awaited = {e.owner for e in self.open.values()} | {h.owner for h in self.leases.values()}
            assert sorted(beaten) == sorted(awaited), "a sign of life to each that waits, to no other"
