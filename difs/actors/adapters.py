"""LoRA adapters beside one loaded pipeline: loaded, added to its calls, dropped by size.

The base is never changed: a forward hook on a layer adds what the present call's adapters add to it,
row by row. So with none in use every bit is the base's, and a file that does not fit leaves no trace.
peft's own layers are not used: they take one weight an adapter and one adapter a row, and index with
Python lists, which waits for the GPU several times a layer.
"""

import contextlib
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from difs.actors import lora_format
from difs.actors.adapter_rules import Use, uses
from difs.actors.lora_format import Delta
from difs.errors import EngineFailed
from difs.messages import Adapter

PARTS = ("unet", "text_encoder", "text_encoder_2")

Deltas = Mapping[nn.Module, Delta]
Rows = tuple[Sequence[Adapter], ...]


class _Active:
    """One adapter in the present call."""

    def __init__(self, use: Use, deltas: Deltas) -> None:
        """Take what is added, and to which rows."""
        self._use = use
        self._deltas = deltas
        self._rows: tuple[torch.Tensor, torch.Tensor] | None = None

    def add(self, layer: nn.Module, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return the layer's output for `x` with this adapter's part."""
        delta = self._deltas.get(layer)
        if delta is None:
            return output
        delta.follow(x)
        if self._use.rows is None:
            added = delta.widen(layer, delta.narrow(layer, x))
            return output + added * (self._use.weights[0] * delta.alpha / delta.divisor)
        index, weights = self._placed(x)
        low = delta.narrow(layer, x.index_select(0, index))
        low = low * weights.view(-1, *(1,) * (low.dim() - 1))
        return output.index_add_(0, index, delta.widen(layer, low), alpha=delta.alpha / delta.divisor)

    def _placed(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return rows and weights where `x` is; copied once, for a copy a layer would stall a GPU."""
        if self._rows is None or self._rows[1].device != x.device or self._rows[1].dtype != x.dtype:
            index = torch.tensor(self._use.rows, device=x.device)
            self._rows = index, torch.tensor(self._use.weights, device=x.device, dtype=x.dtype)
        return self._rows


class _Call:
    """What the present call adds; all that hooks hold, so that a shelf can go before its layers."""

    def __init__(self) -> None:
        self.active: tuple[_Active, ...] = ()

    def add(self, layer: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """Return a layer's output with all that is added to it; a forward hook."""
        for active in self.active:
            output = active.add(layer, args[0], output)
        return output


class AdapterShelf:
    """The adapters of one pipeline. For one thread: that of the pipeline's calls."""

    def __init__(self, pipe: Any, budget_bytes: int) -> None:
        """`budget_bytes`: what adapters that nobody uses may keep `nbytes` at."""
        self._parts = {name: part for name in PARTS if (part := getattr(pipe, name, None)) is not None}
        self._budget_bytes = budget_bytes
        self._loaded: dict[str, dict[nn.Module, Delta]] = {}
        """The one used last stands last."""
        self._digests: dict[str, str] = {}
        self._hooks: dict[nn.Module, RemovableHandle] = {}
        self._call = _Call()
        self._prepared: tuple[Rows, tuple[_Active, ...]] = ((), ())
        # text encoders may be shared with other pipelines and outlive this one
        weakref.finalize(self, _unhook, self._hooks).atexit = False

    @property
    def names(self) -> tuple[str, ...]:
        """Return the loaded adapters, the one used last at the end."""
        return tuple(self._loaded)

    @property
    def nbytes(self) -> int:
        """Return the size of all loaded adapters."""
        return sum(delta.nbytes for deltas in self._loaded.values() for delta in deltas.values())

    # ---- what is loaded -------------------------------------------------------------------------

    def has(self, name: str, digest: str) -> bool:
        """Whether an adapter is loaded, from a file with this digest."""
        return name in self._loaded and self._digests.get(name) == digest

    def digests(self, adapters: Sequence[Adapter]) -> tuple[str, ...]:
        """Return what names the weights of adapters that are loaded."""
        return tuple(self._digests.get(adapter.name, "") for adapter in adapters)

    def load(self, name: str, path: Path, digest: str = "") -> None:
        """Load an adapter from a safetensors file, if it is not loaded with this digest.

        Raises EngineFailed for a file that does not fit the base; nothing has changed then. The weights
        go to the device at their first use.
        """
        if self.has(name, digest):
            return
        try:
            self._loaded[name] = lora_format.read(path, self._parts)
        except EngineFailed as error:
            raise EngineFailed(f"adapter {name} does not load: {error}") from None
        self._digests[name] = digest
        self._rehook()

    def trim(self, in_use: Collection[str]) -> tuple[str, ...]:
        """Drop adapters that nobody uses until the budget is kept, the least recently used first.

        Returns their names.
        """
        dropped = []
        for name in self.names:
            if self.nbytes <= self._budget_bytes:
                break
            if name not in in_use:
                del self._loaded[name]
                dropped.append(name)
        self._rehook()
        return tuple(dropped)

    def to_host(self) -> None:
        """Leave the device's memory, as a parked pipeline does; the next use brings each weight back."""
        for deltas in self._loaded.values():
            for delta in deltas.values():
                delta.to_host()
        self._prepared = ((), ())

    def _rehook(self) -> None:
        wanted = {layer for deltas in self._loaded.values() for layer in deltas}
        for layer in self._hooks.keys() - wanted:
            self._hooks.pop(layer).remove()
        for layer in wanted - self._hooks.keys():
            self._hooks[layer] = layer.register_forward_hook(self._call.add)
        self._prepared = ((), ())

    # ---- what is in use -------------------------------------------------------------------------

    @contextlib.contextmanager
    def applied(self, rows: Sequence[Sequence[Adapter]]) -> Iterator[None]:
        """Add to each row of the UNet calls within what its adapters add; outside nothing is added.

        A compiled UNet runs uncompiled where there are adapters: what was compiled knows no hooks.
        Raises EngineFailed for an adapter that is not loaded.
        """
        active = self._prepare(tuple(rows))
        if not active:
            yield
            return
        self._call.active = active
        try:
            with torch.compiler.set_stance("force_eager"):
                yield
        finally:
            self._call.active = ()

    def applied_to_text(self, adapters: Sequence[Adapter]) -> contextlib.AbstractContextManager[None]:
        """Add what `adapters` add to the text encoders' calls within. See `applied`."""
        return self.applied([adapters])

    def _prepare(self, rows: Rows) -> tuple[_Active, ...]:
        if rows != self._prepared[0]:
            self._prepared = rows, tuple(self._activate(use) for use in uses(rows))
        for name in dict.fromkeys(adapter.name for adapters in rows for adapter in adapters):
            if name in self._loaded:
                self._loaded[name] = self._loaded.pop(name)
        return self._prepared[1]

    def _activate(self, use: Use) -> _Active:
        deltas = self._loaded.get(use.name)
        if deltas is None:
            raise EngineFailed(f"adapter {use.name} is not loaded")
        return _Active(use, deltas)


def _unhook(hooks: Mapping[nn.Module, RemovableHandle]) -> None:
    for handle in hooks.values():
        handle.remove()
