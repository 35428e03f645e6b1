"""The embedded model, loaded once: in the engine, and in diffusers' own pipeline beside it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from numpy.typing import NDArray

from difs import config, repository
from difs.actor_messages import Execute, Finished, Loaded, Resident, Slot
from difs.actors.delivery import Easel
from difs.actors.torch_engine import TorchEngine
from difs.actors.units import Report
from difs.clock import MonotonicClock
from difs.shm import layout, segment
from difs.shm.reader import SegmentReader
from difs.shm.writer import SegmentWriter
from tests import builders
from tests.engine import tiny as tiny_models

MODEL_REPO = Path(__file__).parents[2] / "model_repo"
PLACES = layout.plan([(256 * 1024, 32)])


class Bench:
    """An engine over a model repository, its segment, and a way to paint."""

    def __init__(
        self, path: Path, model_repo: Path = MODEL_REPO, user: Path | None = None, **settings: Any
    ) -> None:
        home = segment.create(path, PLACES)
        self.writer = SegmentWriter(home)
        self.reader = SegmentReader(home)
        self.repository = repository.scan(model_repo, user)
        assert not self.repository.problems, self.repository.problems
        self.engine = TorchEngine(
            "cpu-0",
            self.repository,
            Easel(self.writer),
            MonotonicClock(),
            config.Actors(**{"warm_up_steps": 2, "max_rows": 8} | settings),
            threads=1,
        )
        self.variant = "emoji-base"
        self.attempts = 0
        self.places = 0

    def load(self, variant: str) -> Resident:
        """Load a variant and paint with it from now on."""
        self.engine.load(variant)
        (loaded,) = self.work()
        assert isinstance(loaded, Loaded), loaded
        self.variant = variant
        return next(found for found in self.engine.residents if found.variant == variant)

    def ensure(self, variant: str) -> None:
        """Load a variant if it is not there."""
        if variant not in {resident.variant for resident in self.engine.residents}:
            self.load(variant)

    @contextmanager
    def sharing(self, variant: str) -> Iterator[None]:
        """Let calls of eight rows of a variant pay, whatever a busy machine measured."""
        residents = self.engine._residents
        found = residents[variant]
        residents[variant] = replace(found, costs=builders.SHARED)
        yield
        residents[variant] = found

    def execute(self, prompt: str = "red apple", **changes: object) -> Execute:
        self.attempts += 1
        seeds = changes.get("seeds", (7,))
        assert isinstance(seeds, tuple)
        slots = []
        for _ in seeds:
            self.places += 1
            place = PLACES.slots[self.places % len(PLACES.slots)]
            slots.append(Slot(place.index, place.offset, place.capacity_bytes, self.places))
        facts: dict[str, object] = {
            "attempt": self.attempts,
            "request_id": "test",
            "variant": self.variant,
            "prompt": prompt,
            "negative_prompt": "",
            "width": 64,
            "height": 64,
            "steps": 4,
            "guidance_scale": 2.5,
            "sampler": "ddim",
            "seeds": seeds,
            "deadline": MonotonicClock().now() + 100,
            "slots": tuple(slots),
            "format": "raw",
            "metadata": "",
        }
        return Execute(**(facts | changes))  # type: ignore[arg-type]  # names are Execute's

    def work(self) -> list[Report]:
        """Work until nothing is left; returns all reports but those of the rest of a measurement."""
        reports: list[Report] = []
        while not self.engine.is_idle:
            reports += self.engine.turn()
            if not self.engine.is_busy:
                time.sleep(0.001)  # something is done in the background
        while self.engine.is_busy:
            self.engine.turn()
        return reports

    def run(self, *executes: Execute) -> list[Report]:
        """Paint together and return all reports."""
        for execute in executes:
            self.engine.submit(execute)
        return self.work()

    def paint(self, *executes: Execute) -> list[NDArray[np.uint8]]:
        """Paint together and return the pixels of all images, in order."""
        reports = self.run(*executes)
        assert len([r for r in reports if isinstance(r, Finished)]) == len(executes), reports
        return [self.pixels(execute, i) for execute in executes for i in range(len(execute.seeds))]

    def pixels(self, execute: Execute, image: int = 0) -> NDArray[np.uint8]:
        """Return what lies in an image's slot."""
        slot, shape = execute.slots[image], (execute.height, execute.width, 3)
        data = self.reader.image(slot.offset, int(np.prod(shape)), slot.generation)
        return np.frombuffer(data, np.uint8).reshape(shape).copy()

    def close(self) -> None:
        """End its threads and let go of the segment."""
        self.engine.close()
        self.writer.close()


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("segments"))
    made.load("emoji-base")
    yield made
    made.close()


@pytest.fixture
def sharing(bench: Bench) -> Iterator[None]:
    """Calls of eight rows pay, whatever a busy machine measured."""
    with bench.sharing("emoji-base"):
        yield


TINY: dict[str, Callable[[Path], Path]] = {
    "sd15": tiny_models.make_sd15,
    "sd2-v": tiny_models.make_sd2_v,
    "lcm": tiny_models.make_lcm,
    "sdxl": tiny_models.make_sdxl,
    "sdxl-turbo": tiny_models.make_sdxl_turbo,
    "other": tiny_models.make_generic,
}
"""Tiny variants of all families by name."""


@pytest.fixture(scope="session")
def tiny_repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model repository with a tiny variant of each family."""
    root = tmp_path_factory.mktemp("models")
    for name, make in TINY.items():
        make(root / name)
    return root


@pytest.fixture(scope="session")
def tiny(tiny_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Return an engine over the tiny variants; none is loaded yet."""
    made = Bench(tmp_path_factory.mktemp("segments"), tiny_repo, max_rows=16)
    yield made
    made.close()


@pytest.fixture(scope="session")
def pipeline(bench: Bench) -> object:
    """diffusers' own pipeline with the same weights."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(
        MODEL_REPO / "emoji-base", dtype=torch.float32, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
