"""Where the door listens: loopback, or beyond it only when it is said twice and a token guards it.

The supervisor opens the socket and hands it to the door's process, so that a taken port is told at once
and a restart of the door loses no connection. Neither starlette nor uvicorn is imported here.
"""

import importlib.util
import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path

from difs import config
from difs.doors import guard, tokens
from difs.errors import ConfigError

BACKLOG = 512


def split(listen: str) -> tuple[str, int]:
    """Return address and port of a text such as "127.0.0.1:7860" or "[::1]:7860"; raises ConfigError."""
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    host = "127.0.0.1" if host == "localhost" else host
    try:
        ipaddress.ip_address(host)
        number = int(port)
    except ValueError:
        number = -1
    if not 0 <= number <= 65535:
        raise ConfigError(
            f"http.listen: must be an address and a port, such as {config.HTTP_DEFAULT}; got {listen!r}"
        )
    return host, number


def check(settings: config.Http) -> None:
    """Refuse what must not or cannot be served; raises ConfigError."""
    host, _ = split(settings.listen)
    if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise ConfigError(
            'http.listen: the HTTP door needs starlette and uvicorn: pip install "difs[http]"'
        )
    known = tokens.load(Path(settings.token_file).expanduser()) if settings.token_file else ()
    if ipaddress.ip_address(host).is_loopback:
        return
    if not settings.remote or not known:
        raise ConfigError(
            f"http.listen: {host} can be reached from other machines; that needs --http-remote and a"
            " token in http.token_file (`difs http-token NAME FILE` makes one)"
        )


def watched(settings: config.Http) -> Callable[[], guard.Rules]:
    """Return what tells the rules as they are now, the file of tokens watched; raises ConfigError."""
    file = settings.token_file
    known = tokens.TokenFile(Path(file).expanduser()) if file else None
    return lambda: rules(settings, known.entries() if known is not None else ())


def rules(settings: config.Http, entries: tokens.Entries) -> guard.Rules:
    """Return what the door lets in."""
    host, _ = split(settings.listen)
    return guard.Rules(
        hosts=guard.LOOPBACK_HOSTS | {name.lower() for name in settings.hosts},
        any_address=not ipaddress.ip_address(host).is_loopback,
        needs_token=bool(settings.token_file),
        tokens=entries,
    )


def listen(settings: config.Http) -> socket.socket:
    """Return a listening socket; raises ConfigError."""
    host, port = split(settings.listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigError(f"http.listen: cannot listen on {settings.listen}: {error.strerror}") from None
    return sock


def url(sock: socket.socket) -> str:
    """Return what to type into a browser."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
