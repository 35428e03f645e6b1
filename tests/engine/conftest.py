"""The embedded model, loaded once: in the engine, and in diffusers' own pipeline beside it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from difs import repository
from difs.actor_messages import Execute, Finished, Slot
from difs.actors.engine import Report
from difs.actors.torch_engine import TorchEngine
from difs.clock import MonotonicClock
from difs.shm import layout, segment
from difs.shm.reader import SegmentReader

MODEL_REPO = Path(__file__).parents[2] / "model_repo"
PLACES = layout.plan([(256 * 1024, 4)])


class Bench:
    """An engine with one resident, its segment, and a way to paint."""

    def __init__(self, path: Path) -> None:
        home = segment.create(path, PLACES)
        self.writer = segment.SegmentWriter(home)
        self.reader = SegmentReader(home)
        found = repository.scan(MODEL_REPO)
        self.engine = TorchEngine(
            "cpu-0", found, self.writer, MonotonicClock(), threads=1, warm_up_steps=2
        )
        self.resident = self.engine.load("emoji-base")
        self.attempts = 0

    def execute(self, prompt: str = "red apple", **changes: object) -> Execute:
        self.attempts += 1
        seeds = changes.get("seeds", (7,))
        assert isinstance(seeds, tuple)
        slots = tuple(
            Slot(p.index, p.offset, p.capacity_bytes, self.attempts * 16 + p.index)
            for p in PLACES.slots[: len(seeds)]
        )
        facts: dict[str, object] = {
            "attempt": self.attempts,
            "request_id": "test",
            "variant": "emoji-base",
            "prompt": prompt,
            "negative_prompt": "",
            "width": 64,
            "height": 64,
            "steps": 4,
            "guidance_scale": 2.5,
            "sampler": "ddim",
            "seeds": seeds,
            "deadline": MonotonicClock().now() + 100,
            "slots": slots,
            "format": "raw",
            "metadata": "",
        }
        return Execute(**(facts | changes))  # type: ignore[arg-type]  # names are Execute's

    def run(self, execute: Execute) -> list[Report]:
        """Paint and return all reports."""
        self.engine.submit(execute)
        reports = []
        while self.engine.is_busy:
            report = self.engine.turn()
            if report is not None:
                reports.append(report)
        return reports

    def paint(self, execute: Execute) -> list[NDArray[np.uint8]]:
        """Paint and return the pixels of all images."""
        last = self.run(execute)[-1]
        assert isinstance(last, Finished), last
        return [
            np.frombuffer(self.reader.image(slot.offset, sealed.nbytes, slot.generation), np.uint8)
            .reshape(execute.height, execute.width, 3)
            .copy()
            for slot, sealed in zip(execute.slots, last.images, strict=True)
        ]


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("segments"))
    yield made
    made.writer.close()


@pytest.fixture(scope="session")
def pipeline(bench: Bench) -> object:
    """diffusers' own pipeline with the same weights."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(
        MODEL_REPO / "emoji-base", dtype=torch.float32, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
