"""One life of everything: it begins, blows fall, it calms down, and nothing may be left."""

import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from difs import config
from difs.actors.simulated import Script, ScriptedRoom, profiled
from difs.autoscaler.base import Options
from difs.autoscaler.registry import load as load_planner
from difs.broker.books import Segment
from difs.broker.events import LOCAL, ClientSaid
from difs.broker.scaler import Scaling
from difs.broker.state import BrokerState
from difs.client.core import GRACE_S
from difs.messages import Cancel
from difs.repository import Repository
from difs.shm import layout, segment
from difs.shm.reader import SegmentReader
from difs.shm.writer import SegmentWriter
from difs.variants import Variant
from tests import builders
from tests.model.lossy import faults
from tests.model.lossy.actors import Process
from tests.model.lossy.broker import Broker
from tests.model.lossy.callers import Caller
from tests.model.lossy.faults import CALM_AT_S, Blow, Call, Kind, Plan
from tests.model.lossy.ledger import Ledger
from tests.model.lossy.links import TRUE, Link
from tests.model.lossy.supervisor import Supervisor
from tests.model.lossy.timeline import Timeline
from tests.studio import MANIFEST

SLOTS = ((16 * builders.KIB, 6),)
LAYOUT = layout.plan(SLOTS)
MIB = 2**20
SCRIPT = Script(
    load_s=0.4,
    encode_s=0.01,
    step_s=2.0,
    decode_s=0.5,
    rooms={"full": ScriptedRoom(400 * MIB, 80 * MIB), "tiled": ScriptedRoom(300 * MIB, 20 * MIB, 1.5)},
)
"""At 64x64, a 64th of that: a guided step takes 0.03 s."""
SLOW = replace(SCRIPT, load_s=1.0, encode_s=0.1, step_s=20.0)
ROOMY, NARROW = 2**40, 600 * MIB
STEPS = replace(MANIFEST.steps, min=2, default=4, max=6)
VARIANTS = {
    name: Variant(replace(MANIFEST, name=name, steps=STEPS), Path(), nbytes)
    for name, nbytes in (("tiny", 100 * MIB), ("wide", 200 * MIB))
}
LIBRARY = Repository(MappingProxyType(VARIANTS))
INFOS = {name: variant.info() for name, variant in VARIANTS.items()}
DEVICES = ("simulated-0", "simulated-1", "simulated-2")
LEASE_S = 6.0
RULES = config.Broker(
    lease=LEASE_S, stall_floor=2.0, stall_steps=5.0, max_outstanding=6, max_queued=10, validate=True
)
NOTICED_S = 2.5
"""Beyond its patience the broker may take so long to notice that an actor hangs."""
PROMPT_S = 1.0
"""So long after its deadline a call has ended at the latest, where nothing is in the way."""
FORGOTTEN_S = 2.5
"""So long after its connection broke a client has nothing any more: noticed, and a beat later told."""
STEALS, STEALS_S = 10, 3.0
LONGEST_S = 90.0
"""After so many seconds of calm everything must have come to its end."""


class Studio:
    """The segments, made once for all lives: they differ in their generations."""

    def __init__(self, folder: Path) -> None:
        """Make them in `folder`."""
        self.paths = {device: segment.create(folder, LAYOUT) for device in DEVICES}
        self.writers = {device: SegmentWriter(path) for device, path in self.paths.items()}
        self.readers = {device: SegmentReader(path) for device, path in self.paths.items()}

    def wipe(self) -> None:
        """Let nothing of an earlier life be seen."""
        for writer in self.writers.values():
            writer.whole()[layout.PAGE_BYTES :] = 0


@contextmanager
def studio() -> Iterator[Studio]:
    """Make segments, and remove them afterwards."""
    with tempfile.TemporaryDirectory(prefix="difs-lossy-") as folder:
        made = Studio(Path(folder))
        yield made
        for writer in made.writers.values():
            writer.close()


class World:
    """See the module."""

    def __init__(self, plan: Plan, studio: Studio) -> None:
        """Put everything together; nothing happens yet."""
        studio.wipe()
        self.plan, self._studio = plan, studio
        self.time, self.ledger = Timeline(), Ledger(PROMPT_S if plan.is_prompt else GRACE_S)
        self._dice = Random(f"{plan.seed} world")
        self._nature = plan.nature
        self._kinds = {blow.kind for blow in plan.blows}
        self.links: list[Link] = []
        self.broker: Broker | None = None
        self.states: list[BrokerState] = []
        self.processes: dict[str, Process] = {}
        self.devices = DEVICES[: plan.devices]
        self._pids = 100
        self.supervisor = Supervisor(
            self.time,
            Random(f"{plan.seed} supervisor"),
            self.devices,
            link=self._link,
            spawn=self._spawn,
            kill=self._kill,
        )
        paths = {str(path): studio.readers[device] for device, path in studio.paths.items()}
        self.callers = [
            Caller(
                self.time,
                Random(f"{plan.seed} caller {i}"),
                name=f"client-{i}",
                peer=client.peer,
                link=self._link,
                ledger=self.ledger,
                readers=paths,
            )
            for i, client in enumerate((*plan.clients, faults.Client(LOCAL, ())))
        ]

    def run(self) -> list[str]:
        """Live; returns everything that broke a promise."""
        self.supervisor.start()
        for caller, client in zip(self.callers, self.plan.clients, strict=False):
            for call in client.calls:
                self.time.at(call.at, lambda caller=caller, call=call: caller.ask(call))  # type: ignore[misc]
            for question in client.questions:
                self.time.at(question.at, lambda c=caller, q=question: c.wonder(q.message))  # type: ignore[misc]
            self._join_later(caller.link, caller)
        self._join_later(self.callers[-1].link, self.callers[-1])
        for blow in self.plan.blows:
            self.time.at(blow.at, lambda blow=blow: self._befall(blow))  # type: ignore[misc]
        self.time.run(CALM_AT_S)
        self._calm_down()
        self._until("every call to end", lambda: not self.ledger.open())
        self._until("all devices to be ready", self._is_whole)
        self._probe()
        self._until("everything to be at rest", lambda: not self._left())
        return [*self.ledger.close(), *self._left()]

    # ---- the end --------------------------------------------------------------------------------

    def _calm_down(self) -> None:
        """Let no further fault happen: links are as good as ZeroMQ's, and slow actors work again."""
        for link in self.links:
            link.mend(TRUE)
        self._nature = TRUE
        for process in self.processes.values():
            if process.is_hung:  # the broker would leave it 600 s where a load is waited for
                self._check_noticed(process)
                process.end()
            process.slowness, process.is_mute = 1.0, False

    def _check_noticed(self, process: Process) -> None:
        """A process that hangs at work is given up by now, unless the broker rested."""
        if self.broker is None or self.plan.is_slow or Kind.STOP_BROKER in self._kinds:
            return
        actor = self.broker.state.books.by_device.get(process.device)
        if actor is None or actor.pid != process.pid:
            return
        latest = self.time.now - RULES.stall_floor - NOTICED_S
        if process.slowness != 1.0 or process.hung_at > latest:
            return
        if any(a.started_at < latest and not actor.waits(a) for a in actor.attempts.values()):
            self.ledger.problems.append(f"{process.device} hangs at work, and nobody notices")

    def _check_unfit(self, process: Process) -> None:
        """The supervisor ends what is never ready: nothing that is well."""
        is_well = not (process.is_hung or process.is_stopped or process.is_mute)
        if is_well and not {Kind.HOLD_SUPERVISOR, Kind.SLOW_ACTOR} & self._kinds:
            self.ledger.problems.append(f"{process.device} is ended as never ready, and is well")

    def _check_forgotten(self, broker: Broker, route: bytes) -> None:
        """A client that is gone has nothing any more, unless the broker rested or is gone, too."""
        if (
            broker is self.broker
            and Kind.STOP_BROKER not in self._kinds
            and route in broker.state.books.clients
        ):
            self.ledger.problems.append(f"{route!r} is gone, and still has something")

    def _until(self, what: str, is_so: Callable[[], bool]) -> None:
        latest = self.time.now + LONGEST_S
        while not is_so():
            if self.time.now >= latest:
                self.ledger.problems.append(f"waited {LONGEST_S:g} s in vain for {what}")
                return
            self.time.run(self.time.now + 0.25)

    def _is_whole(self) -> bool:
        ready = self.broker.state.books.ready if self.broker is not None else []
        alive = {
            (device, process.pid) for device, process in self.processes.items() if not process.is_dead
        }
        return {(actor.device, actor.pid) for actor in ready} == alive and len(alive) == len(self.devices)

    def _probe(self) -> None:
        """Whoever comes now is served, by every device."""
        for i in range(len(self.devices) + 1):
            message = builders.generate(f"probe.{i}", prompt=f"probe {i}", timeout_s=20.0, mode="shm")
            excused = faults.CRAMPED if self.plan.has_little_memory else frozenset()
            self.callers[-1].ask(Call(self.time.now, message, 0, None, 0.1, excused))
        self._until("the probes to end", lambda: not self.ledger.open())

    def _left(self) -> list[str]:
        """Return what is there that was not there at the start."""
        if self.broker is None:
            return ["there is no broker"]
        books = self.broker.state.books
        found: dict[str, Collection[object]] = {
            "requests": books.requests,
            "waiting": books.waiting,
            "attempts": books.attempts,
            "holds": books.holds,
            "clients": books.clients,
            "processes that were to be buried": books.killed,
        }
        left = [f"left: {what}: {list(there)}" for what, there in found.items() if there]
        left += [
            f"left: {pool.total - pool.free} slots of {device}"
            for device, pool in books.pools.items()
            if pool.free != pool.total
        ]
        for actor in books.ready:
            left += self._unlike(actor)
        left += [f"left: open calls of {c.name}" for c in self.callers if not c.is_dead and c.is_busy]
        return left

    def _unlike(self, actor: Any) -> Iterator[str]:
        """Yield where the broker's books and an actor disagree."""
        process = self.processes[actor.device]
        for what in (actor.loading, actor.leaving, actor.switching, actor.wants, actor.queue):
            if what:
                yield f"left with {actor.device}: {what}"
        if process.engine.attempts:
            yield f"left: {actor.device} works on {process.engine.attempts}"
        known = {name: found.memory_mode for name, found in actor.residents.items()}
        real = {found.variant: found.memory_mode for found in process.engine.residents}
        if known != real:
            yield f"left: {actor.device} has {real}, the broker knows of {known}"
        if actor.account.assigned_s or actor.spare.assigned_s or actor.suspects:
            yield f"left: an account of {actor.device}"

    # ---- processes ------------------------------------------------------------------------------

    def _link(self, name: str, hear: Callable[[Any], None], *, is_actors: bool = False) -> Link:
        """Make a link, of a client or of the supervisor unless `is_actors`."""
        is_supervisors = name == "supervisor"
        link = Link(
            self.time,
            Random(f"{self.plan.seed} link {name}"),
            TRUE if is_supervisors else self._nature,
            name=name,
            is_actors=is_actors,
            keeps_route=is_actors,
            for_peer=hear,
        )
        self.links.append(link)
        return link

    def _join_later(self, link: Link, caller: Caller | None = None) -> None:
        """Connect a link soon, if there is a broker."""
        self.time.after(self._dice.uniform(0.0, 0.1), lambda: self._join(link, caller))

    def _join(self, link: Link, caller: Caller | None) -> None:
        if self.broker is not None and not (link.is_up or link.is_closed):
            self.broker.join(link, None if caller is None else caller.peer)

    def _spawn(self, name: str) -> None:
        self._pids += 1
        if name in self.devices:
            self._spawn_actor(name)
        else:
            self.time.after(self._dice.uniform(0.1, 0.3), self._spawn_broker)

    def _spawn_actor(self, device: str) -> None:
        process = Process(
            self.time,
            device=device,
            pid=self._pids,
            script=SLOW if self.plan.is_slow else SCRIPT,
            library=LIBRARY,
            writer=self._studio.writers[device],
            profiled=profiled(SLOW if self.plan.is_slow else SCRIPT, VARIANTS.values()),
            memory_bytes=NARROW if self.plan.has_little_memory else ROOMY,
            link=lambda name, hear: self._link(name, hear, is_actors=True),
            exited=self._exited,
        )
        self.processes[device] = process
        fitting = ("tiny",) if self.plan.has_little_memory else ("tiny", "wide")
        process.start(fitting, self._dice.uniform(0.1, 0.3))
        self._join_later(process.link)
        self._join_later(process.pulses)

    def _spawn_broker(self) -> None:
        settings = self.plan
        options = Options(headroom_bytes=0, cooldown_s=1.0, settle_s=2.0, parking_bytes=2**30)
        planner = load_planner("utility") if settings.has_planner else None
        state = BrokerState(
            rules=RULES,
            policy=builders.POLICIES[settings.policy],
            variants=INFOS,
            adapters={},
            segments={d: Segment(str(self._studio.paths[d]), LAYOUT) for d in self.devices},
            epoch=self._dice.getrandbits(31),
            now=self.time.now,
            scaler=None if planner is None else Scaling(planner, options),
        )
        self.states.append(state)
        dice = Random(f"{self.plan.seed} broker {len(self.states)}")
        self.broker = Broker(self.time, dice, state, self._studio.readers, lambda _: None)
        actors = [link for p in self.processes.values() for link in (p.link, p.pulses)]
        for link in (*actors, self.supervisor.link):
            self._join_later(link)
        for caller in self.callers:
            self._join_later(caller.link, caller)

    def _kill(self, name: str, pid: int | None = None) -> None:
        """Kill the broker, or an actor, if it is still that process."""
        if name in self.devices:
            process = self.processes[name]
            if pid is None:
                self._check_unfit(process)
            if pid in (None, process.pid):
                process.end()
            return
        broker, self.broker = self.broker, None
        if broker is None:
            return
        broker.die()
        self.ledger.may_lose_leases = True
        for link in self.links:
            link.disconnect()
        self.time.after(0.01, lambda: self.supervisor.buried("broker", 0, -9))

    def _exited(self, process: Process, status: int) -> None:
        if self.broker is not None:
            self.broker.part(process.link, is_remote=False)
            self.broker.part(process.pulses, is_remote=False)
        seconds = self._dice.uniform(0.0, 0.02)
        self.time.after(seconds, lambda: self.supervisor.buried(process.device, process.pid, status))

    # ---- blows ----------------------------------------------------------------------------------

    def _befall(self, blow: Blow) -> None:
        if "CALLER" in blow.kind.name:
            self._befall_caller(blow, self.callers[blow.whom])
        elif blow.kind is Kind.HOLD_SUPERVISOR:
            self.supervisor.link.hold(blow.seconds)
        elif "BROKER" not in blow.kind.name:
            self._befall_actor(blow, self.processes[self.devices[blow.whom]])
        elif blow.kind is Kind.KILL_BROKER:
            self._kill("broker")
        elif self.broker is not None:
            self.broker.stop(blow.seconds)

    def _befall_actor(self, blow: Blow, process: Process) -> None:
        if process.is_dead:
            return
        match blow.kind:
            case Kind.KILL_ACTOR:
                process.end()
            case Kind.HANG_ACTOR:
                process.hang()
            case Kind.STOP_ACTOR:
                process.stop(blow.seconds)
            case Kind.MUTE_ACTOR:
                process.is_mute = True
            case Kind.SLOW_ACTOR:
                process.slowness = 1.0 + 10.0 * blow.seconds
            case Kind.RETIRE_ACTOR:
                process.ask_to_leave()
            case Kind.HOLD_ACTOR:
                process.link.hold(blow.seconds)
                process.pulses.hold(blow.seconds)

    def _steal(self, thief: Caller) -> None:
        """Let a client with another key than theirs try to have what others have open.

        At once: a moment later it may have ended, and the same would be a request of the thief's own.
        """
        broker = self.broker
        if broker is None or broker.is_stopped or not thief.link.is_up:
            return
        for request in list(broker.state.books.requests.values()):
            if request.client.peer != thief.peer:
                for message in (Cancel(request.message.request_id), request.message):
                    broker.hear(ClientSaid(thief.link.route, message, thief.peer))

    def _befall_caller(self, blow: Blow, caller: Caller) -> None:
        match blow.kind:
            case Kind.KILL_CALLER:
                caller.die()
            case Kind.CLOSE_CALLER:
                caller.close()
            case Kind.HOLD_CALLER:
                caller.link.hold(blow.seconds)
            case Kind.STEAL_CALLER:
                for k in range(STEALS):
                    self.time.after(STEALS_S * k / STEALS, lambda: self._steal(caller))
                return
            case Kind.CUT_CALLER:
                self.ledger.was_cut.add(caller.name)
                caller.link.disconnect()
                self.time.after(blow.seconds, lambda: self._join(caller.link, caller))
        if self.broker is not None and blow.kind is not Kind.HOLD_CALLER:
            broker, route = self.broker, caller.link.route
            broker.part(caller.link, is_remote=not caller.peer.is_local)
            self.time.after(FORGOTTEN_S, lambda: self._check_forgotten(broker, route))
