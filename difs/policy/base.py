"""What a policy sees and what it answers. Frozen values only: a policy never touches the broker."""

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from difs.actor_messages import Resident
from difs.messages import AdapterInfo, Generate, MemoryMode, Plan, VariantInfo


class DeviceView(Struct, frozen=True):
    """A ready device as a policy sees it."""

    device: str
    residents: Mapping[str, Resident]
    backlog_s: float
    """Predicted seconds until the work assigned to it is done."""
    queued: int
    free_credits: int
    parked: Mapping[str, Resident] = {}
    """What returns from host memory, with the costs that it would have; its `load_s` is the way back."""
    profiled: Mapping[str, Mapping[MemoryMode, Resident]] = {}
    """What variants would be here in each memory mode, as profiles say; the mode that one is loaded into
    stands first. `load_s` is the way from the disk."""
    estimated: Mapping[str, Resident] = {}
    """What variants would be that were never measured here, from others of their family: `costs.source`
    says so."""

    def known(self, variant: str) -> Resident | None:
        """Return what is known of `variant` here; None: nothing.

        Loaded, else parked, else as its profile says of the mode that it is loaded into, else estimated.
        """
        return (
            self.residents.get(variant)
            or self.parked.get(variant)
            or next(iter(self.profiled.get(variant, {}).values()), None)
            or self.estimated.get(variant)
        )


class View(Struct, frozen=True):
    """The state of the service at one moment."""

    now: float
    devices: tuple[DeviceView, ...]
    variants: Mapping[str, VariantInfo]
    decisions: int
    """How many decisions were made before this one."""
    adapters: Mapping[str, AdapterInfo] = {}


class Admit(Struct, frozen=True):
    """Serve the request as planned."""

    plan: Plan


class Wait(Struct, frozen=True):
    """Keep the request queued without a plan; asked again when a device becomes ready."""

    reason: str


class Reject(Struct, frozen=True):
    """Refuse the request; `code` is one of `difs.errors.BY_CODE`."""

    code: str
    reason: str
    field: str | None = None
    retry_after_s: float | None = None


Decision = Admit | Wait | Reject


class Options(Struct, frozen=True):
    """What the configuration's [policy] section says to a policy."""

    variant: str = ""


class Policy(Protocol):
    """A scheduling policy; its class is called once, with the Options."""

    name: str

    def decide(self, view: View, request: Generate) -> Decision:
        """Choose an operating point for `request`; pure."""
        ...
