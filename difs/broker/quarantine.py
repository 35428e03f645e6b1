"""Contents that ended too many actors, kept from being tried again for a while. Pure; time passed in.

A content is what a request wants painted, whoever asks and under whichever id. Only its digest is
kept: nothing here can tell a prompt.
"""

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from difs.messages import Generate

MAX_KEPT = 100
"""Contents in quarantine at a time; one more sets the oldest free."""


def digest_of(message: Generate) -> str:
    """Return the digest of what `message` wants painted: 32 hexadecimal digits."""
    content = (
        message.task,
        message.prompt,
        message.negative_prompt,
        message.width,
        message.height,
        message.n,
        message.seed,
        message.overrides,
    )
    return blake2b(msgspec.msgpack.encode(content), digest_size=16).hexdigest()


@dataclass(slots=True)
class Case:
    """A content in quarantine."""

    digest: str
    request_id: str
    """Of the request that was ended for it."""
    deaths: int
    reason: str
    """How the last actor ended."""
    until: float


class Quarantine:
    """The contents that are not tried now."""

    def __init__(self, seconds: float) -> None:
        """Keep each content for `seconds`; 0: none at all."""
        self._seconds = seconds
        self._cases: OrderedDict[str, Case] = OrderedDict()

    def put(self, message: Generate, deaths: int, reason: str, now: float) -> Case | None:
        """Take a content in and return its case; None where the quarantine is off."""
        if not self._seconds:
            return None
        digest = digest_of(message)
        case = Case(digest, message.request_id, deaths, reason, now + self._seconds)
        self._cases.pop(digest, None)
        self._cases[digest] = case
        if len(self._cases) > MAX_KEPT:
            self._cases.popitem(last=False)
        return case

    def find(self, message: Generate, now: float) -> Case | None:
        """Return the case of a request's content, if it is not to be tried now."""
        if not self._cases:
            return None  # as nearly always: no digest is computed
        self._forget(now)
        return self._cases.get(digest_of(message))

    def cases(self, now: float) -> tuple[Case, ...]:
        """Return all cases, the oldest first."""
        self._forget(now)
        return tuple(self._cases.values())

    def clear(self, digest: str | None = None) -> int:
        """Set one content free, or all; returns how many there were."""
        if digest is not None:
            return int(self._cases.pop(digest, None) is not None)
        count = len(self._cases)
        self._cases.clear()
        return count

    def _forget(self, now: float) -> None:
        """Set free those whose time is over; all stay equally long, so the oldest are the first."""
        while self._cases and next(iter(self._cases.values())).until <= now:
            self._cases.popitem(last=False)
