"""The processes that `bench.transport` measures against, and the actor that computes nothing.

python -m bench.peers_transport proxy FRONT BACK     C zmq.proxy between two sockets
python -m bench.peers_transport echo BACK            a worker behind it
python -m bench.peers_transport pixels FRONT SIDE    answers each request with an image inline
python -m bench.peers_transport actor RUN_DIR SIDE   a DIFS actor without an engine
"""

import sys
from pathlib import Path

import numpy as np
import zmq

from difs import sockets, telemetry, wire
from difs.actor_messages import Costs, Execute, Finished, Ready, Resident, RowCost, Sealed
from difs.actors.link import Link
from difs.messages import Generate, Image, Plan, Prediction, Result, Timings
from difs.rundir import RunDir
from difs.shm.writer import SegmentWriter

CREDITS = 64
DEVICE = "simulated-0"


def proxy(front: str, back: str) -> None:
    """Run libzmq's own proxy: the bound of what any broker can do."""
    context = zmq.Context()
    frontend, backend = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    frontend.bind(front)
    backend.bind(back)
    zmq.proxy(frontend, backend)


def echo(back: str) -> None:
    """Do what the actor below does, without a broker's help: typed decode, typed answer."""
    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(back)
    while True:
        route, *frames = sockets.receive(socket)
        request = wire.decode_from_client(frames)
        assert isinstance(request, Generate)
        sockets.send(socket, [route, *wire.encode(answer(request))])


def answer(request: Generate) -> Result:
    """Return a result as the broker would send it for `request`."""
    prediction = Prediction(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, "measured")
    plan = Plan(
        variant="emoji-base",
        family="sd15",
        precision="fp32",
        device=DEVICE,
        memory_mode="full",
        width=64,
        height=64,
        steps=20,
        guidance_scale=2.5,
        sampler="ddim",
        prediction=prediction,
        reason="the configured variant; the device is idle",
        policy="static",
    )
    image = Image(
        seed=7,
        height=64,
        width=64,
        channels=3,
        format="raw",
        nbytes=1,
        crc32=0,
        segment="0" * 80,
        offset=0,
        generation=1 << 40,
        lease=1 << 40,
    )
    timings = Timings(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    return Result(request.request_id, 1, 1, (image,), plan, timings, "bitwise", 30.0)


def pixels(front: str, side: int) -> None:
    """Answer every message with the bytes of an image."""
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(front)
    while True:
        route, *_ = sockets.receive(socket)
        sockets.send(socket, [route, image.data.cast("B")])


def actor(run_dir: str, side: int) -> None:
    """Answer every attempt at once; with `side` > 0, write an image of that size for each."""
    home = RunDir(Path(run_dir))
    _, segments = home.read_facts()
    writer = SegmentWriter(segments[DEVICE])
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    costs = Costs(4096, 0.0, (RowCost(1, 1e-9), RowCost(2, 1e-9)), 0.0, 0.0)
    resident = Resident("emoji-base", "full", "fp32", 0, costs)
    link = Link(home.actors)
    link.start_pulse(telemetry.reader(DEVICE, 0), lambda: 0)
    link.send(Ready(DEVICE, link.incarnation, 0, CREDITS, (resident,)))
    while True:
        for message in link.receive(1.0):
            if isinstance(message, Execute):
                slot = message.slots[0]
                sealed = Sealed(slot.index, 1, 0)
                if side:
                    sealed = writer.write(slot, image.data.cast("B"), (side, side, 3))
                link.send(Finished(message.attempt, (sealed,), 0.0, 0.0, 0.0, 0.0, "bitwise"))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["proxy", front_address, back_address]:
            proxy(front_address, back_address)
        case ["echo", back_address]:
            echo(back_address)
        case ["pixels", front_address, side_text]:
            pixels(front_address, int(side_text))
        case ["actor", run_dir_text, side_text]:
            actor(run_dir_text, int(side_text))
        case _:
            sys.exit(__doc__)
