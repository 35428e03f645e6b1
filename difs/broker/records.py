"""The broker's records of clients, requests, attempts, actors and leases. No decisions here."""

import math
from collections import deque
from dataclasses import dataclass, field

from difs import rooms
from difs.actor_messages import Costs, Resident, Slot
from difs.broker.events import LOCAL, Peer
from difs.broker.line import Told
from difs.broker.queue import BEST_EFFORT, Queue
from difs.broker.states import ActorState, AttemptState, RequestState
from difs.drift import Drift
from difs.foresight import Outlook, Task
from difs.messages import Generate, Happening, MemoryMode, Plan, Reading, Requirements
from difs.places import Bounds
from difs.policy.activity import Activity
from difs.policy.base import measured
from difs.policy.lateness import Lateness
from difs.policy.states import State
from difs.profiles import Work

NO_OUTLOOK: tuple[float, Outlook | None] = (0.0, None)
LEEWAY = 0.1
"""By so much of what it was told a request may be late for the sake of those that share its calls."""


def class_of(needs: Requirements) -> int:
    """Return in which class of a queue a request waits, the first to be served least."""
    return BEST_EFFORT if needs.best_effort else -needs.priority


@dataclass(slots=True, eq=False)
class Client:
    """A peer on the clients' socket that has open requests or leases."""

    route: bytes
    open: "dict[str, Request]" = field(default_factory=dict)
    leases: "dict[int, Hold]" = field(default_factory=dict)
    peer: Peer = LOCAL

    @property
    def payer(self) -> str | bytes:
        """Return who is charged: its key, however many connections use it, else the connection."""
        return self.peer.account or self.route


@dataclass(slots=True, eq=False)
class Request:
    """What a client asked and how it stands."""

    message: Generate
    client: Client
    seq: int
    arrived_at: float
    deadline: float
    first_seed: int
    state: RequestState = RequestState.QUEUED
    plan: Plan | None = None
    work_s: float = 0.0
    """Predicted seconds that its work takes of a device that is kept busy; no waiting, no load."""
    step_s: float = 0.0
    """The part of `work_s` that one evaluation of one image is."""
    work: Work | None = None
    """What its plan has a device compute."""
    task: tuple[Costs, Plan, Task] | None = None
    """It as a task of its device, and what that was made of; see `difs.broker.outlooks`."""
    bounds: tuple[Plan, Bounds] | None = None
    """What it bears that others go before it, under which plan; see `difs.broker.outlooks`."""
    turn: float = 0.0
    """When it would be done if all that was on its device before it were done first; see `due`."""
    planned_at: float = 0.0
    """When its plan was made: what that predicts counts from there."""
    foreseen_s: float = 0.0
    """Seconds until its end, by the schedule of its device alone; 0: not foreseen."""
    order: float | None = None
    """Its place in the queue where the policy gives one; None: its client's fair share decides."""
    goes_ahead: bool = False
    """It has an earlier turn than what is there and can wait."""
    is_in_haste: bool = False
    """It is in time only if it has that, or rides along in calls of others."""
    is_judged: bool = False
    """Its pictures are scored, and reviewed by the policy."""
    actor: "Actor | None" = None
    """Whose queue it stands in, or who runs it; None while it waits for any device."""
    attempt: "Attempt | None" = None
    attempts: int = 0
    is_settled: bool = False
    """It was decided anew when the memory mode of its plan had no room."""
    stays_until: float = 0.0
    """Until then it waits for slots of its own device only."""
    died_on: list[str] = field(default_factory=list)
    """The devices of the attempts that ended with the death of their actor."""
    below_bytes: int | None = None
    """A variant of so many bytes ran out of memory: only lighter ones may serve it."""
    repainted_with: str | None = None
    """The variant that paints it again, its first pictures not being good enough: no other may."""
    notes: tuple[str, ...] = ()
    """What happened to it on its way, for its client."""
    story: list[Happening] = field(default_factory=list)
    is_best_effort: bool = field(init=False)
    """It is served only when nothing else waits."""
    rank: tuple[int, int] = field(init=False)
    """Its priority class, the first to be served least, and its arrival."""
    latest: float | None = field(init=False)
    """Until when its client wants it; None: that was not stated."""

    def __post_init__(self) -> None:
        """Read once from its message what is asked for all the time."""
        needs = self.message.requirements
        wanted_s = needs.latency_s
        self.latest = None if wanted_s is None else min(self.deadline, self.arrived_at + wanted_s)
        self.is_best_effort = needs.best_effort
        self.rank = class_of(needs), self.seq

    @property
    def flow(self) -> str | bytes | None:
        """Return with whom it shares a place in the queue: its client, or all that the policy orders."""
        return self.client.payer if self.order is None else None

    @property
    def place(self) -> tuple[float, int]:
        """Return its place among what its flow has in the queue, the first to be served least."""
        return math.inf if self.order is None else self.order, self.seq

    @property
    def told(self) -> Told:
        """Return what it was told of its end.

        What could not keep its latency on an idle device either is not late for others' sake.
        """
        plan = self.plan
        if plan is None or plan.keeps_latency is None or self.order is not None or self.is_best_effort:
            return "foretold"
        if plan.keeps_latency:
            return "promised"
        foretold, wanted_s = plan.prediction, self.message.requirements.latency_s or 0.0
        return "late" if foretold.total_s - foretold.queue_s <= wanted_s else "foretold"

    @property
    def held_to(self) -> float | None:
        """Return by when it is to be done whatever that costs others; None: that was not promised.

        Where the policy has an order nothing is promised, and the stated latencies are all that it has.
        """
        is_late = self.plan is not None and self.plan.keeps_latency is False and self.order is None
        return None if is_late else self.latest

    @property
    def told_at(self) -> float:
        """Return when it was told to be done; inf while it has no plan."""
        return math.inf if self.plan is None else self.planned_at + self.plan.prediction.total_s

    @property
    def kept_until(self) -> float:
        """Return until when what it was told is kept for it, where others can wait; inf: for ever."""
        if self.is_best_effort or self.plan is None:
            return math.inf
        return self.told_at + LEEWAY * self.plan.prediction.total_s

    @property
    def due(self) -> float:
        """Return when it is to be done at its device, by which it has its place there.

        That is its turn, or when it was told to be done where it rides along with others and is done
        sooner: should it miss them, it does not wait for all that is there.
        """
        has_turn = self.told == "late" or self.is_best_effort or self.order is not None
        return min(self.deadline, self.turn, math.inf if has_turn else self.told_at)

    @property
    def deaths(self) -> int:
        """Return how many attempts ended with the death of their actor."""
        return len(self.died_on)

    @property
    def is_suspect(self) -> bool:
        """Whether it was on an actor that died: until it is cleared, it runs alone."""
        return self.deaths > 0

    @property
    def is_alone(self) -> bool:
        """Whether its images share no call: by its client's wish, or until it is cleared."""
        return self.message.deterministic or self.is_suspect

    @property
    def is_open(self) -> bool:
        """Whether its client still waits for the end."""
        return self.state in (RequestState.QUEUED, RequestState.RUNNING)


@dataclass(slots=True, eq=False)
class Attempt:
    """One dispatch of a request to an actor; outlives the request while it is being aborted."""

    number: int
    request: Request
    plan: Plan
    actor: "Actor"
    slots: tuple[Slot, ...]
    started_at: float
    step_s: float
    flow: str | bytes | None
    """Who was charged for it."""
    charged_s: float
    is_promised: bool = False
    """Nobody is charged: it had its turn by a promise."""
    is_suspect: bool = False
    """Its request was suspect when it was dispatched: no other runs on its actor meanwhile."""
    state: AttemptState = AttemptState.RUNNING
    done_s: float = 0.0
    calls: int = 0
    """Evaluations that its images have behind them, together."""
    notes: tuple[str, ...] = ()
    """What happened to it that its client is told."""


@dataclass(slots=True)
class Account:
    """Predicted seconds of computing: all that is assigned to a device, and what of it is done."""

    assigned_s: float = 0.0
    done_s: float = 0.0

    @property
    def left_s(self) -> float:
        """Return what is still to be done."""
        return max(0.0, self.assigned_s - self.done_s)


@dataclass(slots=True, eq=False)
class Load:
    """A `load_variant` that its actor has not answered."""

    is_asked: bool = False
    """An administrator or the planner asked for it: it goes on though no request waits for it."""
    is_cancelled: bool = False
    mode: MemoryMode | None = None
    """Into which it goes, where that was said."""


@dataclass(slots=True, eq=False)
class Actor:
    """One incarnation of an actor process."""

    route: bytes
    device: str
    incarnation: str
    pid: int
    credits: int
    last_heard: float
    progressed_at: float
    """When it last told what it has done: what is under way has begun then;"""
    moved_at: float = 0.0
    """and when its heartbeat last told that it does something."""
    residents: dict[str, Resident] = field(default_factory=dict)
    drift: Drift = field(default_factory=Drift)
    parked: dict[str, Resident] = field(default_factory=dict)
    """What it keeps in host memory, as it would be when it returns."""
    profiled: dict[str, tuple[Resident, ...]] = field(default_factory=dict)
    """What variants would be here, as profiles say; the mode that one is loaded into stands first."""
    estimated: dict[str, Resident] = field(default_factory=dict)
    """What variants would be that were never measured here, from others that were."""
    settled: dict[str, MemoryMode] = field(default_factory=dict)
    """Into which mode variants would come by what was found since the last reading."""
    outdated: set[str] = field(default_factory=set)
    """Variants that it has, or loads, as they were before the repository changed; they shall leave."""
    loading: dict[str, deque[Load]] = field(default_factory=dict)
    """Unanswered loads by variant, oldest first; all but the last are cancelled."""
    wants: dict[str, int] = field(default_factory=dict)
    """How many of its requests, queued or running, want each variant."""
    load_s: dict[str, float] = field(default_factory=dict)
    """Predicted seconds of the loads that they wait for."""
    attempts: dict[int, Attempt] = field(default_factory=dict)
    queue: Queue[Request] = field(default_factory=Queue)
    first_costs: dict[str, Costs] = field(default_factory=dict)
    """What was measured when each variant came."""
    activity: dict[str, Activity] = field(default_factory=dict)
    lateness: Lateness = field(default_factory=Lateness)
    """What came of its predictions lately."""
    outlook: tuple[float, Outlook | None] = NO_OUTLOOK
    """What it will do, and when that was found; None: something came or went since."""
    suspects: int = 0
    """How many of its attempts are suspect: 0 or 1."""
    spared: int = 0
    """How many of its attempts are best effort."""
    account: Account = field(default_factory=Account)
    spare: Account = field(default_factory=Account)
    """The account of its best effort."""
    progress: int = 0
    reading: Reading | None = None
    spare_bytes: int | None = None
    """What its residents may take by the last reading."""
    is_proven: bool = False
    """It has finished something."""
    state: ActorState = ActorState.READY
    read_at: float = float("-inf")
    changed_at: float = float("-inf")
    """When its residents changed last, or were told to: an older reading says nothing of its memory."""
    arrived_at: dict[str, float] = field(default_factory=dict)
    """When each resident came."""
    leaving: dict[str, int] = field(default_factory=dict)
    """How often each variant was told to leave, unanswered."""
    switching: dict[str, int] = field(default_factory=dict)
    """How often each was told to change its memory mode, unanswered."""
    states: dict[str, State] = field(default_factory=dict)
    """INFaaS's state of each resident."""
    chosen: set[str] = field(default_factory=set)
    """Residents whose memory mode an administrator chose."""
    forced: dict[str, str] = field(default_factory=dict)
    """Residents whose memory mode others forced, and why."""
    overhead_bytes: int | None = None
    """What its process holds of the device beyond its residents, the least that was seen."""

    @property
    def backlog_s(self) -> float:
        """Return the predicted seconds until all of its assigned work is done, loads included."""
        return self.account.left_s + self.spare.left_s + sum(self.load_s.values())

    def wait_s(self, *, is_best_effort: bool) -> float:
        """Return the predicted seconds that a new request waits.

        Best effort gives way to all others.
        """
        left_s = self.account.left_s + (self.spare.left_s if is_best_effort else 0.0)
        if not self.waits_for_loads(is_best_effort=is_best_effort):
            return left_s
        return left_s + sum(self.load_s.values())

    def waits_for_loads(self, *, is_best_effort: bool) -> bool:
        """Whether a new request waits for others' loads.

        They go on beside the steps, so they delay it only where they hold all credits; best effort gives
        its credits to all others.
        """
        if not self.load_s:
            return False
        may_begin = self.free_credits > 0 or (bool(self.yielding) and not is_best_effort)
        return not may_begin

    @property
    def yielding(self) -> "list[Attempt]":
        """Return its attempts that give way to others, the last one first."""
        if not self.spared:
            return []
        found = [a for a in self.attempts.values() if a.request.is_best_effort]
        return [a for a in reversed(found) if a.state is AttemptState.RUNNING]

    @property
    def aborting(self) -> int:
        """Return how many of its attempts were told to end and have not ended yet."""
        return sum([a.state is AttemptState.ABORTING for a in self.attempts.values()])

    @property
    def free_credits(self) -> int:
        """Return how many more attempts it may be sent."""
        return self.credits - len(self.attempts)

    def has_told(self, now: float) -> None:
        """Note that it has told all that it has done."""
        self.last_heard = self.progressed_at = now

    def still_s(self, now: float) -> float:
        """Return the seconds since anything was seen of it but a heartbeat that says nothing new."""
        return now - max(self.progressed_at, self.moved_at)

    @property
    def takes_more(self) -> bool:
        """Whether it could be sent more attempts than wait for that."""
        return self.free_credits > len(self.queue)

    @property
    def is_working(self) -> bool:
        """Whether it has an attempt that need not wait for a load."""
        return not all(self.waits(attempt) for attempt in self.attempts.values())

    @property
    def offers(self) -> dict[str, tuple[Resident, ...]]:
        """Return what variants that are not loaded can become: what is on its way is settled."""
        if not (self.loading or self.settled):
            return self.profiled
        coming = {name: found[-1].mode for name, found in self.loading.items() if self.is_loading(name)}
        settled = {
            variant: (found,)
            for variant, mode in {**self.settled, **coming}.items()
            if (found := self.profile_of(variant, mode)) is not None
        }
        return {**self.profiled, **settled} if settled else self.profiled

    def profile_of(self, variant: str, mode: MemoryMode | None) -> Resident | None:
        """Return what a profile says of a variant in a memory mode."""
        return next((r for r in self.profiled.get(variant, ()) if r.memory_mode == mode), None)

    def known(self, variant: str) -> Resident | None:
        """Return what is known of a variant here, measured or estimated."""
        return self.measured(variant) or self.estimated.get(variant)

    def measured(self, variant: str) -> Resident | None:
        """Return what was measured of a variant here: loaded, parked, or by a profile."""
        return measured(variant, self.residents, self.parked, self.profiled)

    def read(self, reading: Reading, headroom_bytes: int = 0) -> None:
        """Note what its device says of itself; `headroom_bytes` of it stay free for others."""
        self.settled.clear()
        resting = sum([rooms.rest_bytes(found) for found in self.residents.values()])
        own = max(reading.memory_own_bytes, resting)
        self.reading, self.spare_bytes = reading, reading.memory_free_bytes + own - headroom_bytes

    @property
    def room_bytes(self) -> int | None:
        """Return what a further variant could take, if those that nobody wants gave way."""
        if self.spare_bytes is None:
            return None
        staying = [found for name, found in self.residents.items() if name in self.wants]
        for variant, waiting in self.loading.items():
            found = self.profile_of(variant, waiting[-1].mode) or self.known(variant)
            if found is not None and self.is_loading(variant):
                staying.append(found)
        return self.spare_bytes - sum([rooms.rest_bytes(found) for found in staying])

    def known_in(self, variant: str, mode: MemoryMode) -> Resident | None:
        """Return what is known of a variant here that is loaded, or would be loaded into `mode`."""
        found = measured(variant, self.residents, self.parked, self.profiled, mode)
        return found or self.known(variant)

    def is_loading(self, variant: str) -> bool:
        """Whether a load of `variant` is on its way that nobody has given up."""
        loads = self.loading.get(variant)
        return loads is not None and not loads[-1].is_cancelled

    def waits(self, attempt: Attempt) -> bool:
        """Whether an attempt cannot begin before its variant is loaded."""
        variant = attempt.plan.variant
        return variant not in self.residents and self.is_loading(variant)


@dataclass(slots=True, eq=False)
class Hold:
    """A sealed slot that a client may read until it releases it or its time is over; or see `is_owed`."""

    lease: int
    client: Client
    device: str
    index: int
    expires_at: float
    is_owed: bool = False
    """Its picture travels inline: it is the broker's until it was copied, and no client can end it."""


@dataclass(slots=True)
class Ended:
    """The last requests that ended, for `story`."""

    limit: int
    stories: dict[str, list[Happening]] = field(default_factory=dict)
    order: deque[str] = field(default_factory=deque)

    def keep(self, request: Request) -> None:
        """Remember the story of an ended request, forgetting the oldest."""
        name = request.message.request_id
        if name not in self.stories:
            self.order.append(name)
        self.stories[name] = request.story
        if len(self.order) > self.limit:
            del self.stories[self.order.popleft()]
