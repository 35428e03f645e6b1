"""Ending TCP connections whose key is no longer allowed: libzmq has no word for it, the kernel has.

libzmq tells with a message which descriptor it came over. Ours is a duplicate, made while that message is
taken, so that the number cannot have become another's by the time of the cut; and it is kept only where
the peer's address is the message's.
"""

import contextlib
import os
import socket

from difs.sockets import Sender

MAX_MARKED = 64


class Cutter:
    """The connections that are to end."""

    def __init__(self) -> None:
        """Start with none."""
        self._marked: dict[int, socket.socket] = {}

    def mark(self, sender: Sender) -> None:
        """Have the connection end over which a message came, once an answer had time to leave."""
        if sender.fd in self._marked or len(self._marked) >= MAX_MARKED:
            return
        with contextlib.suppress(OSError):  # it has ended by itself
            ours = _duplicate(sender.fd)
            if _leads_to(ours, sender.address):
                self._marked[sender.fd] = ours
            else:
                ours.close()

    def cut(self) -> int:
        """End the marked connections; returns how many there were."""
        marked, self._marked = self._marked, {}
        for ours in marked.values():
            with contextlib.suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)
            ours.close()
        return len(marked)


def _duplicate(fd: int) -> socket.socket:
    number = os.dup(fd)
    try:
        return socket.socket(fileno=number)
    except OSError:  # it is no socket
        os.close(number)
        raise


def _leads_to(ours: socket.socket, address: object) -> bool:
    try:
        return ours.family in (socket.AF_INET, socket.AF_INET6) and ours.getpeername()[0] == address
    except OSError:
        return False
