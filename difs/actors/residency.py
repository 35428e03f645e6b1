"""The residents of a torch device: loaded, measured, switched to another memory mode, parked.

Loads and parks run on a thread of their own; what comes of them is taken over between two units. The
units themselves stand in `difs.actors.torch_engine`.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Any, TypeVar

import torch
from msgspec.structs import replace

from difs import config, estimates, telemetry
from difs.actor_messages import Evicted, Loaded, LoadFailed, Resident
from difs.actors import generic, loading, painters, pinning, warmup
from difs.actors.delivery import Easel
from difs.actors.engine import Engine
from difs.actors.judging import Judge
from difs.actors.loader import Loader
from difs.actors.loading import LoadCancelled, PartStore
from difs.actors.measuring import Measuring
from difs.actors.parking import ParkingLot
from difs.actors.prompts import PromptCache
from difs.actors.stopwatch import Stopwatch, timed_whole
from difs.actors.units import DeviceBroken
from difs.actors.warmup import Measured
from difs.catalogue import Library
from difs.clock import Clock
from difs.errors import ConfigError, DifsError, OutOfMemory, UnknownName, first_line
from difs.messages import MemoryMode
from difs.profiles import best_rows
from difs.variants import Variant

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(eq=False)
class Loadee:
    """A variant on its way to the device."""

    variant: str
    build: object
    """What it is made of, as `Variant.build` says."""
    mode: MemoryMode | None
    """Into which it is loaded; None: its own."""
    cancelled: Event = field(default_factory=Event)
    load_s: float = 0.0

    def check(self) -> None:
        """Raise LoadCancelled when nobody waits any more."""
        if self.cancelled.is_set():
            raise LoadCancelled


@dataclass
class Parked:
    """A variant in host memory: its painter, and what it was on the device."""

    painter: Any
    resident: Resident
    build: object
    is_rough: bool = False
    """It left before all of it was measured."""


class Residency(Engine):
    """The half of the torch engine that brings variants, changes their mode and sends them away."""

    def __init__(
        self,
        device: str,
        library: Library,
        easel: Easel,
        clock: Clock,
        settings: config.Actors,
        *,
        threads: int = 0,
        wake: Callable[[], None] = lambda: None,
        profiled: Sequence[Resident] = (),
    ) -> None:
        """Prepare torch for `device` ("cpu-0", "cuda-1"); nothing is loaded yet.

        `wake` is called from other threads when a turn has something to take over.
        """
        kind = telemetry.kind_of(device)
        super().__init__(clock, easel, kind=kind, max_rows=settings.max_rows, profiled=profiled)
        self._device = _checked(device)
        self._prepares_rows = kind == "cuda"
        if threads:
            torch.set_num_threads(threads)
        self._library = library
        self._settings = settings
        self._painters: dict[str, Any] = {}
        self._builds: dict[str, object] = {}
        self._loadees: dict[str, Loadee] = {}
        self._held_bytes = 0
        self._leaving = 0
        """Variants on their way to host memory."""
        self._parking: ParkingLot[Parked] = ParkingLot(settings.parking_budget)
        self._parts = PartStore()
        self._prompts = PromptCache(settings.prompt_cache)
        self._loader = Loader(wake, self._use_device)
        self._judge = Judge(library)
        self._use_device()
        self._stopwatch = Stopwatch(self._device, clock)
        self._segment = easel.segment() if kind == "cuda" else None
        if self._segment is not None and not pinning.pin(self._segment):
            self._segment = None

    def _use_device(self) -> None:
        """Make the device the present thread's own: diffusers' offload hooks ask for its stream."""
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)

    def close(self) -> None:
        """See Engine.close."""
        super().close()
        for loadee in self._loadees.values():
            loadee.cancelled.set()
        self._loader.close()
        self._judge.close()
        if self._segment is not None:
            pinning.unpin(self._segment)
            self._segment = None

    # ---- loading ----------------------------------------------------------------------------------

    @property
    def is_moving(self) -> bool:
        """See Engine.is_moving."""
        return bool(self._loadees or self._leaving)

    def is_loading_variant(self, variant: str) -> bool:
        """See Engine.is_loading_variant."""
        return variant in self._loadees or variant in self._measuring

    def load(self, variant: str, mode: MemoryMode | None = None) -> None:
        """See Engine.load; a load that was cancelled and still goes on does not answer for this one."""
        loadee = self._loadees.get(variant)
        if variant in self._residents:
            self._reports.append(Loaded(self._residents[variant]))
        elif loadee is not None and not loadee.cancelled.is_set():
            loadee.mode = loadee.mode or mode  # our own preload asked for none; it may not have begun
        elif variant in self._measuring:
            return
        else:
            try:
                found = self._library.variant(variant)
            except DifsError as error:
                self._give_up_load(variant, error.message)
                return
            fresh = self._loadees[variant] = Loadee(variant, found.build, mode)
            self._loader.submit(fresh, lambda: self._bring(found, fresh))

    def cancel_load(self, variant: str) -> None:
        """See Engine.cancel_load."""
        loadee = self._loadees.get(variant)
        if loadee is not None:
            loadee.cancelled.set()
        elif variant in self._measuring and variant not in self._residents:
            self._give_up_load(variant, "cancelled")

    def collect(self) -> None:
        """See Engine.collect."""
        self._stopwatch.settle()
        for key, value, error in self._loader.outcomes():
            if isinstance(error, torch.AcceleratorError):
                raise DeviceBroken(_words(error)) from error
            if error is not None and not isinstance(error, (DifsError, LoadCancelled)):
                log.error("moving a variant broke", exc_info=error)
            if isinstance(key, Parked):
                self._leaving -= 1
                self._reports.append(value if error is None else Evicted(key.resident.variant))
            else:
                self._land(key, value, error)

    def _land(self, loadee: Loadee, value: Any, error: Exception | None) -> None:
        """Take over what became of a load: one that was parked is known, another is measured."""
        variant = loadee.variant
        if self._loadees.get(variant) is loadee:
            del self._loadees[variant]
        painter = value.painter if isinstance(value, Parked) else value
        refusal = self._refusal(painter) if error is None else None
        if error is not None or loadee.cancelled.is_set() or refusal is not None:
            if isinstance(value, Parked):
                self._send_away(value)
            elif value is not None:
                self._discard(value)
            words = refusal or ("cancelled" if error is None else _words(error))
            self._reports.append(LoadFailed(variant, "cancelled" if loadee.cancelled.is_set() else words))
        elif isinstance(value, Parked):
            self._painters[variant], self._builds[variant] = value.painter, value.build
            self._residents[variant] = value.resident
            self._recount()
            self._reports.append(Loaded(value.resident))
            if value.is_rough:
                units, load_s = self._measure_units(variant), value.resident.costs.load_s
                self._measuring[variant] = Measuring(units, self._clock.now(), load_s, is_rough=True)
        else:
            self._painters[variant], self._builds[variant] = value, loadee.build
            self._recount()
            units = self._measure_units(variant)
            self._measuring[variant] = Measuring(units, self._clock.now(), loadee.load_s)

    def catch_up(self) -> None:
        """See Engine.catch_up."""
        self._stopwatch.settle(everything=True)

    def _bring(self, variant: Variant, loadee: Loadee) -> Any:
        """Return a parked variant, or a painter: from disk, or in another mode; a loader's thread."""
        parked = self._parking.take(variant.name)
        if parked is None or parked.build != variant.build:
            return self._load_cold(variant, loadee)
        keeper = parked.painter.keeper
        with _typed_memory_errors():
            if loadee.mode in (None, keeper.mode):
                keeper.to_device()
                return parked
            started = self._clock.now()
            keeper.switch(loadee.mode)
        loadee.load_s = self._clock.now() - started
        return parked.painter  # to be measured: in this mode it costs something else

    def _load_cold(self, variant: Variant, loadee: Loadee) -> Any:
        started = self._clock.now()
        with torch.no_grad(), _typed_memory_errors():  # inference_mode would mark the weights for good
            painter = painters.make(
                variant,
                self._device,
                self._settings,
                self._parts,
                self._prompts,
                memory_mode=loadee.mode,
                check=loadee.check,
            )
        loadee.load_s = self._clock.now() - started
        return painter

    def _measure_units(self, variant: str) -> Iterator[Resident | None]:
        """Measure a variant unit by unit; see `Measuring`.

        A profile knows what many rows cost: then few are measured, to see how the device is now. A GPU
        chooses kernels and plans at the first call of each number of rows: it makes them all here.
        """
        painter, found = self._painters[variant], self._library.variant(variant)
        profiled = self._profiled.get((variant, painter.keeper.mode))
        how: dict[str, int] = {
            "steps": self._settings.warm_up_steps,
            "max_rows": self._settings.max_rows if profiled is None else 0,
        }
        if painter.is_solo:
            units = generic.measure(painter, found.manifest, self._timed_whole, **how)
        else:
            if self._prepares_rows:
                how["filled_rows"] = 0 if profiled is None else best_rows(profiled.costs)
            units = warmup.measure(painter, found.manifest, self._timed_whole, **how)
        for measured in units:
            yield None if measured is None else self._as_measured(painter, found, measured)

    def _as_measured(self, painter: Any, variant: Variant, measured: Measured) -> Resident:
        kind = self._device.type
        return Resident(
            variant.name,
            painter.keeper.mode,
            variant.precision_on(kind),
            loading.weight_bytes(painter.pipe),
            estimates.at_other_sizes(measured.costs, variant.efforts, kind),
            measured.seed_bound,
        )

    def _timed_whole(self, act: Callable[[], T]) -> tuple[T, float]:
        """Do `act` and wait for the device; returns its value and seconds."""
        with torch.inference_mode(), self.typed_errors():
            return timed_whole(self._device, self._clock, act)

    def forget(self, variant: str) -> None:
        """See Engine.forget."""
        if self._residents.pop(variant, None) is not None:
            self._measuring.pop(variant, None)
        self._builds.pop(variant, None)
        painter = self._painters.pop(variant, None)
        if painter is not None:
            self._discard(painter)

    def _discard(self, painter: Any) -> None:
        """Take a pipeline's hooks off parts that others share, and free its memory."""
        painter.keeper.to_host()
        del painter
        self.free()
        self._recount()

    # ---- memory -------------------------------------------------------------------------------------

    def held_bytes(self) -> int:
        """See Engine.held_bytes: of a CPU the tensors of all that is loaded there, each once."""
        if self._device.type == "cuda":
            return int(torch.cuda.memory_reserved(self._device))
        return self._held_bytes

    def _recount(self) -> None:
        self._held_bytes = loading.tensor_bytes(p.pipe for p in self._painters.values())

    def _refusal(self, painter: Any) -> str | None:
        """Return why a variant may not stay on a CPU whose memory is budgeted; None: it may."""
        budget = self._settings.memory_budget
        if not budget or self._device.type != "cpu":
            return None
        pipes = [painter.pipe, *(p.pipe for p in self._painters.values())]
        need = loading.tensor_bytes(pipes)
        if need <= budget:
            return None
        return f"{need} bytes of tensors, and actors.memory_budget is {budget}: evict something first"

    # ---- parking and modes --------------------------------------------------------------------------

    def evict(self, variant: str, *, is_final: bool = False) -> None:
        """See Engine.evict."""
        if is_final:
            self.forget(variant)
            self._parking.take(variant)
            self._reports.append(Evicted(variant, None, (variant,)))
            return
        resident, build = self._residents.pop(variant, None), self._builds.get(variant)
        measuring = self._measuring.pop(variant, None) if resident is not None else None
        is_rough = measuring is not None and not measuring.is_whole
        if resident is not None and self._is_current(variant, build):
            self._send_away(Parked(self._painters.pop(variant), resident, build, is_rough))
            self._recount()
            return
        self.forget(variant)
        if self._is_current(variant):
            self._reports.append(Evicted(variant))
        else:  # nobody will want it as it was
            self._parking.take(variant)
            self._reports.append(Evicted(variant, None, (variant,)))

    def _is_current(self, variant: str, build: object = None) -> bool:
        """Whether a variant is registered, as it was when it was loaded."""
        try:
            return self._library.variant(variant).build == build or build is None
        except UnknownName:
            return False

    def _send_away(self, leaving: Parked) -> None:
        self._leaving += 1
        self._loader.submit(leaving, lambda: self._park(leaving))

    def _park(self, leaving: Parked) -> Evicted:
        """Move a variant to host memory, if there is room; runs on the loader's thread."""
        painter, resident = leaving.painter, leaving.resident
        started = self._clock.now()
        painter.shelf.to_host()
        painter.keeper.to_host()
        self.free()
        costs = replace(resident.costs, load_s=self._clock.now() - started)
        parked = replace(resident, costs=costs)
        kept = Parked(painter, parked, leaving.build, leaving.is_rough)
        dropped = self._parking.park(resident.variant, kept, resident.weight_bytes)
        stays = resident.variant not in dropped
        others = tuple(name for name in dropped if name != resident.variant)
        return Evicted(resident.variant, parked if stays else None, others)

    def enter(self, variant: str, mode: MemoryMode) -> None:
        """See Engine.enter; a pipeline's own call cannot go on in another mode and begins anew."""
        painter = self._painters[variant]
        self._stopwatch.settle(everything=True)
        with self.typed_errors():
            painter.keeper.switch(mode)
        if variant in self._measuring:
            self._measuring[variant].restart(self._measure_units(variant))
        for job in self._book:
            if job.execute.variant == variant and painter.is_solo:
                for painting in job.paintings:
                    self.drop(painting)
                    painting.restart()

    def free(self) -> None:
        """See Engine.free."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @contextmanager
    def typed_errors(self) -> Iterator[None]:
        """Turn torch's errors of the device into ours."""
        with _typed_memory_errors():
            try:
                yield
            except torch.AcceleratorError as error:
                raise DeviceBroken(_words(error)) from error


def _checked(device: str) -> torch.device:
    """Return a device as torch calls it; raises ConfigError for one that this torch can never use."""
    found = torch.device(telemetry.torch_name(device))
    if found.type == "cuda" and not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        raise ConfigError(
            f"{found}: this build of torch, {torch.__version__}, computes on CPUs only: "
            'install one for GPUs, or set actors.devices to ["cpu"]'
        )
    return found


@contextmanager
def _typed_memory_errors() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(_words(error)) from error


def _words(error: BaseException) -> str:
    """Return the first line of an error for people; nothing internal beyond it."""
    if isinstance(error, LoadCancelled):
        return "cancelled"
    if isinstance(error, DifsError):
        return error.message
    return first_line(error)
