"""The worker's loop over a service that stands in: what it asks for, keeps, and does in trouble."""

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, cast

import pytest

from difs import errors
from difs.batches import decisions, folder, runner
from difs.batches.lines import Line
from difs.batches.runner import Runner
from difs.batches.store import Batch, Entry, Store
from difs.client.result import Result
from difs.clock import MonotonicClock
from difs.messages import MAX_TIMEOUT_S, StatusReport
from tests.unit.test_batch_decisions import report

HOME = "/run/difs"


class Killed(SystemExit):
    """Ends the loop and everything in it, from wherever it is raised."""


class Picture:
    """What of a Result is needed: an image is its prompt and seed."""

    def __init__(self, prompt: str, wishes: dict[str, Any]) -> None:
        self._prompt, self._seed = prompt, wishes["seed"]

    def verify(self) -> None: ...

    def data(self, i: int) -> bytes:
        return f"{self._prompt} {self._seed + i}".encode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None: ...


class Painter:
    """A service of so many places, that breaks where it is told to."""

    def __init__(self, places: int = 4) -> None:
        self.places = places
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.open = self.most = 0
        self.breaks: Callable[[str], None] = lambda prompt: None
        self.gate: asyncio.Event | None = None

    async def status(self) -> StatusReport:
        return report(self.places)

    async def generate(self, prompt: str, **wishes: Any) -> Result:
        self.asked.append((prompt, wishes))
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await (self.gate.wait() if self.gate else asyncio.sleep(0))
            self.breaks(prompt)
        finally:
            self.open -= 1
        return cast(Result, Picture(prompt, wishes))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TICK_S", "LOOK_AGAIN_S", "WRITE_AGAIN_S"):
        monkeypatch.setattr(runner, name, 0.002)
    monkeypatch.setattr(decisions, "REST_S", 0.001)
    monkeypatch.setattr(decisions, "MAX_REST_S", 0.004)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return a database with one batch of nine lines, the third of two images."""
    path = tmp_path / "batches.sqlite"
    out = tmp_path / "out"
    out.mkdir()
    batch = Batch("b", "p.jsonl", "digest", str(out), "png", False, HOME, 1.0)
    with Store(path) as store:
        store.add(
            batch, [(i, Line(f"prompt {i}", seed=10 * i, n=2 if i == 3 else 1)) for i in range(1, 10)]
        )
    return path


def expected() -> dict[str, bytes]:
    single = {f"{i:06}.png": f"prompt {i} {10 * i}".encode() for i in range(1, 10) if i != 3}
    return {**single, "000003-0.png": b"prompt 3 30", "000003-1.png": b"prompt 3 31"}


def files(base: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (base.parent / "out").iterdir()}


def run(base: Path, painter: Painter) -> None:
    with Store(base) as store:
        work = Runner(store, HOME, painter, MonotonicClock()).run()
        asyncio.run(asyncio.wait_for(work, 20))


def test_everything_is_painted_as_best_effort_and_no_more_at_once_than_is_useful(base: Path) -> None:
    painter = Painter(places=3)
    run(base, painter)
    assert files(base) == expected()
    assert painter.most == 3
    assert len(painter.asked) == 9
    for prompt, wishes in painter.asked:
        assert wishes == {
            "request_id": f"batch-b-{prompt.split()[1]}",
            "seed": 10 * int(prompt.split()[1]),
            "n": 2 if prompt == "prompt 3" else 1,
            "best_effort": True,
            "timeout_s": MAX_TIMEOUT_S,
            "delivery": "inline",
            "format": "png",
            "metadata": False,
            "retries": 0,
        }


def test_a_line_that_fails_holds_nobody_up(base: Path) -> None:
    def breaks(prompt: str) -> None:
        if prompt == "prompt 2":
            raise errors.UnknownName("no such variant")
        if prompt == "prompt 5":
            raise errors.EngineFailed("broke")
        if prompt == "prompt 7":
            raise ZeroDivisionError("a bug")

    painter = Painter()
    painter.breaks = breaks
    run(base, painter)
    with Store(base) as store:
        failed = [(f.number, f.code) for f in store.failures("b")]
        assert failed == [(2, "unknown_name"), (5, "engine_failed"), (7, "internal")]
        assert store.standing("b").done == 6
    asked = Counter(prompt for prompt, _ in painter.asked)
    assert (asked["prompt 2"], asked["prompt 5"], asked["prompt 7"]) == (1, 3, 3)


def test_a_service_that_is_away_or_full_is_waited_for(base: Path) -> None:
    left = iter([errors.Unavailable, errors.BrokerLost, errors.Expired, errors.TooManyOutstanding] * 5)

    def breaks(prompt: str) -> None:
        if error := next(left, None):
            raise error("not now")

    painter = Painter()
    painter.breaks = breaks
    run(base, painter)
    assert files(base) == expected()
    with Store(base) as store:
        assert store.failures("b") == []


def test_who_is_refused_for_long_is_told_why(base: Path) -> None:
    painter = Painter()

    def breaks(prompt: str) -> None:
        with Store(base) as store:
            if not store.standing("b").batch.trouble:
                raise errors.Overloaded("the night is long")
            assert store.standing("b").batch.trouble == "the night is long"

    painter.breaks = breaks
    run(base, painter)
    assert files(base) == expected()
    with Store(base) as store:
        assert store.standing("b").batch.trouble == ""


def test_a_service_that_takes_few_is_not_pressed(base: Path) -> None:
    painter = Painter(places=16)

    def breaks(prompt: str) -> None:
        if painter.open > 2:
            raise errors.TooManyOutstanding("3 requests of this client are open")

    painter.breaks = breaks
    run(base, painter)
    assert files(base) == expected()
    assert len(painter.asked) < 30


def test_a_cancelled_batch_gives_up_what_is_under_way(base: Path) -> None:
    async def scene() -> None:
        painter = Painter()
        painter.gate = asyncio.Event()
        with Store(base) as store:
            work = asyncio.create_task(Runner(store, HOME, painter, MonotonicClock()).run())
            while painter.open < 4:
                await asyncio.sleep(0.002)
            with Store(base) as command:
                command.cancel("b")
            await asyncio.wait_for(work, 10)
            assert painter.open == 0

    asyncio.run(scene())
    assert files(base) == {}


def test_no_room_is_told_and_nothing_is_painted_in_vain(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "MIN_FREE_BYTES", 2**62)
    painter = Painter()

    async def scene() -> None:
        with Store(base) as store:
            work = asyncio.create_task(Runner(store, HOME, painter, MonotonicClock()).run())
            while not store.standing("b").batch.trouble:
                await asyncio.sleep(0.002)
            assert "too little room" in store.standing("b").batch.trouble
            assert painter.asked == []
            monkeypatch.setattr(decisions, "MIN_FREE_BYTES", 0)
            await asyncio.wait_for(work, 10)
            assert store.standing("b").batch.trouble == ""

    asyncio.run(scene())
    assert files(base) == expected()


def test_a_folder_that_is_gone_is_not_made_anew(base: Path) -> None:
    """It may be a disk that is not mounted."""
    out, away = base.parent / "out", base.parent / "away"
    out.rename(away)
    painter = Painter()

    async def scene() -> None:
        with Store(base) as store:
            work = asyncio.create_task(Runner(store, HOME, painter, MonotonicClock()).run())
            while not store.standing("b").batch.trouble:
                await asyncio.sleep(0.002)
            assert store.standing("b").batch.trouble == f"No such file or directory: {out}"
            assert not out.exists()
            away.rename(out)
            await asyncio.wait_for(work, 10)

    asyncio.run(scene())
    assert files(base) == expected()


def test_a_full_database_loses_nothing(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = iter([True] * 12)
    painted = Store.painted

    def sometimes(self: Store, entry: Entry, at: float) -> None:
        if next(full, False):
            raise OSError(28, "No space left on device", "batches.sqlite")
        painted(self, entry, at)

    monkeypatch.setattr(Store, "painted", sometimes)
    painter = Painter()
    run(base, painter)
    assert files(base) == expected()
    assert len(painter.asked) == 9, "a picture that is in place is not painted again"


# ---- killed -------------------------------------------------------------------------------------


class Fate:
    """Ends the process at its n-th step; each effect has one before and one after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = -1
        self.put = Counter[str]()
        keep, painted = folder.keep, Store.painted

        def kept(place: Path, batch: str, name: str, data: bytes) -> None:
            self.step()
            keep(place, batch, name, data)
            self.put[name] += 1
            self.step()

        def recorded(store: Store, entry: Entry, at: float) -> None:
            self.step()
            painted(store, entry, at)
            self.step()

        monkeypatch.setattr(folder, "keep", kept)
        monkeypatch.setattr(Store, "painted", recorded)

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


def dies(base: Path, painter: Painter, fate: Fate, after: int) -> bool:
    fate.left = after
    try:
        run(base, painter)
    except Killed:
        return True
    return False


@pytest.mark.parametrize("seed", range(12))
def test_killed_between_any_two_steps_it_paints_each_file_once(
    base: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    fate, painter, chance = Fate(monkeypatch), Painter(), random.Random(seed)
    painter.breaks = lambda prompt: fate.step()
    (base.parent / "out" / ".difs-b-left").write_bytes(b"half")
    deaths = 0
    while dies(base, painter, fate, chance.randint(1, 12)):
        deaths += 1
    assert deaths >= 3
    assert files(base) == expected()
    assert set(fate.put.values()) == {1}
    with Store(base) as store:
        assert (store.standing("b").done, store.standing("b").total) == (9, 9)
    said = dict(painter.asked)
    assert all(wishes == said[prompt] for prompt, wishes in painter.asked), "so that repetitions join"


# ---- the folder ---------------------------------------------------------------------------------


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(OSError, match="No space"):
            folder.keep(tmp_path, "b", "x.png", b"data")
    assert list(tmp_path.iterdir()) == []
    folder.keep(tmp_path, "b", "x.png", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


SMALL_DISK = """
import sys
from pathlib import Path
from difs.batches import folder
place = Path(sys.argv[1])
try:
    folder.keep(place, "b", "x.png", b"x" * 200_000)
except OSError as error:
    print(error.strerror, [path.name for path in place.iterdir()], folder.free_bytes(place))
folder.keep(place, "b", "y.png", b"y" * 1000)
print(folder.missing(place, ["x.png", "y.png"]))
"""


def test_a_disk_that_is_really_full_keeps_no_part_of_a_file(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=64k none {tmp_path} && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", sys.executable, "-c", SMALL_DISK, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if "unshare:" in ended.stderr or "mount:" in ended.stderr:
        pytest.skip(f"no small disk can be had here: {ended.stderr.strip()}")
    assert ended.stdout.splitlines() == ["No space left on device [] 65536", "['x.png']"], ended.stderr


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / "x.png").symlink_to("precious")
    folder.keep(tmp_path, "b", "x.png", b"data")
    assert (tmp_path / "precious").read_bytes() == b"mine"
    assert not (tmp_path / "x.png").is_symlink()


def test_only_what_is_ours_is_swept(tmp_path: Path) -> None:
    for name in (".difs-b-1", ".difs-c-1", "x.png", ".hidden"):
        (tmp_path / name).touch()
    folder.sweep(tmp_path, "b")
    assert {path.name for path in tmp_path.iterdir()} == {".difs-c-1", "x.png", ".hidden"}
    folder.sweep(tmp_path / "gone", "b")
