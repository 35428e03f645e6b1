"""A bad network between two ends of real TCP: delay, silence, cuts, half-open and half-closed lines.

It stands where the kernel has no netem. What TCP never lets through (loss, reordering) it cannot show
either: those become delay.
"""

import contextlib
import queue
import socket
import struct
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from difs.keys import KeyRing, write_key_file
from tests.process.service import free_port

CHUNK = 64 * 1024
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: a close is a reset."""


class Elsewhere:
    """A service's door for other machines, and the keys to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ring = KeyRing(folder / "keys")
        self.ring.make()
        self.port = free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.settings = (f'network.listen="{self.address}"', f'network.keys="{self.ring.folder}"')
        """What the service's configuration says of it."""

    def key(self, name: str, address: str = "", **options: Any) -> Path:
        """Make a key; `address`: where its owner finds the door, if not at its own."""
        path = self.folder / f"{name}.key"
        write_key_file(path, self.ring.new(name, address=address or self.address, **options))
        return path


class Far:
    """A door, a key to it, and the network between."""

    def __init__(self, folder: Path) -> None:
        door = Elsewhere(folder)
        self.network = Network(door.port)
        self.key = door.key("anna", self.network.address)
        self.settings = door.settings


class Network:
    """A relay on 127.0.0.1 that leads to `port`, and spoils what it carries."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.delay_s = 0.0
        self.is_down = False
        """Connections that come are reset."""
        self._lines: list[_Line] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        """Return ZeroMQ's name for it."""
        return f"tcp://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._listening.accept()
                with contextlib.suppress(OSError):
                    if self.is_down:
                        _reset(near)
                        continue
                    line = _Line(self, near, socket.create_connection(self._target))
                    with self._lock:
                        self._lines.append(line)

    def _all(self) -> "list[_Line]":
        with self._lock:
            return list(self._lines)

    @property
    def lines(self) -> int:
        """Return how many connections there have been."""
        return len(self._all())

    def stall(self) -> None:
        """Carry nothing more over the connections there are, and close none."""
        for line in self._all():
            line.flows.clear()

    def heal(self) -> None:
        """Carry on, with what was held back."""
        self.is_down = False
        for line in self._all():
            line.flows.set()

    def cut(self) -> None:
        """Reset all connections."""
        for line in self._all():
            line.cut()

    def half_close(self) -> None:
        """Tell the far end that nothing more will come, and go on carrying what it sends."""
        for line in self._all():
            with contextlib.suppress(OSError):
                line.far.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End everything."""
        self._listening.close()
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


class _Line:
    """One connection: both ends, and a reader and a writer for each direction."""

    def __init__(self, network: Network, near: socket.socket, far: socket.socket) -> None:
        self.near, self.far = near, far
        self.flows = threading.Event()
        self.flows.set()
        self._network = network
        for here, there in ((near, far), (far, near)):
            held: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
            threading.Thread(target=self._read, args=(here, held), daemon=True).start()
            threading.Thread(target=self._write, args=(there, held), daemon=True).start()

    def _read(self, end: socket.socket, held: "queue.SimpleQueue[tuple[float, bytes]]") -> None:
        data = b"x"
        while data:
            try:
                data = end.recv(CHUNK)
            except OSError:
                data = b""
            held.put((time.monotonic() + self._network.delay_s, data))

    def _write(self, end: socket.socket, held: "queue.SimpleQueue[tuple[float, bytes]]") -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = held.get()
                time.sleep(max(0.0, due - time.monotonic()))
                self.flows.wait()
                if not data:
                    end.shutdown(socket.SHUT_WR)
                    return
                end.sendall(data)

    def cut(self) -> None:
        self.flows.set()
        _reset(self.near)
        _reset(self.far)


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        end.shutdown(socket.SHUT_RDWR)  # wakes who reads
    end.close()
