"""Where a client's broker is, and with which key it goes there. No messages."""

from pathlib import Path
from typing import Any, Literal

import zmq
from msgspec import Struct

from difs import addresses, config, keys
from difs.errors import ConfigError, Unavailable
from difs.key_files import KeyFile
from difs.rundir import RunDir

HEARTBEAT_MS, SILENCE_MS = 100, 2_700
"""Over TCP, a service whose machine is gone is noticed: when a heartbeat is not answered for so long,"""
RECONNECT_MS, RECONNECT_CAP_MS = 25, 200
"""and connected to again: the first time after so long, then twice as long each time."""
EVENTS = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
"""What a client is told of a connection over TCP."""


class Endpoint(Struct, frozen=True):
    """A broker's address, and the key to come with."""

    address: str
    key: KeyFile | None = None

    @property
    def delivery(self) -> Literal["shm", "inline"]:
        """Return how pictures come from there unless the caller says otherwise."""
        return "shm" if self.address.startswith("ipc:") else "inline"

    @property
    def is_remote(self) -> bool:
        """Whether the way there is TCP, which may break without a sign."""
        return self.address.startswith("tcp:")

    def connect(self, socket: "zmq.Socket[Any]") -> None:
        """Connect `socket`; raises ConfigError."""
        if self.key is not None:
            socket.curve_serverkey = self.key.server.encode()
            socket.curve_publickey = self.key.public.encode()
            socket.curve_secretkey = self.key.secret.encode()
        if self.is_remote:
            socket.ipv6 = "[" in self.address
            socket.heartbeat_ivl, socket.heartbeat_timeout = HEARTBEAT_MS, SILENCE_MS
            socket.reconnect_ivl, socket.reconnect_ivl_max = RECONNECT_MS, RECONNECT_CAP_MS
        try:
            socket.connect(self.address)
        except zmq.ZMQError as error:
            raise ConfigError(f"cannot connect to {self.address}: {error.strerror}") from None


def find(address: str | None, key: str | Path | None) -> Endpoint:
    """Return the broker that is meant: as given, as the key file says, else this user's running one.

    Raises ConfigError (a bad key file) or Unavailable (no service runs).
    """
    if key is None:
        return Endpoint(running() if address is None else _without_key(address))
    try:
        found = keys.read_key_file(Path(key).expanduser())
    except FileNotFoundError:
        raise ConfigError(f"there is no key file {key}") from None
    where = address or found.address
    if where is None:
        raise ConfigError(f"{key} names no address; give one, as tcp://10.0.0.5:5555")
    if not where.startswith("tcp://"):
        raise ConfigError(f"a key is for an address of tcp://, not for {where}")
    return Endpoint(where, found)


def _without_key(address: str) -> str:
    """Return an address that may be used without a key; raises ConfigError for other machines.

    What is said there could be read, and answered, by anybody in between.
    """
    if not address.startswith("tcp:"):
        return address
    try:
        is_near = addresses.parse(address).is_loopback
    except ValueError as error:
        raise ConfigError(f"{error}; other machines need a key") from None
    if not is_near:
        raise ConfigError(f"{address} is another machine: come with a key of its `difs keys new`")
    return address


def running() -> str:
    """Return the address of this user's running service; raises Unavailable."""
    home = RunDir(config.run_dir(config.Config()))
    if not home.is_running():
        raise Unavailable(f"no DIFS runs in {home.path}; start one with `difs serve`")
    return home.clients
