"""From pixels to a sealed slot: raw pixels are written in place, image files in the background.

Compressing a large picture takes longer than a denoising step, so it must not stand between two.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from difs import pictures
from difs.actor_messages import Execute, Sealed
from difs.shm.writer import SegmentWriter

CHANNELS = 3


class Easel:
    """Where images are finished; knows the actor's segment and one thread that compresses."""

    def __init__(self, writer: SegmentWriter, wake: Callable[[], None] = lambda: None) -> None:
        """`wake` is called, from that thread, when a file is done."""
        self._writer = writer
        self._wake = wake
        self._pool = ThreadPoolExecutor(1, "encode")

    def segment(self) -> NDArray[np.uint8]:
        """Return all of the shared memory that canvases for raw pixels lie in."""
        return self._writer.whole()

    def canvas(self, execute: Execute, image: int) -> NDArray[np.uint8]:
        """Return the array of shape (height, width, 3) to write image number `image` into.

        For raw pixels it is the slot itself, so that no further copy is made.
        """
        shape = (execute.height, execute.width, CHANNELS)
        if execute.format == "raw":
            return self._writer.canvas(execute.slots[image], shape)
        return np.empty(shape, np.uint8)

    def deliver(self, execute: Execute, image: int, canvas: NDArray[np.uint8]) -> Sealed | Future[Sealed]:
        """Seal what was written into `canvas`: now, or once it is compressed."""
        if execute.format == "raw":
            shape = (execute.height, execute.width, CHANNELS)
            return self._writer.seal(execute.slots[image], canvas.nbytes, shape)
        future = self._pool.submit(self._encode, execute, image, canvas)
        future.add_done_callback(lambda _: self._wake())
        return future

    def close(self) -> None:
        """Wait for the files that are being made."""
        self._pool.shutdown()

    def _encode(self, execute: Execute, image: int, canvas: NDArray[np.uint8]) -> Sealed:
        facts = None
        if execute.metadata:
            facts = pictures.Facts(
                prompt=execute.prompt,
                negative_prompt=execute.negative_prompt,
                steps=execute.steps,
                sampler=execute.sampler,
                guidance_scale=execute.guidance_scale,
                seed=execute.seeds[image],
                variant=execute.variant,
                plan_json=execute.metadata,
                adapters=execute.adapters,
            )
        size = (execute.height, execute.width)
        data = pictures.encode(canvas.data.cast("B"), size, execute.format, facts)
        return self._writer.write(execute.slots[image], memoryview(data), (*size, CHANNELS))
