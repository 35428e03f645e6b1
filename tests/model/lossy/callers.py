"""The clients: the real `ClientCore`, and a program around it that asks, looks, keeps and releases."""

from collections.abc import Callable
from random import Random
from typing import Any

from difs.actors.simulated import pattern
from difs.broker.events import Peer
from difs.client.core import ClientCore, Deliver, Effect, Send
from difs.errors import DifsError, LeaseLost
from difs.messages import Accepted, ClientMessage, Generate, Image, Progress, Result
from difs.shm.reader import SegmentReader, matches
from tests.model.lossy.broker import Painted
from tests.model.lossy.faults import Call
from tests.model.lossy.ledger import Ledger
from tests.model.lossy.links import Link
from tests.model.lossy.timeline import Timeline


class Caller:
    """A client program."""

    def __init__(
        self,
        time: Timeline,
        dice: Random,
        *,
        name: str,
        peer: Peer,
        link: Callable[[str, Callable[[Any], None]], Link],
        ledger: Ledger,
        readers: dict[str, SegmentReader],
    ) -> None:
        """Nothing is asked yet; `readers` by the path of each segment."""
        self._time, self._dice, self.name, self.peer = time, dice, name, peer
        self._ledger, self._readers = ledger, readers
        self.link = link(name, self._hear)
        self.core = ClientCore(time.now)
        self._calls: dict[str, Call] = {}
        self._payloads: tuple[bytes, ...] = ()
        self._wake_at = float("inf")
        self.is_dead = self._is_closing = False

    # ---- life -----------------------------------------------------------------------------------

    def ask(self, call: Call) -> None:
        """Begin a call."""
        if self.is_dead:
            return
        message = call.message
        self._calls[message.request_id] = call
        self._ledger.asked(self.name, call, self._time.now)
        self._perform(self.core.generate(message, self._time.now, call.retries))
        if call.gives_up_s is not None:
            self._time.after(call.gives_up_s, lambda: self._cancel(message.request_id))

    def wonder(self, question: ClientMessage) -> None:
        """Ask a question, or for something to be done."""
        if not self.is_dead:
            ticket, effects = self.core.ask(question, self._time.now)
            self._ledger.wondered(self.name, ticket)
            self._perform(effects)

    def _cancel(self, name: str) -> None:
        if not self.is_dead and not self._ledger.has_ended(name):
            self._ledger.given_up(name)
            self._perform(self.core.cancel(name))

    def close(self) -> None:
        """End as a program does that leaves the client's context."""
        if not self.is_dead:
            self._is_closing = True
            self._perform(self.core.close())
            self.is_dead = True
            self._time.after(0.5, self.link.close)  # the socket's linger

    def die(self) -> None:
        """End as by SIGKILL."""
        if not self.is_dead:
            self.is_dead = True
            self._ledger.died(self.name)
            self.link.close()

    @property
    def is_busy(self) -> bool:
        """Whether it waits for something, or holds something."""
        return self.core.next_wake(self._time.now) is not None

    # ---- the core -------------------------------------------------------------------------------

    def _hear(self, message: Any) -> None:
        if self.is_dead:
            return
        if isinstance(message, Painted):
            self._payloads, message = message.payloads, message.result
        if isinstance(message, (Accepted, Progress, Result)) and message.request_id not in self._calls:
            self._ledger.problems.append(f"{self.name} is told of another's call {message.request_id}")
        self._perform(self.core.received(message, self._time.now, self._dice.random()))

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self.link.send(effect.message)
            elif isinstance(effect, Deliver):
                self._take(effect)
            else:
                self._ledger.replied(self.name, effect.ticket)
        due = self.core.next_wake(self._time.now)
        if due is not None and due < self._wake_at:
            self._wake_at = due = max(due, self._time.now + 0.005)
            self._time.at(due, lambda: self._tick(due))

    def _tick(self, due: float) -> None:
        if self._wake_at == due and not self.is_dead:
            self._wake_at = float("inf")
            self._perform(self.core.tick(self._time.now, self._dice.random()))

    # ---- pictures -------------------------------------------------------------------------------

    def _take(self, delivery: Deliver) -> None:
        name, event = delivery.request_id, delivery.event
        if isinstance(event, DifsError):
            self._ledger.ended(name, event.code, self._time.now, is_closing=self._is_closing)
        elif isinstance(event, Result):
            call = self._calls[name]
            self._ledger.ended(name, self._look(call.message, event), self._time.now)
            self._time.after(call.keeps_s, lambda: self._release(call.message, event))

    def _look(self, asked: Generate, result: Result) -> str:
        """Return `result`, or what is wrong with it."""
        if len(result.images) != asked.n or (result.plan.width, result.plan.height) != (64, 64):
            return "another number of pictures, or another size"
        for i, image in enumerate(result.images):
            if asked.seed is not None and image.seed != asked.seed + i:
                return "another seed"
            try:
                data = self._bytes(image)
            except LeaseLost as error:
                return error.code
            if not matches(data, image.crc32):
                return "bytes that do not match their checksum"
            if data != pattern(asked.prompt, image.seed, 64, 64).tobytes():
                return "another's picture"
        return "result"

    def _bytes(self, image: Image) -> memoryview:
        if isinstance(image.frame, int):
            return memoryview(self._payloads[image.frame])
        segment, offset, generation = image.segment, image.offset, image.generation
        assert isinstance(segment, str)
        assert isinstance(offset, int)
        assert isinstance(generation, int)
        return self._readers[segment].image(offset, image.nbytes, generation)

    def _release(self, asked: Generate, result: Result) -> None:
        """Look once more: what is still ours must be what it was; then give it back."""
        if self.is_dead:
            return
        leases = [image.lease for image in result.images if isinstance(image.lease, int)]
        if leases:
            self._ledger.kept(result.request_id, self._look(asked, result))
            self._perform(self.core.release(leases))
