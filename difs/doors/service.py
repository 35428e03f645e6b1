"""The way to the broker: a client per caller, files written in threads, cancelled when left.

Every caller (token) is a client of its own to the broker: its fair share and its bounds are the broker's.
"""

import asyncio
import base64
import contextlib
import functools
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from starlette.requests import ClientDisconnect, Request

from difs import pictures
from difs.client import AsyncClient, Result
from difs.clock import Clock
from difs.doors import orders
from difs.doors.answers import Refused, Told
from difs.doors.guard import Caller
from difs.doors.orders import Order, Outcome, Picture
from difs.errors import Cancelled, Denied, DifsError
from difs.messages import Accepted, Explanation, Preview, Progress

T = TypeVar("T")
P = ParamSpec("P")
ENCODERS = 2
"""Threads that write files: the rest of the cores is for those who paint."""
BODY_BYTES = 256 * 1024
BODY_S = 10.0
"""Seconds in which a body has to come."""


class Service:
    """The running service, as the doors use it."""

    def __init__(self, connect: Callable[[], AsyncClient], clock: Clock) -> None:
        """`connect` makes a new connection to the broker."""
        self._connect = connect
        self._clients: dict[str, AsyncClient] = {}
        self._encoders = ThreadPoolExecutor(ENCODERS, "difs-encode")
        self.clock = clock

    def client(self, caller: Caller) -> AsyncClient:
        """Return a caller's connection, for pictures and questions; see `administrator`."""
        if caller.account not in self._clients:
            self._clients[caller.account] = self._connect()
        return self._clients[caller.account]

    def administrator(self, caller: Caller) -> AsyncClient:
        """Return a caller's connection for what the broker takes from administrators; raises Denied.

        To the broker every door is a program of this user, so what a token may do is checked here.
        """
        if not caller.is_admin:
            raise Denied("only a token made with --admin may do that")
        return self.client(caller)

    def accounts(self) -> frozenset[str]:
        """Return whose connections are open."""
        return frozenset(self._clients)

    async def revoke(self, account: str) -> None:
        """Cancel all that an account has open, and disconnect it."""
        client = self._clients.pop(account, None)
        if client is not None:
            await client.aclose()

    async def aclose(self) -> None:
        """Disconnect."""
        for client in self._clients.values():
            await client.aclose()
        self._encoders.shutdown(wait=False, cancel_futures=True)

    # ---- pictures -------------------------------------------------------------------------------

    async def in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `work` beside the event loop."""
        call = functools.partial(work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._encoders, call)

    async def outcome(self, order: Order, result: Result) -> Outcome:
        """Write the images as files, and give their memory back."""
        return await self.in_thread(_outcome, order, result)

    async def preview(self, preview: Preview | None) -> str | None:
        """Return a preview as a PNG in base64."""
        return None if preview is None else await self.in_thread(_preview, preview)

    # ---- requests -------------------------------------------------------------------------------

    async def make(
        self, caller: Caller, order: Order, on_event: Callable[[Accepted | Progress], None] | None = None
    ) -> Outcome:
        """Generate; raises DifsError. Cancelling the task cancels the request."""
        async with contextlib.aclosing(self.events(caller, order)) as events:
            async for event in events:
                if isinstance(event, Outcome):
                    return event
                if on_event is not None:
                    on_event(event)
        raise AssertionError("the events end with an Outcome or an error")

    async def events(
        self, caller: Caller, order: Order
    ) -> AsyncGenerator[Accepted | Progress | Outcome, None]:
        """Generate, yielding what comes, at last the Outcome."""
        orders.check(order, is_admin=caller.is_admin)
        events = self.client(caller).stream(order.prompt, **order.wishes)
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, Result):
                    yield await self.outcome(order, event)
                else:
                    yield event

    async def explain(self, caller: Caller, order: Order, *, survey: bool = False) -> Explanation:
        """Return what `make` would do now, without doing it."""
        orders.check(order, is_admin=caller.is_admin)
        return await self.client(caller).explain(order.prompt, survey=survey, **order.wishes)

    async def position(self, caller: Caller, request_id: str) -> int | None:
        """Return where a caller's request waits, 1 for the next; None where it does not, or who knows."""
        try:
            return (await self.client(caller).status(request_id)).position
        except DifsError:
            return None

    async def variant_names(self, caller: Caller) -> frozenset[str]:
        """Return the names of the registered variants."""
        return frozenset(variant.name for variant in await self.client(caller).variants())


def _outcome(order: Order, result: Result) -> Outcome:
    with result:
        made = tuple(_picture(order, result, i) for i in range(len(result.seeds)))
    return Outcome(
        result.request_id,
        made,
        result.plan,
        result.timings,
        result.seed_contract,
        result.seed_bound,
        result.attempts,
        (*order.notes, *result.notes),
    )


def _picture(order: Order, result: Result, i: int) -> Picture:
    metadata = order.wishes.get("metadata", True)
    data = result.file(i, order.form, metadata=metadata, quality=order.compression)
    plan, text = result.plan, base64.b64encode(data).decode("ascii")
    seed, told = result.seeds[i], result.parameters(i)
    return Picture(data, text, order.form, seed, plan.height, plan.width, told)


def _preview(preview: Preview) -> str:
    size = (preview.height, preview.width)
    return base64.b64encode(pictures.encode(preview.pixels, size, "png", None)).decode("ascii")


# ---- connections ----------------------------------------------------------------------------------


async def body_of(request: Request, limit: int = BODY_BYTES) -> bytes:
    """Return a request's body; ends with 413 where it is too long, with 408 where it is too slow."""
    said = request.headers.get("content-length", "0")
    if not said.isdecimal() or int(said[:20]) > limit:
        raise Told(Refused(413, "too_large", f"a body has at most {limit} bytes", retryable=False))
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    words = f"a body has at most {limit} bytes"
                    raise Told(Refused(413, "too_large", words, retryable=False))
    except TimeoutError:
        raise Told(
            Refused(408, "too_slow", f"a body comes within {BODY_S:g} s", retryable=False)
        ) from None
    except ClientDisconnect:
        raise Cancelled("the connection was closed") from None
    return bytes(body)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; where the connection is closed first, cancel it and raise Cancelled."""
    making, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({making, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if making.done():
            return making.result()
        raise Cancelled("the connection was closed")
    finally:
        making.cancel()
        leaving.cancel()
        await asyncio.gather(making, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def caller_of(request: Request) -> Caller:
    """Return who speaks, as the gate found."""
    caller: Caller = request.scope["difs_caller"]
    return caller
