"""The embedded model in an engine of this process: no actor, no broker, one thread."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from difs import config, repository
from difs.actor_messages import Execute, Slot
from difs.actors.delivery import Easel
from difs.actors.torch_engine import TorchEngine
from difs.clock import MonotonicClock
from difs.shm import layout, segment
from difs.shm.writer import SegmentWriter

NAME, SIDE, GUIDANCE, SAMPLER = "emoji-base", 64, 2.5, "ddim"
PLACES = layout.plan([(64 * 1024, 4)])

Kind = TypeVar("Kind", bound=TorchEngine)


def order(attempt: int, steps: int, seed: int, preview_every: int = 0) -> Execute:
    """Return one picture; as many orders may be open as there are PLACES."""
    place = PLACES.slots[attempt % len(PLACES.slots)]
    return Execute(
        attempt=attempt,
        request_id="bench",
        variant=NAME,
        prompt="red apple",
        negative_prompt="",
        width=SIDE,
        height=SIDE,
        steps=steps,
        guidance_scale=GUIDANCE,
        sampler=SAMPLER,
        seeds=(seed,),
        deadline=MonotonicClock().now() + 600,
        slots=(Slot(place.index, place.offset, place.capacity_bytes, attempt),),
        format="raw",
        metadata="",
        preview_every=preview_every,
    )


@contextmanager
def loaded(kind: type[Kind]) -> Iterator[Kind]:
    """Lend an engine that has loaded the model."""
    with (
        tempfile.TemporaryDirectory() as folder,
        SegmentWriter(segment.create(Path(folder), PLACES)) as writer,
    ):
        library = repository.scan(repository.locate("model_repo"))
        settings = config.load(None).actors
        made = kind("cpu-0", library, Easel(writer), MonotonicClock(), settings, threads=1)
        with closing(made) as engine:
            engine.load(NAME)
            while engine.is_busy or not engine.is_idle:
                engine.turn()
                time.sleep(0.001)
            yield engine
