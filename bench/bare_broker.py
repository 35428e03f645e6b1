"""The least that a broker in Python costs: two sockets and a request's messages, and nothing decided.

    python -m bench.bare_broker CLIENTS ACTORS ANSWERS

`bench.house` runs it and plays both the client and the actor. ANSWERS is a file with the frames of an
`accepted` and a `result` as a real broker sent them. It decodes every message, and encodes anew all that
it sends.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import zmq
from msgspec.structs import replace

from difs import sockets, wire
from difs.actor_messages import Execute, Finished, Slot
from difs.messages import Generate

BURST = 64


class BareBroker:
    """Hands each request to the one actor, and its answers to whoever asked."""

    def __init__(self, clients: str, actors: str, answers: Sequence[list[bytes]]) -> None:
        """Bind both sockets; `answers`: the frames of what each client is told."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._front, self._back = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
        for socket, address in ((self._front, clients), (self._back, actors)):
            socket.sndhwm = socket.rcvhwm = 0
            socket.bind(address)
        self._answers: list[tuple[Any, list[bytes]]] = [
            (wire.decode_from_broker(frames), frames[2:]) for frames in answers
        ]
        self._open: dict[int, tuple[bytes, Generate]] = {}
        self._count = 0

    def run(self) -> None:
        """Serve until killed; the actor's first message only shows where it is."""
        self._actor, *_ = sockets.receive(self._back)
        poller = zmq.Poller()
        for socket in (self._front, self._back):
            poller.register(socket, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            for socket, hear in ((self._back, self._from_actor), (self._front, self._from_client)):
                for _ in range(BURST if socket in ready else 0):
                    try:
                        route, *frames = sockets.receive(socket, sockets.DONTWAIT)
                    except zmq.Again:
                        break
                    hear(route, frames)

    def _from_client(self, route: bytes, frames: list[bytes]) -> None:
        asked = wire.decode_from_client(frames)
        assert isinstance(asked, Generate)
        self._count += 1
        self._open[self._count] = route, asked
        self._tell(self._back, self._actor, execute_of(asked, self._count))

    def _from_actor(self, route: bytes, frames: list[bytes]) -> None:
        done = wire.decode_from_actor(frames)
        assert isinstance(done, Finished)
        client, asked = self._open.pop(done.attempt)
        for answer, payloads in self._answers:
            self._tell(self._front, client, replace(answer, request_id=asked.request_id), payloads)

    def _tell(
        self, socket: "zmq.Socket[bytes]", route: bytes, message: Any, payloads: Sequence[bytes] = ()
    ) -> None:
        sockets.send(socket, [route, *wire.encode(message, payloads)], sockets.DONTWAIT)


def execute_of(asked: Generate, number: int) -> Execute:
    """Return an order as a broker would give it for a request that states all."""
    return Execute(
        attempt=number,
        request_id=asked.request_id,
        variant="emoji-base",
        prompt=asked.prompt,
        negative_prompt="",
        width=64,
        height=64,
        steps=4,
        guidance_scale=2.5,
        sampler="ddim",
        seeds=(7,),
        deadline=1e9,
        slots=(Slot(0, 0, 1 << 14, number),),
        format="raw",
        metadata="",
    )


def main() -> None:
    """See the module."""
    clients, actors, answers = sys.argv[1:]
    found = msgspec.msgpack.decode(Path(answers).read_bytes(), type=list[list[bytes]])
    BareBroker(clients, actors, found).run()


if __name__ == "__main__":
    main()
