"""The memory modes: which there are, in which order, and on which devices. Pure data.

How a mode is entered and left stands in `difs.actors.memory_modes`.
"""

from msgspec import Struct

from difs.messages import MemoryMode


class ModeFacts(Struct, frozen=True):
    """One mode: where it can be used, and whether it changes the weights (and so the pictures)."""

    devices: tuple[str, ...]
    is_lossy: bool = False


MODES: dict[MemoryMode, ModeFacts] = {
    "full": ModeFacts(("cuda", "cpu", "simulated")),
    "sliced": ModeFacts(("cuda", "cpu", "simulated")),
    "tiled": ModeFacts(("cuda", "cpu", "simulated")),
    "fp8": ModeFacts(("cuda",), is_lossy=True),
    "model_offload": ModeFacts(("cuda",)),
    "group_offload": ModeFacts(("cuda",)),
    "sequential_offload": ModeFacts(("cuda",)),
}
"""From the one that needs most device memory to the one that needs least: the ladder's order."""


def available(kind: str) -> tuple[MemoryMode, ...]:
    """Return the modes of a kind of device ("cuda", "cpu", "simulated"), lightest on memory last."""
    return tuple(name for name, facts in MODES.items() if kind in facts.devices)


def lighter(mode: MemoryMode, kind: str) -> MemoryMode | None:
    """Return the next mode that needs less memory on this kind of device; None after the last."""
    usable = available(kind)
    after = usable[usable.index(mode) + 1 :] if mode in usable else ()
    return after[0] if after else None
