"""The broker's books: all records and the few primitive entries that keep them consistent.

No decisions: the desks (`client_desk`, `actor_desk`) and `dispatch` decide, and write here.
`check` proves that the books agree with themselves; tests run it after every event.
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from enum import Enum
from hashlib import blake2b
from typing import TypeVar

from msgspec import Struct

from difs import config
from difs.actor_messages import Slot
from difs.broker.effects import Effect
from difs.broker.records import (
    ACTOR_TABLE,
    ATTEMPT_TABLE,
    REQUEST_TABLE,
    Actor,
    ActorState,
    Attempt,
    AttemptState,
    Cause,
    Client,
    Ended,
    Hold,
    InvalidTransition,
    Request,
    RequestState,
)
from difs.errors import InternalError
from difs.messages import AdapterInfo, Generate, Plan, VariantInfo
from difs.policy.base import Policy
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
    ) -> None:
        """Open empty books; `epoch` is a random 31-bit number, new with every broker."""
        self.rules = rules
        self.policy = policy
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
        self.decisions = 0
        self.counts: Counter[str] = Counter()
        self.ended = Ended(STORIES_KEPT)
        self.effects: list[Effect] = []
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
        before = request.state
        request.state = _follow(REQUEST_TABLE, before, cause, request.story)
        request.story.append((now, cause.value, detail))
        if before is RequestState.QUEUED and request.actor is not None:
            request.actor.queued -= 1
        if not request.is_open:
            self._close(request)

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
            found = self.clients[route] = Client(route)
        return found

    def forget_if_idle(self, client: Client) -> None:
        """Drop the record of a client that has nothing open and holds nothing."""
        if not client.open and not client.leases:
            self.clients.pop(client.route, None)

    def open(self, message: Generate, client: Client, now: float) -> Request:
        """Enter a new request, queued and not yet planned."""
        self._numbers += 1
        seed = self.seed() if message.seed is None else message.seed
        request = Request(message, client, self._numbers, now, now + message.timeout_s, seed)
        request.story.append((now, "accepted", ""))
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
        self.forget_if_idle(old)

    # ---- queues -----------------------------------------------------------------------------

    def assign(self, request: Request, actor: Actor) -> None:
        """Put a queued and planned request that stands nowhere into an actor's queue."""
        plan = request.plan
        assert plan is not None
        assert request.actor is None
        self.waiting.pop(request.message.request_id, None)
        request.actor = actor
        actor.queued += 1
        actor.assigned_s += request.work_s
        actor.wants[plan.variant] = actor.wants.get(plan.variant, 0) + 1
        if plan.variant not in actor.residents:
            actor.load_s[plan.variant] = plan.prediction.load_s
        heapq.heappush(actor.queue, (request.rank, request))
        if len(actor.queue) > 2 * actor.queued + SLACK:
            actor.queue = [entry for entry in actor.queue if _stands_in(entry[1], actor)]
            heapq.heapify(actor.queue)

    def unassign(self, request: Request) -> None:
        """Take a request off its actor's account, if it is on one."""
        actor, plan = request.actor, request.plan
        if actor is None:
            return
        assert plan is not None
        if request.state is RequestState.QUEUED:
            actor.queued -= 1
        actor.assigned_s -= request.work_s
        actor.wants[plan.variant] -= 1
        if not actor.wants[plan.variant]:
            del actor.wants[plan.variant]
            actor.load_s.pop(plan.variant, None)
        request.actor = None
        if not actor.queued and not actor.attempts:
            actor.assigned_s = actor.done_s = 0.0  # floats drift: an idle actor owes nothing

    def head(self, actor: Actor) -> Request | None:
        """Return the first request of an actor's queue, leaving it there."""
        while actor.queue:
            request = actor.queue[0][1]
            if _stands_in(request, actor):
                return request
            heapq.heappop(actor.queue)
        return None

    def queued_on(self, actor: Actor) -> list[Request]:
        """Return the requests of an actor's queue, in order."""
        unique = {r.seq: r for _, r in actor.queue if _stands_in(r, actor)}
        return sorted(unique.values(), key=lambda r: r.rank)

    # ---- attempts ---------------------------------------------------------------------------

    def begin(
        self, request: Request, plan: Plan, actor: Actor, slots: tuple[Slot, ...], now: float
    ) -> Attempt:
        """Enter a dispatch of `request` to `actor`."""
        heapq.heappop(actor.queue)
        attempt = Attempt(self.next_number(), request, plan, actor, slots, now, request.step_s)
        attempt.is_suspect = request.is_suspect
        actor.suspects += attempt.is_suspect
        request.attempts += 1
        request.attempt = attempt
        if not actor.is_working:
            actor.progressed_at = now
        actor.attempts[attempt.number] = self.attempts[attempt.number] = attempt
        self.counts["attempts"] += 1
        self.move(request, Cause.DISPATCHED, now, f"attempt {request.attempts} on {actor.device}")
        return attempt

    def end(self, attempt: Attempt, cause: Cause) -> None:
        """Enter the end of a dispatch; its credit is free again, its slots are not."""
        attempt.state = _follow(ATTEMPT_TABLE, attempt.state, cause, attempt.request.story)
        actor = attempt.actor
        del self.attempts[attempt.number], actor.attempts[attempt.number]
        actor.done_s -= attempt.done_s
        actor.suspects -= attempt.is_suspect
        if attempt.request.attempt is attempt:
            attempt.request.attempt = None

    def abort(self, attempt: Attempt) -> None:
        """Mark a dispatch as no longer wanted; its request leaves the actor's account, so it does too."""
        attempt.state = _follow(ATTEMPT_TABLE, attempt.state, Cause.ABORTED, attempt.request.story)
        attempt.actor.done_s -= attempt.done_s
        attempt.done_s = 0.0

    def credit(self, attempt: Attempt) -> None:
        """Enter one evaluation of one image as done; never more than was assigned."""
        seconds = min(attempt.step_s, attempt.request.work_s - attempt.done_s)
        attempt.done_s += seconds
        attempt.actor.done_s += seconds

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
        self.pools[device].seal(index)
        hold = Hold(self.next_number(), client, device, index, now + self.rules.lease)
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

    @property
    def queued(self) -> int:
        """Return the number of queued requests."""
        return len(self.waiting) + sum([a.queued for a in self.actors.values()])


def _stands_in(request: Request, actor: Actor) -> bool:
    return request.state is RequestState.QUEUED and request.actor is actor


S = TypeVar("S", bound=Enum)


def _follow(table: Mapping[S, Mapping[Cause, S]], state: S, cause: Cause, story: object) -> S:
    try:
        return table[state][cause]
    except KeyError:
        raise InvalidTransition(f"{state} cannot follow {cause}; story: {story}") from None


def check(books: Books) -> None:
    """Raise InternalError where the books contradict themselves."""
    for problem in _contradictions(books):
        raise InternalError(f"the books disagree: {problem}")


def _contradictions(books: Books) -> Iterator[str]:
    for name, request in books.requests.items():
        if not request.is_open or request.client.open.get(name) is not request:
            yield f"request {name} is {request.state} but listed as open"
        if (request.state is RequestState.RUNNING) != (request.attempt is not None):
            yield f"request {name} is {request.state} with attempt {request.attempt}"
        if (request.actor is None) != (name in books.waiting):
            yield f"request {name} stands in two queues or in none"
    for actor in books.actors.values():
        yield from _actor_contradictions(books, actor)
    for client in books.clients.values():
        if not client.open and not client.leases:
            yield f"client {client.route!r} has nothing but is remembered"
    open_count = sum(len(c.open) for c in books.clients.values())
    if open_count != len(books.requests):
        yield f"{len(books.requests)} requests, {open_count} with clients"
    for device, pool in books.pools.items():
        attempts = [a for a in books.attempts.values() if a.actor.device == device]
        leased = [s.index for a in attempts for s in a.slots]
        leased += [h.index for h in books.holds.values() if h.device == device]
        if len(leased) != len(set(leased)) or pool.in_use() != set(leased):
            yield f"{device}: slots {sorted(pool.in_use())} in use, {sorted(leased)} accounted for"


def _actor_contradictions(books: Books, actor: Actor) -> Iterator[str]:
    yield from _account_contradictions(books, actor)
    yield from _load_contradictions(actor)
    if len(actor.attempts) > actor.credits:
        yield f"{actor.device} has {len(actor.attempts)} attempts and {actor.credits} credits"
    if actor.state is ActorState.LOST or (actor in books.ready) != (actor.state is ActorState.READY):
        yield f"{actor.device} is {actor.state} but listed"
    if actor.suspects != sum(a.is_suspect for a in actor.attempts.values()) or (
        actor.suspects and len(actor.attempts) > 1
    ):
        yield f"{actor.device} counts {actor.suspects} suspects among {len(actor.attempts)} attempts"
    in_queue = {r.seq for _, r in actor.queue if _stands_in(r, actor)}
    if len(in_queue) != actor.queued:
        yield f"{actor.device} counts {actor.queued} queued, {len(in_queue)} are"
    for attempt in actor.attempts.values():
        wanted = attempt.state is AttemptState.RUNNING
        if wanted != (attempt.request.attempt is attempt and attempt.request.is_open):
            yield f"attempt {attempt.number} is {attempt.state}, its request is not"
        if books.attempts.get(attempt.number) is not attempt:
            yield f"attempt {attempt.number} is not in the books"


DRIFT_S = 1e-6


def _account_contradictions(books: Books, actor: Actor) -> Iterator[str]:
    requests = [r for r in books.requests.values() if r.actor is actor]
    assigned_s = sum(r.work_s for r in requests)
    done_s = sum(a.done_s for a in actor.attempts.values())
    if abs(assigned_s - actor.assigned_s) > DRIFT_S or abs(done_s - actor.done_s) > DRIFT_S:
        yield f"{actor.device} has {actor.assigned_s} s to do and {actor.done_s} s done, not {done_s}"
    for attempt in actor.attempts.values():
        if attempt.done_s > attempt.request.work_s + DRIFT_S:
            yield f"attempt {attempt.number} has done more than was assigned"
    if actor.wants != Counter(r.plan.variant for r in requests if r.plan is not None):
        yield f"{actor.device} counts the wrong variants as wanted: {actor.wants}"


def _load_contradictions(actor: Actor) -> Iterator[str]:
    if not actor.load_s.keys() <= actor.wants.keys() - actor.residents.keys():
        yield f"{actor.device} expects loads that nobody waits for: {actor.load_s}"
    in_use = actor.loading.keys() | {attempt.plan.variant for attempt in actor.attempts.values()}
    if not actor.outdated <= in_use:
        yield f"{actor.device} keeps what is outdated and not used: {actor.outdated - in_use}"
    for variant, loads in actor.loading.items():
        if not loads or not all(load.is_cancelled for load in list(loads)[:-1]):
            yield f"{actor.device} loads {variant} twice at a time"
        elif not (loads[-1].is_cancelled or loads[-1].is_asked or variant in actor.wants):
            yield f"{actor.device} loads {variant} though nobody waits for it"
