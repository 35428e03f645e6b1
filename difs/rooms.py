"""Which memory modes of a variant have room on a device: pure arithmetic over what profiles measured.

A resident needs what it keeps between two calls, and on top the larger of the peaks of a step and of a
decoding; both peaks grow with the pixels.
"""

from collections.abc import Collection, Sequence
from functools import lru_cache

from difs.actor_messages import Resident, Room
from difs.memory_modes import MODES


def _peak_bytes(room: Room) -> int:
    """Return the larger of the peaks of a step and of a decoding."""
    return max(room.step_peak_bytes or 0, room.decode_peak_bytes or 0)


def rest_bytes(resident: Resident) -> int:
    """Return the bytes of a device that a resident keeps between two calls."""
    return resident.weight_bytes if resident.room is None else resident.room.rest_bytes


def needed_bytes(resident: Resident, pixels: int) -> int | None:
    """Return the bytes of a device that painting one image of `pixels` pixels needs; None: unknown."""
    room = resident.room
    if room is None:
        return None
    return room.rest_bytes + round(_peak_bytes(room) * pixels / resident.costs.pixels)


def may_join(newcomer: Resident | None, others: Collection[Resident], budget_bytes: int) -> bool:
    """Whether a variant that nobody waits for may be loaded beside `others`.

    All that rests must have room, with the largest call of any: else one of them would have to leave, or
    be made slower, as soon as one is used. The first may come, and what was not measured.
    """
    if newcomer is None or newcomer.room is None or not others:
        return True
    rooms = [resident.room for resident in (*others, newcomer) if resident.room is not None]
    return sum([room.rest_bytes for room in rooms]) + max(map(_peak_bytes, rooms)) <= budget_bytes


@lru_cache(maxsize=8192)  # thousands are asked for one decision
def fitting(modes: tuple[Resident, ...], pixels: int, room_bytes: int | None) -> tuple[Resident, ...]:
    """Return the modes of one variant that fit into `room_bytes`, the one it is loaded into first.

    Modes that change the pictures are left out unless they are its own. Where none fits, the one that
    needs least is returned: others may leave meanwhile. Where the room is not known its own is.
    """
    alike = [r for r in modes if r is modes[0] or not MODES[r.memory_mode].is_lossy]
    if room_bytes is None:
        return modes[:1]
    needs = [(needed_bytes(r, pixels), r) for r in alike]
    fit = tuple(r for need, r in needs if need is None or need <= room_bytes)
    return fit or (_lightest(alike, pixels),)


def _lightest(modes: Sequence[Resident], pixels: int) -> Resident:
    return min(modes, key=lambda r: needed_bytes(r, pixels) or 0)
