"""The private protocol: messages between the broker, its actors and the supervisor.

They travel on a socket of their own that no client can reach. Attempt ids carry the broker's epoch
in their upper half, so that nothing of an earlier broker can be taken for the present one's.
"""

from typing import Literal

from msgspec import Struct

from difs.messages import Adapter, Format, MemoryMode, Preview, Reading, SeedContract

# ---- broker -> actor ----------------------------------------------------------------------------


class Slot(Struct, frozen=True, array_like=True):
    """A leased place for one image in the actor's segment; `nbytes` without the header."""

    index: int
    offset: int
    nbytes: int
    generation: int


class Execute(Struct, frozen=True, omit_defaults=True, tag="execute"):
    """Paint one request. `deadline` and `due` are in seconds of CLOCK_MONOTONIC."""

    attempt: int
    request_id: str
    variant: str
    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance_scale: float
    sampler: str
    seeds: tuple[int, ...]
    deadline: float
    slots: tuple[Slot, ...]
    format: Format
    metadata: str
    """Text for the image file's metadata; empty for none."""
    adapters: tuple[Adapter, ...] = ()
    due: float = 0.0
    """When the images were predicted: the engine serves what is due first. 0.0: at the deadline."""
    latest: float = 0.0
    """By when they were promised: no batch grows so far that it is missed. 0.0: nothing was promised."""
    told: float = 0.0
    """When it was told to be done, with some leeway: who can wait does not make it later. 0.0: never."""
    is_in_haste: bool = False
    """It cannot wait: it shares calls even if others are later for that than they were told."""
    is_alone: bool = False
    """Shares no call with others, so that every bit is that of a run alone."""
    floor_steps: int = 0
    """To how few steps it may be cut on its way so that `latest` is kept; 0: to none fewer."""
    is_judged: bool = False
    """The finished pictures are scored."""
    is_best_effort: bool = False
    """It gives way to all others, at every step."""
    preview_every: int = 0
    """Steps between two previews; 0 for none."""
    is_watched: bool = False
    """Its client hears of each step; of others, several steps may be reported at once."""


class Abort(Struct, frozen=True, tag="abort"):
    """Stop an attempt before its next step; answered by `Ended`."""

    attempt: int


class LoadVariant(Struct, frozen=True, omit_defaults=True, tag="load_variant"):
    """Load a variant and warm it up while others go on; answered by `Loaded` or `LoadFailed`."""

    variant: str
    memory_mode: MemoryMode | None = None
    """None: its own. What is parked returns in the mode that it had."""


class CancelLoad(Struct, frozen=True, tag="cancel_load"):
    """Give up a load that nobody waits for; answered by `LoadFailed`, or `Loaded` if it is too late."""

    variant: str


class EvictVariant(Struct, frozen=True, omit_defaults=True, tag="evict_variant"):
    """Take an unused variant off the device, parked if there is room; answered by `Evicted`."""

    variant: str
    is_final: bool = False
    """It is not parked, and leaves host memory if it is there."""


class SwitchMode(Struct, frozen=True, tag="switch_mode"):
    """Change a resident's memory mode between two steps; answered by `Switched` or `SwitchFailed`."""

    variant: str
    memory_mode: MemoryMode


class Stop(Struct, frozen=True, tag="stop"):
    """Finish what runs, take nothing new, exit 0."""


class Welcome(Struct, frozen=True, tag="welcome"):
    """The broker knows this actor; also its heartbeat, twice a second."""

    epoch: int


ToActor = Execute | Abort | LoadVariant | CancelLoad | EvictVariant | SwitchMode | Stop | Welcome

# ---- actor -> broker ----------------------------------------------------------------------------


class RowCost(Struct, frozen=True, array_like=True):
    """Seconds of one UNet evaluation with `rows` rows; an image is one row, two with guidance."""

    rows: int
    seconds: float


class SizeCost(Struct, frozen=True, array_like=True):
    """Seconds of a step and of a decoding at `pixels` pixels; see `Costs`."""

    pixels: int
    steps: tuple[RowCost, ...]
    decode_s: float
    is_measured: bool = True
    """False: reckoned from another size, and nothing of this one was seen yet."""


class Costs(Struct, frozen=True, cache_hash=True):
    """Seconds of a resident at `pixels` pixels: the cost model's input."""

    pixels: int
    encode_s: float
    """One prompt."""
    steps: tuple[RowCost, ...]
    """One evaluation and its scheduler steps, by the rows that share it; rows ascend."""
    decode_s: float
    """One image."""
    load_s: float
    """From where it lies now: the disk, or host memory if it is parked."""
    sizes: tuple[SizeCost, ...] = ()
    """The same at other numbers of pixels, ascending; empty: steps and decoding are linear in pixels."""
    source: Literal["measured", "estimated", "assumed"] = "measured"
    """Estimated: from what other variants, or sizes, cost here; assumed: from its kind's usual speed."""


class Room(Struct, frozen=True):
    """Bytes of device memory that a resident takes, as a profile measured them."""

    rest_bytes: int
    """Between two calls."""
    step_peak_bytes: int | None = None
    """Most that a step of one guided image, of the native size, takes beyond that; None: unknown."""
    decode_peak_bytes: int | None = None
    """Most that decoding one image of the native size takes beyond that; None: unknown."""


class Resident(Struct, frozen=True, cache_hash=True):
    """A variant loaded on a device."""

    variant: str
    memory_mode: MemoryMode
    precision: str
    weight_bytes: int
    costs: Costs
    seed_bound: float = 0.0
    """Largest difference of a value (0..1) between a picture painted in a batch and alone, measured."""
    room: Room | None = None
    """None: no profile has measured it."""


class Ready(Struct, frozen=True, tag="ready"):
    """The actor can serve: device found, variants loaded, a real image painted."""

    device: str
    incarnation: str
    pid: int
    credits: int
    residents: tuple[Resident, ...]
    attempts: tuple[int, ...] = ()
    """Attempts that it holds: those that the broker does not know are aborted."""
    profiled: tuple[Resident, ...] = ()
    """What variants would be here, mode by mode, as their profiles say; the mode that one is loaded into
    stands first."""


class Pulse(Struct, frozen=True, tag="pulse"):
    """The actor's heartbeat, twice a second, from a thread of its own."""

    incarnation: str
    progress: int
    """Units of work done so far; stands still when the engine hangs."""
    reading: Reading


class Stepped(Struct, frozen=True, omit_defaults=True, tag="stepped"):
    """One denoising step of one image is done, and its client wants to hear of it."""

    attempt: int
    image: int
    step: int
    steps: int
    preview: Preview | None = None


class Counted(Struct, frozen=True, tag="counted"):
    """What is done of the attempts that nobody watches: with it all is told of all of them."""

    calls: tuple[tuple[int, int], ...]
    """Attempts with the steps of all their images since the last count."""


class Sealed(Struct, frozen=True, array_like=True):
    """One finished image in its slot."""

    index: int
    nbytes: int
    crc32: int


class Finished(Struct, frozen=True, tag="finished"):
    """All images of an attempt are sealed in their slots, in the order of the seeds.

    Seconds are those in which the attempt was at work; a call that others shared counts whole.
    """

    attempt: int
    images: tuple[Sealed, ...]
    encode_s: float
    steps_s: float
    decode_s: float
    deliver_s: float
    seed_contract: SeedContract
    notes: tuple[str, ...] = ()
    seed_bound: float = 0.0
    """See `Resident.seed_bound`; 0.0 if bitwise."""
    shared_by: float = 1.0
    """Images in a call of its steps, on average."""
    costs: Costs | None = None
    """The resident's costs as they are known now."""
    drift: float = 0.0
    """By how much the logarithm of every resident's costs has moved since the start; see `difs.drift`."""
    score: float | None = None
    """0..1, of the worst picture; None: not asked for, or it cannot be judged."""


class Ended(Struct, frozen=True, tag="ended"):
    """An attempt ended without images: aborted, expired or failed."""

    attempt: int
    code: str
    """`cancelled`, `expired`, or an error's code."""
    message: str


class Loaded(Struct, frozen=True, tag="loaded"):
    """A variant is resident and warm."""

    resident: Resident


class LoadFailed(Struct, frozen=True, tag="load_failed"):
    """A variant could not be loaded."""

    variant: str
    message: str


class Evicted(Struct, frozen=True, tag="evicted"):
    """A variant is gone from the device."""

    variant: str
    parked: Resident | None = None
    """What it would be when it returns, if it was parked in host memory."""
    dropped: tuple[str, ...] = ()
    """Parked variants that had to make room."""


class Switched(Struct, frozen=True, tag="switched"):
    """A resident changed: its memory mode, or what is known of its costs."""

    resident: Resident


class SwitchFailed(Struct, frozen=True, tag="switch_failed"):
    """A resident is in the mode that it had before."""

    variant: str
    message: str


class Retiring(Struct, frozen=True, tag="retiring"):
    """The actor was asked to leave: it finishes what it has and wants nothing new."""


class Leaving(Struct, frozen=True, tag="leaving"):
    """The actor exits on purpose, nothing left undone."""


# ---- supervisor <-> broker ----------------------------------------------------------------------


class Supervise(Struct, frozen=True, tag="supervise"):
    """The supervisor introduces itself; sent again on every new epoch."""

    pid: int


class ActorExited(Struct, frozen=True, tag="actor_exited"):
    """A child of the supervisor is gone; `reason` for people."""

    device: str
    pid: int
    reason: str
    how: str = "unknown"
    """One of few words, to count by: the name of a signal, `status_70`, `left`."""


class DrainAll(Struct, frozen=True, tag="drain_all"):
    """Finish within `grace_s` seconds, then exit."""

    grace_s: float


class Fleet(Struct, frozen=True, tag="fleet"):
    """Broker to supervisor: which devices are ready; also its heartbeat."""

    epoch: int
    ready: tuple[str, ...]
    proven: tuple[str, ...] = ()
    """Those whose process has painted for somebody: what ends it now is no fault of its start."""


class KillActor(Struct, frozen=True, tag="kill_actor"):
    """Broker to supervisor: this incarnation no longer answers."""

    device: str
    pid: int
    reason: str


class Excuse(Struct, frozen=True, tag="excuse"):
    """Broker to supervisor: a request, now in quarantine, was at fault for the ends on these devices."""

    devices: tuple[str, ...]


FromActor = (
    Ready
    | Pulse
    | Stepped
    | Counted
    | Finished
    | Ended
    | Loaded
    | LoadFailed
    | Evicted
    | Switched
    | SwitchFailed
    | Retiring
    | Leaving
    | Supervise
    | ActorExited
    | DrainAll
)

ToSupervisor = Fleet | KillActor | Excuse
