"""Frames to messages and back: the one door through which bytes enter.

A message is `DIFS1`, one msgpack map, then zero or more payload frames. Decoding is typed and
bounded: it yields a valid message or raises `RemoteProtocolError` / `InvalidRequest`; any other
exception out of here is a bug. No sockets here.
"""

import re
from collections.abc import Sequence
from typing import TypeVar, get_args

import msgspec

from difs.actor_messages import FromActor, ToActor, ToSupervisor
from difs.errors import (
    DifsError,
    InvalidRequest,
    LocalProtocolError,
    RemoteProtocolError,
    Unsupported,
)
from difs.messages import (
    MAX_FRAMES,
    MAX_HEADER_BYTES,
    MAX_ID_CHARS,
    PROTOCOL,
    BrokerMessage,
    ClientMessage,
    Format,
    Level,
    MemoryMode,
)

Frame = bytes | memoryview
M = TypeVar("M")

_encoder = msgspec.msgpack.Encoder()
_from_client: msgspec.msgpack.Decoder[ClientMessage] = msgspec.msgpack.Decoder(ClientMessage)
_from_broker: msgspec.msgpack.Decoder[BrokerMessage] = msgspec.msgpack.Decoder(BrokerMessage)
_from_actor: msgspec.msgpack.Decoder[FromActor] = msgspec.msgpack.Decoder(FromActor)
_to_actor: msgspec.msgpack.Decoder[ToActor] = msgspec.msgpack.Decoder(ToActor)
_to_supervisor: msgspec.msgpack.Decoder[ToSupervisor] = msgspec.msgpack.Decoder(ToSupervisor)


class _Head(msgspec.Struct):
    """What an error reply needs of a message that is otherwise refused."""

    type: str = ""
    request_id: str | None = None


_head = msgspec.msgpack.Decoder(_Head)


def encode(message: msgspec.Struct, payloads: Sequence[Frame] = ()) -> list[Frame]:
    """Return the frames of `message`; raises LocalProtocolError if it cannot be encoded."""
    try:
        return [PROTOCOL, _encoder.encode(message), *payloads]
    except (msgspec.EncodeError, OverflowError, TypeError, ValueError) as error:
        raise LocalProtocolError(f"cannot encode {type(message).__name__}: {error}") from error


def decode_from_client(frames: Sequence[Frame]) -> ClientMessage:
    """Decode what a client sent, within every limit of `difs.messages`."""
    if len(frames) > MAX_FRAMES:
        raise RemoteProtocolError(
            f"{len(frames)} frames in one message", field="frames", limit=f"<= {MAX_FRAMES}"
        )
    if len(frames) >= 2 and len(frames[1]) > MAX_HEADER_BYTES:
        raise RemoteProtocolError(
            f"the message map has {len(frames[1])} bytes",
            field="frame 1",
            limit=f"<= {MAX_HEADER_BYTES} bytes",
        )
    return _decode(_from_client, frames)


def decode_from_broker(frames: Sequence[Frame]) -> BrokerMessage:
    """Decode what the broker sent to a client; payload frames stay as they are."""
    return _decode(_from_broker, frames)


def decode_from_actor(frames: Sequence[Frame]) -> FromActor:
    """Decode what an actor or the supervisor sent."""
    return _decode(_from_actor, frames)


def decode_to_actor(frames: Sequence[Frame]) -> ToActor:
    """Decode what the broker sent to an actor."""
    return _decode(_to_actor, frames)


def decode_to_supervisor(frames: Sequence[Frame]) -> ToSupervisor:
    """Decode what the broker sent to the supervisor."""
    return _decode(_to_supervisor, frames)


def request_id_of(frames: Sequence[Frame]) -> str | None:
    """Return the request id of a refused message, if one can be read, so the refusal can name it."""
    try:
        found = _head.decode(frames[1]).request_id
    except (msgspec.DecodeError, IndexError, RecursionError, UnicodeDecodeError, ValueError):
        return None
    return found if found is not None and len(found) <= MAX_ID_CHARS else None


def _decode(decoder: msgspec.msgpack.Decoder[M], frames: Sequence[Frame]) -> M:
    if len(frames) < 2:
        raise RemoteProtocolError(
            f"{len(frames)} frame(s): a message has the protocol name and a msgpack map at least",
            field="frames",
            limit=">= 2",
        )
    if frames[0] != PROTOCOL:
        raise RemoteProtocolError(
            f"the first frame must be {PROTOCOL!r}", field="frame 0", limit=PROTOCOL.decode()
        )
    try:
        return decoder.decode(frames[1])
    except msgspec.ValidationError as error:
        problem = refusal(str(error))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError) as error:
        problem = RemoteProtocolError(f"not a msgpack map: {error}", field="frame 1")
    raise problem  # out here it has no `__context__`, whose traceback would keep the frames


_AT = re.compile(r"^(?P<problem>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_BOUND = re.compile(r"(?P<limit>(?:<=|>=|<|>) [-\d.e+]+|multiple of \d+|matching regex .*)$")
_NAMED = re.compile(r"^(?P<field>[a-z_][a-z_0-9.]*): (?P<problem>.*)$", re.DOTALL)

_ALLOWED: dict[str, tuple[str, ...]] = {
    "task": ("text-to-image",),
    "requirements.quality": (*get_args(Level), "a number from 0 to 1"),
    "requirements.on_infeasible": ("degrade", "reject"),
    "delivery.mode": ("shm", "inline"),
    "delivery.format": get_args(Format),
    "memory_mode": get_args(MemoryMode),
}


def refusal(text: str) -> DifsError:
    """Turn msgspec's sentence into a typed refusal that names field, problem and limit."""
    match = _AT.match(text)
    problem, path = (match["problem"], match["path"] or "") if match else (text, "")
    if path == "type" or "missing required field `type`" in problem:
        return Unsupported(f"type: {problem}", field="type")
    if not path and problem.startswith("Expected `object`"):
        return RemoteProtocolError(f"not a msgpack map: {problem}", field="frame 1")
    named = _NAMED.match(problem)
    own = named["field"] if named else _missing_field(problem)
    field = ".".join(filter(None, (path, own)))
    bound = _BOUND.search(problem)
    limit = bound["limit"] if bound else None
    if named and (tail := re.search(r"the limit is (\S+)$", problem)):
        limit = f"<= {tail[1]}"
    if limit is None and (allowed := _ALLOWED.get(field)):
        limit = "one of " + ", ".join(allowed)
        problem = f"{problem}, it must be {limit}"
    if named:
        problem = named["problem"]
    words = f"{field}: {problem}" if field else problem
    return InvalidRequest(words, field=field or None, limit=limit)


def _missing_field(problem: str) -> str:
    found = re.search(r"missing required field `([^`]+)`", problem)
    return found[1] if found else ""
