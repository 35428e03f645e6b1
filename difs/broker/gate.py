"""The gate for other machines: who may come in, and as whom. Pure; sockets are `difs.broker.remote`'s.

libzmq asks (ZAP, RFC 27) before a connection's first message is taken, and tells with each message whose
key it came with. Both answers are given here, from the list of allowed keys as it is now.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from difs.broker.events import Peer
from difs.key_files import Listed

DOMAIN = "difs"
NOBODY = "nobody"
"""Who comes without a key, where none is needed."""
_VERSION = b"1.0"


class Verdict(Struct, frozen=True):
    """The reply to libzmq, and the key that was let in, if it was one."""

    reply: list[bytes]
    listed: Listed | None = None


def judge(question: Sequence[bytes], allowed: Mapping[str, Listed], *, needs_key: bool) -> Verdict:
    """Return whether a connection may be made; `allowed` is by the hexadecimal text of each key.

    A question: version, request, domain, address, routing id, mechanism, then what the mechanism brings.
    """
    request = question[1] if len(question) > 1 else b""
    if len(question) < 6 or question[0] != _VERSION or question[2] != DOMAIN.encode():
        return Verdict(_reply(request, b"500", b"not understood"))
    mechanism, brought = question[5], question[6:]
    if needs_key:
        user_id = brought[0].hex() if mechanism == b"CURVE" and len(brought) == 1 else ""
        known = allowed.get(user_id)
        if known is None:
            return Verdict(_reply(request, b"400", b"this key is not allowed"))
        return Verdict(_reply(request, b"200", b"OK", user_id), known)
    if mechanism == b"NULL":
        return Verdict(_reply(request, b"200", b"OK", NOBODY))
    return Verdict(_reply(request, b"400", b"come without a key"))


def _reply(request: bytes, status: bytes, text: bytes, user_id: str = "") -> list[bytes]:
    return [_VERSION, request, status, text, user_id.encode(), b""]


def peer_of(user_id: object, allowed: Mapping[str, Listed], *, needs_key: bool) -> Peer | None:
    """Return who a message is from, by what `judge` called its sender; None: who is not allowed now."""
    if not needs_key:
        return Peer(is_local=False, is_admin=False) if user_id == NOBODY else None
    known = allowed.get(user_id) if isinstance(user_id, str) else None
    return None if known is None else Peer(known.name, is_local=False, is_admin=known.is_admin)


def revoked(before: Mapping[str, Listed], now: Mapping[str, Listed]) -> frozenset[str]:
    """Return the names whose keys are no longer allowed; a new key of the same name is another one."""
    return frozenset(listed.name for user_id, listed in before.items() if user_id not in now)
