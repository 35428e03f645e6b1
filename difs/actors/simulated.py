"""A deterministic engine with scripted times and faults, for tests, benches and other languages' clients.

It paints a pattern that depends on prompt and seed alone, sleeps as long as its script says, and
breaks where the script says: the same messages, slots and reports as the real engine, without torch.
"""

import os
import signal
import time
import tomllib
from collections.abc import Callable
from hashlib import blake2b
from typing import Annotated, Literal, NoReturn

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from difs.actor_messages import Costs, Execute, Resident, Stepped
from difs.actors.delivery import deliver
from difs.actors.engine import Engine, Job, Report
from difs.clock import Clock
from difs.errors import ConfigError, EngineFailed, OutOfMemory
from difs.repository import Repository
from difs.samplers import evaluations
from difs.shm.segment import SegmentWriter

Positive = Annotated[float, Meta(ge=0)]


class Fault(Struct, frozen=True, forbid_unknown_fields=True):
    """What goes wrong, where: in requests whose prompt holds `prompt`, at `phase` and `step`."""

    kind: Literal["error", "oom", "exit", "kill", "segfault", "abort", "hang", "stop"]
    prompt: str = ""
    phase: Literal["load", "encode", "step", "decode"] = "step"
    step: int = 1
    times: int = 1_000_000
    """How often at most, in one life of the process."""


class Script(Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of each part at 512x512, and the faults."""

    load_s: Positive = 0.0
    encode_s: Positive = 0.0
    step_s: Positive = 0.0
    decode_s: Positive = 0.0
    faults: tuple[Fault, ...] = ()


NATIVE_PIXELS = 512 * 512


def parse_script(text: str) -> Script:
    """Read a script from TOML text; raises ConfigError."""
    try:
        return msgspec.convert(tomllib.loads(text), Script)
    except (ValueError, RecursionError) as error:  # bad TOML or bad values
        raise ConfigError(f"actors.script: {error}") from None


class SimulatedJob(Job):
    """A job that counts."""

    is_encoded = False
    done = 0


class SimulatedEngine(Engine[SimulatedJob]):
    """See `difs.actors.engine.Engine`."""

    def __init__(
        self,
        script: Script,
        repository: Repository,
        writer: SegmentWriter,
        clock: Clock,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`sleep` makes the time pass; a ManualClock's `advance` makes it pass at once."""
        super().__init__(clock)
        self._script = script
        self._repository = repository
        self._writer = writer
        self._sleep = sleep
        self._residents: set[str] = set()
        self._faults_left = [fault.times for fault in script.faults]

    def load(self, variant: str) -> Resident:
        """See Engine.load."""
        script = self._script
        found = self._repository.variant(variant)
        self._pass(script.load_s)
        self._break("load", variant, 1)
        self._residents.add(variant)
        costs = Costs(
            pixels=NATIVE_PIXELS,
            encode_s=script.encode_s,
            step_s=script.step_s,
            bare_step_s=script.step_s / 2,
            decode_s=script.decode_s,
            load_s=script.load_s,
        )
        return Resident(variant, "full", found.manifest.precision, found.weight_bytes, costs)

    def evict(self, variant: str) -> None:
        """See Engine.evict."""
        self._residents.discard(variant)

    def new_job(self, execute: Execute) -> SimulatedJob:
        """See Engine.new_job."""
        return SimulatedJob(execute)

    def advance(self, job: SimulatedJob) -> Report | None:
        """See Engine.advance."""
        execute, script = job.execute, self._script
        if execute.variant not in self._residents:
            raise EngineFailed(f"{execute.variant} is not loaded")
        scale = execute.width * execute.height / NATIVE_PIXELS
        if not job.is_encoded:
            job.encode_s += self._pass(script.encode_s)
            self._break("encode", execute.prompt, 1)
            job.is_encoded = True
            return None
        steps = evaluations(execute.sampler, execute.steps)
        if job.done < steps:
            share = 1.0 if execute.guidance_scale > 1 else 0.5
            job.steps_s += self._pass(script.step_s * scale * share)
            job.done += 1
            self._break("step", execute.prompt, job.done)
            return Stepped(execute.attempt, job.image, job.done, steps)
        job.decode_s += self._pass(script.decode_s * scale)
        self._break("decode", execute.prompt, 1)
        pixels = pattern(execute.prompt, job.seed, execute.height, execute.width)
        sealed = deliver(self._writer, execute, job.image, pixels)
        job.done = 0
        return job.seal(sealed, "bitwise")

    def _pass(self, seconds: float) -> float:
        if seconds > 0:
            self._sleep(seconds)
        return seconds

    def _break(self, phase: str, prompt: str, step: int) -> None:
        for i, fault in enumerate(self._script.faults):
            if (
                fault.phase == phase
                and fault.step == step
                and fault.prompt in prompt
                and self._faults_left[i] > 0
            ):
                self._faults_left[i] -= 1
                _commit(fault.kind, prompt)


def _commit(kind: str, prompt: str) -> None:
    """Do what a fault says to the own process."""
    match kind:
        case "error":
            raise EngineFailed("a scripted failure")
        case "oom":
            raise OutOfMemory("a scripted lack of memory")
        case "exit":
            os._exit(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "abort":
            os.abort()
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case _:
            _hang()


def _hang() -> NoReturn:
    while True:
        time.sleep(3600)


def pattern(prompt: str, seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Return a picture, of shape (height, width, 3), that tells one (prompt, seed) from another."""
    digest = blake2b(f"{seed}:{prompt}".encode(), digest_size=6).digest()
    first, last = np.frombuffer(digest, np.uint8).astype(np.uint16).reshape(2, 3)
    ramp = np.arange(width, dtype=np.uint32)[:, None]
    row = ((first * (width - 1 - ramp) + last * ramp) // max(1, width - 1)).astype(np.uint8)
    return np.broadcast_to(row, (height, width, 3))
