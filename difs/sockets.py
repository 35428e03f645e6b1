"""Moving the frames of one message through a ZeroMQ socket.

pyzmq's `send_multipart` and `recv_multipart` check and wrap each frame in Python, and its flags are
enums whose arithmetic is slow: three times the cost of the calls below, which counts in the broker
(bench/transport.py).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import zmq

from difs.wire import Frame

DONTWAIT = int(zmq.DONTWAIT)
_MORE = int(zmq.SNDMORE)
_send: Any = zmq.backend.Socket.send

COPY_BELOW_BYTES = 64 * 1024
"""Larger frames are handed to libzmq without a copy; their buffer must not change afterwards."""


def send(
    socket: "zmq.Socket[Any]", frames: Sequence[Frame], flags: int = 0, *, is_tracked: bool = False
) -> Any:
    """Send a message; with DONTWAIT, raises zmq.Again when there is no room for it.

    `is_tracked`: returns a `zmq.MessageTracker` that tells when libzmq has sent its last frame.
    """
    for frame in frames[:-1]:
        _send(socket, frame, flags | _MORE)
    last = frames[-1]
    if is_tracked:
        return _send(socket, last, flags, False, True)
    _send(socket, last, flags, len(last) < COPY_BELOW_BYTES)
    return None


def receive(socket: "zmq.Socket[Any]", flags: int = 0) -> list[bytes]:
    """Return the frames of a message; with DONTWAIT, raises zmq.Again when there is none."""
    frame = socket.recv(flags, copy=False)
    frames = [frame.bytes]
    while frame.more:
        frame = socket.recv(flags, copy=False)
        frames.append(frame.bytes)
    return frames


class Sender(NamedTuple):
    """Who sent a message: what libzmq and its ZAP handler know."""

    user: object
    """Its `User-Id`, as the ZAP handler called it; None: none."""
    fd: int
    """The descriptor of its connection; -1: not known."""
    address: object


def receive_with_sender(socket: "zmq.Socket[Any]", flags: int = 0) -> tuple[Sender, list[bytes]]:
    """Return a message's sender and its frames; with DONTWAIT, raises zmq.Again when there is none."""
    frame = socket.recv(flags, copy=False)
    frames = [frame.bytes]
    while frame.more:
        frame = socket.recv(flags, copy=False)
        frames.append(frame.bytes)
    user, address = _fact(frame, "User-Id"), _fact(frame, "Peer-Address")
    fd = _fact(frame, int(zmq.SRCFD))
    return Sender(user, fd if isinstance(fd, int) else -1, address), frames


def _fact(frame: zmq.Frame, name: str | int) -> object:
    try:
        return frame.get(name)
    except zmq.ZMQError:
        return None
