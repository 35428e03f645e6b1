"""The memory mode of a loaded pipeline: the one object that owns all hooks on its modules.

How weights are placed stands in `placement`, how a decoding saves memory in `bands`; which modes there
are, and where, in `difs.memory_modes`. When to switch is others' decision.

`sliced` slices feed-forward layers, not attention as diffusers' `enable_attention_slicing`: torch's
scaled_dot_product_attention keeps no score matrix, diffusers' sliced attention does (6 times the peak
of a UNet call, measured on a CPU), and the feed-forward layers are what peaks instead.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakSet

import torch
from diffusers.models.attention import FeedForward
from torch import nn

from difs.actors import bands, placement
from difs.actors.placement import Parts, Rest
from difs.errors import DifsError, EngineFailed, OutOfMemory, first_line
from difs.memory_modes import MODES
from difs.messages import MemoryMode

DENOISERS = ("unet", "transformer")
SLICES = 4
"""Of a feed-forward layer's tokens; beyond four, other layers of a UNet peak."""


@dataclass(frozen=True)
class Mode:
    """How a mode saves memory."""

    place: Callable[[Parts], Rest]
    is_sliced: bool = False
    """Not where weights come or are cast when a layer is called: each slice is a call."""
    is_tiled: bool = False
    beside: Callable[[Parts], Rest] | None = None
    """How, where the denoiser must be left as it is because it is another pipeline's, too."""


HOW: dict[MemoryMode, Mode] = {
    "full": Mode(placement.on_device),
    "sliced": Mode(placement.on_device, is_sliced=True),
    "tiled": Mode(placement.on_device, is_sliced=True, is_tiled=True),
    "fp8": Mode(placement.in_fp8, is_tiled=True, beside=placement.on_device),
    "model_offload": Mode(placement.by_part, is_sliced=True, is_tiled=True),
    "group_offload": Mode(placement.by_group, is_sliced=True, is_tiled=True, beside=placement.by_part),
    "sequential_offload": Mode(placement.by_layer, is_tiled=True),
}


@dataclass(frozen=True)
class Stay:
    """What a mode did to modules, for as long as it lasts."""

    modules: tuple[nn.Module, ...]
    forwards: dict[nn.Module, Any]
    rest: Rest


class ModeKeeper:
    """Puts one pipeline into a memory mode, and out of it without a trace.

    A module that another keeper's pipeline uses on the device too is left as it is: taking it away
    would free nothing. Not to be switched while the pipeline computes; to be brought `to_host` before it
    is dropped, else what it did to shared modules stays.
    """

    _present: ClassVar[WeakSet["ModeKeeper"]] = WeakSet()
    """The keepers whose pipelines are on a device."""
    _all: ClassVar[WeakSet["ModeKeeper"]] = WeakSet()
    """Those in host memory, too."""

    def __init__(self, pipe: Any, device: torch.device, reload: Callable[[torch.dtype], None]) -> None:
        """`reload` brings the denoiser's exact weights into host memory, in that precision.

        The pipeline is in no mode before `switch`.
        """
        self.mode: MemoryMode = "full"
        self._pipe = pipe
        self._device = device
        self._reload = reload
        self._stay: Stay | None = None
        self._is_exact = False
        self._modules = {n: m for n, m in pipe.components.items() if isinstance(m, nn.Module)}
        self._denoiser = next((name for name in DENOISERS if name in self._modules), "")
        self._dtype: torch.dtype = getattr(pipe, self._denoiser, pipe).dtype
        self._all.add(self)

    def switch(self, mode: MemoryMode) -> None:
        """Leave the present mode and enter another, between two steps.

        Raises OutOfMemory or EngineFailed; then the pipeline is where it was.
        """
        former, was_here = self.mode, self._stay is not None
        if was_here and mode == former:
            return
        with placement.moving(self._device):
            if not (was_here or MODES[former].is_lossy) and self._is_in_fp8():
                raise EngineFailed("another variant has the same weights in fp8; try again")
            try:
                self._leave()
                if mode != former:
                    self._make_exact(former)
                self._enter(mode)
            except torch.AcceleratorError:
                raise  # the device is broken: there is no way back
            except Exception as error:
                self._go_back(mode, former if was_here else None, error)
            self.mode = mode

    def to_host(self) -> None:
        """Take all hooks off and move the weights to host memory."""
        with placement.moving(self._device):
            self._leave()
            placement.to_host(self._own().values(), self._device)

    def to_device(self) -> None:
        """Come back from host memory into the mode; raises as `switch`."""
        self.switch(self.mode)

    def rest(self) -> None:
        """Put away what the mode does not keep on the device; it comes back when it is called."""
        if self._stay is not None:
            self._stay.rest()

    @contextmanager
    def decoding(self, *, is_tiled: bool = False) -> Iterator[None]:
        """Surround a decoding: it saves what the mode saves, or more with `is_tiled`; then `rest`."""
        how = HOW[self.mode]
        is_sliced, tiles = (how.is_sliced, how.is_tiled) if not self._is_exact else (False, False)
        try:
            with bands.lean(self._modules.get("vae"), is_sliced=is_sliced, is_tiled=tiles or is_tiled):
                yield
        finally:
            self.rest()

    @property
    def is_exact(self) -> bool:
        """Whether a call gives the very bits that it gives in `full`."""
        is_sliced = any(HOW[keeper.mode].is_sliced for keeper in self._sharers())
        is_spared = self._is_exact or not (is_sliced or HOW[self.mode].is_tiled)
        return not MODES[self.mode].is_lossy and is_spared

    @contextmanager
    def exact(self) -> Iterator[None]:
        """Compute within as in `full`, weights where the mode has them; a lossy mode stays lossy."""
        sharers = self._sharers()
        for keeper in sharers:
            keeper._is_exact = True
        try:
            yield
        finally:
            for keeper in sharers:
                keeper._is_exact = False

    # ---- entering and leaving -------------------------------------------------------------------

    def _enter(self, mode: MemoryMode) -> None:
        parts = self._parts()
        modules = tuple(parts.modules.values())
        forwards = placement.own_forwards(modules)
        self._stay = Stay(modules, forwards, rest=lambda: None)
        self._present.add(self)
        if HOW[mode].is_sliced and self._denoiser in parts.modules:
            self._slice(parts.the_denoiser)
        self._stay = Stay(modules, forwards, self._place(mode, parts)(parts))

    def _place(self, mode: MemoryMode, parts: Parts) -> Callable[[Parts], Rest]:
        """Return how a mode places; a denoiser that others have, if only in host memory, stays exact."""
        how = HOW[mode]
        is_left = self._denoiser in self._modules.keys() - parts.modules.keys()
        is_lent = MODES[mode].is_lossy and self._is_known_to_others(self._modules.get(self._denoiser))
        return how.beside if how.beside is not None and (is_lent or is_left) else how.place

    def _leave(self) -> None:
        stay, self._stay = self._stay, None
        self._present.discard(self)
        if stay is not None:
            stay.rest()
            placement.strip(stay.forwards)
            placement.to_device(filter(self._is_shared, stay.modules), self._device)

    def _go_back(self, failed: MemoryMode, former: MemoryMode | None, error: Exception) -> None:
        """Undo a switch, to host memory if there is no former mode; raises what there is to say."""
        where = "host memory" if former is None else former
        try:
            self._leave()
            self._make_exact(failed)
            if former is None:
                placement.to_host(self._own().values(), self._device)
            else:
                self._enter(former)
        except Exception as worse:
            self._leave()
            raise _typed(worse, f"neither memory mode {failed} nor {where} could be entered") from error
        raise _typed(error, f"memory mode {failed} could not be entered, back in {where}") from error

    def _make_exact(self, left: MemoryMode) -> None:
        """Restore the denoiser's weights, in host memory, if the mode that was left spoilt them."""
        if MODES[left].is_lossy and self._is_in_fp8():
            self._reload(self._dtype)

    def _slice(self, denoiser: nn.Module) -> None:
        for layer in denoiser.modules():
            if isinstance(layer, FeedForward):
                layer.forward = functools.partial(self._in_slices, layer.forward)

    def _in_slices(self, forward: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Call a feed-forward layer with a few of its tokens at a time."""
        if self._is_exact:
            return forward(x, *args, **kwargs)
        return torch.cat([forward(part, *args, **kwargs) for part in x.chunk(SLICES, dim=-2)], dim=-2)

    # ---- what there is to place -----------------------------------------------------------------

    def _is_shared(self, module: nn.Module) -> bool:
        return any(module in keeper._modules.values() for keeper in self._present if keeper is not self)

    def _sharers(self) -> list["ModeKeeper"]:
        """Return this keeper and the others whose pipelines have the same denoiser: one may slice it."""
        own = self._modules.get(self._denoiser)
        others = [k for k in self._present if own is not None and own in k._modules.values()]
        return [self, *(k for k in others if k is not self)]

    def _is_known_to_others(self, module: nn.Module | None) -> bool:
        return any(module in keeper._modules.values() for keeper in self._all if keeper is not self)

    def _is_in_fp8(self) -> bool:
        denoiser = self._modules.get(self._denoiser)
        return denoiser is not None and placement.is_in_fp8(denoiser)

    def _own(self) -> dict[str, nn.Module]:
        return {name: m for name, m in self._modules.items() if not self._is_shared(m)}

    def _parts(self) -> Parts:
        own = self._own()
        sequence = self._pipe.model_cpu_offload_seq
        exclusive = frozenset(sequence.split("->") if sequence else own)
        return Parts(own, self._denoiser, exclusive, self._device, self._dtype)


def _typed(error: Exception, words: str) -> DifsError:
    """Return an error of ours that says what broke."""
    if isinstance(error, DifsError):
        return type(error)(f"{words}: {error.message}")
    is_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return (OutOfMemory if is_memory else EngineFailed)(f"{words}: {first_line(error)}")
