"""Who may share whose calls: what each has to spare, and who cannot wait until another can spare it.

Engine and foresight decide alike by it. Pure arithmetic; nothing of how calls follow each other (see
`foresight`, `actors.batching`).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

GIVEN_UP = 0.9
"""Who has less than this share of the seconds that it needs is made later by who can wait: late as it is,
it would hold up all others for long. With a half, predictions err a little less (bench.predictions with
noise), and under overload 0.5 % less comes in time (bench.policy, six times the trace)."""


class Sharer(NamedTuple):
    """One that shares a stretch's calls, as one sees it that would join them."""

    calls: int
    """That it needs when the stretch begins;"""
    promised_s: float
    """the seconds that they may take until it misses what it was promised; inf: it does anyhow;"""
    told_s: float
    """or what it was told; inf: that is given up."""

    @classmethod
    def at(cls, calls: int, call_s: float, promised_s: float, told_s: float) -> "Sharer":
        """Return one whose calls of `call_s` may take so many seconds, where nothing of that is lost yet.

        Late by little against what it was told, it is not made later still.
        """
        needs_s = calls * call_s
        return cls(
            calls,
            promised_s if promised_s >= needs_s else math.inf,
            told_s if told_s >= GIVEN_UP * needs_s else math.inf,
        )

    def bears(self, call_s: float, *, is_in_haste: bool) -> bool:
        """Whether its calls may take so long; `is_in_haste`: for one who cannot wait."""
        return self.calls * call_s <= self.room_s(is_in_haste=is_in_haste)

    def room_s(self, *, is_in_haste: bool) -> float:
        """Return the seconds that its calls may take for the sake of one that can wait, or cannot."""
        return self.promised_s if is_in_haste else min(self.promised_s, self.told_s)


def joined_after(
    sharers: Sequence[Sharer], call_s: float, shared_s: float, later_s: float, *, is_in_haste: bool
) -> int:
    """Return after how many calls of `call_s` the rest may take `shared_s`, so that nobody misses that.

    The seconds that one has to spare are shared among the fewer calls, the later that is. `later_s`: by
    which whoever joins makes the others later before.
    """
    after = 0.0
    for one in sharers:
        missing_s = one.calls * shared_s + later_s - one.room_s(is_in_haste=is_in_haste)
        if missing_s > 0:
            after = max(after, missing_s / (shared_s - call_s) if shared_s > call_s else one.calls)
    return math.ceil(after - 1e-6)


class Rest(NamedTuple):
    """What one still needs, alone."""

    calls: int
    call_s: float
    decode_s: float


def rode_along(left_s: float, rider: Rest, head: Rest, sharer: Sharer, shared_s: float) -> bool:
    """Whether who was told to be done in `left_s` was foreseen to share calls before a head bears that.

    It gains by sharing all of its calls now, which take `shared_s` then. `sharer`: the head, as it is.
    """
    apart = min(head.calls, joined_after([sharer], head.call_s, shared_s, 0.0, is_in_haste=False))
    shared = min(rider.calls, head.calls - apart)
    after_s = apart * head.call_s + shared * shared_s + rider.decode_s
    if apart + rider.calls >= head.calls:  # the head is done before it
        after_s += head.decode_s + (rider.calls - shared) * rider.call_s
    now_s = rider.calls * shared_s + rider.decode_s
    return left_s < after_s and now_s - left_s < after_s - now_s
