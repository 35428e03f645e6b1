"""The actor's connection to the broker, and its heartbeat from a thread of its own.

The heartbeat has its own socket, so that a long step or load does not silence a living process;
`progress` tells a working engine from a hanging one.
"""

import logging
import math
import os
import secrets
import threading
from collections.abc import Callable, Iterator

import zmq
from msgspec import Struct

from difs import sockets, wire
from difs.actor_messages import Pulse, ToActor
from difs.errors import DifsError
from difs.messages import Reading

log = logging.getLogger(__name__)

PULSE_S = 0.5
LINGER_MS = 500


class Link:
    """A DEALER with a random identity: a restarted actor is a stranger to the broker."""

    def __init__(self, address: str) -> None:
        """Connect to the broker's actors' socket."""
        self._context = zmq.Context()
        self._address = address
        self.incarnation = secrets.token_hex(16)
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.routing_id = b"A" + bytes.fromhex(self.incarnation)
        self._socket.linger = LINGER_MS
        self._socket.connect(address)
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._bell, zmq.POLLIN)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def send(self, message: Struct) -> None:
        """Send a message to the broker."""
        sockets.send(self._socket, wire.encode(message))

    def wake(self) -> None:
        """End a wait of `receive`; may be called from any thread."""
        os.eventfd_write(self._bell, 1)

    def pause(self, wait_s: float) -> None:
        """Wait up to `wait_s` for a message or for `wake`."""
        if self._bell in dict(self._poller.poll(math.ceil(wait_s * 1000))):
            os.eventfd_read(self._bell)

    def receive(self, wait_s: float) -> Iterator[ToActor]:
        """Yield the messages that are there, after waiting up to `wait_s` for the first or for `wake`."""
        if wait_s > 0:
            self.pause(wait_s)
        while True:
            try:
                yield wire.decode_to_actor(sockets.receive(self._socket, sockets.DONTWAIT))
            except zmq.Again:
                return
            except DifsError as error:
                log.error("the broker broke the protocol: %s", error)

    def start_pulse(self, read: Callable[[], Reading], progress: Callable[[], int]) -> None:
        """Send heartbeats from now on."""
        self._thread = threading.Thread(
            target=self._beat, args=(read, progress), name="pulse", daemon=True
        )
        self._thread.start()

    def _beat(self, read: Callable[[], Reading], progress: Callable[[], int]) -> None:
        socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        socket.sndhwm = 4
        socket.connect(self._address)
        while not self._stopping.is_set():
            try:
                message = Pulse(self.incarnation, progress(), read())
                socket.send_multipart(wire.encode(message), zmq.DONTWAIT)
            except zmq.Again:
                pass  # the broker is away; old heartbeats are worth nothing to the next one
            self._stopping.wait(PULSE_S)
        socket.close()

    def close(self) -> None:
        """Stop the heartbeat and disconnect, waiting briefly for what is unsent."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        self._context.destroy(linger=LINGER_MS)
        os.close(self._bell)
