"""Fuzz one target: `python -m tests.fuzz wire --seconds 600`; what is found goes into the corpus.

With atheris (libFuzzer, guided by coverage; not among the project's dependencies), else with plain
mutations. A finding is printed and kept in `tests/fuzz/corpus/TARGET/`; the short run then replays it.
"""

import argparse
import secrets
import sys
import tempfile
import time
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from random import Random

HAS_ATHERIS = find_spec("atheris") is not None
if HAS_ATHERIS:
    atheris = import_module("atheris")
    with atheris.instrument_imports(include=["difs"]):
        from tests.fuzz import targets
else:
    from tests.fuzz import targets

from tests.fuzz.mutation import mutated
from tests.fuzz.seeds import CORPUS, seeds


def keep(name: str, data: bytes) -> Path:
    """Put a finding into the corpus."""
    path = CORPUS / name / sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def tried(name: str, data: bytes) -> None:
    """Run a target; what breaks it is kept and raised again."""
    try:
        targets.run(name, data)
    except BaseException:
        print(f"found, and kept in {keep(name, data)}", file=sys.stderr)
        raise


def guided(name: str, seconds: int) -> None:
    """Let libFuzzer look, from the seeds on."""
    with tempfile.TemporaryDirectory() as folder:
        for i, data in enumerate(seeds(name)):
            (Path(folder) / str(i)).write_bytes(data)
        limits = [
            f"-max_total_time={seconds}",
            "-max_len=8192",
            "-timeout=10",
            f"-artifact_prefix={folder}/",
        ]
        atheris.Setup([sys.argv[0], folder, *limits], lambda data: tried(name, data))
        atheris.Fuzz()


def blind(name: str, seconds: float) -> int:
    """Damage seeds at random; returns how often."""
    seed = secrets.randbits(32)
    print(f"without atheris: plain mutations, random seed {seed}")
    chance, begun, runs = Random(seed), seeds(name), 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        tried(name, mutated(chance.choice(begun), begun, chance))
        runs += 1
    return runs


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", choices=list(targets.TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--blind", action="store_true", help="plain mutations though atheris is there")
    given = parser.parse_args()
    if HAS_ATHERIS and not given.blind:
        guided(given.target, given.seconds)
    else:
        print(f"{blind(given.target, given.seconds)} inputs, nothing found")


if __name__ == "__main__":
    main()
