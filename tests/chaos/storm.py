"""One run: start a service, load it, hurt it as planned, then look at what is left."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import zmq

from difs import AsyncClient
from difs.errors import DifsError
from tests.chaos.ledger import RIGHT, UNTYPED, WRONG, Ledger
from tests.chaos.means import MemoryGroup
from tests.chaos.plan import ENDING, Blow, Kind, blows
from tests.chaos.trend import Memory, Trend
from tests.process.network import Far, Network
from tests.process.service import SIDE, Service, picture, processes_of, script, settings

TIMEOUT_S = 30.0
GRACE_S = 10.0
"""What a call may take beyond its timeout: the client's own patience, on a busy machine."""
CALM_S = 60.0
"""How long the service may take to be whole again after the last blow."""
POISON_SHARE = 0.01
CALLERS, FAR = 24, 6
"""So many of the callers are on another machine, as far as the service can tell."""
LOOK_S = 5.0
"""How often the memory of the processes is looked at."""
BAD = ("kill", "segfault", "hog", "error")
"""What 1 % of the requests do to their actor."""

DOOMED = f"""
import asyncio, sys
from difs import AsyncClient

async def main():
    async with AsyncClient(sys.argv[1]) as client:
        held = await client.generate("held", n=2)
        calls = [client.generate("doomed", width={SIDE}, height={SIDE}, steps=50) for _ in range(4)]
        await asyncio.gather(*calls, return_exceptions=True)

asyncio.run(main())
"""


class Outcome(NamedTuple):
    """What a run came to."""

    ends: Counter[str]
    blows: Counter[str]
    problems: list[str]
    slowest_s: float
    restarts: dict[str, int]
    trends: list[Trend]


def options(devices: int, shm: Path | None) -> list[str]:
    """Return how the service is started: impatient, self-checking, and hard to discourage."""
    faults = [f"{{kind='{kind}', prompt='bad {kind}', phase='step', step=1}}" for kind in BAD]
    keys = [
        script(faults, step_s=0.02),
        "broker.validate=true",
        "broker.actor_silence='2s'",
        "broker.stall_floor='2s'",
        "supervisor.backoff='50ms'",
        "supervisor.backoff_cap='200ms'",
        "supervisor.max_restarts=100000",
        "supervisor.start_timeout='5s'",
    ]
    if shm is not None:
        keys.append(f"shm.dir='{shm}'")
    return ["--device", f"simulated:{devices}", *settings(*keys)]


class Storm:
    """A service, its callers, and what befalls them."""

    def __init__(
        self,
        service: Service,
        seed: int,
        *,
        shm: Path | None,
        group: MemoryGroup | None,
        far: Far,
        is_gentle: bool = False,
    ) -> None:
        self._is_gentle = is_gentle
        self._far = far
        self.memory = Memory()
        self._service = service
        self._seed = seed
        self._shm = shm
        self._group = group
        self._chance = random.Random(seed)
        self.ledger = Ledger()
        self.struck: Counter[str] = Counter()
        self._numbers = 0

    def kinds(self) -> set[Kind]:
        """Return what can be done here."""
        lacking = set()
        if self._shm is None:
            lacking.add(Kind.FILL_SHM)
        if self._group is None:
            lacking.add(Kind.SQUEEZE_ACTOR)
        return set(Kind) - lacking - (ENDING if self._is_gentle else set())

    # ---- load -----------------------------------------------------------------------------------

    async def run(self, seconds: float) -> None:
        """Load and hurt for so long, then let every call end."""
        stop_at = time.monotonic() + seconds
        near = (AsyncClient(self._service.address) for _ in range(2))
        async with AsyncClient(key=self._far.key) as far, next(near) as one, next(near) as two:
            callers = [self._call((one, two)[i % 2], stop_at) for i in range(CALLERS - FAR)]
            callers += [self._call(far, stop_at, ways=("inline",)) for _ in range(FAR)]
            await asyncio.gather(self._strike(seconds), self._look(stop_at), *callers)

    async def _look(self, stop_at: float) -> None:
        while time.monotonic() < stop_at:
            found = await asyncio.to_thread(self._service.children)
            for name, pid in {**found, "supervisor": self._service.pid}.items():
                with contextlib.suppress(psutil.NoSuchProcess):
                    used = psutil.Process(pid).memory_info()
                    own_bytes = used.rss - used.shared  # pages of slots count for whoever touched them
                    self.memory.note(name, pid, time.monotonic(), own_bytes)
            await asyncio.sleep(min(LOOK_S, max(0.0, stop_at - time.monotonic())))

    async def _call(
        self, client: AsyncClient, stop_at: float, ways: Sequence[str] = ("shm", "inline")
    ) -> None:
        while time.monotonic() < stop_at:
            await self._one(client, ways)

    async def _one(self, client: AsyncClient, ways: Sequence[str]) -> None:
        chance = self._chance
        self._numbers += 1
        name = f"chaos-{self._seed}-{self._numbers}"
        is_bad = not self._is_gentle and chance.random() < POISON_SHARE
        prompt = f"bad {chance.choice(BAD)} {name}" if is_bad else f"good {name}"
        side, delivery = chance.choice([64, 64, 64, SIDE]), chance.choice(ways)
        wishes: dict[str, Any] = {"width": side, "height": side, "delivery": delivery, "request_id": name}
        wishes |= {"seed": self._numbers, "steps": 4, "n": chance.choice([1, 1, 2])}
        self.ledger.asked(name)
        asked_at = time.monotonic()
        how = RIGHT
        try:
            with await client.generate(prompt, timeout_s=TIMEOUT_S, **wishes) as result:
                for image, seed in zip(result.images, result.seeds, strict=True):
                    if not np.array_equal(image, picture(prompt, seed, side)):
                        how = f"{WRONG} of {prompt!r}"
        except DifsError as error:
            how = error.code
        except Exception as error:
            how = f"{UNTYPED}: {error!r}"
        self.ledger.ended(name, how, time.monotonic() - asked_at, TIMEOUT_S + GRACE_S)

    # ---- blows ----------------------------------------------------------------------------------

    async def _strike(self, seconds: float) -> None:
        started_at = time.monotonic()
        pending = []
        for blow in blows(self._seed, seconds, self.kinds()):
            await asyncio.sleep(max(0.0, started_at + blow.at_s - time.monotonic()))
            self.struck[blow.kind.value] += 1
            pending.append(asyncio.create_task(asyncio.to_thread(self._blow, blow)))
        await asyncio.gather(*pending)

    def _blow(self, blow: Blow) -> None:
        match blow.kind:
            case Kind.KILL_CLIENT:
                self._kill_client(blow.for_s)
            case Kind.FILL_SHM:
                self._fill(blow.for_s)
            case Kind.GARBAGE:
                self._noise(blow.pick)
            case Kind.SPOIL_NETWORK:
                self._spoil(self._far.network, blow)
            case Kind.KILL_BROKER | Kind.PAUSE_BROKER:
                self._hit(self._pid("broker"), blow)
            case _:
                self._hit(self._pid(blow.pick), blow)

    def _pid(self, whom: str | float) -> int | None:
        """Return the broker's process, or that of one of the actors."""
        children = self._service.children()
        if isinstance(whom, str):
            return children.get(whom)
        actors = [children[name] for name in sorted(children) if name != "broker"]
        return actors[int(whom * len(actors))] if actors else None

    def _hit(self, pid: int | None, blow: Blow) -> None:
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            match blow.kind:
                case Kind.KILL_ACTOR | Kind.KILL_BROKER:
                    os.kill(pid, signal.SIGKILL)
                case Kind.STOP_ACTOR:
                    os.kill(pid, signal.SIGSTOP)
                case Kind.SQUEEZE_ACTOR:
                    assert self._group is not None
                    self._group.squeeze(pid)
                case _:
                    os.kill(pid, signal.SIGSTOP)
                    time.sleep(blow.for_s)
                    os.kill(pid, signal.SIGCONT)

    def _kill_client(self, after_s: float) -> None:
        with subprocess.Popen([sys.executable, "-c", DOOMED, self._service.address]) as child:
            time.sleep(1.0 + after_s)
            child.kill()

    def _fill(self, for_s: float) -> None:
        assert self._shm is not None
        filler = self._shm / "filler"
        with contextlib.suppress(OSError), filler.open("wb", 0) as file:
            while True:
                file.write(bytes(2**20))
        time.sleep(for_s)
        filler.unlink(missing_ok=True)  # two may fill at a time

    def _spoil(self, network: Network, blow: Blow) -> None:
        """Cut the lines, tell one end that no more will come, be slow or silent a while; then heal."""
        match int(4 * blow.pick):
            case 0:
                network.cut()
            case 1:
                network.half_close()
            case 2:
                network.delay_s = 0.2
            case _:
                network.stall()
        time.sleep(5 * blow.for_s)
        network.delay_s = 0.0
        network.heal()

    def _noise(self, pick: float) -> None:
        chance = random.Random(pick)
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.linger = 0
        socket.connect(self._service.address)
        for _ in range(50):
            frames = [chance.randbytes(chance.randrange(200)) for _ in range(chance.randrange(1, 9))]
            with contextlib.suppress(zmq.Again):
                socket.send_multipart(
                    [*([b"DIFS1"] if chance.random() < 0.5 else []), *frames], zmq.DONTWAIT
                )
        time.sleep(0.1)
        context.destroy(linger=0)


# ---- before and after -----------------------------------------------------------------------------


class Holdings(NamedTuple):
    """What a whole and idle service has."""

    processes: frozenset[str]
    fds: dict[str, int]
    threads: dict[str, int]


def holdings(service: Service) -> Holdings:
    """Look at the supervisor and its children."""
    found = {**service.children(), "supervisor": service.pid}
    fds, threads = {}, {}
    for name, pid in found.items():
        process = psutil.Process(pid)
        fds[name], threads[name] = process.num_fds(), process.num_threads()
    return Holdings(frozenset(found), fds, threads)


def grown(before: Holdings, after: Holdings) -> list[str]:
    """Return what there is more of, or less, than before."""
    problems = []
    if before.processes != after.processes:
        problems.append(f"processes {sorted(after.processes)}, before {sorted(before.processes)}")
    for what, first, then in (("fds", before.fds, after.fds), ("threads", before.threads, after.threads)):
        for name in sorted(first.keys() & then.keys()):
            if then[name] > first[name]:
                problems.append(f"{name} has {then[name]} {what}, before {first[name]}")
    return problems


def wait_until_whole(service: Service, devices: int) -> bool:
    """Wait until all devices are ready and nothing is open; False when that does not come."""
    deadline = time.monotonic() + CALM_S
    while time.monotonic() < deadline:
        with contextlib.suppress(DifsError):
            if service.is_idle(devices):
                return True
        time.sleep(0.05)
    return False


def settled(service: Service, before: Holdings) -> list[str]:
    """Return what is still more than before when the connections of the dead have had time to end."""
    deadline = time.monotonic() + 10.0
    while (problems := grown(before, holdings(service))) and time.monotonic() < deadline:
        time.sleep(0.1)
    return problems


def run(
    seconds: float,
    seed: int,
    *,
    devices: int = 3,
    shm: Path | None = None,
    group: MemoryGroup | None = None,
    is_gentle: bool = False,
) -> Outcome:
    """Run once and return what came of it; `problems` is empty when every promise was kept.

    `is_gentle`: nothing ends a process of the service, so that its memory can be followed for hours.
    """
    with tempfile.TemporaryDirectory(prefix="difs-far-") as folder:
        far = Far(Path(folder))
        with far.network:
            service = Service([*options(devices, shm), *settings(*far.settings)])
            storm = Storm(service, seed, shm=shm, group=group, far=far, is_gentle=is_gentle)
            return _run(storm, service, seconds, devices, shm)


def _run(storm: Storm, service: Service, seconds: float, devices: int, shm: Path | None) -> Outcome:
    service.start()
    problems: list[str] = []
    try:
        wait_until_whole(service, devices)
        # a large inline picture: with the first, pyzmq starts a thread that stays (zmq.utils.garbage)
        service.client.generate("warm", width=SIDE, height=SIDE, delivery="inline").release()
        before = holdings(service)
        asyncio.run(storm.run(seconds))
        if wait_until_whole(service, devices):
            problems += settled(service, before)
        else:
            problems.append(f"not whole again after {CALM_S:g} s: {service.status()}")
        problems += [f"the broker contradicted itself: {line}" for line in _contradictions(service)]
        restarts = Counter(line.partition(" ")[2].split(" started as ")[0] for line in _starts(service))
    finally:
        home = service.home.path
        status = service.stop()
    if status != 0:
        problems.append(f"the service ended with status {status}")
    if left := processes_of(home):
        problems.append(f"processes were left: {left}")
    if shm is not None and (files := [path for path in shm.rglob("*") if path.is_file()]):
        problems.append(f"segments were left: {files}")
    problems += storm.ledger.close()
    trends = storm.memory.trends()
    problems += [f"a process grows: {trend}" for trend in trends if trend.is_growth]
    ledger = storm.ledger
    return Outcome(ledger.ends, storm.struck, problems, ledger.slowest_s, dict(restarts), trends)


def _starts(service: Service) -> list[str]:
    return [line for line in service.log_text().splitlines() if " started as process " in line]


def _contradictions(service: Service) -> list[str]:
    return [line for line in service.log_text().splitlines() if "the books disagree" in line]
