"""The broker's books: all records and the few primitive entries that keep them consistent.

No decisions: the desks (`client_desk`, `actor_desk`) and `dispatch` decide, and write here. That the
books agree with themselves is proved by `difs.broker.audit`.
"""

import heapq
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from enum import Enum
from hashlib import blake2b
from typing import TypeVar

from msgspec import Struct

from difs import config
from difs.actor_messages import Slot
from difs.broker import outlooks
from difs.broker.chronicle import Chronicle
from difs.broker.crowd import Crowd
from difs.broker.effects import Effect
from difs.broker.events import LOCAL, Peer
from difs.broker.quarantine import Quarantine
from difs.broker.records import NO_OUTLOOK, Account, Actor, Attempt, Client, Ended, Hold, Request
from difs.broker.scaler import Scaling
from difs.broker.states import (
    ACTOR_TABLE,
    ATTEMPT_TABLE,
    REQUEST_TABLE,
    ActorState,
    AttemptState,
    Cause,
    InvalidTransition,
)
from difs.broker.tally import OTHER, Loss, Tally
from difs.messages import AdapterInfo, Generate, Happening, Plan, VariantInfo
from difs.policy.base import Policy, Surveyor
from difs.shm.layout import Layout
from difs.shm.pool import SlotPool

STORIES_KEPT = 1000
SLACK = 64
"""A heap is rebuilt when its stale entries outnumber the live ones by more than this."""


class Segment(Struct, frozen=True):
    """A device's shared memory: the file to map, and how it is laid out."""

    path: str
    layout: Layout


class Books:
    """Every record of the broker; `effects` collects what the shell shall do."""

    def __init__(
        self,
        *,
        rules: config.Broker,
        policy: Policy,
        variants: Mapping[str, VariantInfo],
        adapters: Mapping[str, AdapterInfo],
        segments: Mapping[str, Segment],
        epoch: int,
        now: float,
        scaling: Scaling | None = None,
    ) -> None:
        """Open empty books; `epoch` is a random 31-bit number, new with every broker."""
        self.rules = rules
        self.policy = policy
        self.surveyor = policy if isinstance(policy, Surveyor) else None  # a slow question: asked once
        self.variants = variants
        self.adapters = adapters
        self.segments = segments
        self.epoch = epoch
        self.started_at = now
        self.pools = {d: SlotPool(s.layout, epoch << 32) for d, s in segments.items()}
        self.clients: dict[bytes, Client] = {}
        self.requests: dict[str, Request] = {}
        self.waiting: dict[str, Request] = {}
        self.actors: dict[bytes, Actor] = {}
        self.by_device: dict[str, Actor] = {}
        self.ready: list[Actor] = []
        """The actors that may be given work, by device."""
        self.attempts: dict[int, Attempt] = {}
        self.holds: dict[int, Hold] = {}
        self.supervisor: bytes | None = None
        self.draining_until: float | None = None
        self.scaling = scaling
        """None: nobody plans what is loaded."""
        self.decisions = 0
        self.memory: object = None
        """What the policy wants to be shown the next time."""
        self.counts: Counter[str] = Counter()
        self.tally = Tally()
        self.crowd = Crowd()
        self.promised = Crowd()
        """Who was promised how much of late."""
        self.chronicle = Chronicle(now)
        self.quarantine = Quarantine(rules.quarantine)
        self.killed: dict[int, Loss] = {}
        """Why processes are being killed that the supervisor has not buried yet."""
        self.ended = Ended(STORIES_KEPT)
        self.effects: list[Effect] = []
        self.peer: Peer = LOCAL
        """Who sent the client's message that is being served."""
        self._numbers = 0
        self._deadlines: list[tuple[float, int, Request]] = []

    # ---- numbers ----------------------------------------------------------------------------

    def next_number(self) -> int:
        """Return a number never used by this or another broker: the epoch, then a count."""
        self._numbers += 1
        return self.epoch << 32 | self._numbers

    def seed(self) -> int:
        """Return a seed below 2**32 for a request that names none; pure, but not guessable."""
        text = f"{self.epoch}:{self._numbers}".encode()
        return int.from_bytes(blake2b(text, digest_size=4).digest(), "little")

    # ---- states -----------------------------------------------------------------------------

    def move(self, request: Request, cause: Cause, now: float, detail: str = "") -> None:
        """Change a request's state by its table and write the change into its story."""
        request.state = _follow(REQUEST_TABLE, request.state, cause, request.story)
        self.note(request, cause.value, now, detail)
        if request.actor is not None:
            request.actor.queue.discard(request)
        if not request.is_open:
            is_poison = request.deaths >= self.rules.max_attempts
            self.tally.closed(self.model_of(request), request.state, now - request.arrived_at, is_poison)
            self._close(request)

    def note(self, request: Request, what: str, now: float, detail: str = "") -> None:
        """Write what happened to a request into its story and the chronicle."""
        happening = self.chronicle.note(
            now,
            what,
            request_id=request.message.request_id,
            attempt=request.attempts,
            device="" if request.actor is None else request.actor.device,
            detail=detail,
        )
        request.story.append(happening)

    def model_of(self, request: Request) -> str:
        """Return the variant to count a request under; "other" where none that is registered."""
        plan = request.plan
        return plan.variant if plan is not None and plan.variant in self.variants else OTHER

    def _close(self, request: Request) -> None:
        self.counts[request.state.value] += 1
        self.unassign(request)
        name = request.message.request_id
        del self.requests[name]
        self.waiting.pop(name, None)
        del request.client.open[name]
        self.forget_if_idle(request.client)
        self.ended.keep(request)

    # ---- clients ----------------------------------------------------------------------------

    def client(self, route: bytes) -> Client:
        """Return the record of the client at `route`, a new one at need."""
        found = self.clients.get(route)
        if found is None:
            found = self.clients[route] = Client(route, peer=self.peer)
        return found

    def outstanding(self, client: Client) -> int:
        """Return how many requests are open of a client, with all others of its key."""
        if not client.peer.account:
            return len(client.open)
        return sum([len(c.open) for c in self.clients.values() if c.payer == client.payer])

    def forget_if_idle(self, client: Client) -> None:
        """Drop the record of a client that has nothing open and holds nothing."""
        if not client.open and not client.leases:
            self.clients.pop(client.route, None)

    def open(self, message: Generate, client: Client, now: float) -> Request:
        """Enter a new request, queued and not yet planned."""
        self._numbers += 1
        seed = self.seed() if message.seed is None else message.seed
        request = Request(message, client, self._numbers, now, now + message.timeout_s, seed)
        self.note(request, "accepted", now)
        self.requests[message.request_id] = request
        self.waiting[message.request_id] = request
        client.open[message.request_id] = request
        self.counts["accepted"] += 1
        heapq.heappush(self._deadlines, (request.deadline, request.seq, request))
        if len(self._deadlines) > 2 * len(self.requests) + SLACK:
            self._deadlines = [entry for entry in self._deadlines if entry[2].is_open]
            heapq.heapify(self._deadlines)
        return request

    def adopt(self, request: Request, client: Client) -> None:
        """Give an open request to another connection of the same caller."""
        old = request.client
        del old.open[request.message.request_id]
        client.open[request.message.request_id] = request
        request.client = client
        actor, plan = request.actor, request.plan
        if actor is not None and plan is not None and request in actor.queue:
            actor.queue.discard(request)
            self._line_up(request, plan, actor)  # from now on it is the other's share
        self.forget_if_idle(old)

    # ---- queues -----------------------------------------------------------------------------

    def assign(self, request: Request, actor: Actor) -> None:
        """Put a queued and planned request that stands nowhere into an actor's queue."""
        plan = request.plan
        assert plan is not None
        assert request.actor is None
        self.waiting.pop(request.message.request_id, None)
        request.actor = actor
        actor.outlook = outlooks.with_one_more(actor, request)
        _account(actor, request).assigned_s += request.work_s
        actor.wants[plan.variant] = actor.wants.get(plan.variant, 0) + 1
        if plan.variant not in actor.residents:
            actor.load_s[plan.variant] = plan.prediction.load_s
        self._line_up(request, plan, actor)

    def _line_up(self, request: Request, plan: Plan, actor: Actor) -> None:
        rank, _ = request.rank
        actor.queue.add(
            request,
            rank,
            flow=request.flow,
            order=request.place,
            seconds=request.work_s,
            kind=plan.variant,
            turn=request.due if request.order is None else request.order,
            told=request.told,
        )

    def unassign(self, request: Request) -> None:
        """Take a request off its actor's account, if it is on one."""
        actor, plan = request.actor, request.plan
        if actor is None:
            return
        assert plan is not None
        actor.outlook = NO_OUTLOOK
        actor.queue.discard(request)
        _account(actor, request).assigned_s -= request.work_s
        actor.wants[plan.variant] -= 1
        if not actor.wants[plan.variant]:
            del actor.wants[plan.variant]
            actor.load_s.pop(plan.variant, None)
        request.actor = None
        if not actor.queue and not actor.attempts:  # floats drift: an idle actor owes nothing
            actor.account, actor.spare = Account(), Account()
            actor.queue.forget()

    def head(self, actor: Actor) -> Request | None:
        """Return the request of an actor's queue that is next, leaving it there."""
        if not actor.loading:
            return actor.queue.pick(actor.residents)
        return actor.queue.pick({*actor.residents, *filter(actor.is_loading, actor.loading)})

    def queued_on(self, actor: Actor) -> list[Request]:
        """Return the requests of an actor's queue, by priority and arrival."""
        return sorted(actor.queue, key=lambda r: r.rank)

    # ---- attempts ---------------------------------------------------------------------------

    def begin(
        self, request: Request, plan: Plan, actor: Actor, slots: tuple[Slot, ...], now: float
    ) -> Attempt:
        """Enter a dispatch of `request` to `actor`."""
        actor.queue.take(request)
        actor.outlook = NO_OUTLOOK
        attempt = Attempt(
            number=self.next_number(),
            request=request,
            plan=plan,
            actor=actor,
            slots=slots,
            started_at=now,
            step_s=request.step_s,
            flow=request.flow,
            charged_s=request.work_s,
        )
        attempt.is_suspect = request.is_suspect
        attempt.is_promised = request.told == "promised"
        actor.suspects += attempt.is_suspect
        actor.spared += request.is_best_effort
        request.attempts += 1
        request.attempt = attempt
        if not actor.is_working:
            actor.progressed_at = now
        actor.attempts[attempt.number] = self.attempts[attempt.number] = attempt
        self.counts["attempts"] += 1
        if request.attempts == 1:
            self.tally.began(now - request.arrived_at)
        self.move(request, Cause.DISPATCHED, now, f"attempt {request.attempts} on {actor.device}")
        return attempt

    def end(self, attempt: Attempt, cause: Cause, used_s: float | None = None) -> None:
        """Enter the end of a dispatch; its credit is free again, its slots are not.

        `used_s`: the seconds that it took of the device, where its actor told them.
        """
        self.tally.attempt_ended(attempt.state, cause, is_finished=used_s is not None)
        if attempt.state is AttemptState.RUNNING:
            self._settle(attempt, attempt.done_s if used_s is None else used_s)
        attempt.state = _follow(ATTEMPT_TABLE, attempt.state, cause, attempt.request.story)
        actor = attempt.actor
        actor.outlook = NO_OUTLOOK
        del self.attempts[attempt.number], actor.attempts[attempt.number]
        _account(actor, attempt.request).done_s -= attempt.done_s
        actor.suspects -= attempt.is_suspect
        actor.spared -= attempt.request.is_best_effort
        if attempt.request.attempt is attempt:
            attempt.request.attempt = None

    def abort(self, attempt: Attempt) -> None:
        """Mark a dispatch as no longer wanted; its request leaves the actor's account, so it does too."""
        attempt.state = _follow(ATTEMPT_TABLE, attempt.state, Cause.ABORTED, attempt.request.story)
        attempt.actor.outlook = NO_OUTLOOK
        self._settle(attempt, min(attempt.charged_s, attempt.done_s + attempt.step_s))  # one is under way
        _account(attempt.actor, attempt.request).done_s -= attempt.done_s
        attempt.done_s = 0.0

    def _settle(self, attempt: Attempt, used_s: float) -> None:
        """Charge a dispatch's client for what it used, in place of what was predicted."""
        if attempt.is_promised:
            return
        rank, _ = attempt.request.rank
        attempt.actor.queue.refund(rank, attempt.flow, attempt.charged_s - used_s)
        attempt.charged_s = used_s

    def credit(self, attempt: Attempt, calls: int = 1) -> None:
        """Enter evaluations of one image each as done; never more than was assigned."""
        seconds = min(calls * attempt.step_s, attempt.request.work_s - attempt.done_s)
        attempt.done_s += seconds
        attempt.calls += calls
        _account(attempt.actor, attempt.request).done_s += seconds

    # ---- actors -----------------------------------------------------------------------------

    def add_actor(self, actor: Actor) -> None:
        """Enter a new incarnation of an actor."""
        self.actors[actor.route] = self.by_device[actor.device] = actor
        self.ready = sorted([*self.ready, actor], key=lambda a: a.device)

    def change_actor(self, actor: Actor, cause: Cause) -> None:
        """Change an actor's state by its table; a lost one leaves the books."""
        actor.state = _follow(ACTOR_TABLE, actor.state, cause, [])
        self.ready = [a for a in self.ready if a.state is ActorState.READY]
        if actor.state is ActorState.LOST:
            del self.actors[actor.route]
            if self.by_device.get(actor.device) is actor:
                del self.by_device[actor.device]

    # ---- slots ------------------------------------------------------------------------------

    def free_slots(self, attempt: Attempt) -> None:
        """Give all slots of a dispatch back."""
        pool = self.pools[attempt.actor.device]
        for slot in attempt.slots:
            pool.give_back(slot.index)

    def hold(self, client: Client, device: str, index: int, now: float) -> Hold:
        """Let `client` read a leased slot: it is sealed until released or timed out."""
        return self._keep(client, device, index, now + self.rules.lease)

    def owe(self, client: Client, device: str, index: int) -> Hold:
        """Keep a leased slot until its picture, which travels inline, was copied."""
        return self._keep(client, device, index, math.inf, is_owed=True)

    def _keep(
        self, client: Client, device: str, index: int, expires_at: float, *, is_owed: bool = False
    ) -> Hold:
        self.pools[device].seal(index)
        hold = Hold(self.next_number(), client, device, index, expires_at, is_owed)
        self.holds[hold.lease] = client.leases[hold.lease] = hold
        return hold

    def drop(self, hold: Hold) -> None:
        """End a client's hold of a slot."""
        self.pools[hold.device].give_back(hold.index)
        del self.holds[hold.lease], hold.client.leases[hold.lease]
        self.forget_if_idle(hold.client)

    # ---- time -------------------------------------------------------------------------------

    def overdue(self, now: float) -> Iterator[Request]:
        """Yield the open requests whose deadline has passed, taking them off the list."""
        while self._deadlines and (self._deadlines[0][0] <= now or not self._deadlines[0][2].is_open):
            request = heapq.heappop(self._deadlines)[2]
            if request.is_open:
                yield request

    def next_deadline(self) -> float | None:
        """Return when the next request may expire."""
        return self._deadlines[0][0] if self._deadlines else None

    # ---- reading ----------------------------------------------------------------------------

    def story(self, request_id: str) -> list[Happening]:
        """Return what happened to an open or recently ended request; [] if unknown."""
        request = self.requests.get(request_id)
        return list(self.ended.stories.get(request_id, ()) if request is None else request.story)

    @property
    def queued(self) -> int:
        """Return the number of queued requests."""
        return len(self.waiting) + sum([len(a.queue) for a in self.actors.values()])


def _account(actor: Actor, request: Request) -> Account:
    return actor.spare if request.is_best_effort else actor.account


S = TypeVar("S", bound=Enum)


def _follow(table: Mapping[S, Mapping[Cause, S]], state: S, cause: Cause, story: object) -> S:
    try:
        return table[state][cause]
    except KeyError:
        raise InvalidTransition(f"{state} cannot follow {cause}; story: {story}") from None
