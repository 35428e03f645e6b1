"""Where the weights of a pipeline lie: on the device, in fp8, or in host memory from where they visit it.

Each function places a pipeline's parts in one way and returns how to rest: what is done when nothing
runs. It may put hooks on modules; `strip` takes everything off again, whichever library put it there.
The libraries' own ways out leave marks: accelerate 1.15 a bound method in place of `forward`, diffusers
0.42 that and its emptied registries; a layerwise cast cannot be removed at all (it raises).
Which mode places how, and when, is `difs.actors.memory_modes`'s.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device
from torch import nn

from difs.errors import EngineFailed

FP8 = torch.float8_e4m3fn
HOST = torch.device("cpu")
MARKS = ("_hf_hook", "_old_forward", "_diffusers_hook")
"""What the hooks of accelerate and diffusers leave in a module besides a `forward` of its own."""

Rest = Callable[[], None]
F = TypeVar("F", bound=Callable[..., Any])
_moves = threading.RLock()
_uncompiled: Callable[[F], F] = torch.compiler.disable()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Parts:
    """What of a pipeline is to be placed."""

    modules: Mapping[str, nn.Module]
    denoiser: str
    exclusive: frozenset[str]
    """Those of which one at a time has to be on the device."""
    device: torch.device
    dtype: torch.dtype
    """The one in which the denoiser computes."""

    @property
    def the_denoiser(self) -> Any:
        """Return the denoiser; raises EngineFailed when it is not there to be placed."""
        if self.denoiser not in self.modules:
            raise EngineFailed("it has no unet or transformer of its own")
        return self.modules[self.denoiser]


# ---- ways to place ------------------------------------------------------------------------------


def on_device(parts: Parts) -> Rest:
    """Everything on the device, always."""
    to_device(parts.modules.values(), parts.device)
    return _no_rest


def in_fp8(parts: Parts) -> Rest:
    """The denoiser stored in 8 bits and cast layer by layer when it computes; the rest as ever."""
    parts.the_denoiser.enable_layerwise_casting(storage_dtype=FP8, compute_dtype=parts.dtype)
    return on_device(parts)


def by_part(parts: Parts) -> Rest:
    """A part comes when it is called, and goes when another's turn comes."""
    turns = Turns()
    for name, module in parts.modules.items():
        weights = turns.add(Weights(module, parts.device), is_exclusive=name in parts.exclusive)
        add_hook_to_module(module, _PartHook(weights, turns, parts.device))
    return turns.rest


def by_group(parts: Parts) -> Rest:
    """The denoiser comes block by block, the next one while this one computes; the rest as `by_part`."""
    to_host([parts.the_denoiser], parts.device)
    has_streams = parts.device.type == "cuda"
    parts.the_denoiser.enable_group_offload(
        onload_device=parts.device,
        offload_device=HOST,
        offload_type="block_level",
        num_blocks_per_group=1,
        non_blocking=has_streams,
        use_stream=has_streams,
        record_stream=has_streams,
    )
    others = {name: m for name, m in parts.modules.items() if name != parts.denoiser}
    return by_part(replace(parts, modules=others))


def by_layer(parts: Parts) -> Rest:
    """Each layer comes when it is called, and goes when it is done."""
    turns = Turns()
    for part in parts.modules.values():
        for module in part.modules():
            weights = turns.add(Weights(module, parts.device, recurse=False), is_exclusive=False)
            if module is part:
                add_hook_to_module(module, _PartHook(weights, turns, parts.device))
            elif weights:
                add_hook_to_module(module, _LayerHook(weights))
    return turns.rest


def _no_rest() -> None:
    """Nothing has to go when nothing runs."""


def strip(forwards: Mapping[nn.Module, Any]) -> None:
    """Take all hooks off; `forwards`: what `own_forwards` found before they were put on."""
    for module, forward in forwards.items():
        for name in (*MARKS, "forward"):
            vars(module).pop(name, None)
        if forward is not None:
            module.forward = forward


def own_forwards(modules: Iterable[nn.Module]) -> dict[nn.Module, Any]:
    """Return each submodule with the `forward` that it has of its own, None if it has its class's."""
    return {m: vars(m).get("forward") for module in modules for m in module.modules()}


# ---- weights that visit the device --------------------------------------------------------------


class Weights:
    """Tensors of a module whose truth lies in host memory: they are never copied back from the device."""

    def __init__(self, module: nn.Module, device: torch.device, *, recurse: bool = True) -> None:
        """Put them away; without `recurse` only the module's own, not its submodules'."""
        self._device = device
        self._pairs = [(t, _in_host_memory(t, device)) for t in _tensors(module, recurse=recurse)]
        self.is_here = True
        self.put_away()

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def fetch(self) -> None:
        """Bring them to the device; in whatever precision the module is now."""
        # Under inference_mode parameters would become inference tensors, for good.
        with torch.inference_mode(False):
            for tensor, host in self._pairs:
                tensor.data = host.to(self._device, tensor.dtype, non_blocking=True)
        self.is_here = True

    def put_away(self) -> None:
        """Free the device's memory."""
        if self.is_here:
            with torch.inference_mode(False):
                for tensor, host in self._pairs:
                    tensor.data = host.to(tensor.dtype)
        self.is_here = False


class Turns:
    """Which weights are on the device: of the exclusive ones, those used last."""

    def __init__(self) -> None:
        self._all: list[Weights] = []
        self._exclusive: set[Weights] = set()

    def add(self, weights: Weights, *, is_exclusive: bool) -> Weights:
        """Take weights in."""
        self._all.append(weights)
        if is_exclusive:
            self._exclusive.add(weights)
        return weights

    def fetch(self, wanted: Weights) -> None:
        """Bring weights to the device, and put their rivals away before."""
        if wanted.is_here:
            return
        if wanted in self._exclusive:
            for rival in self._exclusive:
                rival.put_away()
        wanted.fetch()

    def rest(self) -> None:
        """Put everything away, and leave the memory to other programs."""
        present = [weights for weights in self._all if weights.is_here]
        for weights in present:
            weights.put_away()
        if present:
            torch.cuda.empty_cache()


class _PartHook(ModelHook):  # type: ignore[misc]
    """Brings a part and its inputs to the device when it is called, `vae.decode` included."""

    def __init__(self, weights: Weights, turns: Turns, device: torch.device) -> None:
        self._weights = weights
        self._turns = turns
        self.execution_device = device
        """Where diffusers' pipelines look for their device."""

    @_uncompiled
    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """See ModelHook.pre_forward."""
        self._turns.fetch(self._weights)
        return send_to_device(args, self.execution_device), send_to_device(kwargs, self.execution_device)


class _LayerHook(ModelHook):  # type: ignore[misc]
    """Brings a layer to the device for one call."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    @_uncompiled
    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """See ModelHook.pre_forward."""
        self._weights.fetch()
        return args, kwargs

    @_uncompiled
    def post_forward(self, module: nn.Module, output: Any) -> Any:
        """See ModelHook.post_forward."""
        self._weights.put_away()
        return output


# ---- moving -------------------------------------------------------------------------------------


@contextmanager
def moving(device: torch.device) -> Iterator[None]:
    """Surround what moves weights: one move at a time; on CUDA beside the kernels of other residents."""
    with _moves, torch.inference_mode(False), torch.no_grad():
        if device.type != "cuda":
            yield
            return
        torch.cuda.synchronize(device)
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        try:
            with torch.cuda.stream(stream):
                yield
        finally:
            stream.synchronize()
            torch.cuda.empty_cache()


def to_device(modules: Iterable[nn.Module], device: torch.device) -> None:
    """Move weights to the device."""
    for module in modules:
        for tensor in _tensors(module):
            if tensor.device != device:
                tensor.data = tensor.data.to(device, non_blocking=True)


def to_host(modules: Iterable[nn.Module], device: torch.device) -> None:
    """Move weights from the device to host memory, from where they will come back to it."""
    for module in modules:
        for tensor in _tensors(module):
            tensor.data = _in_host_memory(tensor, device)


def is_in_fp8(module: nn.Module) -> bool:
    """Whether weights are stored in 8 bits."""
    return any(tensor.dtype is FP8 for tensor in _tensors(module))


def _tensors(module: nn.Module, *, recurse: bool = True) -> list[torch.Tensor]:
    return [*module.parameters(recurse), *module.buffers(recurse)]


def _in_host_memory(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor's data in host memory; for a CUDA device pinned, if there is so much to pin."""
    data = tensor.data
    if device.type != "cuda":
        return data.to(HOST)
    if data.device == HOST and data.is_pinned():
        return data
    try:
        host = torch.empty_like(data, device=HOST, pin_memory=True)
    except RuntimeError:
        return data.to(HOST)
    return host.copy_(data)
