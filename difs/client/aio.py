"""AsyncClient: performs the effects of `ClientCore` on a DEALER socket under asyncio."""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from difs import wire
from difs.client import endpoint, requests
from difs.client.core import ClientCore, Deliver, Effect, Reply, Send
from difs.client.requests import Wishes
from difs.client.result import Result
from difs.clock import MonotonicClock
from difs.errors import DifsError
from difs.messages import (
    Accepted,
    AdapterInfo,
    BrokerMessage,
    Case,
    ClearQuarantine,
    ClientMessage,
    Done,
    Evict,
    Explain,
    Explanation,
    Family,
    Generate,
    Happening,
    Load,
    MemoryMode,
    Metrics,
    MetricsReport,
    Pin,
    Ping,
    Pong,
    Progress,
    Quarantine,
    QuarantineList,
    SetMode,
    Status,
    StatusReport,
    Story,
    StoryReport,
    VariantInfo,
    VariantList,
    Variants,
)
from difs.messages import Result as ResultMessage
from difs.shm.reader import SegmentReader

DEFAULT_RETRIES = 3
LINGER_MS = 500
A = TypeVar("A", bound=BrokerMessage)

Event = Accepted | Progress | Result


class AsyncClient:
    """A connection to a running service; use it as `async with AsyncClient() as client`."""

    def __init__(self, address: str | None = None, *, key: str | Path | None = None) -> None:
        """`address`: "ipc://..." or "tcp://..."; by default this user's running service.

        `key`: the file that `difs keys new` wrote, for an address of tcp://; it may name the address.
        """
        self._endpoint = endpoint.find(address, key)
        self._clock = MonotonicClock()
        self._core = ClientCore(self._clock.now())
        self._readers: dict[str, SegmentReader] = {}
        self._events: dict[str, asyncio.Queue[Any]] = {}
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._freed: list[int] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # ---- life -----------------------------------------------------------------------------------

    def _open(self) -> None:
        """Connect on first use, within the running event loop."""
        if self._loop is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = LINGER_MS
        doings = [self._listen(), self._tick()]
        if self._endpoint.is_remote:
            doings.append(self._watch_line(self._socket.get_monitor_socket(endpoint.EVENTS)))
        self._endpoint.connect(self._socket)
        self._wake = asyncio.Event()
        self._tasks = [asyncio.create_task(doing) for doing in doings]

    async def aclose(self) -> None:
        """Disconnect; open calls end as Cancelled, leases are given back."""
        if self._loop is None:
            return
        await self._perform(self._core.close())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._endpoint.is_remote:
            self._socket.disable_monitor()
        self._context.destroy(linger=LINGER_MS)
        self._loop = None

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _listen(self) -> None:
        while True:
            frames = await self._socket.recv_multipart()
            try:
                message = wire.decode_from_broker(frames)
            except DifsError:
                continue  # not for us to judge: the call it belonged to will time out
            effects = self._core.received(message, self._clock.now(), random.random())
            await self._perform(effects, frames[2:])

    async def _watch_line(self, monitor: zmq.asyncio.Socket) -> None:
        """Tell the core what becomes of the connection: libzmq itself says nothing."""
        while True:
            match parse_monitor_message(await monitor.recv_multipart())["event"]:
                case zmq.Event.HANDSHAKE_FAILED_AUTH:
                    await self._perform(self._core.shut_out())
                case zmq.Event.DISCONNECTED:
                    self._core.line_lost(self._clock.now())
                case zmq.Event.HANDSHAKE_SUCCEEDED:
                    await self._perform(self._core.line_found(self._clock.now()))

    async def _tick(self) -> None:
        while True:
            now = self._clock.now()
            await self._perform(self._core.tick(now, random.random()))
            wake = self._core.next_wake(now)
            self._wake.clear()
            timeout = None if wake is None else max(0.005, wake - now)
            # not wait_for: before Python 3.12 it can swallow a cancellation (cpython 86296)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._wake.wait()

    async def _perform(self, effects: Iterable[Effect], payloads: list[bytes] | None = None) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                await self._socket.send_multipart(wire.encode(effect.message))
            elif isinstance(effect, Deliver):
                queue = self._events.get(effect.request_id)
                if queue is not None:
                    queue.put_nowait((effect.event, payloads or []))
            else:
                self._reply(effect)
        self._wake.set()

    def _reply(self, reply: Reply) -> None:
        future = self._replies.pop(reply.ticket, None)
        if future is None or future.done():
            return
        if isinstance(reply.answer, DifsError):
            future.set_exception(reply.answer)
        else:
            future.set_result(reply.answer)

    # ---- shared memory --------------------------------------------------------------------------

    def _reader(self, path: str) -> SegmentReader:
        if path not in self._readers:
            self._readers[path] = SegmentReader(Path(path))
        return self._readers[path]

    def _release(self, lease: int) -> None:
        """Give a lease back; called from any thread, by the garbage collector too."""
        self._freed.append(lease)
        loop = self._loop
        if loop is not None and not loop.is_closed():
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._schedule_give_back)

    def _schedule_give_back(self) -> None:
        if self._freed and self._loop is not None:
            self._giving = self._loop.create_task(self._give_back())

    async def _give_back(self) -> None:
        freed, self._freed = self._freed, []
        await self._perform(self._core.release(freed))

    # ---- generate -------------------------------------------------------------------------------

    async def stream(
        self, prompt: str, *, progress: bool = True, **wishes: Unpack[Wishes]
    ) -> AsyncGenerator[Event, None]:
        """Generate, yielding `Accepted`, `Progress` and at last the `Result`.

        The images of a request advance side by side: each counts up on its own.
        Leaving the loop early, or cancelling the task, cancels the request. Raises DifsError.
        """
        wishes.setdefault("delivery", self._endpoint.delivery)
        request = requests.build(prompt, wishes, progress=progress)
        messages = self.exchange(request, wishes.get("retries", DEFAULT_RETRIES))
        async with contextlib.aclosing(messages):
            async for event, payloads in messages:
                if isinstance(event, ResultMessage):
                    yield Result(request, event, payloads, self._reader, self._release)
                else:
                    yield event

    async def exchange(
        self, request: Generate, retries: int
    ) -> AsyncGenerator[tuple[Accepted | Progress | ResultMessage, list[bytes]], None]:
        """Send a request, yielding the messages that come, with the payload frames behind each.

        The last is the `result`. Leaving the loop early cancels the request. Raises DifsError.
        """
        self._open()
        effects = self._core.generate(request, self._clock.now(), retries)
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self._events[request.request_id] = queue
        try:
            await self._perform(effects)
            while True:
                event, payloads = await queue.get()
                if isinstance(event, DifsError):
                    raise event
                yield event, payloads
                if isinstance(event, ResultMessage):
                    return
        finally:
            del self._events[request.request_id]
            await asyncio.shield(self._perform(self._core.cancel(request.request_id)))

    async def generate(
        self,
        prompt: str,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        **wishes: Unpack[Wishes],
    ) -> Result:
        """Generate images. See `Wishes` for the arguments; raises DifsError."""
        events = self.stream(prompt, progress=on_progress is not None, **wishes)
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, Result):
                    return event
                if isinstance(event, Progress) and on_progress is not None:
                    on_progress(event)
        raise AssertionError("a stream ends with a Result or an error")

    # ---- questions ------------------------------------------------------------------------------

    async def ask(self, message: ClientMessage, answer: type[A]) -> A:
        """Return the answer to a question, which is of type `answer`; raises DifsError."""
        self._open()
        assert self._loop is not None
        ticket, effects = self._core.ask(message, self._clock.now())
        future = self._replies[ticket] = self._loop.create_future()
        await self._perform(effects)
        try:
            found = await future
        finally:
            self._replies.pop(ticket, None)
        assert isinstance(found, answer)
        return found

    async def explain(
        self, prompt: str, *, survey: bool = False, **wishes: Unpack[Wishes]
    ) -> Explanation:
        """Return the plan, or the refusal, that `generate` with the same arguments would get now.

        `survey`: with all other operating points, the best first.
        """
        wishes.setdefault("delivery", self._endpoint.delivery)
        request = requests.build(prompt, wishes, progress=False)
        return await self.ask(Explain(request, survey), Explanation)

    async def variants(self) -> tuple[VariantInfo, ...]:
        """Return the registered variants."""
        return (await self.ask(Variants(), VariantList)).variants

    async def adapters(self) -> tuple[AdapterInfo, ...]:
        """Return the registered LoRA adapters."""
        return (await self.ask(Variants(), VariantList)).adapters

    async def status(self, request_id: str | None = None) -> StatusReport:
        """Return the service's state; `position` says where an own request waits."""
        return await self.ask(Status(request_id), StatusReport)

    async def ping(self) -> Pong:
        """Return the broker's sign of life."""
        return await self.ask(Ping(), Pong)

    async def load(self, variant: str, device: str | None = None) -> str:
        """Have a variant loaded on a device, or on all; `status` tells when it is."""
        return (await self.ask(Load(variant, device), Done)).what

    async def evict(self, variant: str, device: str | None = None) -> str:
        """Take an idle variant off a device, or all; it is parked in host memory if there is room."""
        return (await self.ask(Evict(variant, device), Done)).what

    async def set_mode(self, variant: str, memory_mode: MemoryMode, device: str | None = None) -> str:
        """Have a resident's memory mode changed on a device, or on all; `status` tells when it is."""
        return (await self.ask(SetMode(variant, memory_mode, device), Done)).what

    async def metrics(self) -> tuple[Family, ...]:
        """Return the service's numbers, as a monitoring system wants them."""
        return (await self.ask(Metrics(), MetricsReport)).families

    async def story(self, request_id: str | None = None) -> tuple[Happening, ...]:
        """Return what happened to a request, or what happened last at all; raises NotFound."""
        return (await self.ask(Story(request_id), StoryReport)).happenings

    async def quarantine(self) -> tuple[Case, ...]:
        """Return the contents that are not tried again for a while."""
        return (await self.ask(Quarantine(), QuarantineList)).cases

    async def clear_quarantine(self, digest: str | None = None) -> str:
        """Let one content be tried again, or all; raises NotFound."""
        return (await self.ask(ClearQuarantine(digest), Done)).what

    async def pin(self, variant: str, device: str | None = None, *, pinned: bool = True) -> str:
        """Keep a variant on a device, or on all, whatever the autoscaler finds; or let it go again."""
        return (await self.ask(Pin(variant, device, pinned), Done)).what
