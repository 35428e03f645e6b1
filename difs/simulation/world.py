"""The heap of events: arrivals, devices and mishaps in virtual time, and the real broker among them.

Nothing is sent and nobody waits: a message arrives at the moment at which it is said. Reports of steps
are handed to the broker before it decides anything, not one by one: nothing else looks at them.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from random import Random

from difs import config, quality
from difs.actor_messages import ActorExited, Execute, KillActor, Leaving, Supervise, Welcome
from difs.autoscaler import registry as planners
from difs.broker.books import Segment
from difs.broker.effects import Complain, Effect, TellActor, TellClient, TellSupervisor
from difs.broker.events import ActorSaid, ClientSaid, Delivered, Event, Ticked
from difs.broker.scaler import Scaling
from difs.broker.state import BrokerState
from difs.errors import ConfigError
from difs.messages import Accepted, Error, QualityKind, Result
from difs.policy import registry
from difs.policy.base import Options, Policy
from difs.shm import layout
from difs.simulation import mishaps, tables
from difs.simulation.device import Device
from difs.simulation.ledger import Fate, Ledger, Sample, in_words
from difs.simulation.scenario import Scenario, Wish
from difs.simulation.tables import Model

SUPERVISOR = b"supervisor"
PULSE_S = 0.5

Act = Callable[[], None]


class World:
    """One run."""

    def __init__(
        self,
        scenario: Scenario,
        models: Mapping[str, Model],
        *,
        policy: Policy | None = None,
        times: Sequence[float] | None = None,
        keeps_lines: bool = False,
    ) -> None:
        """Put everything together; nothing happens yet. Raises ConfigError.

        `policy`: instead of the one that the scenario names. `times`: instead of its arrivals.
        """
        if not models:
            raise ConfigError("a simulation needs the table of one variant at least")
        self._scenario = scenario
        self._models = models
        if times is None:
            times = scenario.arrivals.times(Random(f"{scenario.seed} arrivals"))
        self._times = times
        self._asks = Random(f"{scenario.seed} asks")
        self._weights = [wish.share for wish in scenario.mix]
        self.ledger = Ledger(keeps_lines)
        self._preload = self._names_to_preload()
        kind = scenario.fleet.kind or next(iter(models.values())).kind
        names = [f"{kind}-{i}" for i in range(scenario.fleet.devices)]
        self._prompts = scenario.prompts or _captions(models) or ("a picture",)
        plan = layout.plan(config.slot_classes(config.Shm()))
        planner = planners.configured(scenario.autoscaler, scenario.fleet.parking_bytes)
        self.state = BrokerState(
            rules=scenario.rules,
            policy=policy or _policy(scenario),
            variants={name: model.info for name, model in models.items()},
            adapters={},
            segments={name: Segment(f"/simulated/{name}", plan) for name in names},
            epoch=scenario.seed,
            now=0.0,
            scaler=Scaling(*planner) if planner is not None else None,
        )
        self.devices: list[Device] = []
        self._by_route: dict[bytes, int] = {}
        self._by_name = {name: i for i, name in enumerate(names)}
        self._gone: set[int] = set()
        """Devices between a death and the next life."""
        self._due: list[float] = [math.inf] * len(names)
        """When each device is to be looked at, as it stands on the heap."""
        self._qualities: dict[str, float | None] = {}
        self._heap: list[tuple[float, int, Act]] = []
        self._number = 0
        self._pending: deque[Event] = deque()
        self._dirty: dict[int, None] = {}
        self._is_handling = False
        self.now = 0.0

    # ---- a run ------------------------------------------------------------------------------------

    def run(self) -> Ledger:
        """Let everything happen until the last request has ended; returns the record."""
        scenario = self._scenario
        self._happen(ActorSaid(SUPERVISOR, Supervise(1)))
        for name in self._by_name:
            self._give_life(name, 0, is_warm=True)
        for mishap in mishaps.draw(scenario, max(self._times, default=0.0)):
            self._at(mishap.at, lambda m=mishap: self._befall(m))  # type: ignore[misc]
        self._at(0.0, self._sample)
        next_arrival = 0
        books = self.state.books
        while next_arrival < len(self._times) or books.requests or books.attempts:
            due = self._times[next_arrival] if next_arrival < len(self._times) else math.inf
            wake = self.state.next_wake()
            if due <= self._heap[0][0] and due <= wake:
                self.now = due
                self._arrive(next_arrival)
                next_arrival += 1
            elif wake < self._heap[0][0]:
                self.now = max(self.now, wake)
                self._tell_steps()
                self._happen(Ticked())
            else:
                self.now, _, act = heapq.heappop(self._heap)
                act()
        return self._closed()

    def _closed(self) -> Ledger:
        ledger = self.ledger
        ledger.seconds, ledger.devices = self.now, len(self.devices)
        for device in self.devices:
            self._take_counts(device)
        for name, count in self.state.books.counts.items():
            ledger.counts[f"broker.{name}"] = count
        return ledger

    def _take_counts(self, device: Device) -> None:
        """Add to the record what a device counted in its life."""
        counts = self.ledger.counts
        counts.update(device.residents.counts)
        counts["hits"] += device.hits
        counts["misses"] += device.misses
        self.ledger.busy_s += device.work.busy_s

    def _at(self, when: float, act: Act) -> None:
        self._number += 1
        heapq.heappush(self._heap, (when, self._number, act))

    # ---- requests ---------------------------------------------------------------------------------

    def _arrive(self, number: int) -> None:
        dice, scenario = self._asks, self._scenario
        wish = self._wish(number)
        prompt = dice.choice(self._prompts)
        message = wish.message(f"r{number}", prompt, seed=number)
        self.ledger.fates[message.request_id] = Fate(message, self.now, dice.random())
        client = f"client-{number % scenario.clients}".encode()
        self._tell_steps()
        self._happen(ClientSaid(client, message))

    def _wish(self, number: int) -> Wish:
        """Return what the request of this number wants."""
        mix = self._scenario.mix
        return self._asks.choices(mix, self._weights)[0] if len(mix) > 1 else mix[0]

    def _answer(self, message: Accepted | Result | Error) -> None:
        fate = self.ledger.fates.get(message.request_id or "")
        if fate is None:
            return
        name = message.request_id
        if isinstance(message, Accepted):
            if not fate.is_accepted and message.plan is not None:
                fate.promised = message.plan.keeps_latency
            fate.is_accepted, fate.plan = True, message.plan
            return
        fate.ended_at = self.now
        fate.ends += 1
        if isinstance(message, Result):
            fate.plan = message.plan
            fate.quality = self._qualities.pop(message.request_id, None)
            self.ledger.happened(self.now, "result", name, message.plan.variant, message.plan.device)
        else:
            fate.code = message.code
            self._qualities.pop(message.request_id or "", None)
            self.ledger.happened(self.now, "error", name, message.code)

    # ---- the broker -------------------------------------------------------------------------------

    def _happen(self, *events: Event) -> None:
        """Give events to the broker, its effects to whom they are for, and so on until all is said."""
        self._pending.extend(events)
        if self._is_handling:
            return
        self._is_handling = True
        while self._pending or self._dirty:
            while self._pending:
                for effect in self.state.handle(self._pending.popleft(), self.now):
                    self._perform(effect)
            dirty, self._dirty = self._dirty, {}
            for index in dirty:
                self._attend(index)
        self._is_handling = False

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, TellActor):
            index = self._by_route.get(effect.route)
            if index is None or isinstance(effect.message, Welcome):
                return
            message = effect.message
            self.ledger.happened(self.now, "to", effect.route.decode(), in_words(message))
            self.devices[index].take(message, self.now)
            self._dirty[index] = None
        elif isinstance(effect, TellClient):
            if isinstance(effect.message, (Accepted, Result, Error)):
                self._answer(effect.message)
            if effect.leases:
                self._pending.append(Delivered(effect.leases))
        elif isinstance(effect, TellSupervisor):
            if isinstance(effect.message, KillActor):
                index, pid = self._by_name[effect.message.device], effect.message.pid
                self._at(self.now, lambda: self._die(index, pid, "killed"))
        elif isinstance(effect, Complain):
            self.ledger.complaints.append(effect.words)

    def _tell_steps(self) -> None:
        """Hand on the steps that were done until now, before anything is decided."""
        for index in range(len(self.devices)):
            self._tell_steps_of(index)

    def _tell_steps_of(self, index: int) -> None:
        device = self.devices[index]
        run = device.work.run
        if run is not None and run.told < run.units and run.done_by(self.now) > run.told:
            for at, stepped in device.steps(self.now):
                self.state.handle(ActorSaid(device.route, stepped), at)

    # ---- devices ----------------------------------------------------------------------------------

    def _attend(self, index: int) -> None:
        """Let a device do what is due, and hand on what it reports."""
        if index in self._gone:
            return
        device = self.devices[index]
        self._tell_steps_of(index)
        for report in device.attend(self.now):
            self.ledger.happened(self.now, "from", device.name, in_words(report))
            self._pending.append(ActorSaid(device.route, report))
            if isinstance(report, Leaving):
                self._at(self.now, lambda pid=device.pid: self._die(index, pid, "left"))  # type: ignore[misc]
        if device.is_stillborn:
            self._at(self.now, lambda pid=device.pid: self._die(index, pid, "nothing fits"))  # type: ignore[misc]
        self._watch(index)

    def _watch(self, index: int) -> None:
        """Have a device looked at when something is due there."""
        when = self.devices[index].next_wake
        if when < math.inf and when != self._due[index]:
            self._due[index] = when
            self._at(when, lambda: self._wake(index, when))

    def _wake(self, index: int, when: float) -> None:
        if self._due[index] != when or index in self._gone:
            return  # something came earlier, and it was looked at then
        self._due[index] = math.inf
        self._dirty[index] = None
        self._happen()

    def _painted(self, execute: Execute, steps: int) -> None:
        """Note what an attempt's pictures are worth, of as many steps as were done."""
        self._qualities[execute.request_id] = self._worth(execute, steps)

    def _worth(self, execute: Execute, steps: int) -> float | None:
        model = self._models[execute.variant]
        side = round(math.sqrt(execute.width * execute.height))
        found = quality.expected(model.info.quality, steps, execute.guidance_scale, side)
        if found is None:
            return None
        ease = self.ledger.fates[execute.request_id].ease
        return min(1.0, max(0.0, found + model.spread * (ease - 0.5)))

    # ---- life and death ---------------------------------------------------------------------------

    def _give_life(self, name: str, life: int, *, is_warm: bool) -> None:
        fleet = self._scenario.fleet
        self._number += 1
        device = Device(
            name,
            self._models,
            life=life,
            number=self._number,
            memory_bytes=fleet.memory_bytes,
            parking_bytes=fleet.parking_bytes,
            max_credits=fleet.credits,
            max_rows=fleet.max_rows,
            score=self._score,
            painted=self._painted,
        )
        index = self._by_name[name]
        if life:
            self._inherit(self.devices[index], device)
            self.devices[index] = device
        else:
            self.devices.append(device)
        self._gone.discard(index)
        self._by_route[device.route] = index
        device.start(self._preload, self.now, is_warm=is_warm)
        self._at(self.now + PULSE_S, lambda: self._pulse(index, device))
        self._dirty[index] = None
        self._happen()

    def _inherit(self, old: Device, new: Device) -> None:
        """Others' memory and a slow device stay what they were when a process dies."""
        new.memory.want(old.memory.wanted)
        new.work.slowness = old.work.slowness

    def _die(self, index: int, pid: int, how: str) -> None:
        """End a life; the supervisor tells the broker, and begins the next one."""
        device = self.devices[index]
        if device.pid != pid or index in self._gone:
            return
        self._gone.add(index)
        self._due[index] = math.inf
        self._take_counts(device)
        self.ledger.counts[f"lives ended: {how}"] += 1
        self.ledger.happened(self.now, "gone", device.name, how)
        del self._by_route[device.route]
        if how != "left":
            self._tell_steps()
            self._happen(ActorSaid(SUPERVISOR, ActorExited(device.name, pid, how)))
        again = self.now + self._scenario.mishaps.restart_s
        self._at(again, lambda: self._give_life(device.name, device.life + 1, is_warm=False))

    def _befall(self, mishap: mishaps.Mishap) -> None:
        index = mishap.device
        device = self.devices[index]
        self.ledger.happened(self.now, mishap.kind, device.name, mishap.amount)
        if mishap.kind == "die":
            self._tell_steps_of(index)
            self._die(index, device.pid, "died")
            return
        if mishap.kind == "neighbour":
            device.memory.want(round(mishap.amount))
            return
        self._tell_steps_of(index)
        if mishap.kind == "hang":
            device.is_hung = True
            return
        device.work.slowness = mishap.amount
        if device.work.run is not None:
            device.work.run.cut(self.now)
            self._watch(index)

    def _pulse(self, index: int, device: Device) -> None:
        if self.devices[index] is not device or index in self._gone:
            return
        self._at(self.now + PULSE_S, lambda: self._pulse(index, device))
        if device.is_ready:
            pulse = device.pulse(self.now)
            if pulse is not None:
                self._happen(ActorSaid(b"pulses", pulse))

    # ---- looking ----------------------------------------------------------------------------------

    def _sample(self) -> None:
        """Look at the memory of all devices."""
        alive = [d for i, d in enumerate(self.devices) if i not in self._gone]
        memories = [d.memory for d in alive]
        sample = Sample(
            at=self.now,
            own=sum(m.own for m in memories),
            others=sum(m.others for m in memories),
            parked=sum(d.residents.parked_bytes for d in alive),
            busy=sum(d.work.run is not None for d in alive),
            most=max(((m.own + m.others) / m.total for m in memories), default=0.0),
        )
        self.ledger.samples.append(sample)
        self._at(self.now + self._scenario.sample_s, self._sample)

    def _score(self, execute: Execute) -> float | None:
        if not self._scenario.scores:
            return self._worth(execute, execute.steps)
        ease = self.ledger.fates[execute.request_id].ease
        return tables.score_at(self._scenario.scores, ease)

    def _names_to_preload(self) -> tuple[str, ...]:
        wanted = self._scenario.fleet.preload
        names = tuple(sorted(self._models)) if "*" in wanted else wanted
        for name in names:
            if name not in self._models:
                words = (
                    f"fleet.preload: no table of {name!r}; there is: {', '.join(sorted(self._models))}"
                )
                raise ConfigError(words)
        return names


def _policy(scenario: Scenario) -> Policy:
    chosen = scenario.policy
    scored: tuple[QualityKind, ...] = () if scenario.scores else ("reference", "declared")
    return registry.load(chosen.name, Options(chosen.variant, chosen.light, chosen.heavy, scored))


def _captions(models: Mapping[str, Model]) -> tuple[str, ...]:
    """Return what all variants that name their captions can paint, each by its first name."""
    told = [{words[0] for words in m.info.captions} for m in models.values() if m.info.captions]
    return tuple(sorted(set.intersection(*told))) if told else ()
