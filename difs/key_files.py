"""What the files of CURVE keys say, and the bytes that may say it. Pure: files are `difs.keys`'."""

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from difs.errors import ConfigError
from difs.messages import Name

Z85 = Annotated[str, Meta(pattern=r"^[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}\Z")]
"""32 bytes as ZeroMQ writes keys (RFC 32/Z85)."""
MAX_KEY_FILE_BYTES = 4096
T = TypeVar("T")


class Pair(Struct, frozen=True, forbid_unknown_fields=True):
    """The service's own keys."""

    public: Z85
    secret: Z85


class KeyFile(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a client carries: its own keys, the service's public key, perhaps the service's address."""

    name: Name
    public: Z85
    secret: Z85
    server: Z85
    address: str | None = None


class Listed(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A key that may come in."""

    name: Name
    public: Z85
    created: str
    """UTC, as ISO 8601."""
    is_admin: bool = False


def parse(data: bytes, kind: type[T], name: str) -> T:
    """Return what the bytes of a key's file called `name` say; raises ConfigError."""
    if len(data) > MAX_KEY_FILE_BYTES:
        raise ConfigError(f"{name} is no key: it has more than {MAX_KEY_FILE_BYTES} bytes")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{name} is no key: {error}") from None
