"""difs.doors.patience: a connection whose request does not begin in time is closed."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from difs.doors.patience import PatientProtocol

HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


class Wire(asyncio.Transport):
    """A transport that remembers what was done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_closed = False
        self.sent = b""

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def connected(work: Callable[[PatientProtocol, Wire, list[Callable[[], None]]], Any]) -> None:
    """Call `work` with a connection; the list has the timers that are set, to be let off by hand."""

    async def call() -> None:
        config = uvicorn.Config(app, http=PatientProtocol, ws="none", lifespan="off", log_config=None)
        config.load()
        protocol = PatientProtocol(config, ServerState(), {})
        timers: list[Callable[[], None]] = []
        real = protocol.loop.call_later

        def call_later(delay: float, what: Any, *args: Any) -> asyncio.TimerHandle:
            if what == protocol._give_up:
                timers.append(what)
            return real(delay, what, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(protocol.loop, "call_later", call_later)
            wire = Wire()
            protocol.connection_made(wire)
            await work(protocol, wire, timers)
            protocol.connection_lost(None)

    asyncio.run(call())


def test_half_a_head_ends_the_connection_however_it_drips() -> None:
    async def work(protocol: PatientProtocol, wire: Wire, timers: list[Callable[[], None]]) -> None:
        for i in range(len(HEAD)):
            protocol.data_received(HEAD[i : i + 1])
        assert len(timers) == 1, "a byte buys no more time"
        timers[0]()
        assert wire.is_closed

    connected(work)


def test_a_whole_head_stops_the_clock_and_the_next_request_has_its_own() -> None:
    async def work(protocol: PatientProtocol, wire: Wire, timers: list[Callable[[], None]]) -> None:
        protocol.data_received(HEAD + b"\r\n")
        assert protocol._head_timer is None
        while b"204" not in wire.sent:
            await asyncio.sleep(0)
        protocol.data_received(HEAD[:5])
        assert len(timers) == 2
        assert protocol._head_timer is not None

    connected(work)
