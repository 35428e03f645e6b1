"""The header of a safetensors file: what tensors it says to hold. Bounded, and no tensor is read.

A header may come from anywhere: whatever is wrong with it is a RepositoryError, before it costs anything.
"""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from difs.errors import RepositoryError

MAX_HEADER_BYTES = 32 * 2**20
MAX_TENSORS = 100_000
LENGTH_BYTES = 8

SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
"""Bytes of one number of each type."""

Count = Annotated[int, Meta(ge=0, le=2**53)]


class Tensor(Struct, frozen=True):
    """One tensor, as its header describes it."""

    dtype: str
    shape: Annotated[tuple[Count, ...], Meta(max_length=16)]
    data_offsets: tuple[Count, Count]
    """Begin and end in the file's data, which follow the header."""


class Header(Struct, frozen=True):
    """What a safetensors file says of itself."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    data_start: int
    """Where in the file the tensors' data begin."""
    file_bytes: int


def read(path: Path) -> Header:
    """Return the header of a file; raises RepositoryError, OSError."""
    with path.open("rb") as file:
        size = path.stat().st_size
        prefix = file.read(LENGTH_BYTES)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == LENGTH_BYTES else -1
        if not 0 < length <= min(MAX_HEADER_BYTES, size - LENGTH_BYTES):
            words = f"its header would have {length} of {size} bytes"
            raise RepositoryError(f"{path.name} is no safetensors file: {words}")
        return parse(file.read(length), size, path.name)


def parse(text: bytes, file_bytes: int, name: str) -> Header:
    """Return what the header of a file of so many bytes says; raises RepositoryError."""
    try:
        entries = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        raw = entries.pop("__metadata__", None)
        metadata = {} if raw is None else msgspec.json.decode(raw, type=dict[str, str])
        tensors = {key: msgspec.json.decode(entry, type=Tensor) for key, entry in entries.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RepositoryError(
            f"{name} is no safetensors file: its header is not valid: {error}"
        ) from None
    header = Header(tensors, metadata, LENGTH_BYTES + len(text), file_bytes)
    problem = _problem(header)
    if problem is not None:
        raise RepositoryError(f"{name} is no sound safetensors file: {problem}")
    return header


def _problem(header: Header) -> str | None:
    """Return what contradicts itself: the tensors must fill the file, each with its own bytes."""
    if not 0 < len(header.tensors) <= MAX_TENSORS:
        return f"it holds {len(header.tensors)} tensors"
    end = 0
    for key, tensor in in_order(header):
        begin, stop = tensor.data_offsets
        if tensor.dtype not in SIZES:
            return f"{key} is of an unknown type, {tensor.dtype!r}"
        if begin != end or stop - begin != math.prod(tensor.shape) * SIZES[tensor.dtype]:
            return f"{key} does not lie where its type and shape say"
        end = stop
    if header.data_start + end != header.file_bytes:
        return f"it has {header.file_bytes} bytes, its header says {header.data_start + end}"
    return None


def in_order(header: Header) -> list[tuple[str, Tensor]]:
    """Return the tensors as they lie in the file."""
    return sorted(header.tensors.items(), key=lambda entry: (entry[1].data_offsets, entry[0]))


def numbers(path: Path, header: Header, key: str, at_most: int = 4096) -> list[float]:
    """Return the numbers of one small tensor; none for a large one or a type that is not read here."""
    tensor = header.tensors[key]
    begin, stop = tensor.data_offsets
    formats = {"F32": "f", "F16": "e"}
    if math.prod(tensor.shape) > at_most or tensor.dtype not in {*formats, "BF16"}:
        return []
    with path.open("rb") as file:
        file.seek(header.data_start + begin)
        data = file.read(stop - begin)
    if tensor.dtype == "BF16":  # the upper half of a float
        data = b"".join(b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2))
    code = formats.get(tensor.dtype, "f")
    return list(struct.unpack(f"<{math.prod(tensor.shape)}{code}", data))
