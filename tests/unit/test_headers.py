"""difs.registration.headers: a safetensors header is read within bounds, and believed in nothing."""

import json
import math
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs.errors import RepositoryError
from difs.registration import headers
from tests.safetensors_files import write

SHAPES = {"a": (2, 3), "b": (4,), "c": ()}


def test_a_header_says_what_the_file_holds(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", SHAPES, {"title": "x"}, dtype="F32")
    found = headers.read(path)
    assert {key: (t.dtype, t.shape) for key, t in found.tensors.items()} == {
        key: ("F32", shape) for key, shape in SHAPES.items()
    }
    assert found.metadata == {"title": "x"}
    assert found.data_start + 11 * 4 == path.stat().st_size == found.file_bytes


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_small_tensor_can_be_looked_at(tmp_path: Path, dtype: str) -> None:
    path = write(tmp_path / "x.safetensors", {"a": (2,), "b": (3,)}, dtype=dtype)
    start = headers.read(path).data_start
    codes = {"F32": struct.pack("<f", -1.5), "F16": struct.pack("<e", -1.5), "BF16": b"\xc0\xbf"}
    with path.open("r+b") as file:
        file.seek(start + 2 * headers.SIZES[dtype])
        file.write(codes[dtype] * 3)
    assert headers.numbers(path, headers.read(path), "b") == [-1.5] * 3
    assert headers.numbers(path, headers.read(path), "b", at_most=2) == []


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]} | changes


@pytest.mark.parametrize(
    ("tree", "complaint"),
    [
        ({}, "holds 0 tensors"),
        ({"a": entry(dtype="Q9")}, "unknown type"),
        ({"a": entry(dtype=7)}, "Expected `str`"),
        ({"a": entry(shape=[3])}, "does not lie"),
        ({"a": entry(shape=[-2])}, ">= 0"),
        ({"a": entry(shape=[1] * 17)}, "length <= 16"),
        ({"a": entry(shape=[2**53, 2**53])}, "does not lie"),
        ({"a": entry(data_offsets=[4, 0])}, "does not lie"),
        ({"a": entry(data_offsets=[1, 5])}, "does not lie"),
        ({"a": entry(data_offsets=[0, 2**60])}, "<= 9007199254740992"),
        ({"a": entry(), "b": entry()}, "does not lie"),
        ({"a": entry(), "b": entry(data_offsets=[4, 8])}, "has 4 bytes more or less"),
        ({"__metadata__": {"x": 1}, "a": entry()}, "Expected `str`"),
        ({"a": "b"}, "Expected `object`"),
        ([], "Expected `object`"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, tree: object, complaint: str) -> None:
    text = json.dumps(tree).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 4)
    with pytest.raises(RepositoryError) as caught:
        headers.read(path)
    if "more or less" not in complaint:
        assert complaint in str(caught.value)
    else:
        assert "its header says" in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 0),
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 100) + b"{}",
        struct.pack("<Q", headers.MAX_HEADER_BYTES + 1) + b"{}",
        struct.pack("<Q", 2) + b"\xff\xfe",
        struct.pack("<Q", 20_000) + b"[" * 20_000,
        b"\x80\x02}q\x00.",
        b"PK\x03\x04" + b"\0" * 100,
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(RepositoryError, match=r"x.safetensors is no s"):
        headers.read(path)


@settings(max_examples=300)
@given(st.binary(max_size=300), st.integers(0, 400))
def test_whatever_a_header_holds_it_is_read_or_refused(text: bytes, extra: int) -> None:
    try:
        found = headers.parse(text, 8 + len(text) + extra, "x")
    except RepositoryError:
        return
    nbytes = [math.prod(t.shape) * headers.SIZES[t.dtype] for t in found.tensors.values()]
    assert sum(nbytes) == extra
