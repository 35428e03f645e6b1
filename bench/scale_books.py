"""A broker's heart with as many requests, clients, variants and devices as a bench wants: no sockets.

What an actor would report is told to it at once. What is measured is CPU seconds of this thread.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence

from bench.decisions import MODES, in_mode, resident, variant
from bench.report import percentile
from difs import config
from difs.actor_messages import Execute, Finished, Ready, Sealed, Stepped
from difs.broker.books import Segment
from difs.broker.effects import Effect, TellActor, TellClient
from difs.broker.events import ActorSaid, ClientSaid, Delivered, Ticked
from difs.broker.state import BrokerState
from difs.messages import Delivery, Explain, Generate
from difs.policy import registry
from difs.policy.base import Options
from difs.shm import layout

SIDE = 64
CREDITS = 16
RESIDENT = 8
"""Variants that are loaded on each device; the others are profiled there."""
LONG_S = 3600.0
WARM = 10


class Heart:
    """One BrokerState and what happens to it."""

    def __init__(
        self, *, clients: int = 16, variants: int = 8, devices: int = 1, policy: str = "modelless"
    ) -> None:
        """Start with ready actors and nothing asked."""
        self._infos = tuple(variant(i) for i in range(variants))
        names = [f"simulated-{i}" for i in range(devices)]
        plan = layout.plan([(layout.HEADER_BYTES + 3 * SIDE * SIDE, 4 * CREDITS)])
        rules = config.Broker(max_queued=1_000_000, max_outstanding=1_000_000, max_clients=1_000_000)
        self.state = BrokerState(
            rules=rules,
            policy=registry.load(policy, Options()),
            variants={info.name: info for info in self._infos},
            adapters={},
            segments={name: Segment(f"/{name}", plan) for name in names},
            epoch=1,
            now=0.0,
        )
        self._routes = [b"client-%d" % i for i in range(clients)]
        self._running: deque[Execute] = deque()
        self._count = 0
        self.now = 0.0
        for name in names:
            self._tell(name.encode(), self._ready(name))

    def _ready(self, device: str) -> Ready:
        found = [resident(info.name, 0.005 + 0.001 * i) for i, info in enumerate(self._infos)]
        profiled = [in_mode(r, mode, i) for r in found for i, mode in enumerate(MODES[:2])]
        return Ready(
            device=device,
            incarnation=device,
            pid=1 + int(device.rpartition("-")[2]),
            credits=CREDITS,
            residents=tuple(found[:RESIDENT]),
            profiled=tuple(profiled),
        )

    def _tell(self, route: bytes, message: Ready | Stepped | Finished) -> None:
        self._note(self.state.handle(ActorSaid(route, message), self.now))

    def _note(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, TellActor) and isinstance(effect.message, Execute):
                self._running.append(effect.message)
            elif isinstance(effect, TellClient) and effect.leases:  # its pictures were copied
                self._note(self.state.handle(Delivered(effect.leases), self.now))

    def ask(self) -> None:
        """Let the next client ask for a picture."""
        self._count += 1
        route = self._routes[self._count % len(self._routes)]
        message = Generate(
            f"r{self._count}",
            "red apple",
            width=SIDE,
            height=SIDE,
            seed=7,
            timeout_s=LONG_S,
            delivery=Delivery(format="raw"),
        )
        self._note(self.state.handle(ClientSaid(route, message), self.now))

    def serve(self) -> None:
        """Let the oldest attempt do a step and finish; another takes its place."""
        done = self._running.popleft()
        route = self.state.books.attempts[done.attempt].actor.route
        self._tell(route, Stepped(done.attempt, 0, 1, done.steps))
        images = tuple(Sealed(slot.index, 3 * SIDE * SIDE, 1) for slot in done.slots)
        self._tell(route, Finished(done.attempt, images, 0.01, 0.05, 0.02, 0.0, "bitwise"))

    def tick(self) -> None:
        """Let the heartbeat's time come."""
        self.now += 0.5
        for actor in list(self.state.books.actors.values()):
            actor.last_heard = actor.progressed_at = self.now
        self._note(self.state.handle(Ticked(), self.now))

    def fill(self, queued: int) -> None:
        """Ask until so many wait beside what runs."""
        while self.state.books.queued < queued:
            self.ask()

    def explain(self) -> None:
        """Ask what would become of a request: one decision, which changes nothing."""
        delivery = Delivery(format="raw")
        asked = Generate("question", "red apple", width=SIDE, height=SIDE, delivery=delivery)
        self._note(self.state.handle(ClientSaid(b"asker", Explain(asked)), self.now))

    def turn_over(self) -> None:
        """Let one request come and another end."""
        self.ask()
        self.serve()

    def costs(self, rounds: int) -> dict[str, float]:
        """Return microseconds of CPU: of one request from arrival to end, of a decision, of a tick."""
        acts = {"request_us": self.turn_over, "decision_us": self.explain, "tick_us": self.tick}
        found = {name: [_timed(act) for _ in range(rounds + WARM)] for name, act in acts.items()}
        return {name: round(percentile(found[name][WARM:], 0.1) * 1e6, 1) for name in acts}


def _timed(act: Callable[[], None]) -> float:
    started = time.thread_time()
    act()
    return time.thread_time() - started
