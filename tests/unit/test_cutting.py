"""difs.broker.cutting: only the connection over which a message came is ended."""

import os
import socket

import pytest

from difs.broker.cutting import Cutter
from difs.sockets import Sender


def pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        there = socket.create_connection(listening.getsockname(), 5)
        here, _ = listening.accept()
    return here, there


def test_a_marked_connection_ends_and_our_descriptors_too() -> None:
    here, there = pair()
    with here, there:
        before = len(os.listdir("/proc/self/fd"))
        cutter = Cutter()
        for _ in range(3):
            cutter.mark(Sender("anna", here.fileno(), "127.0.0.1"))
        here.sendall(b"the answer")
        assert cutter.cut() == 1
        assert there.recv(100) == b"the answer"
        assert there.recv(100) == b""
        assert cutter.cut() == 0
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_number_that_became_anothers_meanwhile_does_no_harm() -> None:
    here, there = pair()
    other, its_peer = pair()
    with here, there, other, its_peer:
        cutter = Cutter()
        cutter.mark(Sender("anna", here.fileno(), "127.0.0.1"))
        os.dup2(other.fileno(), here.fileno())
        cutter.cut()
        assert there.recv(100) == b""
        its_peer.settimeout(0.05)
        with pytest.raises(TimeoutError):
            its_peer.recv(100)


def test_what_is_no_connection_of_this_peer_is_left_alone() -> None:
    here, there = pair()
    with here, there, socket.create_server(("127.0.0.1", 0)) as listening, open(os.devnull) as file:
        cutter, before = Cutter(), len(os.listdir("/proc/self/fd"))
        for fd, address in (
            (here.fileno(), "10.0.0.1"),
            (listening.fileno(), "127.0.0.1"),
            (file.fileno(), "127.0.0.1"),
            (-1, "127.0.0.1"),
            (here.fileno(), None),
        ):
            cutter.mark(Sender("anna", fd, address))
        assert cutter.cut() == 0
        assert len(os.listdir("/proc/self/fd")) == before
