"""The engine on torch: residents and the step loop.

The image at work is denoised alone, so it is bitwise what diffusers' pipeline paints.
"""

import statistics
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from difs.actor_messages import Costs, Execute, Resident, Stepped
from difs.actors import pipelines
from difs.actors.delivery import deliver
from difs.actors.engine import Engine, Job, Report
from difs.actors.pipelines import Conditioning, Denoising, Recipe
from difs.clock import Clock
from difs.errors import EngineFailed, OutOfMemory
from difs.repository import Repository, Variant
from difs.shm.segment import SegmentWriter

SEED_CONTRACT = "bitwise"
P = ParamSpec("P")
T = TypeVar("T")


class TorchJob(Job):
    """A job with its tensors."""

    conditioning: Conditioning | None = None
    work: Denoising | None = None


class TorchEngine(Engine[TorchJob]):
    """See `difs.actors.engine.Engine`."""

    def __init__(
        self,
        device: str,
        repository: Repository,
        writer: SegmentWriter,
        clock: Clock,
        *,
        threads: int,
        warm_up_steps: int,
    ) -> None:
        """Prepare torch for `device` ("cpu-0", "cuda-1"); nothing is loaded yet."""
        super().__init__(clock)
        kind, _, index = device.partition("-")
        self._device = torch.device("cpu" if kind == "cpu" else f"cuda:{index}")
        if threads:
            torch.set_num_threads(threads)
        self._repository = repository
        self._writer = writer
        self._warm_up_steps = warm_up_steps
        self._residents: dict[str, Recipe] = {}

    # ---- residents ------------------------------------------------------------------------------

    def load(self, variant: str) -> Resident:
        """See Engine.load."""
        started = self._clock.now()
        found = self._repository.variant(variant)
        recipe = pipelines.load(found, self._device)
        load_s = self._clock.now() - started
        costs = self._warm_up(found, recipe, load_s)
        self._residents[variant] = recipe
        return Resident(variant, "full", recipe.precision, recipe.weight_bytes, costs)

    def evict(self, variant: str) -> None:
        """See Engine.evict."""
        if self._residents.pop(variant, None) is not None:
            pipelines.free(self._device)

    def _warm_up(self, variant: Variant, recipe: Recipe, load_s: float) -> Costs:
        """Paint two real images, with and without guidance, and measure their parts."""
        width, height = variant.manifest.native_sizes[0]
        encode_s, decode_s, step_s = [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
        for i, guidance in enumerate((max(1.5, variant.manifest.guidance_scale), 1.0)):
            execute = Execute(
                attempt=0,
                request_id="",
                variant=variant.name,
                prompt="warm up",
                negative_prompt="",
                width=width,
                height=height,
                steps=self._warm_up_steps,
                guidance_scale=guidance,
                sampler=variant.manifest.sampler,
                seeds=(0,),
                deadline=0.0,
                slots=(),
                format="raw",
                metadata="",
            )
            with torch.inference_mode():
                conditioning, encode_s[i] = self._timed(recipe.encode, execute)
                work = recipe.begin(execute, 0, conditioning)
                taken = []
                while not work.is_done:
                    taken.append(self._timed(recipe.step, work)[1])
                _, decode_s[i] = self._timed(recipe.decode, work)
            step_s[i] = statistics.median(taken[1:])
        return Costs(width * height, encode_s[1], step_s[0], step_s[1], decode_s[1], load_s)

    def _timed(self, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, float]:
        started = self._clock.now()
        result = act(*args, **kwargs)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return result, self._clock.now() - started

    # ---- attempts -------------------------------------------------------------------------------

    def new_job(self, execute: Execute) -> TorchJob:
        """See Engine.new_job."""
        return TorchJob(execute)

    def advance(self, job: TorchJob) -> Report | None:
        """See Engine.advance: encode, one step, or decode and deliver."""
        recipe = self._residents.get(job.execute.variant)
        if recipe is None:
            raise EngineFailed(f"{job.execute.variant} is not loaded")
        try:
            with torch.inference_mode():
                return self._unit(job, recipe)
        except torch.OutOfMemoryError as error:
            pipelines.free(self._device)
            raise OutOfMemory(str(error).splitlines()[0][:200]) from error

    def _unit(self, job: TorchJob, recipe: Recipe) -> Report | None:
        if job.conditioning is None:
            conditioning, seconds = self._timed(recipe.encode, job.execute)
            job.conditioning = conditioning
            job.encode_s += seconds
            job.notes = _notes(conditioning)
            return None
        if job.work is None:
            work, seconds = self._timed(recipe.begin, job.execute, job.seed, job.conditioning)
            job.work = work
            job.steps_s += seconds
        work = job.work
        if not work.is_done:
            job.steps_s += self._timed(recipe.step, work)[1]
            return Stepped(job.execute.attempt, job.image, work.done, work.total)
        pixels, seconds = self._timed(recipe.decode, work)
        job.decode_s += seconds
        sealed, seconds = self._timed(deliver, self._writer, job.execute, job.image, pixels)
        job.deliver_s += seconds
        job.work = None
        return job.seal(sealed, SEED_CONTRACT)


def _notes(conditioning: Conditioning) -> tuple[str, ...]:
    if not conditioning.truncated_tokens:
        return ()
    return (f"the prompt's last {conditioning.truncated_tokens} tokens were not used: it is too long",)
