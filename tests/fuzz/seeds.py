"""Where fuzzing begins: a valid input of each kind, made here, and the corpus of what was found."""

from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from difs import wire
from difs.config import Config
from difs.key_files import KeyFile, Listed, Pair
from difs.profiling import cells
from tests.fuzz.targets import KEYS
from tests.unit.test_profiling_curves import grid_of, mode_cell, profile
from tests.unit.test_wire import KINDS

CORPUS = Path(__file__).parent / "corpus"
ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "model_repo"
HEADER = b'{"__metadata__":{"a":"b"},"x":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]}}'
A, B = "a" * 40, "b" * 40
KEY_SEEDS: dict[type[Any], msgspec.Struct] = {
    Pair: Pair(A, B),
    KeyFile: KeyFile("anna", A, B, A, "tcp://10.0.0.5:5555"),
    Listed: Listed("anna", A, "2026-01-01T00:00:00+00:00", is_admin=True),
}


def _made(name: str) -> list[bytes]:
    match name:
        case "wire":
            found = [(kind, message) for kind, (_, all_of, _) in enumerate(KINDS) for message in all_of]
            return [bytes([kind, *wire.encode(message)[1]]) for kind, message in found]
        case "manifest":
            names = (("variant.toml", 0), ("adapter.toml", 1), ("quality.json", 3))
            found_files = [
                (path, kind) for n, kind in names for path in sorted(REPOSITORY.glob(f"*/{n}"))
            ]
            captions = b'\x02{"red apple": {"caption": "red apple", "also": ["apple"]}}'
            return [captions, *(bytes([kind]) + path.read_bytes() for path, kind in found_files)]
        case "profile":
            whole = profile(mode_cell(), *grid_of(0.01, 0.02, 0.5))
            return [cells.encode(whole), cells.encode(profile())]
        case "config":
            return [(ROOT / "configs" / "default.toml").read_bytes(), b"", msgspec.json.encode(Config())]
        case "header":
            return [b"\x0c" + HEADER]
        case "keys":
            return [bytes([i]) + msgspec.json.encode(KEY_SEEDS[kind]) for i, kind in enumerate(KEYS)]
        case _:
            return [b"1.0\0" + b"17\0difs\0" + b"10.0.0.9\0" + b"\0CURVE\0anna"]


@cache
def seeds(name: str) -> tuple[bytes, ...]:
    """Return what to begin with for a target."""
    kept = [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]
    return (*_made(name), *kept)
