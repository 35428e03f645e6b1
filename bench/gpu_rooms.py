"""The two that `bench.gpu_engine` compares, in one process: bare diffusers, and DIFS's engine."""

import gc
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from PIL import Image

from bench.architectures import Architecture
from difs import config, repository
from difs.actor_messages import (
    Ended,
    Evicted,
    Execute,
    Finished,
    Loaded,
    LoadFailed,
    Resident,
    Slot,
    Switched,
    SwitchFailed,
)
from difs.actors.delivery import Easel
from difs.actors.recipes import RECIPES
from difs.actors.torch_engine import TorchEngine
from difs.clock import MonotonicClock
from difs.errors import OutOfMemory
from difs.messages import MemoryMode
from difs.shm import layout, segment
from difs.shm.writer import SegmentWriter

PROMPT = "red apple"
SLOTS = 16
FOREVER = 1e12
POLL_S = 0.001
PARKING_BYTES = 64 * 2**30


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device had too little memory."""
    return isinstance(error, torch.OutOfMemoryError | OutOfMemory)


def free(device: torch.device) -> None:
    """Return what nobody holds to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


class Bare:
    """diffusers' own pipeline, as its documentation advises: fp16, sliced decoding of batches."""

    def __init__(
        self, made: Architecture, folder: Path, device: torch.device, dtype: torch.dtype, kind: str
    ) -> None:
        """`kind`: eager, regional or full; compilation happens at the first call of each size."""
        cls = RECIPES[made.family].pipeline
        self._device = device
        self._made = made
        self._pipe = cls.from_pretrained(folder, dtype=dtype, local_files_only=True).to(device)
        self._pipe.set_progress_bar_config(disable=True)
        self._pipe.vae.enable_slicing()
        if kind == "regional":
            self._pipe.unet.compile_repeated_blocks(fullgraph=True)
        elif kind == "full":
            self._pipe.unet.to(memory_format=torch.channels_last)
            self._pipe.unet = torch.compile(self._pipe.unet, fullgraph=True)

    def paint(self, n: int, steps: int) -> None:
        """Paint `n` pictures in one call; they are left as numpy arrays."""
        self._pipe(
            [PROMPT] * n,
            num_inference_steps=steps,
            guidance_scale=self._made.guidance_scale,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in range(n)],
            output_type="np",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        del self._pipe
        torch.compiler.reset()
        free(self._device)


class Studio:
    """The actor's engine with a segment of its own, as in an actor, without the broker."""

    def __init__(self, made: Architecture, root: Path, device: torch.device) -> None:
        """Start an engine on the repository at `root`; nothing is loaded."""
        self._made = made
        self._device = device
        shm = Path(config.Shm().dir)
        self._plan = layout.plan([(made.side * made.side * 3, SLOTS)])
        self._home = segment.make_home(shm)
        path = segment.create(self._home, self._plan)
        self._writer = SegmentWriter(path)
        path.unlink()
        self._home.rmdir()
        settings = config.Actors(parking_budget=PARKING_BYTES)
        name = "cpu-0" if device.type == "cpu" else f"cuda-{device.index or 0}"
        found = repository.scan(root)
        self._engine = TorchEngine(name, found, Easel(self._writer), MonotonicClock(), settings)
        self._attempts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._engine.close()
        del self._engine
        self._writer.close()
        torch.compiler.reset()
        free(self._device)

    def resident(self, variant: str) -> Resident:
        """Return what the engine knows of a loaded variant."""
        return next(r for r in self._engine.residents if r.variant == variant)

    def load(self, variant: str) -> None:
        """Load from disk or from host memory, measured as the engine does it."""
        self._engine.load(variant)
        self._until(lambda report: isinstance(report, Loaded))

    def settle(self) -> None:
        """Let the engine measure what it would measure when it is idle, such as calls of many rows."""
        while self._engine.is_busy:
            self._engine.turn()

    def evict(self, variant: str) -> None:
        """Park in host memory."""
        self._engine.evict(variant)
        self._until(lambda report: isinstance(report, Evicted))

    def switch(self, variant: str, mode: MemoryMode) -> None:
        """Change the memory mode."""
        self._engine.switch_mode(variant, mode)
        self._until(lambda report: isinstance(report, Switched))

    def paint(self, variant: str, n: int, steps: int) -> None:
        """Have `n` requests of one picture painted that come at once."""
        orders = [self._order(variant, seed, steps) for seed in range(n)]
        for order in orders:
            self._engine.submit(order)
        left = {order.attempt for order in orders}

        def is_last(report: Any) -> bool:
            if isinstance(report, Finished):
                left.discard(report.attempt)
            return not left

        self._until(is_last)

    def _order(self, variant: str, seed: int, steps: int) -> Execute:
        self._attempts += 1
        place = self._plan.slots[seed % SLOTS]
        return Execute(
            attempt=self._attempts,
            request_id=str(self._attempts),
            variant=variant,
            prompt=PROMPT,
            negative_prompt="",
            width=self._made.side,
            height=self._made.side,
            steps=steps,
            guidance_scale=self._made.guidance_scale,
            sampler=self._made.sampler,
            seeds=(seed,),
            deadline=FOREVER,
            slots=(Slot(place.index, place.offset, place.capacity_bytes, self._attempts),),
            format="raw",
            metadata="",
        )

    def hand_over(self, variant: str, runs: int = 30) -> dict[str, float]:
        """Return the milliseconds from an image on the device to bytes that a client can read.

        `segment`: the engine's way, bytes made on the device and copied once into the segment, which is
        registered with the device; `sealed`: the same with its checksum; `pil`: through a float array
        and PIL, as diffusers' pipelines do; `png`: that, and a file.
        """
        painter = self._engine._painters[variant]
        slot = self._order(variant, 0, 1).slots[0]
        shape = (self._made.side, self._made.side, 3)
        canvas = self._writer.canvas(slot, shape)
        image = torch.rand(1, 3, *shape[:2], device=self._device) * 2 - 1

        def sealed() -> None:
            painter.hand_over(image, canvas)
            self._writer.seal(slot, canvas.nbytes, shape)

        ways: dict[str, Callable[[], Any]] = {
            "segment": lambda: painter.hand_over(image, canvas),
            "sealed": sealed,
            "pil": lambda: _through_pil(image),
            "png": lambda: _through_pil(image).save(io.BytesIO(), "png"),
        }
        return {f"{name}_ms": round(self._median_s(way, runs) * 1e3, 3) for name, way in ways.items()}

    def _median_s(self, act: Callable[[], Any], runs: int) -> float:
        taken = []
        for _ in range(runs):
            started = time.perf_counter()
            act()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            taken.append(time.perf_counter() - started)
        return statistics.median(taken)

    def _until(self, is_it: Callable[[Any], bool]) -> None:
        """Let the engine work until a report is the one; raises RuntimeError for one that fails."""
        while True:
            reports = self._engine.turn()
            for report in reports:
                if isinstance(report, Ended | LoadFailed | SwitchFailed):
                    raise RuntimeError(report.message)
            if [r for r in reports if is_it(r)]:
                return
            if not self._engine.is_busy:
                time.sleep(POLL_S)


def _through_pil(image: torch.Tensor) -> Any:
    scaled = (image * 0.5 + 0.5).clamp(0, 1)[0].permute(1, 2, 0).float().cpu().numpy()
    return Image.fromarray((scaled * 255).round().astype(np.uint8))
