"""Serial diffusers in a process of its own: a loop that reads what is asked and writes pictures.

python -m bench.peers.alone MODEL     the loop: a JSON line in, four bytes of length and the pixels out

What `bench.peers.serial` is within the bench's process, where its start and its memory cannot be told
from the bench's own. Two pipes are the least that any system can have between itself and its clients.
"""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import asdict
from pathlib import Path

from bench.load import Ask, Pixels
from bench.peers.base import System, square

STOP_S = 10.0
LENGTH_BYTES = 4


class Alone(System):
    """See the module."""

    name = "serial diffusers"

    async def start(self) -> None:
        """See System.start; loading goes on behind, the first picture waits for it."""
        command = [sys.executable, "-m", "bench.peers.alone", str(self.model)]
        self._process: Process | None = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, start_new_session=True
        )
        self._turn = asyncio.Lock()
        self.moved_bytes = 0

    async def paint(self, ask: Ask) -> Pixels:
        """See System.paint; the lock's queue is the FIFO."""
        async with self._turn:
            assert self._process is not None
            stdin, stdout = self._process.stdin, self._process.stdout
            assert stdin is not None
            assert stdout is not None
            line = json.dumps(asdict(ask)).encode() + b"\n"
            stdin.write(line)
            await stdin.drain()
            head = await stdout.readexactly(LENGTH_BYTES)
            data = await stdout.readexactly(int.from_bytes(head, "little"))
            self.moved_bytes += len(line) + len(head) + len(data)
        return square(data)

    @property
    def root(self) -> int:
        """See System.root."""
        assert self._process is not None
        return self._process.pid

    async def stop(self) -> None:
        """See System.stop: the loop ends with its input."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()


def main(model: str) -> None:
    """Paint until the input ends."""
    from bench.peers import pipeline

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no picture
    pipe = pipeline.load(Path(model))
    for line in sys.stdin:
        (picture,) = pipeline.paint(pipe, [Ask(**json.loads(line))])
        answers.write(picture.nbytes.to_bytes(LENGTH_BYTES, "little") + picture.tobytes())
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
