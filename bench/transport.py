"""What the way through DIFS costs: an empty request against C `zmq.proxy`, an image against a memcpy.

    python -m bench.transport [--seconds 3] [--rounds 5]

Everything is measured in one run, in turn, on the same machine; the goals are ratios. Client, broker and
worker are processes of their own. The peers on both sides do the same: the client encodes a `generate`
and decodes a `result`, the worker decodes and answers; only what stands between them differs: libzmq's
proxy in C, which looks at nothing, or the real DIFS broker with its full bookkeeping (typed decode, plan,
queue, slot lease, attempt, result, release), which also sends `accepted`.
"""

import argparse
import base64
import io
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from PIL import Image

from bench.report import keep, percentile, verdict
from difs import config, repository, sockets, wire
from difs.messages import Accepted, Beat, Delivery, Generate, Release, Result
from difs.rundir import RunDir
from difs.shm import layout, segment
from difs.shm.reader import SegmentReader

SIDE = 1024
OUTSTANDING = 64
RELEASE_EVERY = 32
SLOTS = 8
ROUNDS = 7

_context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()


@contextmanager
def processes(*modules: list[str]) -> Iterator[None]:
    """Run `python -m ...` processes for the time of a measurement."""
    started = [subprocess.Popen([sys.executable, "-m", *arguments]) for arguments in modules]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


class ProxyClient:
    """A client of C `zmq.proxy` with a worker behind it."""

    def __init__(self, address: str) -> None:
        self.socket = _context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(address)
        self._count = 0

    def submit(self) -> None:
        """Send a request."""
        self._count += 1
        sockets.send(self.socket, wire.encode(request(f"{id(self):x}-{self._count}", 64, "shm")))

    def take(self) -> Any:
        """Wait for one result."""
        return wire.decode_from_broker(sockets.receive(self.socket))


class PixelsClient(ProxyClient):
    """A client of a worker that answers with bare pixels."""

    def take(self) -> Any:
        """Wait for the pixels."""
        return np.frombuffer(sockets.receive(self.socket)[0], np.uint8)


def request(name: str, side: int, mode: Any) -> Generate:
    """Return the message that all clients send."""
    delivery = Delivery(mode=mode, format="raw")
    return Generate(name, "red apple", seed=7, width=side, height=side, delivery=delivery)


class DifsClient:
    """A blocking client of the DIFS broker, as plain as the proxy's."""

    def __init__(self, address: str, *, side: int = 64, mode: Any = "shm", reads: bool = True) -> None:
        self.socket = _context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(address)
        self._mode = mode
        self._side = side
        self._reads = reads and side != 64
        self._count = 0
        self._leases: list[int] = []
        self._readers: dict[str, SegmentReader] = {}

    def submit(self) -> None:
        """Send a request."""
        self._count += 1
        message = request(f"{id(self):x}-{self._count}", self._side, self._mode)
        sockets.send(self.socket, wire.encode(message))

    def take(self) -> Any:
        """Wait for one result and return its pixels: a view of the segment, or the frame."""
        while True:
            frames = sockets.receive(self.socket)
            message = wire.decode_from_broker(frames)
            if isinstance(message, Result):
                return self._pixels(message, frames)
            assert isinstance(message, (Accepted, Beat)), message

    def _pixels(self, message: Result, frames: Any) -> Any:
        image = message.images[0]
        if not isinstance(image.lease, int):
            return np.frombuffer(frames[2], np.uint8)
        self._leases.append(image.lease)
        if len(self._leases) >= (RELEASE_EVERY if self._side == 64 else 1):
            sockets.send(self.socket, wire.encode(Release(tuple(self._leases))))
            self._leases.clear()
        if not self._reads:
            return None
        path = str(image.segment)
        reader = self._readers.setdefault(path, SegmentReader(Path(path)))
        assert isinstance(image.offset, int)
        assert isinstance(image.generation, int)
        return np.frombuffer(reader.image(image.offset, image.nbytes, image.generation), np.uint8)


def round_trips(client: Any, seconds: float) -> list[float]:
    """Return the seconds of single round trips, one outstanding."""
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        client.submit()
        client.take()
        taken.append(time.perf_counter() - started)
    return taken


def throughput(client: Any, seconds: float) -> float:
    """Return requests per second with OUTSTANDING in flight."""
    for _ in range(OUTSTANDING):
        client.submit()
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        client.take()
        client.submit()
        done += 1
    rate = done / (time.perf_counter() - started)
    for _ in range(OUTSTANDING):
        client.take()
    return rate


@contextmanager
def proxy_side(folder: Path) -> Iterator[str]:
    """Run the proxy and its worker."""
    front, back = f"ipc://{folder}/front", f"ipc://{folder}/back"
    me = "bench.peers_transport"
    with processes([me, "proxy", front, back], [me, "echo", back]):
        client = ProxyClient(front)
        client.submit()
        client.take()
        yield front


@contextmanager
def difs_side(folder: Path, side: int, *, writes: bool) -> Iterator[str]:
    """Run the real broker with an actor that computes nothing; `writes`: a ready image each time."""
    import os

    home = RunDir(folder / f"run-{side}-{writes}")
    home.make()
    slots = {"64KiB": 256} if side == 64 else {"4MiB": SLOTS}
    settings = config.parse(
        {
            "service": {"model_repo": str(repository.locate("model_repo")), "log_level": "error"},
            "broker": {"max_outstanding": 4 * OUTSTANDING},
            "shm": {"slots": slots},
        }
    )
    shm_home = segment.make_home(Path(settings.shm.dir))
    path = segment.create(shm_home, layout.plan(config.slot_classes(settings.shm)))
    home.write_facts(settings, {"simulated-0": str(path)})
    written = side if writes else 0
    try:
        with processes(
            ["difs.broker", str(home.path), str(os.getpid())],
            ["bench.peers_transport", "actor", str(home.path), str(written)],
        ):
            _wait_until_ready(home.clients)
            yield home.clients
    finally:
        path.unlink()
        shm_home.rmdir()


def _wait_until_ready(address: str) -> None:
    from difs import Client

    with Client(address) as client:
        while not client.ping().ready:
            time.sleep(0.02)


def measure_empty(folder: Path, seconds: float, rounds: int) -> dict[str, Any]:
    """Measure empty requests through both, in turn."""
    figures: dict[str, list[float]] = {}
    with proxy_side(folder) as proxy, difs_side(folder, 64, writes=False) as difs:
        for _ in range(rounds):
            for name, client in (("proxy", ProxyClient(proxy)), ("difs", DifsClient(difs))):
                taken = round_trips(client, seconds)
                figures.setdefault(f"{name}_p50_us", []).append(statistics.median(taken) * 1e6)
                figures.setdefault(f"{name}_p99_us", []).append(percentile(taken, 0.99) * 1e6)
                figures.setdefault(f"{name}_per_s", []).append(throughput(client, seconds))
                client.socket.close()
    return {name: round(statistics.median(values), 1) for name, values in figures.items()}


def timed(act: Callable[[], Any], seconds: float) -> float:
    """Return the median seconds of `act`."""
    act()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end or len(taken) < 5:
        act()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def memcpy_into_shared(image: Any) -> Callable[[], Any]:
    """Return what copies an image into a warm segment, slot after slot, as the actor does."""
    plan = layout.plan([(4 << 20, SLOTS)])
    home = segment.make_home(Path(config.Shm().dir))
    path = segment.create(home, plan)
    file = np.memmap(path, np.uint8, "r+")
    path.unlink()
    home.rmdir()
    places = [file[p.offset : p.offset + image.nbytes] for p in plan.slots]
    for place in places:
        place[:] = 0
    turns = itertools.cycle(places)
    flat = image.reshape(-1)
    return lambda: np.copyto(next(turns), flat)


def measure_hand_over(folder: Path, seconds: float) -> dict[str, float]:
    """Measure an image of SIDE x SIDE from the actor's pixels to the client's array."""
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    found = {"memcpy_ms": timed(memcpy_into_shared(image), seconds)}
    with (
        difs_side(folder, SIDE, writes=False) as nothing,
        difs_side(folder, SIDE, writes=True) as image_each,
    ):
        empty = DifsClient(nothing, side=SIDE, reads=False)
        shared = DifsClient(image_each, side=SIDE)
        inline = DifsClient(image_each, side=SIDE, mode="inline")
        turns: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            for name, client in (("no_pixels_ms", empty), ("shm_ms", shared)):
                turns.setdefault(name, []).append(statistics.median(round_trips(client, seconds)))
        found |= {name: statistics.median(values) for name, values in turns.items()}
        found["inline_ipc_ms"] = statistics.median(round_trips(inline, seconds))
        shared.submit()
        assert shared.take().tobytes() == image.tobytes()  # what arrives is what was written
    front = "tcp://127.0.0.1:5917"
    with processes(["bench.peers_transport", "pixels", front, str(SIDE)]):
        peer = PixelsClient(front)
        found["inline_tcp_ms"] = statistics.median(round_trips(peer, seconds))
    found["png_base64_ms"] = timed(lambda: _png_base64(image), seconds)
    return {name: round(value * 1e3, 4) for name, value in found.items()}


def _png_base64(image: Any) -> None:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    text = base64.b64encode(file.getvalue())
    np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        empty = measure_empty(Path(name), asked.seconds, asked.rounds)
        images = measure_hand_over(Path(name), asked.seconds)
    for figures in (empty, images):
        for key, value in figures.items():
            print(f"  {key:>16} {value}")
    goals = [
        verdict("round trip p50, DIFS / C proxy", empty["difs_p50_us"] / empty["proxy_p50_us"], 1.6),
        verdict(
            "throughput, DIFS / C proxy", empty["difs_per_s"] / empty["proxy_per_s"], 0.3, at_least=True
        ),
        verdict(
            "hand-over of 1024x1024, (with pixels - without) / memcpy",
            (images["shm_ms"] - images["no_pixels_ms"]) / images["memcpy_ms"],
            1.5,
        ),
    ]
    command = f"python -m bench.transport --seconds {asked.seconds:g} --rounds {asked.rounds}"
    print(keep("transport", command, {"empty": empty, "image": images, "goals": goals}))


if __name__ == "__main__":
    main()
