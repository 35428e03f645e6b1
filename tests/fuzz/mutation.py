"""Damage to bytes: what a fuzzer without knowledge of the code does. Chance is passed in."""

from collections.abc import Sequence
from random import Random

WORDS = (
    *(b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"),
    *(b"\xcb\x7f\xf8\0\0\0\0\0\0", b"\xcf" + b"\xff" * 8, b"\xd3\x80" + b"\0" * 7, b"\xc1", b"\xc0"),
    *(b"[" * 3000, b'{"x":' * 3000, b"\x91" * 3000, b"\x81\xa1x" * 3000, b"a." * 3000, b"9" * 5000),
    *(b"NaN", b"1e999", b"-0.0", b"null", b'"', b"\xff\xfe", b"\xed\xa0\x80", b"\0", b"../", b"\\ud800"),
)
"""Lengths beyond all memory, nesting beyond all stacks, numbers that are none, text that is none."""


def mutated(data: bytes, others: Sequence[bytes], chance: Random) -> bytes:
    """Return `data` after one to four accidents."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(found) + 1)
        match chance.randrange(6):
            case 0 if at < len(found):
                found[at] = chance.randrange(256)
            case 1:
                del found[at : at + chance.randint(1, 8)]
            case 2:
                del found[at:]
            case 3:
                found[at:at] = chance.choice(WORDS)
            case 4:
                found[at : at + 5] = chance.choice(WORDS)
            case _:
                other = chance.choice(others)
                found[at:] = other[chance.randrange(len(other) + 1) :]
    return bytes(found)
