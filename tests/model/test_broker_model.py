"""The model: hypothesis plays clients, actors, the supervisor and time against the broker's heart.

After every rule the books check themselves (`validate`) and the ledger checks every effect: each
accepted request ends exactly once and for its own client, slots are conserved and never in two hands,
nothing is dispatched beyond the credits, after the deadline, too often or to an actor that is not
ready, late reports change nothing. A load goes on as long as somebody waits for it, what ran out of
memory moves to lighter variants only. At the end time passes until nothing may be left.
"""

from itertools import product
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from difs.actor_messages import (
    Abort,
    ActorExited,
    CancelLoad,
    DrainAll,
    Ended,
    Evicted,
    EvictVariant,
    Execute,
    Fleet,
    FromActor,
    Leaving,
    Loaded,
    LoadFailed,
    LoadVariant,
    Pulse,
    Ready,
    Retiring,
    Sealed,
    Supervise,
    Switched,
    SwitchFailed,
    SwitchMode,
    Welcome,
)
from difs.broker.effects import Effect, TellClient
from difs.broker.events import (
    ActorSaid,
    ActorUnreachable,
    ClientLost,
    ClientMisspoke,
    ClientSaid,
    Delivered,
    Event,
    RepositoryChanged,
    Ticked,
)
from difs.errors import RemoteProtocolError
from difs.messages import (
    Accepted,
    Cancel,
    ClientMessage,
    Done,
    Drain,
    Error,
    Evict,
    Explain,
    Explanation,
    Generate,
    Load,
    Ping,
    Pong,
    Preview,
    Release,
    SetMode,
    Status,
    StatusReport,
    VariantList,
    Variants,
)
from tests import builders
from tests.model.actors import FakeActor, Order, Task
from tests.model.ledger import Entry, Ledger

DEVICES = ("cpu-0", "cpu-1")
CLIENTS = (b"ann", b"bob", b"eve")
IDS = ("a", "b", "c", "d", "e", "f", "g")
SLOTS = ((16 * builders.KIB, 3), (64 * builders.KIB, 1))
LEASE_S, SILENCE_S, STALL_S = 12.0, 3.0, 5.0
LONGEST_S = 40.0
MAX_OUTSTANDING, MAX_QUEUED = 4, 6

WISHES: tuple[dict[str, Any], ...] = (
    {},
    {"mode": "shm"},
    {"mode": "shm", "n": 2, "progress": True},
    {"n": 3, "priority": 9},
    {"n": 2, "width": 128, "height": 128},
    {"width": 128, "height": 128, "mode": "shm", "best_effort": True},
    {"format": "png", "mode": "shm", "priority": 0, "timeout_s": 2.5},
    {"timeout_s": 0.6, "progress": True},
    {"timeout_s": 1e-300},
    {"timeout_s": 6.0, "mode": "shm", "priority": 7},
    {"variant": "wide", "seed": 2**64 - 1, "n": 2, "timeout_s": 20.0},
    {"variant": "wide", "deterministic": True, "preview_every": 2},
    {"family": "sd15", "latency_s": 3.0, "preview_every": 1, "progress": True},
    {"variant": "none"},
    {"latency_s": 0.1, "on_infeasible": "reject"},
)
MENU = [
    (route, builders.generate(name, **{"timeout_s": LONGEST_S} | wishes))
    for route, name, wishes in product(CLIENTS, IDS, WISHES)
]
PAUSES = (0.1, 0.5, 1.0, 2.0, 3.2, 5.5, 13.0)
CODES = ("cancelled", "expired", "engine_failed", "out_of_memory", "out_of_memory", "no_such_code")
VARIANTS = (builders.variant("wide", bytes=2000), builders.variant("tiny"))
RESIDENTS = {
    "tiny": (builders.resident("tiny"),),
    "both": (builders.resident("tiny"), builders.resident("wide")),
    "none": (),
}

any_request = st.integers(0, len(MENU) - 1).map(lambda number: MENU[number])
any_question = st.sampled_from([Ping(), Ping(), Status(), Variants(), MENU[0][1], None])
any_loss = st.sampled_from(["exited", "unreachable", "leaving", "retiring", "stale exit"])
any_client = st.sampled_from(CLIENTS)
any_pick = st.integers(0, 5)
ADMIN = (
    Load("wide"),
    Load("wide"),
    Load("tiny", "cpu-0"),
    Evict("tiny"),
    Evict("wide"),
    SetMode("tiny", "tiled"),
    SetMode("wide", "sliced", "cpu-0"),
    SetMode("tiny", "fp8"),
)
PICTURE = Preview(1, 1, b"rgb")


class BrokerMachine(RuleBasedStateMachine):
    """Everything that can happen to a broker."""

    @initialize(
        policy=st.sampled_from(["static", "round_robin", "cascade"]),
        max_attempts=st.integers(1, 3),
        has_drain=st.sampled_from([False, False, True]),
        actors=st.sampled_from([(1,), (2,), (1, 2), (2, 3), ()]),
    )
    def start(self, policy: str, max_attempts: int, has_drain: bool, actors: tuple[int, ...]) -> None:
        """Open the house: the supervisor is there, and actors with so many credits."""
        self.state = builders.broker_state(
            DEVICES,
            slots=SLOTS,
            policy=policy,
            variants=VARIANTS,
            max_attempts=max_attempts,
            max_outstanding=MAX_OUTSTANDING,
            max_queued=MAX_QUEUED,
            max_clients=2,
            lease=LEASE_S,
            actor_silence=SILENCE_S,
            stall_floor=STALL_S,
        )
        self.policy = policy
        self.ledger = Ledger(
            max_attempts=max_attempts,
            lease_s=LEASE_S,
            silence_s=SILENCE_S,
            stall_s=STALL_S,
            sizes={info.name: info.bytes for info in VARIANTS},
        )
        self.ledger.taken = {device: set() for device in DEVICES}
        self.is_whole = True
        self.may_drain = has_drain
        self.drain_until = float("inf")
        self.incarnations = 0
        self.next_beat = 0.0
        self.happen(ActorSaid(builders.SUPERVISOR, Supervise(1)))
        for device, number in zip(DEVICES, actors, strict=False):
            self.actor_ready(device, number, "tiny")

    # ---- the frame --------------------------------------------------------------------------

    def happen(self, event: Event) -> list[Effect]:
        """Let something happen, and hold its effects against the ledger."""
        self.is_whole = False
        effects = self.state.handle(event, self.ledger.now)
        self.ledger.read(effects)
        for leases in [e.leases for e in effects if isinstance(e, TellClient) and e.leases]:
            copied = self.state.handle(Delivered(leases), self.ledger.now)
            self.ledger.read(copied)
            effects += copied
        self.compare()
        self.is_whole = True
        return effects

    def compare(self) -> None:
        """The books and the ledger tell the same."""
        books, ledger = self.state.books, self.ledger
        assert books.requests.keys() == ledger.open.keys()
        assert books.holds.keys() == ledger.leases.keys()
        assert books.attempts.keys() == {order.execute.attempt for order in ledger.orders()}
        for device, pool in books.pools.items():
            assert pool.in_use() == ledger.taken[device], "slots are lost or in two hands"
        for entry in ledger.open.values():
            assert entry.running is None or entry.running.is_wanted
        for actor in ledger.actors.values():
            known = books.actors[actor.route]
            assert {n: found.memory_mode for n, found in known.residents.items()} == actor.residents
            assert known.parked.keys() == actor.parked
            assert {name: len(loads) for name, loads in known.loading.items()} == actor.unanswered_loads()
        if any(not actor.is_leaving for actor in ledger.actors.values()):
            assert not books.waiting, "a request waits for a device though one is ready"

    def besides_moves(self, effects: list[Effect]) -> list[Effect]:
        """Return effects without those of a queued request that moves to a device with free slots.

        With `round_robin` each event is a new turn, which may admit what the last one refused.
        """
        if self.policy == "static":
            return effects
        of_moves = (Accepted, Execute, LoadVariant, CancelLoad)
        return [effect for effect in effects if not isinstance(getattr(effect, "message", 0), of_moves)]

    def ask(self, route: bytes, message: ClientMessage, about: Generate | str = "") -> list[Effect]:
        """Let a client speak; `about` is the request that an error may name."""
        self.ledger.asking, self.ledger.refusals = (route, about), []
        effects = self.happen(ClientSaid(route, message))
        self.ledger.asking = None
        assert len(self.ledger.refusals) <= 1, "refused twice"
        return effects

    def tell(self, actor: FakeActor, message: FromActor, *, is_news: bool = True) -> list[Effect]:
        """Let a ready actor speak."""
        if is_news:
            actor.heard_at = self.ledger.now
        return self.happen(ActorSaid(actor.route, message))

    def tick(self) -> list[Effect]:
        """Let the broker know that time has passed."""
        ledger = self.ledger
        is_beat = ledger.now >= self.next_beat
        if is_beat:
            self.next_beat = ledger.now + 0.5
            ledger.before_tick()
        effects = self.happen(Ticked())
        assert is_beat == bool(builders.told(effects, Fleet)), "heartbeats come twice a second"
        ledger.after_tick(effects, is_beat=is_beat)
        if ledger.now >= self.drain_until:
            assert not ledger.open, "the time to drain is over"
        assert self.state.next_wake() > ledger.now, "the broker would spin"
        return effects

    def entry(self, pick: int) -> Entry:
        """Return one of the open requests."""
        found = list(self.ledger.open.values())
        return found[pick % len(found)]

    def order(self, pick: int) -> Order:
        """Return one of the orders that actors work on."""
        found = self.ledger.orders()
        return found[pick % len(found)]

    def actor(self, pick: int) -> FakeActor:
        """Return one of the living actors."""
        found = list(self.ledger.actors.values())
        return found[pick % len(found)]

    # ---- clients ----------------------------------------------------------------------------

    @rule(asked=any_request)
    def submit(self, asked: tuple[bytes, Generate]) -> None:
        """A client asks for images, perhaps under an id that is taken."""
        route, message = asked
        known = self.ledger.open.get(message.request_id)
        if known is not None and known.message == message:
            known.owner = route
        owned = sum(entry.owner == route for entry in self.ledger.open.values())
        queued = sum(entry.running is None for entry in self.ledger.open.values())
        effects = self.ask(route, message, message)
        is_taken = bool(builders.told(effects, Accepted, route))
        assert is_taken != bool(self.ledger.refusals), "accepted or refused, one of both"
        if known is not None and known.message != message:
            assert self.ledger.refusals[0].code == "id_conflict"
        elif known is not None:
            assert is_taken, "a repeated request shares the open one"
        elif self.ledger.is_draining:
            assert self.ledger.refusals[0].code == "draining"
        elif is_taken:
            assert owned < MAX_OUTSTANDING, "a client has more open than it may"
            assert queued < MAX_QUEUED, "the queue is longer than it may be"

    @rule(burst=st.lists(any_request, min_size=2, max_size=5))
    def submit_many(self, burst: list[tuple[bytes, Generate]]) -> None:
        """Clients ask for more than the actors can begin at once."""
        for asked in burst:
            self.submit(asked)

    @precondition(lambda self: self.ledger.open)
    @rule(pick=any_pick, route=any_client)
    def submit_again(self, pick: int, route: bytes) -> None:
        """A client repeats an open request, perhaps over another connection."""
        self.submit((route, self.entry(pick).message))

    @precondition(lambda self: self.ledger.open)
    @rule(pick=any_pick, route=st.sampled_from([None, None, *CLIENTS]))
    def cancel(self, pick: int, route: bytes | None) -> None:
        """A client gives up a request: its own, or another's."""
        entry = self.entry(pick)
        name, owner = entry.message.request_id, entry.owner
        self.ask(route or owner, Cancel(name), name)
        if route in (None, owner):
            assert name not in self.ledger.open
            assert not self.ledger.refusals
        else:
            assert self.ledger.open[name] is entry
            assert [refusal.code for refusal in self.ledger.refusals] == ["not_found"]

    @rule(route=any_client, wavers=st.integers(1, 3), keeps=st.booleans())
    def waver(self, route: bytes, wavers: int, keeps: bool) -> None:
        """A client asks for what may have to be loaded and gives it up, again and again."""
        for name in [name for name in IDS if name not in self.ledger.open][:wavers]:
            self.submit((route, builders.generate(name, variant="wide", timeout_s=LONGEST_S)))
            if name in self.ledger.open and not keeps:
                self.ask(route, Cancel(name), name)

    @precondition(lambda self: self.state.books.clients)
    @rule(route=any_client)
    def client_gone(self, route: bytes) -> None:
        """A connection ends: its requests end, its slots come back."""
        ledger = self.ledger
        for lease in [n for n, held in ledger.leases.items() if held.owner == route]:
            ledger.give_back(lease)
        self.happen(ClientLost(route))
        assert all(entry.owner != route for entry in ledger.open.values())

    @precondition(lambda self: self.ledger.leases)
    @rule(pick=any_pick, route=st.sampled_from([None, None, *CLIENTS]))
    def release(self, pick: int, route: bytes | None) -> None:
        """A client gives slots back, some of them not its own."""
        found = list(self.ledger.leases)
        lease = found[pick % len(found)]
        if route in (None, self.ledger.leases[lease].owner):
            route = self.ledger.leases[lease].owner
            self.ledger.give_back(lease)
        assert route is not None
        self.ask(route, Release((lease, 3, lease)))

    @rule(
        route=any_client,
        question=st.sampled_from([Ping(), Ping(), Status(), Variants(), MENU[0][1], None]),
    )
    def inquire(self, route: bytes, question: Ping | Status | Variants | Generate | None) -> None:
        """A client asks questions, or talks nonsense: nothing changes but the life of its leases."""
        before = self.state.books.decisions
        match question:
            case None:
                self.ledger.asking = (route, "")
                refused = self.happen(ClientMisspoke(route, RemoteProtocolError("what?"), None))
                self.ledger.asking = None
                assert len(refused) == 1
            case Generate():
                assert builders.told(self.ask(route, Explain(question)), Explanation, route)
            case Ping():
                self.ping(route)
            case Status():
                report = builders.only(self.ask(route, question), StatusReport, route)
                assert report.queued + report.running >= len(self.ledger.open)
            case Variants():
                assert builders.told(self.ask(route, question), VariantList, route)
        assert self.state.books.decisions == before

    def ping(self, route: bytes) -> None:
        """Let a client ask for a sign of life: its leases start anew."""
        for held in self.ledger.leases.values():
            if held.owner == route:
                held.expires_at = self.ledger.now + LEASE_S
        pong = builders.only(self.ask(route, Ping()), Pong, route)
        is_served = any(not actor.is_leaving for actor in self.ledger.actors.values())
        assert pong.ready == (is_served and not self.ledger.is_draining)

    @rule(route=any_client, message=st.sampled_from(ADMIN))
    def administer(self, route: bytes, message: Load | Evict | SetMode) -> None:
        """An administrator loads or drops a variant, or changes its memory mode."""
        targets = [
            actor
            for actor in self.ledger.actors.values()
            if not actor.is_leaving and message.device in (None, actor.ready.device)
        ]
        residing = [actor for actor in targets if message.variant in actor.residents]
        for load in [actor.live_load(message.variant) for actor in targets]:
            if load is not None:
                load.is_asked |= isinstance(message, Load)
        self.ledger.is_admin_loading = isinstance(message, Load)
        effects = self.ask(route, message)
        self.ledger.is_admin_loading = False
        (answer,) = builders.told(effects, object, route)
        if isinstance(message, SetMode):
            self.check_switch(message, answer, effects, targets, residing)

    def check_switch(
        self,
        message: SetMode,
        answer: object,
        effects: list[Effect],
        targets: list[FakeActor],
        residing: list[FakeActor],
    ) -> None:
        """A mode is changed wherever the variant is loaded, if the devices have it."""
        switches = builders.told(effects, SwitchMode)
        if residing and message.memory_mode != "fp8":
            assert isinstance(answer, Done)
            assert len(switches) == len(residing)
            return
        assert isinstance(answer, Error)
        expected = "unavailable" if not targets else "not_found" if not residing else "unsupported"
        assert (answer.code, switches) == (expected, [])

    @precondition(lambda self: self.may_drain)
    @rule(route=st.sampled_from([*CLIENTS, builders.SUPERVISOR]), grace_s=st.sampled_from([0.5, 5.0]))
    def drain(self, route: bytes, grace_s: float) -> None:
        """The service shall end."""
        self.ledger.is_draining = True
        if route == builders.SUPERVISOR:
            self.happen(ActorSaid(route, DrainAll(grace_s)))
            self.drain_until = min(self.drain_until, self.ledger.now + grace_s)
        else:
            self.ask(route, Drain())
            self.drain_until = min(self.drain_until, self.ledger.now + 30.0)

    # ---- actors -----------------------------------------------------------------------------

    @rule(
        device=st.sampled_from(DEVICES),
        credits_=st.integers(1, 3),
        has=st.sampled_from(["tiny", "tiny", "both", "none"]),
    )
    def actor_ready(self, device: str, credits_: int, has: str) -> None:
        """A new incarnation of an actor is ready."""
        self.incarnations += 1
        number = self.incarnations
        message = builders.ready(
            device,
            incarnation=f"{device}.{number}",
            pid=number,
            credits=credits_,
            residents=RESIDENTS[has],
        )
        self.announce(FakeActor(f"{device}.{number}".encode(), message, 0.0, 0.0))

    def announce(self, actor: FakeActor) -> None:
        """Let an actor announce itself."""
        now = self.ledger.now
        self.ledger.join(FakeActor(actor.route, actor.ready, now, now))
        effects = self.happen(ActorSaid(actor.route, actor.ready))
        assert builders.only(effects, Welcome, actor.route).epoch == builders.EPOCH

    @precondition(lambda self: self.ledger.lost)
    @rule(pick=any_pick)
    def actor_comes_back(self, pick: int) -> None:
        """An actor that was given up, with its work, announces itself: unless its device has another."""
        actor = self.ledger.lost[-1 - pick % len(self.ledger.lost)]
        if actor.ready.device not in self.ledger.actors:
            self.announce(FakeActor(actor.route, self.naming_its_work(actor), 0.0, 0.0))

    def naming_its_work(self, actor: FakeActor) -> Ready:
        """Return an actor's announcement, with what it works on and has worked on."""
        old = [execute.attempt for route, execute in self.ledger.old if route == actor.route]
        return replace(actor.ready, attempts=(*actor.orders, *old[-2:]))

    @precondition(lambda self: self.ledger.actors)
    @rule(pick=any_pick)
    def actor_repeats_itself(self, pick: int) -> None:
        """A known actor announces itself again: nothing changes but that old work is aborted."""
        actor = self.actor(pick)
        message = self.naming_its_work(actor)
        self.ledger.announce(message)
        effects = self.besides_moves(self.tell(actor, message, is_news=False))
        said = builders.told(effects, object)
        assert [type(m) for m in said] == [Welcome, *[Abort] * (len(said) - 2), Fleet]

    @precondition(lambda self: self.ledger.actors)
    @rule(pick=any_pick, way=any_loss)
    def lose(self, pick: int, way: str) -> None:
        """An actor is gone, or wants to go, or an earlier process of its device is gone."""
        actor = self.actor(pick)
        device, pid = actor.ready.device, actor.ready.pid
        if way == "stale exit":
            stale = ActorSaid(builders.SUPERVISOR, ActorExited(device, pid + 1000, "gone"))
            assert not self.besides_moves(self.happen(stale))
            return
        if way == "retiring":
            self.ledger.retire(device)
            self.happen(ActorSaid(actor.route, Retiring()))
            return
        self.ledger.lose(device, died=way != "leaving")
        if way == "exited":
            self.happen(ActorSaid(builders.SUPERVISOR, ActorExited(device, pid, "signal 9")))
        elif way == "leaving":
            self.happen(ActorSaid(actor.route, Leaving()))
        else:
            self.happen(ActorUnreachable(actor.route))

    @precondition(lambda self: self.ledger.orders())
    @rule(pick=any_pick, preview=st.sampled_from([None, PICTURE]))
    def step(self, pick: int, preview: Preview | None) -> None:
        """An actor reports a step, perhaps with a picture."""
        order = self.order(pick)
        order.steps += 1
        order.actor.progressed_at = self.ledger.now
        effects = self.tell(order.actor, builders.stepped(order.execute, order.steps, preview=preview))
        asked = self.ledger.open[order.execute.request_id].message.delivery if order.is_wanted else None
        shown = preview if asked is not None and asked.preview_every else None
        told = [asked.progress or shown is not None] if asked is not None else []
        progress = builders.told(self.besides_moves(effects), object)
        assert [getattr(p, "preview", "") for p in progress] == [shown] * sum(told)

    @precondition(lambda self: self.ledger.orders())
    @rule(
        pick=any_pick,
        late_s=st.sampled_from([0.0, 0.0, 0.0, 0.7, 2.6]),
        score=st.sampled_from([None, 0.1, 0.9]),
    )
    def finish(self, pick: int, late_s: float, score: float | None) -> None:
        """An actor reports that it is done, perhaps after the deadline and before any tick."""
        self.ledger.now += late_s
        order = self.order(pick)
        order.actor.progressed_at = self.ledger.now
        self.ledger.report(order)
        self.tell(order.actor, builders.finished(order.execute, score=score))
        self.tick()

    @precondition(lambda self: self.ledger.orders())
    @rule(pick=any_pick, count=st.integers(1, 4))
    def finish_many(self, pick: int, count: int) -> None:
        """Actors finish one order after the other."""
        for _ in range(count):
            if self.ledger.orders():
                self.finish(pick, 0.0, 0.1)

    @precondition(lambda self: self.ledger.orders())
    @rule(pick=any_pick, fault=st.sampled_from(["fewer", "foreign slot", "too many bytes"]))
    def finish_wrongly(self, pick: int, fault: str) -> None:
        """An actor reports slots that are not its own: the request fails, and nothing leaks."""
        order = self.order(pick)
        images = {
            "fewer": (),
            "foreign slot": tuple(Sealed(slot.index + 1, 12, 0) for slot in order.execute.slots),
            "too many bytes": tuple(Sealed(s.index, s.nbytes + 1, 0) for s in order.execute.slots),
        }[fault]
        order.actor.progressed_at = self.ledger.now
        self.ledger.forget(order)
        self.tell(order.actor, builders.finished(order.execute, images=images))
        self.check_ended(order)

    @precondition(lambda self: self.ledger.orders())
    @rule(pick=any_pick, code=st.sampled_from(CODES))
    def fail(self, pick: int, code: str) -> None:
        """An actor reports that an attempt ended without images."""
        order = self.order(pick)
        order.actor.progressed_at = self.ledger.now
        if order.is_wanted and code == "expired":
            self.ledger.open[order.execute.request_id].deadline = self.ledger.now  # its clock is ours
        may_move = order.is_wanted and code == "out_of_memory"
        if may_move:
            entry = self.ledger.open[order.execute.request_id]
            entry.below_bytes = self.ledger.sizes[order.execute.variant]
        self.ledger.forget(order)
        self.tell(order.actor, Ended(order.execute.attempt, code, "so the model wants"))
        if may_move and order.execute.request_id in self.ledger.open:
            self.check_moved(order)
        else:
            self.check_ended(order)

    def check_moved(self, order: Order) -> None:
        """What ran out of memory goes on with a lighter variant that its client allows, and says so."""
        entry = self.ledger.open[order.execute.request_id]
        assert order.execute.variant == "wide"
        assert entry.variant == "tiny"
        assert entry.message.overrides.variant is None
        plan = self.state.books.requests[order.execute.request_id].plan
        assert plan is not None
        assert "out of memory with wide: moved to the lighter tiny" in plan.notes

    def check_ended(self, order: Order) -> None:
        """A failed attempt ends its request, if that is still open."""
        if order.is_wanted:
            assert order.execute.request_id not in self.ledger.open

    @precondition(lambda self: self.ledger.old)
    @rule(pick=any_pick, kind=st.sampled_from(["step", "finish", "end", "another's"]))
    def report_late(self, pick: int, kind: str) -> None:
        """An actor reports on an attempt that is over, or on another actor's: nothing changes."""
        route, execute = self.ledger.old[-1 - pick % len(self.ledger.old)]
        reports: dict[str, FromActor] = {
            "step": builders.stepped(execute),
            "finish": builders.finished(execute),
            "end": builders.ended(execute, "engine_failed"),
        }
        message = reports.get(kind, reports["end"])
        if kind == "another's" and self.ledger.orders():
            message = builders.finished(self.order(pick).execute)
            route = b"a stranger"
        before = self.state.books.counts["late_reports"]
        assert self.besides_moves(self.happen(ActorSaid(route, message))) == []
        assert self.state.books.counts["late_reports"] == before + 1

    @precondition(lambda self: any(actor.owed for actor in self.ledger.actors.values()))
    @rule(pick=any_pick, works=st.booleans(), parks=st.booleans())
    def obey(self, pick: int, works: bool, parks: bool) -> None:
        """An actor has done what it was told about a variant, or could not."""
        owing = [actor for actor in self.ledger.actors.values() if actor.owed]
        actor = owing[pick % len(owing)]
        task = actor.take(pick)
        name = task.message.variant
        match task.message:
            case LoadVariant():
                self.end_load(actor, task, is_loaded=works or name in actor.holds)
            case EvictVariant():
                self.leave(actor, name, parks=parks)
            case SwitchMode(_, mode) if works and name in actor.holds:
                actor.progressed_at = self.ledger.now
                if name in actor.residents:
                    actor.residents[name] = mode
                self.happen(ActorSaid(actor.route, Switched(builders.resident(name, memory_mode=mode))))
            case SwitchMode():
                actor.progressed_at = self.ledger.now
                self.happen(ActorSaid(actor.route, SwitchFailed(name, "no")))

    @precondition(lambda self: any(actor.owed for actor in self.ledger.actors.values()))
    @rule(works=st.booleans(), parks=st.booleans())
    def obey_all(self, works: bool, parks: bool) -> None:
        """Every actor has done everything that it was told about variants."""
        while any(actor.owed for actor in self.ledger.actors.values()):
            self.obey(0, works, parks)

    @precondition(lambda self: self.ledger.actors)
    @rule(name=st.sampled_from(["tiny", "wide"]), parks=st.booleans(), returns=st.booleans())
    def send_away(self, name: str, parks: bool, returns: bool) -> None:
        """An administrator has a variant leave all devices, and perhaps return at once."""
        self.administer(CLIENTS[0], Evict(name))
        if returns:
            self.administer(CLIENTS[0], Load(name))
        if any(actor.owed for actor in self.ledger.actors.values()):
            self.obey_all(True, parks)

    @rule(name=st.sampled_from(["tiny", "wide"]))
    def repository_changes(self, name: str) -> None:
        """A variant is made of other weights now: what is loaded of it leaves, what is queued waits."""
        for actor in self.ledger.actors.values():
            if name in {*actor.residents, *actor.parked, *actor.unanswered_loads()}:
                actor.outdated.add(name)
        known = {info.name: info for info in VARIANTS}
        effects = self.happen(RepositoryChanged(known, {}, frozenset({name})))
        assert not builders.told(effects, Error), "nothing that is queued is lost"

    def end_load(self, actor: FakeActor, task: Task, *, is_loaded: bool) -> None:
        """Let an actor answer a load, which may have been given up in time or too late."""
        name = task.message.variant
        count = "loads_cancelled" if task.is_cancelled else "loads_failed"
        before = self.state.books.counts[count]
        actor.progressed_at = self.ledger.now
        if is_loaded:
            actor.holds.add(name)
            actor.parked.discard(name)
            actor.residents[name] = "full"
            self.happen(ActorSaid(actor.route, Loaded(builders.resident(name))))
        else:
            self.happen(ActorSaid(actor.route, LoadFailed(name, "no")))
        assert self.state.books.counts[count] == before + (not is_loaded)

    @precondition(lambda self: any(actor.holds for actor in self.ledger.actors.values()))
    @rule(pick=any_pick, parks=st.booleans())
    def drop_by_itself(self, pick: int, parks: bool) -> None:
        """An actor takes a variant off its device that it was told nothing about."""
        actor = self.actor(pick)
        used = {order.execute.variant for order in actor.orders.values()}
        used |= {task.message.variant for task in actor.owed}
        for name in sorted(actor.holds - used)[:1]:
            del actor.residents[name]
            self.leave(actor, name, parks=parks)

    def leave(self, actor: FakeActor, name: str, *, parks: bool) -> None:
        """Let a variant leave a device: parked, in the place of all others, or dropped."""
        actor.holds.discard(name)
        dropped: tuple[str, ...] = ()
        if parks:
            dropped = tuple(sorted(actor.parked - {name}))
            actor.parked = {name}
        self.happen(
            ActorSaid(actor.route, Evicted(name, builders.resident(name) if parks else None, dropped))
        )

    # ---- time -------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from(PAUSES), pulses=st.sampled_from([7, 7, 7, 7, 7, 7, 3, 6, 5, 0]))
    def wait(self, seconds: float, pulses: int) -> None:
        """Time passes; some actors give a sign of life, perhaps one without progress."""
        self.ledger.now += seconds
        for bit, actor in enumerate(list(self.ledger.actors.values())):
            if pulses >> bit & 1:
                self.pulse(actor, makes_progress=bool(pulses & 4))
        self.tick()

    def pulse(self, actor: FakeActor, *, makes_progress: bool) -> None:
        """Let an actor give a sign of life."""
        if makes_progress:
            actor.progress += 1
            actor.progressed_at = self.ledger.now
        actor.heard_at = self.ledger.now
        message = Pulse(actor.ready.incarnation, actor.progress, builders.reading())
        self.happen(ActorSaid(b"pulse", message))

    # ---- the end ----------------------------------------------------------------------------

    def teardown(self) -> None:
        """Bring everything to its end: nothing may be left."""
        if not getattr(self, "is_whole", False):
            return
        self.serve_all()
        for _ in range(2):
            self.ledger.now += LONGEST_S + LEASE_S
            self.tick()
        books = self.state.books
        assert not self.ledger.open
        assert not books.requests
        assert not books.waiting
        assert not books.attempts
        assert not books.holds
        assert not books.clients
        assert not books.actors
        assert all(pool.free == pool.total for pool in books.pools.values())
        assert books.next_deadline() is None

    def serve_all(self) -> None:
        """With healthy actors and clients that release, every open request gets its result."""
        for _ in range(len(self.ledger.open) + 1):
            self.obey_all(True, False)  # what is queued waits for what is outdated to come and leave
            for order in self.ledger.orders():
                self.ledger.report(order)
                self.tell(order.actor, builders.finished(order.execute))
            for lease, held in list(self.ledger.leases.items()):
                self.ledger.give_back(lease)
                self.ask(held.owner, Release((lease,)))
        if any(not actor.is_leaving for actor in self.ledger.actors.values()):
            assert not self.ledger.open, "a healthy actor leaves a request in the queue"


@pytest.mark.timeout(6 * 3600)  # a night's examples take hours
def test_whatever_happens_every_accepted_request_ends_exactly_once_and_nothing_leaks() -> None:
    run_state_machine_as_test(BrokerMachine, settings=settings.default)
