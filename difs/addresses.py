"""Where the service listens for other machines: what an address says, and whether it may be opened.

Pure. Only numbers are taken for hosts: what a name or an interface means can change after it was judged.
"""

import ipaddress
import re

from msgspec import Struct

ANY = "*"
_TCP = re.compile(r"tcp://(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\[\]:/]+)):(?P<port>[0-9]{1,5})")


class Listen(Struct, frozen=True):
    """A TCP address that can be bound."""

    host: str
    port: int
    is_loopback: bool
    """Nobody on another machine can reach it."""

    @property
    def is_ipv6(self) -> bool:
        """Whether its host is one of IPv6."""
        return ":" in self.host

    @property
    def address(self) -> str:
        """Return the ZeroMQ address to bind."""
        return f"tcp://[{self.host}]:{self.port}" if self.is_ipv6 else f"tcp://{self.host}:{self.port}"

    @property
    def probe(self) -> str:
        """Return the ZeroMQ address under which this machine itself reaches it."""
        if self.host in (ANY, "0.0.0.0"):  # noqa: S104 -- compared, not bound
            return f"tcp://127.0.0.1:{self.port}"
        if self.host == "::":
            return f"tcp://[::1]:{self.port}"
        return self.address


def parse(text: str) -> Listen:
    """Return what "tcp://HOST:PORT" says; HOST is a number, as 10.0.0.5 or [::1], or *.

    Raises ValueError.
    """
    match = _TCP.fullmatch(text)
    if match is None:
        raise ValueError(f'must be a text such as "tcp://10.0.0.5:5555", got {text!r}')
    host, port = match["six"] or match["host"], int(match["port"])
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} is not within 1..65535")
    if host == ANY:
        return Listen(host, port, is_loopback=False)
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        words = f"{host!r} is no number; names are not taken: write the address, as 127.0.0.1"
        raise ValueError(words) from None
    if (match["six"] is not None) != (found.version == 6):
        raise ValueError(f"only an IPv6 address stands in brackets, and none other, got {text!r}")
    return Listen(str(found), port, is_loopback=found.is_loopback)


def problem(listen: str, security: str) -> str | None:
    """Return why the service must not listen there, or None; `security` is `keys` or `none`."""
    if not listen:
        return None
    try:
        found = parse(listen)
    except ValueError as error:
        return f"network.listen: {error}"
    if security == "none" and not found.is_loopback:
        return (
            f'network.security: "none" is for this machine only, and {listen} is open to others;'
            ' listen on 127.0.0.1, or use "keys"'
        )
    return None
