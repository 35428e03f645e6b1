"""What a policy sees and what it answers. Frozen values only: a policy never touches the broker."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from msgspec import Struct

from difs.actor_messages import Resident
from difs.messages import AdapterInfo, Alternative, Generate, Plan, VariantInfo


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

    def known(self, variant: str) -> Resident | None:
        """Return what is known of `variant` here: loaded or parked; None: never measured, or dropped."""
        return self.residents.get(variant) or self.parked.get(variant)


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
    limit: str | None = None
    """The nearest value of `field` that could be kept."""


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


@runtime_checkable
class Surveyor(Protocol):
    """A policy that can tell all points among which it chooses."""

    def survey(self, view: View, request: Generate) -> tuple[Alternative, ...]:
        """Return the points, the best first, the chosen one among them; pure."""
        ...
