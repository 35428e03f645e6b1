"""Measures cells: one variant on one device, as an actor would load and run it.

Which cells, and how patiently, is `grid`'s; where they are kept, `store`'s.
"""

import gc
import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from msgspec.structs import replace

from difs import config, samplers, telemetry
from difs.actor_messages import Execute
from difs.actors import loading, painters, warmup
from difs.actors.loading import PartStore
from difs.actors.prompts import PromptCache
from difs.actors.stopwatch import timed_whole
from difs.clock import MonotonicClock
from difs.errors import DifsError, EngineFailed, OutOfMemory, first_line
from difs.profiling import peaks
from difs.profiling.cells import Cell, DecodeCell, ModeCell, StepCell, Timing, Visit, timing_of
from difs.profiling.grid import Pains, Unit, failed
from difs.variants import Variant

STEPS = 20
"""Of the images whose steps are timed; begun anew, untimed, when they are over."""
T = TypeVar("T")


class TorchMeter:
    """A loaded variant under measurement."""

    def __init__(self, variant: Variant, device: str, threads: int) -> None:
        """Load it; `device` is "cpu-0" or "cuda-1". Raises DifsError."""
        self._device = torch.device(telemetry.torch_name(device))
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        elif threads:
            torch.set_num_threads(threads)
        self._clock = MonotonicClock()
        self._variant = variant
        self._painter, self._load_cold_s = self._timed(self._load)
        self._rest_bytes = self._resting()
        manifest = variant.manifest
        steps = min(STEPS, samplers.SAMPLERS[manifest.sampler].most_steps, manifest.steps.max)
        self._guided, self._bare = warmup.orders(manifest, steps)

    @property
    def is_solo(self) -> bool:
        """Whether images of its family share no call."""
        return bool(self._painter.is_solo)

    @property
    def peaks_are(self) -> str:
        """Return what its peaks count, for people."""
        return peaks.ARE[self._device.type]

    def _load(self) -> Any:
        with torch.no_grad(), _typed_memory_errors():
            return painters.make(
                self._variant,
                self._device,
                config.Actors(),
                PartStore(),
                PromptCache(0),
                check=lambda: None,
            )

    def close(self) -> None:
        """Let go of the variant."""
        self._painter.keeper.to_host()
        del self._painter
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    # ---- cells ------------------------------------------------------------------------------------

    def measure(self, unit: Unit, pains: Pains, *, is_again: bool = False) -> Cell:
        """Return what a visit shows; one that breaks says why. Raises DifsError for a mode that does."""
        if unit.kind == "mode":
            return self._mode(unit, pains, is_again)
        self.enter(unit)
        act = self._step if unit.kind == "step" else self._decode
        try:
            with torch.inference_mode():
                return act(unit, pains, is_again)
        except torch.AcceleratorError:
            raise  # the device is broken
        except Exception as error:  # memory, or a size that the architecture does not take
            self._free()
            return failed(unit, _words(error))

    def enter(self, unit: Unit) -> float:
        """Be in a unit's memory mode; returns the seconds that it took to get there."""
        keeper = self._painter.keeper
        if keeper.mode == unit.memory_mode:
            return 0.0
        _, seconds = self._timed(partial(keeper.switch, unit.memory_mode))
        self._rest_bytes = self._resting()
        return seconds

    def _mode(self, unit: Unit, pains: Pains, is_again: bool) -> ModeCell:
        keeper = self._painter.keeper
        enter_s = self.enter(unit)
        parked_s = 0.0
        if not is_again:
            keeper.to_host()
            _, parked_s = self._timed(keeper.to_device)
        with torch.inference_mode(), _typed_memory_errors():
            encode = self._encode(pains, is_again)
        self._rest_bytes = self._resting()
        return ModeCell(
            memory_mode=unit.memory_mode,
            load_cold_s=self._load_cold_s + enter_s,
            load_parked_s=parked_s,
            encode=encode,
            weight_bytes=loading.weight_bytes(self._painter.pipe),
            rest_bytes=self._rest_bytes,
        )

    def _encode(self, pains: Pains, is_again: bool) -> Timing | None:
        """Return the seconds of one prompt; a pipeline's own call has them within its first step."""
        if not self.is_solo:
            encode = partial(self._painter.encode_text, self._guided.prompt)
            return self._sampled(encode, pains, is_again=is_again)
        stepper = Stepper(self._painter, self._guided, 1)
        taken = []
        for _ in range(pains.samples[0]):
            stepper.drop()
            stepper.begin()
            first_s, next_s = (self._timed(stepper.step)[1] for _ in range(2))
            taken.append(max(0.0, first_s - next_s))
        stepper.drop()
        return _timing(taken)

    def _step(self, unit: Unit, pains: Pains, is_again: bool) -> StepCell:
        painter = self._painter
        order = self._bare if unit.rows == 1 else self._guided
        execute = replace(order, width=unit.width, height=unit.height)
        images = unit.rows // painter.rows(execute)
        if images < 1:
            raise EngineFailed(f"an image takes {painter.rows(execute)} rows")
        stepper = Stepper(painter, execute, images)
        try:
            timing = self._sampled(stepper.step, pains, stepper.refill, is_again=is_again)
            peak = None
            if not is_again:
                stepper.refill()
                peak = self._peak(stepper.step)
        finally:
            stepper.drop()
            painter.keeper.rest()
        return StepCell(unit.memory_mode, unit.width, unit.height, unit.rows, timing, peak)

    def _decode(self, unit: Unit, pains: Pains, is_again: bool) -> DecodeCell:
        painter = self._painter
        execute = replace(self._bare, width=unit.width, height=unit.height)
        stepper = Stepper(painter, execute, 1)
        canvas = np.empty((unit.height, unit.width, 3), np.uint8)

        def decode() -> None:
            painter.decode(stepper.works[0], canvas)

        def ready() -> None:
            """A pipeline's own call decodes at its end, once: it has to be brought there each time."""
            if self.is_solo or not stepper.works:
                stepper.drop()
                stepper.refill()
            while self.is_solo and stepper.works[0].done < stepper.works[0].total:
                stepper.step()

        try:
            timing = self._sampled(decode, pains, ready, is_again=is_again)
            peak = None
            if not is_again:
                ready()
                peak = self._peak(decode)
        finally:
            stepper.drop()
        return DecodeCell(unit.memory_mode, unit.width, unit.height, timing, peak)

    # ---- how --------------------------------------------------------------------------------------

    def _timed(self, act: Callable[[], T]) -> tuple[T, float]:
        return timed_whole(self._device, self._clock, act)

    def _sampled(
        self,
        act: Callable[[], Any],
        pains: Pains,
        before: Callable[[], None] = lambda: None,
        *,
        is_again: bool,
    ) -> Timing:
        """Do `act` again and again; `before` each, untimed.

        The first only warms up, unless it is a slow one that was visited before.
        """
        before()
        _, first_s = self._timed(act)
        least, most = pains.samples
        least = least if first_s < pains.call_s else 1
        taken = [first_s] if is_again and first_s > pains.visit_s else []
        while len(taken) < least or (sum(taken) < pains.visit_s and len(taken) < most):
            before()
            taken.append(self._timed(act)[1])
        return _timing(taken)

    def _peak(self, act: Callable[[], Any]) -> int | None:
        """Return the most that a call takes; a CPU's is seen on the thread that makes it only."""
        if self.is_solo and self._device.type == "cpu":
            return None  # a pipeline's own call has a thread of its own
        return peaks.peak_bytes(self._device, act, self._rest_bytes)

    def _resting(self) -> int:
        """Return the bytes on the device while nothing runs."""
        self._painter.keeper.rest()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            return int(torch.cuda.memory_allocated(self._device))
        return loading.weight_bytes(self._painter.pipe)

    def _free(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


class Stepper:
    """Some images at the same step."""

    def __init__(self, painter: Any, execute: Execute, images: int) -> None:
        """Begin with none; `refill` brings them."""
        self._painter = painter
        self._execute = execute
        self._images = images
        self._conditioning = painter.encode(execute)
        self.works: list[Any] = []

    def refill(self) -> None:
        """Begin anew if there is no step left; a pipeline's own first step encodes, and is not timed."""
        if self.works and self.works[0].done < self.works[0].total:
            return
        self.drop()
        self.begin()
        if self._painter.is_solo:
            self.step()

    def begin(self) -> None:
        """Draw the noise of all images."""
        self.works = [
            self._painter.begin(self._execute, seed, self._conditioning) for seed in range(self._images)
        ]
        if self._painter.is_solo and not self.works[0].has_steps:
            raise EngineFailed("its pipeline cannot be suspended: its steps cannot be timed apart")

    def step(self) -> None:
        """Do one step of all."""
        self._painter.step(self.works)

    def drop(self) -> None:
        """Let go of the images; a pipeline's own call is unwound."""
        for work in self.works:
            if self._painter.is_solo:
                work.cancel()
        self.works = []


@contextmanager
def _typed_memory_errors() -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(first_line(error)) from error


def _timing(taken: list[float]) -> Timing:
    p90 = sorted(taken)[math.ceil(0.9 * len(taken)) - 1]
    return timing_of((Visit(statistics.median(taken), p90, len(taken)),))


def _words(error: Exception) -> str:
    if isinstance(error, OutOfMemory | torch.OutOfMemoryError | MemoryError) or (
        "allocate memory" in str(error)  # torch's CPU allocator raises a plain RuntimeError
    ):
        return "out of memory"
    return error.message if isinstance(error, DifsError) else first_line(error)
