"""A relay that counts: between a client and a system, byte for byte, both ways."""

import asyncio
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

PIECE_BYTES = 1 << 16


class Relay:
    """Listens, passes on to `front`, and counts; `async with` it.

    `front`: `tcp://HOST:PORT` or `ipc://PATH`; the relay's own `front` is of the same kind. For TCP the
    count is of what the connection carries, without the headers of its packets.
    """

    def __init__(self, front: str) -> None:
        """Prepare; nothing listens yet."""
        self._kind, _, self._behind = front.partition("://")
        self.moved_bytes = 0
        self.front = ""
        self._folder = tempfile.TemporaryDirectory(prefix="difs-relay-")
        self._links: set[asyncio.Task[None]] = set()
        self._ends: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        if self._kind == "ipc":
            path = Path(self._folder.name) / "front"
            self._server = await asyncio.start_unix_server(self._serve, path)
            self.front = f"ipc://{path}"
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.front = f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)
        for end in self._ends:
            end.close()
        await asyncio.gather(*(end.wait_closed() for end in self._ends), return_exceptions=True)
        self._folder.cleanup()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._kind == "ipc":
            behind = await asyncio.open_unix_connection(self._behind)
        else:
            host, _, port = self._behind.rpartition(":")
            behind = await asyncio.open_connection(host, int(port))
        self._ends += [writer, behind[1]]
        for source, sink in ((reader, behind[1]), (behind[0], writer)):
            link = asyncio.create_task(self._pass_on(source, sink))
            self._links.add(link)
            link.add_done_callback(self._links.discard)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while piece := await source.read(PIECE_BYTES):
                self.moved_bytes += len(piece)
                sink.write(piece)
                await sink.drain()
        except ConnectionError:
            pass  # the other side is gone; so is this link
        finally:
            sink.close()
