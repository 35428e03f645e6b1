"""From pixels to a sealed slot: raw as they are, or as an image file with its metadata."""

import numpy as np
from numpy.typing import NDArray

from difs import pictures
from difs.actor_messages import Execute, Sealed
from difs.shm.segment import SegmentWriter


def deliver(writer: SegmentWriter, execute: Execute, image: int, pixels: NDArray[np.uint8]) -> Sealed:
    """Write image number `image` of an attempt, of shape (height, width, 3), into its slot."""
    slot = execute.slots[image]
    if execute.format == "raw":
        return writer.write_pixels(slot, pixels)
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
        )
    height, width, channels = pixels.shape
    flat = np.ascontiguousarray(pixels).data.cast("B")
    data = pictures.encode(flat, (height, width), execute.format, facts)
    return writer.write(slot, memoryview(data), (height, width, channels))
