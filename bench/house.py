"""What the house itself costs: start, import, steps, the broker's CPU, the memory of what waits.

    python -m bench.house [--rounds 5] [--only start import steps broker memory]

- start: `difs serve` until it is ready, against plain Python that imports torch and diffusers and loads
  the same weights, in turn; wall seconds, and CPU seconds of all processes until then.
- import: a fresh process that imports the client; the least of several.
- steps: see `bench.house_steps`.
- broker: CPU of the broker's process, paced at 1 000 requests a second of four steps each, policy
  `modelless`, the simulated engine. On a machine that is too busy for that rate the share is scaled from
  the CPU of one request. Beside it, in the same run, that of `bench.bare_broker`: what the sockets and
  the messages alone cost.
- memory: what the broker's process grows by for each request that waits.
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil
import zmq

from bench import footprint
from bench.report import keep, verdict
from difs import sockets, wire
from difs.actor_messages import Execute, Finished, Sealed
from difs.messages import Accepted, Beat, Delivery, Error, Generate, Overrides, Result
from difs.private import PrivateService

MODEL = "emoji-base"
RATE, STEPS, SECONDS = 1000, 4, 2.0
WAITING = 4000
SILENCE_S = 30.0
"""After so long without a result none will come: the machine is too busy for this rate."""
SIMULATED = ("--device", "simulated:2")
WIDE = (
    *("--set", "broker.max_queued=20000", "--set", "broker.max_outstanding=20000"),
    *("--set", f'actors.preload=["{MODEL}"]'),
)
PLAIN = f"""
import os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained("model_repo/{MODEL}", dtype=torch.float32,
                                               local_files_only=True)
os._exit(0)
"""
IMPORT = """
import time
before = time.perf_counter(), time.process_time()
from difs import Client
print(time.perf_counter() - before[0], time.process_time() - before[1])
"""
ROOT = Path(__file__).parents[1]


def _run(*words: str) -> str:
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE
    ).stdout


# ---- start ----------------------------------------------------------------------------------------


def start_plain() -> tuple[float, float]:
    """Return wall and CPU seconds of plain Python until its pipeline is loaded."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", PLAIN], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    wall_s = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def start_difs() -> tuple[float, float]:
    """Return wall and CPU seconds of `difs serve` until it is ready, all of its processes."""
    service = PrivateService(["--device", "cpu"])
    started = time.perf_counter()
    service.start()
    wall_s = time.perf_counter() - started
    try:
        return wall_s, sum(_cpu_s(process) for process in _tree(service))
    finally:
        service.stop()


def _tree(service: PrivateService) -> list[psutil.Process]:
    assert service.process is not None
    return footprint.tree(service.process.pid)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measure_start(rounds: int) -> dict[str, float]:
    """Return the medians of both, in turn; the first round only warms the disk's cache."""
    taken: dict[str, list[tuple[float, float]]] = {"plain": [], "difs": []}
    for _ in range(rounds + 1):
        taken["plain"].append(start_plain())
        taken["difs"].append(start_difs())
    found = {}
    for name, pairs in taken.items():
        for what, values in zip(("wall_s", "cpu_s"), zip(*pairs[1:], strict=True), strict=True):
            found[f"{name}_{what}"] = round(statistics.median(values), 3)
    for what in ("wall", "cpu"):
        found[f"{what}_ratio"] = round(found[f"difs_{what}_s"] / found[f"plain_{what}_s"], 3)
    return found


# ---- import and steps -----------------------------------------------------------------------------


def measure_import(rounds: int) -> dict[str, float]:
    """Return the least wall and CPU seconds of importing the client."""
    taken = [[float(word) for word in _run("-c", IMPORT).split()] for _ in range(2 * rounds + 1)]
    return {name: round(min(row[i] for row in taken), 4) for i, name in enumerate(("wall_s", "cpu_s"))}


def measure_steps(rounds: int) -> dict[str, float]:
    """Return what `bench.house_steps` finds, in a process of its own with one thread."""
    os.environ["OMP_NUM_THREADS"] = "1"
    found: dict[str, float] = json.loads(_run("-m", "bench.house_steps", "--rounds", str(2 * rounds)))
    return found


# ---- the broker -----------------------------------------------------------------------------------


class Asker:
    """A plain client that sends and counts."""

    def __init__(self, address: str) -> None:
        """Connect."""
        self.heard: dict[type, list[bytes]] = {}
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.sndhwm = self._socket.rcvhwm = 0
        self._socket.connect(address)
        self.sent = self.accepted = self.ended = self.failed = 0

    def ask(self, timeout_s: float = 60.0) -> None:
        """Send one request."""
        self.sent += 1
        message = Generate(
            f"r{self.sent}",
            "red apple",
            seed=7,
            width=64,
            height=64,
            timeout_s=timeout_s,
            overrides=Overrides(steps=STEPS),
            delivery=Delivery(format="raw"),
        )
        sockets.send(self._socket, wire.encode(message))

    def hear(self, wait_s: float) -> None:
        """Take what has come."""
        if not self._socket.poll(max(0, int(wait_s * 1000))):
            return
        while True:
            try:
                frames = sockets.receive(self._socket, sockets.DONTWAIT)
            except zmq.Again:
                return
            message = wire.decode_from_broker(frames)
            self.heard[type(message)] = frames
            self.accepted += isinstance(message, Accepted)
            self.ended += isinstance(message, (Result, Error))
            self.failed += isinstance(message, Error)
            assert isinstance(message, (Accepted, Result, Error, Beat)), message

    def close(self) -> None:
        """Disconnect."""
        self._context.destroy(linger=0)


def _broker(service: PrivateService) -> psutil.Process:
    return next(p for p in _tree(service) if "difs.broker" in p.cmdline())


@contextlib.contextmanager
def _stopped_actors(service: PrivateService) -> Iterator[None]:
    """Stop the actors meanwhile, so that nothing ends."""
    actors = [p for p in _tree(service) if "difs.actors" in p.cmdline()]
    for actor in actors:
        actor.suspend()
    yield
    for actor in actors:
        actor.kill()


def _nothing() -> None:
    pass


def _await(client: Asker, answered: Callable[[], int], meanwhile: Callable[[], None] = _nothing) -> None:
    """Wait until as many requests are answered as were sent."""
    heard, heard_at = answered(), time.perf_counter()
    while answered() < client.sent:
        client.hear(0.001)
        meanwhile()
        if answered() > heard:
            heard, heard_at = answered(), time.perf_counter()
        elif time.perf_counter() - heard_at > SILENCE_S:
            raise SystemExit("the broker gave this client up, which took its answers too slowly")


def _paced(client: Asker, seconds: float, meanwhile: Callable[[], None] = _nothing) -> None:
    """Send RATE requests a second, and wait until all are answered."""
    started, first = time.perf_counter(), client.sent
    while (at := time.perf_counter() - started) < seconds:
        while client.sent - first < at * RATE:
            client.ask()
        client.hear(0.001)
        meanwhile()
    _await(client, lambda: client.ended, meanwhile)


def measure_broker(rounds: int) -> dict[str, float]:
    """Return the broker's CPU for one request, and its share of a core at RATE; and a bare one's."""
    options = [*SIMULATED, *WIDE]
    with PrivateService(options) as service:
        client, broker = Asker(service.address), _broker(service)
        _paced(client, 1.0)
        answers = [client.heard[Accepted], client.heard[Result]]
        with _bare(answers) as bare:
            taken = [(_cost_s(client, broker), bare()) for _ in range(rounds)]
        idle = _cpu_s(broker)
        time.sleep(3.0)
        idle = (_cpu_s(broker) - idle) / 3.0
        failed = client.failed
        client.close()
    request_s, bare_s = (statistics.median(costs) for costs in zip(*taken, strict=True))
    return {
        "request_us": round(request_s * 1e6, 1),
        "share_of_a_core": round(request_s * RATE, 4),
        "bare_us": round(bare_s * 1e6, 1),
        "of_bare": round(request_s / bare_s, 2),
        "idle_share_of_a_core": round(idle, 4),
        "failed": failed,
    }


def _cost_s(client: Asker, process: psutil.Process, meanwhile: Callable[[], None] = _nothing) -> float:
    """Return the CPU seconds of a process for one request."""
    before, first = _cpu_s(process), client.sent
    _paced(client, SECONDS, meanwhile)
    return (_cpu_s(process) - before) / (client.sent - first)


@contextlib.contextmanager
def _bare(answers: list[list[bytes]]) -> Iterator[Callable[[], float]]:
    """Lend what measures the CPU seconds of one request of a bare broker; this process is its actor."""
    with tempfile.TemporaryDirectory(prefix="difs-bare-") as folder:
        told = Path(folder) / "answers"
        told.write_bytes(msgspec.msgpack.encode(answers))
        front, back = (f"ipc://{folder}/{name}" for name in ("clients", "actors"))
        process = subprocess.Popen([sys.executable, "-m", "bench.bare_broker", front, back, str(told)])
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        actor = context.socket(zmq.DEALER)
        actor.connect(back)
        sockets.send(actor, [b"", b"here"])
        client = Asker(front)
        try:
            yield lambda: _cost_s(client, psutil.Process(process.pid), lambda: _work(actor))
        finally:
            process.kill()
            process.wait()
            client.close()
            context.destroy(linger=0)


def _work(actor: "zmq.Socket[bytes]") -> None:
    """Answer all orders as if they were done."""
    while True:
        try:
            order = wire.decode_to_actor(sockets.receive(actor, sockets.DONTWAIT))
        except zmq.Again:
            return
        assert isinstance(order, Execute), order
        sealed = tuple(Sealed(slot.index, 12_288, 7) for slot in order.slots)
        done = Finished(order.attempt, sealed, 0.001, 0.01, 0.005, 0.0, "same-noise", shared_by=4.0)
        sockets.send(actor, wire.encode(done))


def measure_memory(_: int) -> dict[str, float]:
    """Return the bytes by which the broker grows for each request that waits: its actors are stopped."""
    patient = ["--set", 'broker.actor_silence="1h"', "--set", 'broker.stall_floor="1h"']
    with PrivateService([*SIMULATED, *WIDE, *patient]) as service, _stopped_actors(service):
        client, broker = Asker(service.address), _broker(service)
        grown: list[tuple[int, int]] = []
        for number in (1000, WAITING):
            while client.sent < number:
                client.ask(3600.0)
                client.hear(0)
            _await(client, lambda: client.accepted + client.ended)
            grown.append((client.accepted, broker.memory_info().rss))
        assert not client.failed, "all of them wait"
        client.close()
    low, before = grown[0]
    high, after = grown[-1]
    return {"waiting": high, "bytes_a_request": round((after - before) / (high - low))}


PARTS: dict[str, Callable[[int], dict[str, float]]] = {
    "start": measure_start,
    "import": measure_import,
    "steps": measure_steps,
    "broker": measure_broker,
    "memory": measure_memory,
}


def judged(found: dict[str, dict[str, float]]) -> Sequence[dict[str, Any]]:
    """Print and return the goals of what was measured."""
    goals = {
        "start": ("`difs serve` ready, of plain Python's wall time", "wall_ratio", 1.2),
        "import": ("import of the client, s", "wall_s", 0.2),
        "steps": ("a step of the engine, of the bare one", "ratio_p50", 1.03),
        "broker": ("the broker's share of a core at 1000 requests/s", "share_of_a_core", 0.1),
    }
    return [
        verdict(words, found[part][key], bound)
        for part, (words, key, bound) in goals.items()
        if part in found
    ]


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    asked = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    for part in asked.only:
        found[part] = PARTS[part](asked.rounds)
        print(f"  {part:>8} {found[part]}", flush=True)
    goals = judged(found)
    command = f"python -m bench.house --rounds {asked.rounds}"
    if len(asked.only) < len(PARTS):
        command += f" --only {' '.join(asked.only)}"
    print(keep("house", command, {**found, "goals": goals}))


if __name__ == "__main__":
    main()
