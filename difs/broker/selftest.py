"""Does the door for other machines keep strangers out? Tried on the real socket, at every start.

CURVE without a ZAP handler lets in every stranger who knows the service's public key, and a handler for
another domain refuses everybody: both are one wrong option away. So the broker knocks at its own door.
"""

import time
from collections.abc import Callable

import zmq
from zmq.utils.monitor import parse_monitor_message

from difs.key_files import Pair
from difs.keys import pair

PATIENCE_S = 2.0
_POLL_MS = 5
_REFUSED = (
    zmq.Event.HANDSHAKE_FAILED_AUTH,
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL,
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL,
    zmq.Event.DISCONNECTED,
)


def failures(address: str, server: str, guest: Pair, answer: Callable[[], None]) -> list[str]:
    """Return in words whatever is wrong with the door at `address`.

    `server`: its public key; `guest`: a key that must be let in, without which a refusal proves nothing;
    `answer`: answers libzmq's questions.
    """
    context = zmq.Context()
    try:
        found = []
        if not gets_in(context, address, server, guest, answer):
            found.append("an allowed key is refused")
        if gets_in(context, address, server, pair(), answer):
            found.append("a key that is not allowed comes in")
        if gets_in(context, address, None, None, answer):
            found.append("a client without a key comes in")
        return found
    finally:
        context.destroy(linger=0)


def gets_in(
    context: "zmq.Context[zmq.Socket[bytes]]",
    address: str,
    server: str | None,
    own: Pair | None,
    answer: Callable[[], None],
) -> bool:
    """Whether a connection with these keys, or none, is made; silence is no way in."""
    socket = context.socket(zmq.DEALER)
    if server is not None and own is not None:
        socket.curve_serverkey = server.encode()
        socket.curve_publickey, socket.curve_secretkey = own.public.encode(), own.secret.encode()
    monitor = socket.get_monitor_socket(zmq.EVENT_ALL)
    try:
        socket.connect(address)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            answer()
            if not monitor.poll(_POLL_MS):
                continue
            event = parse_monitor_message(monitor.recv_multipart())["event"]
            if event == zmq.Event.HANDSHAKE_SUCCEEDED:
                return True
            if event in _REFUSED:
                return False
        return False
    finally:
        socket.disable_monitor()
        monitor.close(linger=0)
        socket.close(linger=0)
