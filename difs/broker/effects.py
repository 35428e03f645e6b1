"""What the broker's shell shall do: everything that `BrokerState.handle` returns, in order."""

from msgspec import Struct

from difs.actor_messages import ToActor as ActorMessage
from difs.actor_messages import ToSupervisor as SupervisorMessage
from difs.messages import BrokerMessage


class Payload(Struct, frozen=True):
    """Bytes to copy out of a device's segment: `offset` of the slot, `nbytes` of the image."""

    device: str
    offset: int
    nbytes: int


class TellClient(Struct, frozen=True):
    """Send a message to a client, the payloads as frames behind it."""

    route: bytes
    message: BrokerMessage
    payloads: tuple[Payload, ...] = ()
    leases: tuple[int, ...] = ()
    """What keeps the payloads in their slots; to be answered by `Delivered` once they are copied."""


class ForgetClient(Struct, frozen=True):
    """Drop what is still owed to a client: its slots go to others."""

    route: bytes


class TellActor(Struct, frozen=True):
    """Send a message to an actor."""

    route: bytes
    message: ActorMessage


class TellSupervisor(Struct, frozen=True):
    """Send a message to the supervisor."""

    route: bytes
    message: SupervisorMessage


class Complain(Struct, frozen=True):
    """Write into the log what went wrong; the broker goes on."""

    words: str


class Exit(Struct, frozen=True):
    """Leave the loop: everything is drained."""


Effect = TellClient | ForgetClient | TellActor | TellSupervisor | Complain | Exit
