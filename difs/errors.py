"""The one tree of errors: whose fault, retryable or not, wire code, HTTP status.

    DifsError
    ├── RequestError            the caller's fault; sending it again changes nothing
    │   ├── InvalidRequest      a field has a bad value
    │   ├── Unsupported         a message type or feature that this service does not have
    │   ├── UnknownName         no such variant, family, sampler or adapter
    │   ├── NotFound            no such request
    │   ├── Denied              this key, or a client without one, may not do that
    │   ├── IdConflict          this id is taken by a request with other content
    │   ├── Infeasible          the stated requirement cannot be kept
    │   └── Quarantined         this content ended too many actors and is not tried for a while
    ├── CapacityError           not now; the same request may succeed later
    │   ├── Overloaded          queue or shared memory is full
    │   ├── TooManyOutstanding  this client has too many open requests
    │   ├── Draining            the service is shutting down
    │   ├── Unavailable         no device is ready
    │   ├── TooSlow             the caller did not read its messages in time
    │   └── BrokerLost          the broker does not answer, or was restarted
    ├── RequestEnded            the request was accepted and ended without a picture
    │   ├── Expired             its deadline passed
    │   └── Cancelled           its client asked for it
    ├── ServiceError            the service's fault
    │   ├── ActorLost           every attempt ended with its actor
    │   ├── EngineFailed        the engine refused or broke
    │   ├── OutOfMemory         device memory did not suffice
    │   └── InternalError       anything else: a bug
    ├── LeaseLost               the shared-memory slot of a picture was given back
    ├── ConfigError             the configuration is wrong
    ├── RepositoryError         a variant in the model repository is wrong
    └── ProtocolError           bytes that break the protocol: Local (ours), Remote (the peer's)

No messages and no sockets here. Where an error goes on the wire, its `code` names it.
"""

import re
from typing import ClassVar


class DifsError(Exception):
    """Base of all errors that DIFS raises on purpose."""

    code: ClassVar[str] = "internal"
    retryable: bool = False
    http_status: ClassVar[int] = 500

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        limit: str | None = None,
        retry_after_s: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.limit = limit
        self.retry_after_s = retry_after_s
        self.request_id = request_id


class RequestError(DifsError):
    """The caller's fault; sending the same again changes nothing."""

    code, http_status = "invalid_request", 400


class InvalidRequest(RequestError):
    """A field of the request has a bad value."""


class Unsupported(RequestError):
    """A message type or feature that this service does not have."""

    code, http_status = "unsupported", 501


class UnknownName(RequestError):
    """No such variant, family, sampler or adapter."""

    code, http_status = "unknown_name", 404


class NotFound(RequestError):
    """No such request."""

    code, http_status = "not_found", 404


class Denied(RequestError):
    """This key, or a client without one, may not do that."""

    code, http_status = "denied", 403


class IdConflict(RequestError):
    """The request id is taken by a request with other content."""

    code, http_status = "id_conflict", 409


class Infeasible(RequestError):
    """The stated requirement cannot be kept."""

    code, http_status = "infeasible", 422


class Quarantined(RequestError):
    """This content ended too many actors and is not tried for a while."""

    code, http_status = "quarantined", 422


class CapacityError(DifsError):
    """Not now; the same request may succeed later."""

    code, retryable, http_status = "overloaded", True, 503


class Overloaded(CapacityError):
    """The queue or the shared memory is full."""


class TooManyOutstanding(CapacityError):
    """This client has too many open requests."""

    code, http_status = "too_many_outstanding", 429


class Draining(CapacityError):
    """The service is shutting down."""

    code = "draining"


class Unavailable(CapacityError):
    """No device is ready."""

    code = "unavailable"


class TooSlow(CapacityError):
    """The caller did not read its messages in time, and what it had open was given up."""

    code = "too_slow"


class BrokerLost(CapacityError):
    """The broker does not answer, or was restarted while the request was open."""

    code = "broker_lost"


class RequestEnded(DifsError):
    """The request was accepted and ended without a picture."""

    code, http_status = "cancelled", 499


class Expired(RequestEnded):
    """The request's deadline passed."""

    code, http_status = "expired", 504


class Cancelled(RequestEnded):
    """The request was cancelled."""


class ServiceError(DifsError):
    """The service's fault."""


class ActorLost(ServiceError):
    """Every attempt at the request ended with the death of its actor."""

    code, http_status = "actor_lost", 500


class EngineFailed(ServiceError):
    """The engine refused or broke."""

    code = "engine_failed"


class OutOfMemory(ServiceError):
    """Device memory did not suffice."""

    code, http_status = "out_of_memory", 507


class InternalError(ServiceError):
    """A bug in DIFS."""


class LeaseLost(DifsError):
    """The shared-memory slot of a picture was given back or used again."""

    code = "lease_lost"


class ConfigError(DifsError):
    """The configuration is wrong."""

    code = "config"


class RepositoryError(DifsError):
    """A variant in the model repository is wrong."""

    code = "repository"


class ProtocolError(DifsError):
    """Bytes or messages that break the protocol."""

    code, http_status = "protocol", 400


class LocalProtocolError(ProtocolError):
    """We tried to send what the protocol forbids."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol forbids."""


def first_line(error: BaseException) -> str:
    """Return what a library's error says, for people: its first line, or its name if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


_QUOTED_PATH = re.compile(r"""(?P<quote>['"])/[^'"\n]*/(?P<name>[^'"/\n]*)(?P=quote)""")
_PATH = re.compile(r"""(?<![^\s'"(\[{<=,:;])/(?:[^\s'"/:,;()]+/)+(?P<name>[^\s'"/:,;()]*)""")


def without_paths(text: str) -> str:
    """Return a text with every absolute path cut to its last name: clients need no more."""
    text = _QUOTED_PATH.sub(r"\g<quote>\g<name>\g<quote>", text)
    return _PATH.sub(r"\g<name>", text)


_WIRE_CLASSES: tuple[type[DifsError], ...] = (
    InvalidRequest,
    Unsupported,
    UnknownName,
    NotFound,
    Denied,
    IdConflict,
    Infeasible,
    Quarantined,
    Overloaded,
    TooManyOutstanding,
    Draining,
    Unavailable,
    TooSlow,
    BrokerLost,
    Expired,
    Cancelled,
    ActorLost,
    EngineFailed,
    OutOfMemory,
    InternalError,
    RemoteProtocolError,
)

BY_CODE: dict[str, type[DifsError]] = {cls.code: cls for cls in _WIRE_CLASSES}
"""Every code that may stand in an `error` message, with its class."""
