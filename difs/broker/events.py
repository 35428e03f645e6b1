"""What happened to the broker: everything that `BrokerState.handle` takes."""

from collections.abc import Mapping

from msgspec import Struct

from difs.actor_messages import FromActor
from difs.errors import DifsError
from difs.messages import AdapterInfo, ClientMessage, VariantInfo


class Peer(Struct, frozen=True):
    """Who is at the other end of a client's connection; by default a program of this user."""

    account: str = ""
    """The name of its key. Without one, each connection is for itself."""
    is_local: bool = True
    """It came through the socket in the run directory, so that it can map shared memory."""
    is_admin: bool = True


LOCAL = Peer()


class ClientSaid(Struct, frozen=True):
    """A valid message came from a client; `route` is its routing id."""

    route: bytes
    message: ClientMessage
    peer: Peer = LOCAL


class ClientMisspoke(Struct, frozen=True):
    """A client sent what the protocol forbids."""

    route: bytes
    error: DifsError
    request_id: str | None


class ClientLost(Struct, frozen=True):
    """A client is gone."""

    route: bytes


class ClientTooSlow(Struct, frozen=True):
    """A client has not taken its messages for too long, and what it was owed was dropped."""

    route: bytes


class Delivered(Struct, frozen=True):
    """Pictures that travel inline were copied out of their slots."""

    leases: tuple[int, ...]


class KeysRevoked(Struct, frozen=True):
    """Keys are no longer allowed; what came with them is."""

    names: frozenset[str]


class ActorSaid(Struct, frozen=True):
    """A valid message came from an actor or the supervisor."""

    route: bytes
    message: FromActor


class ActorUnreachable(Struct, frozen=True):
    """A message to an actor could not be delivered."""

    route: bytes


class RepositoryChanged(Struct, frozen=True):
    """The model repository is another than before."""

    variants: Mapping[str, VariantInfo]
    adapters: Mapping[str, AdapterInfo]
    outdated: frozenset[str]
    """Variants that are gone, or made of other weights: what is loaded of them is not them any more."""


class Ticked(Struct, frozen=True):
    """Time passed."""


Event = (
    ClientSaid
    | ClientMisspoke
    | ClientLost
    | ClientTooSlow
    | Delivered
    | KeysRevoked
    | ActorSaid
    | ActorUnreachable
    | RepositoryChanged
    | Ticked
)
