"""An error as HTTP tells it: status, headers, words. Pure; the shapes are each API's own.

What the service did wrong is told in fixed words: the message of such an error may name a file.
"""

import math

from msgspec import Struct

from difs.errors import (
    ActorLost,
    CapacityError,
    DifsError,
    EngineFailed,
    OutOfMemory,
    ProtocolError,
    RequestEnded,
    RequestError,
)

LEAST_RETRY_S = 1
FIXED_WORDS: dict[type[DifsError], str] = {
    ActorLost: "the process that painted it ended, each time it was tried; the service's log says why",
    EngineFailed: "the engine could not paint this; the service's log says why",
    OutOfMemory: "the device's memory did not suffice; ask for a smaller picture, or fewer at once",
}
BUG = "an error of the service; its log says more"
SPOKEN = (RequestError, CapacityError, RequestEnded, ProtocolError)
"""Errors whose message is for the caller."""


class Refused(Struct, frozen=True, omit_defaults=True):
    """An error, ready to be told."""

    status: int
    code: str
    message: str
    retryable: bool
    field: str | None = None
    limit: str | None = None
    retry_after_s: float | None = None

    def headers(self) -> dict[str, str]:
        """Return what clients act upon: when to try again, and whether to (the openai client asks)."""
        found = {"x-should-retry": "true" if self.retryable else "false"}
        if self.retry_after_s is not None:
            found["retry-after"] = str(max(LEAST_RETRY_S, math.ceil(self.retry_after_s)))
        return found


class Told(Exception):
    """Ends the handling of a request with an answer that no DifsError stands for."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.message)
        self.refused = refused


def refused(error: DifsError) -> Refused:
    """Return how an error is told; `field` is that of the protocol."""
    words = error.message
    if not isinstance(error, SPOKEN):
        words = next((text for cls, text in FIXED_WORDS.items() if isinstance(error, cls)), BUG)
    after_s = error.retry_after_s
    if after_s is None and error.retryable:
        after_s = LEAST_RETRY_S
    return Refused(
        error.http_status, error.code, words, error.retryable, error.field, error.limit, after_s
    )


def plain_field(field: str | None) -> str | None:
    """Return a field without the protocol's group, as the flat APIs have it."""
    if field is None:
        return None
    group, _, name = field.partition(".")
    return name if group in ("overrides", "requirements", "delivery") and name else field
