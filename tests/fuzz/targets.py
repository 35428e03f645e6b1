"""What is fuzzed: a function a door, bytes in; any error but the one that the door promises is a bug.

The first byte chooses among the readers behind one door. No fuzzing engine here.
"""

import atexit
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgpack
import msgspec

from difs import config, key_files, manifests, wire
from difs.broker import gate
from difs.errors import ConfigError, DifsError, RepositoryError
from difs.key_files import KeyFile, Listed, Pair
from difs.manifests import AdapterManifest, Manifest
from difs.messages import PROTOCOL
from difs.profiling import cells, curves
from difs.registration import headers

Decode = Callable[[Sequence[wire.Frame]], msgspec.Struct]
DECODERS: tuple[Decode, ...] = (
    wire.decode_from_client,
    wire.decode_from_broker,
    wire.decode_from_actor,
    wire.decode_to_actor,
    wire.decode_to_supervisor,
)
KEYS: tuple[type[Any], ...] = (Pair, KeyFile, Listed)


def agree(message: msgspec.Struct, decode: Decode) -> None:
    """Check that a valid message comes back, and that another msgpack library reads the same."""
    sent = wire.encode(message)
    assert wire.encode(decode(sent)) == sent
    theirs = msgpack.unpackb(sent[1], strict_map_key=False)
    assert msgpack.packb(theirs) == msgpack.packb(msgspec.to_builtins(message, builtin_types=(bytes,)))


def messages(data: bytes) -> None:
    """Read a message's map."""
    decode, sent = DECODERS[data[0] % len(DECODERS)], [PROTOCOL, data[1:]]
    try:
        message = decode(sent)
    except DifsError as error:
        assert error.message
    else:
        agree(message, decode)
    found = wire.request_id_of(sent)
    assert found is None or len(found) <= 64


def manifest(data: bytes) -> None:
    """Read what a file of the model repository says."""
    kind, text = data[0] % 4, data[1:]
    try:
        if kind == 0:
            manifests.checked(manifests.parse(text, Manifest, "variant.toml"))
        elif kind == 1:
            manifests.parse(text, AdapterManifest, "adapter.toml")
        elif kind == 2:
            manifests.parse_captions(text, "captions.json")
        else:
            manifests.parse_quality(text, "sha256:0")
    except RepositoryError as error:
        assert error.message


def profile(data: bytes) -> None:
    """Read what `difs profile` wrote."""
    try:
        found = cells.decode(data)
    except ValueError:
        return
    curves.residents(found)
    again = cells.encode(found)
    assert cells.encode(cells.decode(again)) == again


def settings(data: bytes) -> None:
    """Read a configuration file."""
    path = _folder() / "difs.toml"
    path.write_bytes(data)
    try:
        found = config.load(path)
    except ConfigError as error:
        assert error.message
        return
    assert config.undump(config.dump(found)) == found


@cache
def _folder() -> Path:
    """Return a folder that goes when the process ends."""
    folder = tempfile.mkdtemp(prefix="difs-fuzz-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def header(data: bytes) -> None:
    """Read the header of somebody's safetensors file; the first byte is how many bytes its data have."""
    try:
        found = headers.parse(
            data[1:], headers.LENGTH_BYTES + len(data) - 1 + data[0], "some.safetensors"
        )
    except RepositoryError as error:
        assert error.message
    else:
        assert sum(t.data_offsets[1] - t.data_offsets[0] for t in found.tensors.values()) == data[0]


def keys(data: bytes) -> None:
    """Read a key's file."""
    try:
        key_files.parse(data[1:], KEYS[data[0] % len(KEYS)], "some.key")
    except ConfigError as error:
        assert error.message


def question(data: bytes) -> None:
    """Answer libzmq's question who may come in; frames are parted by zeros."""
    known = Listed("anna", "a" * 40, "")
    asked = data.split(b"\0")
    verdict = gate.judge(asked, {b"anna".hex(): known}, needs_key=True)
    assert len(verdict.reply) == 6
    if verdict.reply[2] == b"200":
        assert asked[5:] == [b"CURVE", b"anna"]


TARGETS: dict[str, Callable[[bytes], None]] = {
    "wire": messages,
    "manifest": manifest,
    "profile": profile,
    "config": settings,
    "header": header,
    "keys": keys,
    "question": question,
}


def run(name: str, data: bytes) -> None:
    """Give bytes to a target; those that have a first byte need one."""
    TARGETS[name](data or b"\0")
