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

from difs import sockets, telemetry
from difs.actor_messages import Costs, Execute, Finished, Ready, Resident, Sealed
from difs.actors.link import Link
from difs.rundir import RunDir
from difs.shm.segment import SegmentWriter

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
    """Send every message back."""
    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(back)
    while True:
        sockets.send(socket, sockets.receive(socket))


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
    costs = Costs(4096, 0.0, 1e-9, 1e-9, 0.0, 0.0)
    resident = Resident("emoji-base", "full", "fp32", 0, costs)
    link = Link(home.actors)
    link.start_pulse(telemetry.reader(DEVICE, 0), lambda: 0)
    link.send(Ready(DEVICE, link.incarnation, 0, CREDITS, (resident,)))
    while True:
        for message in link.receive(1.0):
            if isinstance(message, Execute):
                slot = message.slots[0]
                sealed = writer.write_pixels(slot, image) if side else Sealed(slot.index, 1, 0)
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
