"""A deterministic engine with scripted times and faults, for tests, benches and other languages' clients.

It paints a pattern that depends on prompt and seed alone, sleeps as long as its script says, and
breaks where the script says: the same messages, slots and reports as the real engine, without torch.
"""

import os
import signal
import time
import tomllib
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Annotated, Literal, NoReturn

import msgspec
import numpy as np
from msgspec import Meta, Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from difs.actor_messages import (
    Costs,
    Evicted,
    Loaded,
    LoadFailed,
    Resident,
    Room,
    RowCost,
)
from difs.actors.delivery import Easel
from difs.actors.engine import Engine
from difs.actors.jobs import Job, Painting
from difs.actors.units import DeviceBroken
from difs.catalogue import Library
from difs.clock import Clock
from difs.errors import ConfigError, DifsError, EngineFailed, OutOfMemory, UnknownName
from difs.messages import MAX_PREVIEW_SIDE, MemoryMode, Preview
from difs.profiles import rows_of
from difs.rooms import rest_bytes
from difs.samplers import evaluations
from difs.shm.layout import HEADER_BYTES, PAGE_BYTES
from difs.variants import Variant

Positive = Annotated[float, Meta(ge=0)]


Kind = Literal[
    "error",
    "oom",
    "hog",
    "sticky",
    "exit",
    "kill",
    "segfault",
    "abort",
    "hang",
    "spin",
    "stop",
    "scribble",
]
HOG_BYTES = 256 * 2**20
"""What a hog takes of the host's memory, where nobody ends it before."""


class Fault(Struct, frozen=True, forbid_unknown_fields=True):
    """What goes wrong, where: in requests whose prompt holds `prompt`, at `phase` and `step`."""

    kind: Kind
    prompt: str = ""
    phase: Literal["load", "encode", "step", "decode"] = "step"
    step: int = 1
    times: int = 1_000_000
    """How often at most, in one life of the process."""
    device: str = ""
    """On this one only, such as `simulated-1`."""


class Score(Struct, frozen=True, forbid_unknown_fields=True):
    """What pictures are worth whose prompt holds `prompt`."""

    score: Annotated[float, Meta(ge=0, le=1)]
    prompt: str = ""


class Neighbour(Struct, frozen=True, forbid_unknown_fields=True):
    """Another program that uses the device for a while, seconds after the engine's start.

    As on a real device it gets no byte that is not free.
    """

    nbytes: Annotated[int, Meta(ge=0)]
    from_s: Positive = 0.0
    until_s: Positive = float("inf")


class ScriptedRoom(Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes that every variant takes in a memory mode, and times its seconds in `full`."""

    rest_bytes: Annotated[int, Meta(ge=0)]
    peak_bytes: Annotated[int, Meta(ge=0)] = 0
    slower: Annotated[float, Meta(ge=1)] = 1.0


class Script(Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of each part at 512x512, the faults, and what pictures are worth."""

    load_s: Positive = 0.0
    encode_s: Positive = 0.0
    step_s: Positive = 0.0
    """One image with guidance, alone; half of it without."""
    row_share: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """What each further row of a shared step costs, of what a row costs alone."""
    decode_s: Positive = 0.0
    faults: tuple[Fault, ...] = ()
    scores: tuple[Score, ...] = ()
    """The first that holds counts; where none does, a picture cannot be judged."""
    neighbours: tuple[Neighbour, ...] = ()
    rooms: dict[MemoryMode, ScriptedRoom] = {}
    """Empty: a variant takes the bytes of its weights in every mode."""


NATIVE_PIXELS = 512 * 512


def parse_script(text: str) -> Script:
    """Read a script from TOML text; raises ConfigError."""
    try:
        return msgspec.convert(tomllib.loads(text), Script)
    except (ValueError, RecursionError) as error:  # bad TOML or bad values
        raise ConfigError(f"actors.script: {error}") from None


class SimulatedEngine(Engine):
    """See `difs.actors.engine.Engine`."""

    def __init__(
        self,
        script: Script,
        library: Library,
        easel: Easel,
        clock: Clock,
        sleep: Callable[[float], None] = time.sleep,
        *,
        max_rows: int = 32,
        device: str = "",
        memory_bytes: int = 0,
    ) -> None:
        """`sleep` makes the time pass; a ManualClock's `advance` makes it pass at once.

        `memory_bytes`: all the memory that the device has; 0: as much as is wanted.
        """
        super().__init__(clock, easel, kind="simulated", max_rows=max_rows)
        self._script = script
        self._device = device
        self._library = library
        self._sleep = sleep
        self._loads: dict[str, tuple[float, MemoryMode | None]] = {}
        """When each variant that is on its way will be there, and in which memory mode."""
        self._parked: dict[str, Resident] = {}
        self._faults_left = [fault.times for fault in script.faults]
        self._memory_bytes = memory_bytes
        self._born_at = clock.now()

    # ---- residents ------------------------------------------------------------------------------

    def load(self, variant: str, mode: MemoryMode | None = None) -> None:
        """See Engine.load."""
        if variant in self._residents:
            self._reports.append(Loaded(self._residents[variant]))
        elif variant in self._loads:
            due, former = self._loads[variant]
            self._loads[variant] = (due, former or mode)
        else:
            seconds = 0.0 if variant in self._parked else self._script.load_s
            self._loads[variant] = (self._clock.now() + seconds, mode)

    def cancel_load(self, variant: str) -> None:
        """See Engine.cancel_load."""
        if self._loads.pop(variant, None) is not None:
            self._reports.append(LoadFailed(variant, "cancelled"))

    def collect(self) -> None:
        """See Engine.collect."""
        for variant in [v for v, (due, _) in self._loads.items() if due <= self._clock.now()]:
            _, mode = self._loads.pop(variant)
            try:
                self._break("load", variant, 1)
                parked = self._parked.pop(variant, None)
                if parked is not None and mode in (None, parked.memory_mode):
                    self._residents[variant] = parked
                else:
                    self._residents[variant] = self._resident(variant, mode or "full")
            except DifsError as error:
                self._reports.append(LoadFailed(variant, error.message))
            else:
                self._reports.append(Loaded(self._residents[variant]))

    def _resident(self, variant: str, mode: MemoryMode) -> Resident:
        found = self._library.variant(variant)
        resident = resident_of(self._script, found, mode)
        there = sum(rest_bytes(other) for other in self._residents.values())
        if self._memory_bytes and there + rest_bytes(resident) + self.others_bytes() > self._memory_bytes:
            raise OutOfMemory(f"{variant} does not fit into the memory that is left")
        return resident

    def held_bytes(self) -> int:
        """See Engine.held_bytes."""
        return sum(rest_bytes(resident) for resident in tuple(self._residents.values()))

    def others_bytes(self) -> int:
        """See Engine.others_bytes; the largest call's memory is never given back, as torch does."""
        age_s = self._clock.now() - self._born_at
        wanted = sum(n.nbytes for n in self._script.neighbours if n.from_s <= age_s < n.until_s)
        residents = tuple(self._residents.values())
        peak = max([_peak_bytes(resident) for resident in residents], default=0)
        return min(wanted, max(0, self._memory_bytes - self.held_bytes() - peak))

    def _switched(self, resident: Resident, mode: MemoryMode) -> Resident:
        """See Engine: as the script says of that mode."""
        return resident_of(self._script, self._library.variant(resident.variant), mode)

    def wait_s(self) -> float:
        """See Engine.wait_s."""
        return min([due for due, _ in self._loads.values()], default=float("inf")) - self._clock.now()

    @property
    def is_moving(self) -> bool:
        """See Engine.is_moving."""
        return bool(self._loads)

    def is_loading_variant(self, variant: str) -> bool:
        """See Engine.is_loading_variant."""
        return variant in self._loads

    def evict(self, variant: str, *, is_final: bool = False) -> None:
        """See Engine.evict; what is evicted is always parked, but for good."""
        found = self._residents.pop(variant, None)
        if is_final:
            self._parked.pop(variant, None)
            self._reports.append(Evicted(variant, None, (variant,)))
            return
        if found is not None and self._is_registered(variant):
            self._parked[variant] = replace(found, costs=replace(found.costs, load_s=0.0))
        self._reports.append(Evicted(variant, self._parked.get(variant)))

    def _is_registered(self, variant: str) -> bool:
        try:
            return bool(self._library.variant(variant))
        except UnknownName:
            return False

    def forget(self, variant: str) -> None:
        """See Engine.forget."""
        self._residents.pop(variant, None)

    # ---- units ----------------------------------------------------------------------------------

    def encode(self, job: Job) -> None:
        """See Engine.encode."""
        self._pass(self._script.encode_s)
        self._break("encode", job.execute.prompt, 1)
        job.conditioning = job.execute.prompt

    def begin(self, painting: Painting) -> None:
        """See Engine.begin."""
        execute = painting.job.execute
        painting.work = pattern(execute.prompt, painting.seed, execute.height, execute.width)
        painting.total = evaluations(execute.sampler, execute.steps)

    def step(self, paintings: list[Painting]) -> None:
        """See Engine.step."""
        execute = paintings[0].job.execute
        rows = sum(rows_of(p.job.execute.guidance_scale) for p in paintings)
        mode = self._residents[execute.variant].memory_mode
        step_s = _step_s(self._script, rows) * _slower(self._script, mode)
        self._pass(step_s * execute.width * execute.height / NATIVE_PIXELS)
        for painting in paintings:
            self._break("step", painting.job.execute.prompt, painting.done + 1)
        for painting in paintings:
            painting.done += 1

    def shorten(self, painting: Painting, left: int) -> bool:
        """See Engine.shorten."""
        painting.total = painting.done + left
        return True

    def decode(self, painting: Painting, canvas: NDArray[np.uint8]) -> None:
        """See Engine.decode."""
        execute = painting.job.execute
        self._pass(self._script.decode_s * execute.width * execute.height / NATIVE_PIXELS)
        self._break("decode", execute.prompt, 1)
        canvas[...] = painting.work

    def judge(self, painting: Painting, canvas: NDArray[np.uint8]) -> float | None:
        """See Engine.judge."""
        prompt = painting.job.execute.prompt
        return next((s.score for s in self._script.scores if s.prompt in prompt), None)

    def preview(self, painting: Painting) -> Preview:
        """See Engine.preview: a few pixels of the picture to be."""
        stride = max(8, -(-max(painting.work.shape) // MAX_PREVIEW_SIDE))
        small = np.ascontiguousarray(painting.work[::stride, ::stride])
        return Preview(small.shape[0], small.shape[1], small.tobytes())

    def _pass(self, seconds: float) -> None:
        if seconds > 0:
            self._sleep(seconds)

    def _break(self, phase: str, prompt: str, step: int) -> None:
        for i, fault in enumerate(self._script.faults):
            if (
                fault.phase == phase
                and fault.step == step
                and fault.prompt in prompt
                and fault.device in ("", self._device)
                and self._faults_left[i] > 0
            ):
                self._faults_left[i] -= 1
                if fault.kind == "scribble":
                    _scribble(self._easel.segment())
                else:
                    _commit(fault.kind)


def _step_s(script: Script, rows: int) -> float:
    """Return the scripted seconds of a UNet call at NATIVE_PIXELS."""
    row_s = script.step_s / 2
    return row_s * (rows if rows <= 2 else 2 + (rows - 2) * script.row_share)


def _room(script: Script, mode: MemoryMode) -> ScriptedRoom | None:
    """Return the room of a mode; one that the script does not know is as `full`."""
    return script.rooms.get(mode) or script.rooms.get("full")


def _slower(script: Script, mode: MemoryMode) -> float:
    room = _room(script, mode)
    return room.slower if room is not None else 1.0


def resident_of(script: Script, variant: Variant, mode: MemoryMode) -> Resident:
    """Return what a variant is in a memory mode, as the script says."""
    slower, room = _slower(script, mode), _room(script, mode)
    costs = Costs(
        pixels=NATIVE_PIXELS,
        encode_s=script.encode_s,
        steps=tuple(RowCost(rows, slower * _step_s(script, rows)) for rows in (1, 2, 4, 8, 16, 32)),
        decode_s=script.decode_s,
        load_s=script.load_s,
    )
    return Resident(
        variant.name,
        mode,
        variant.manifest.precision,
        variant.weight_bytes,
        costs,
        room=None if room is None else Room(room.rest_bytes, room.peak_bytes, room.peak_bytes),
    )


def profiled(script: Script, variants: Iterable[Variant]) -> tuple[Resident, ...]:
    """Return what variants would be in each memory mode that the script knows."""
    return tuple(resident_of(script, found, mode) for found in variants for mode in script.rooms)


def _peak_bytes(resident: Resident) -> int:
    return 0 if resident.room is None else resident.room.step_peak_bytes or 0


def _commit(kind: str) -> None:
    """Do what a fault says to the own process."""
    match kind:
        case "error":
            raise EngineFailed("a scripted failure")
        case "oom":
            raise OutOfMemory("a scripted lack of memory")
        case "hog":
            np.ones(HOG_BYTES, np.uint8)
            raise OutOfMemory("a scripted lack of memory: too much was taken")
        case "sticky":
            raise DeviceBroken("a scripted device error")
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
        case "spin":
            while True:
                pass
        case _:
            _hang()


def _scribble(segment: NDArray[np.uint8]) -> None:
    """Spoil every picture in the segment and spare the headers: only a checksum tells."""
    segment[PAGE_BYTES + HEADER_BYTES :: PAGE_BYTES] += 1


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
