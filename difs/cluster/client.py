"""ClusterClient: an AsyncClient whose broker is a whole cluster.

Everything that an AsyncClient offers rests on `exchange` and `ask`; here they go to nodes, by way of
`Calls`. What follows a failure is decided in `difs.cluster.course`. No Ray here.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Protocol, TypeVar

from msgspec.structs import replace

from difs import wire
from difs.client.aio import AsyncClient
from difs.client.core import GRACE_S, to_exception
from difs.clock import Clock
from difs.cluster import course, merging, states
from difs.cluster.course import Course, Elsewhere, End, Rest, Terms
from difs.cluster.frames import Frames, framed
from difs.cluster.settings import Routing
from difs.cluster.states import Label
from difs.errors import Cancelled, DifsError, Expired, Unavailable
from difs.messages import (
    Accepted,
    BrokerMessage,
    ClientMessage,
    Error,
    Explain,
    Generate,
    Progress,
    Variants,
)
from difs.messages import Result as ResultMessage

A = TypeVar("A", bound=BrokerMessage)
ASK_S = 5.0
"""How long nodes may take for the answer to a question."""
LISTED_S = 2.0
"""How long a list of variants counts; an older one is better than none where no node answers."""


class NodeLost(Exception):
    """A node died, or cannot be reached, with a call open; `node` is empty where it is not known."""

    def __init__(self, node: str) -> None:
        super().__init__(node or "a node")
        self.node = node


class Calls(Protocol):
    """The way to the nodes."""

    def exchange(self, label: bytes, frames: Frames) -> AsyncGenerator[tuple[str, Frames], None]:
        """Send a request to a node, yielding its name and the messages that come; raises NodeLost.

        The first item has no frames: the node has the request. Leaving the loop cancels the request.
        """
        ...

    async def ask_one(self, label: bytes, frames: Frames) -> tuple[str, Frames]:
        """Return the name and the answer of the node that a request would go to; raises NodeLost."""
        ...

    async def ask_all(self, label: bytes, frames: Frames, within_s: float) -> dict[str, Frames]:
        """Return the answer of every node that gives one in time."""
        ...

    def count(self) -> int:
        """Return how many nodes there are, as far as is known."""
        ...


class ClusterClient(AsyncClient):
    """A connection of one caller to all nodes."""

    def __init__(
        self,
        calls: Calls,
        clock: Clock,
        routing: Routing,
        caller: str = "",
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`caller`: an account of its own with each node's broker. `chance` spreads retries."""
        super().__init__("cluster:")  # no broker's address: pictures come inline, nothing is connected
        self._calls = calls
        self._now = clock.now
        self._routing = routing
        self._caller = caller
        self._chance = chance
        self._closing = asyncio.Event()
        self._waits: set[asyncio.Timeout] = set()
        """Of the calls that wait for a node."""
        self._listing = asyncio.Lock()
        self._listed: BrokerMessage | None = None
        self._listed_at = 0.0

    def _open(self) -> None:
        """There is nothing to connect: Ray Serve knows the nodes."""

    async def aclose(self) -> None:
        """See AsyncClient: open calls end as Cancelled, and their nodes are left."""
        closing, self._closing = self._closing, asyncio.Event()
        closing.set()
        for wait in self._waits:
            wait.reschedule(asyncio.get_running_loop().time())

    async def exchange(
        self, request: Generate, retries: int
    ) -> AsyncGenerator[tuple[Accepted | Progress | ResultMessage, list[bytes]], None]:
        """See AsyncClient. A node that dies costs an attempt: the same id goes to another one."""
        begun_at, closing = self._now(), self._closing
        # the memory of another machine cannot be mapped
        request = replace(request, delivery=replace(request.delivery, mode="inline"))
        gone = Course()
        while True:
            elapsed_s = self._now() - begun_at
            terms = self._terms(request, retries, request.timeout_s - elapsed_s)
            attempt = self._attempt(request, gone, elapsed_s, closing)
            try:
                async with aclosing(attempt):
                    async for message, payloads in attempt:
                        yield _counted(message, gone), payloads
                return
            except NodeLost as error:
                following = course.lost(gone, error.node, terms)
            except _Refused as error:
                following = course.refused(gone, error.node, error.error, terms, self._chance())
            match following:
                case End(error=told):
                    raise told
                case Rest(course=gone, seconds=rest_s):
                    await self._rest(rest_s, closing, request)
                case Elsewhere(course=gone):
                    pass

    def _terms(self, request: Generate, retries: int, left_s: float) -> Terms:
        wants_to_know = request.requirements.on_infeasible == "reject"
        return Terms(self._routing.attempts, self._calls.count(), retries, left_s, wants_to_know)

    async def _attempt(
        self, request: Generate, gone: Course, elapsed_s: float, closing: asyncio.Event
    ) -> AsyncGenerator[tuple[Accepted | Progress | ResultMessage, list[bytes]], None]:
        """Try one node; raises NodeLost, _Refused, Expired, or Cancelled."""
        left = course.remaining(request, elapsed_s)
        label = Label(self._caller, states.wanted(left), gone.avoid)
        events = self._calls.exchange(states.encode(label), framed(left))
        deadline = asyncio.get_running_loop().time() + left.timeout_s + GRACE_S
        async with aclosing(events):
            while True:
                if closing.is_set():
                    raise _cancelled(request)
                try:
                    async with self._until(deadline):
                        node, frames = await anext(events)
                except TimeoutError:
                    if closing.is_set():
                        raise _cancelled(request) from None
                    words = f"no answer within timeout_s {request.timeout_s:g}"
                    raise Expired(words, request_id=request.request_id) from None
                except StopAsyncIteration:
                    raise NodeLost("") from None  # it ended without a result
                if not frames:
                    continue
                message = wire.decode_from_broker(frames)
                if isinstance(message, Error):
                    raise _Refused(node, to_exception(message))
                assert isinstance(message, (Accepted, Progress, ResultMessage))
                yield message, frames[2:]
                if isinstance(message, ResultMessage):
                    return

    @asynccontextmanager
    async def _until(self, deadline: float) -> AsyncIterator[None]:
        """Raise TimeoutError at `deadline`, or when the client is closed."""
        async with asyncio.timeout_at(deadline) as wait:
            self._waits.add(wait)
            try:
                yield
            finally:
                self._waits.discard(wait)

    async def _rest(self, seconds: float, closing: asyncio.Event, request: Generate) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(closing.wait(), seconds)
            raise _cancelled(request)

    async def ask(self, message: ClientMessage, answer: type[A]) -> A:
        """See AsyncClient. The plan for a request is asked of its node, everything else of all."""
        if isinstance(message, Explain):
            found = await self._ask_one(message)
        elif isinstance(message, Variants):
            found = await self._list(message)
        else:
            found = await self._ask_all(message)
        assert isinstance(found, answer)
        return found

    async def _ask_one(self, message: Explain) -> BrokerMessage:
        label = Label(self._caller, states.wanted(message.request))
        try:
            async with asyncio.timeout(ASK_S):
                _, frames = await self._calls.ask_one(states.encode(label), framed(message))
        except (NodeLost, TimeoutError):
            raise Unavailable("no node answers") from None
        return _answered(frames)

    async def _list(self, message: Variants) -> BrokerMessage:
        """Return the variants; doors ask with every request, so nodes are asked once a while only."""
        async with self._listing:
            if self._listed is None or self._now() - self._listed_at >= LISTED_S:
                try:
                    self._listed = await self._ask_all(message)
                except Unavailable:
                    if self._listed is None:
                        raise
                self._listed_at = self._now()
            return self._listed

    async def _ask_all(self, message: ClientMessage) -> BrokerMessage:
        label = states.encode(Label(self._caller))
        answers = await self._calls.ask_all(label, framed(message), ASK_S)
        good: dict[str, BrokerMessage] = {}
        problem: DifsError = Unavailable("no node answers")
        for node, frames in sorted(answers.items()):
            try:
                good[node] = _answered(frames)
            except DifsError as error:
                problem = error
        if not good:
            raise problem
        return merging.merged(good)


class _Refused(Exception):
    """A node's service answered with an error."""

    def __init__(self, node: str, error: DifsError) -> None:
        super().__init__(node)
        self.node, self.error = node, error


def _cancelled(request: Generate) -> Cancelled:
    return Cancelled("the client was closed", request_id=request.request_id)


def _answered(frames: Frames) -> BrokerMessage:
    message = wire.decode_from_broker(frames)
    if isinstance(message, Error):
        raise to_exception(message)
    return message


def _counted(
    message: Accepted | Progress | ResultMessage, gone: Course
) -> Accepted | Progress | ResultMessage:
    """Return a message that counts the attempts of the nodes that died, too."""
    if isinstance(message, Progress) or not gone.lost:
        return message
    return replace(message, attempt=message.attempt + gone.lost)
