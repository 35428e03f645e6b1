"""Small makers of the things that many tests need. No fixtures, no assertions."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from difs import config
from difs.actor_messages import (
    Costs,
    Ended,
    Execute,
    Finished,
    FromActor,
    Pulse,
    Ready,
    Resident,
    RowCost,
    Sealed,
    Slot,
    Stepped,
    Supervise,
)
from difs.broker.books import Segment
from difs.broker.effects import Effect, TellActor, TellClient, TellSupervisor
from difs.broker.events import ActorSaid, ClientSaid, Delivered, Event, Ticked
from difs.broker.state import BrokerState
from difs.messages import (
    AdapterInfo,
    ClientMessage,
    Delivery,
    Error,
    Generate,
    Image,
    MemoryMode,
    Overrides,
    Plan,
    Prediction,
    Reading,
    Requirements,
    Result,
    Timings,
    VariantInfo,
)
from difs.policy.base import DeviceView, Options, Policy, View
from difs.policy.cascade import Cascade
from difs.policy.modelless import Modelless
from difs.policy.round_robin import RoundRobin
from difs.policy.static import Static
from difs.shm import layout

EPOCH = 7
CLIENT, OTHER_CLIENT = b"client-1", b"client-2"
SUPERVISOR = b"supervisor"
KIB = 1024
T = TypeVar("T")

_NEEDS = ("latency_s", "quality", "priority", "on_infeasible", "best_effort")
_PINS = ("variant", "family", "steps", "guidance_scale", "sampler", "adapters")
_DELIVERY = ("mode", "format", "progress", "metadata", "preview_every")


def generate(request_id: str = "r1", **wishes: Any) -> Generate:
    """Return a valid request (64x64, raw, inline), with `wishes` put where each belongs."""
    for name, value in {"width": 64, "height": 64, "format": "raw", "prompt": "red apple"}.items():
        wishes.setdefault(name, value)
    needs = Requirements(**{k: wishes.pop(k) for k in _NEEDS if k in wishes})
    pins = Overrides(**{k: wishes.pop(k) for k in _PINS if k in wishes})
    delivery = Delivery(**{k: wishes.pop(k) for k in _DELIVERY if k in wishes})
    return Generate(request_id, requirements=needs, overrides=pins, delivery=delivery, **wishes)


def variant(name: str = "tiny", **changes: Any) -> VariantInfo:
    """Return a variant as clients see it."""
    facts: dict[str, Any] = {
        "task": "text-to-image",
        "family": "sd15",
        "precision": "fp16",
        "sampler": "ddim",
        "steps_min": 4,
        "steps_default": 20,
        "steps_max": 50,
        "guidance_scale": 2.5,
        "native_sizes": ((64, 64),),
        "licence": "Apache-2.0",
        "description": "",
        "bytes": 1000,
    }
    return VariantInfo(name=name, **facts | changes)


def adapter(name: str = "ink", **changes: Any) -> AdapterInfo:
    """Return an adapter as clients see it."""
    facts: dict[str, Any] = {
        "family": "sd15",
        "licence": "Apache-2.0",
        "description": "",
        "bytes": 100,
        "variants": (),
    }
    return AdapterInfo(name=name, **facts | changes)


COSTS = Costs(
    pixels=64 * 64,
    encode_s=0.01,
    steps=(RowCost(1, 0.005), RowCost(2, 0.01)),
    decode_s=0.02,
    load_s=1.0,
)
"""0.23 s for 20 guided steps at 64x64; it does not pay to share a call."""
SHARED = Costs(
    pixels=64 * 64,
    encode_s=0.01,
    steps=(RowCost(1, 0.006), RowCost(2, 0.01), RowCost(8, 0.02)),
    decode_s=0.02,
    load_s=1.0,
)
"""As COSTS for a guided image, but four of them take only twice as long as one."""


def resident(
    name: str = "tiny", costs: Costs = COSTS, memory_mode: MemoryMode = "full", precision: str = "fp32"
) -> Resident:
    """Return a loaded variant: 0.23 s for 20 guided steps at 64x64."""
    return Resident(name, memory_mode, precision, 1000, costs)


def reading(kind: Any = "simulated") -> Reading:
    """Return a look at a device."""
    return Reading(kind, 1000, 400, 100, 600)


def ready(device: str = "cpu-0", **changes: Any) -> Ready:
    """Return an actor's announcement; its incarnation and pid follow from the device by default."""
    facts: dict[str, Any] = {
        "incarnation": f"{device}.first",
        "pid": 100 + int(device.rpartition("-")[2]),
        "credits": 2,
        "residents": (resident(),),
    }
    return Ready(device=device, **facts | changes)


def segments(devices: Iterable[str], classes: Sequence[tuple[int, int]]) -> dict[str, Segment]:
    """Return the (never made) segments of `devices`, with (bytes, count) classes of slots."""
    plan = layout.plan(classes)
    return {device: Segment(f"/segments/{device}", plan) for device in devices}


POLICIES: dict[str, Policy] = {
    "modelless": Modelless(Options()),
    "static": Static(Options()),
    "round_robin": RoundRobin(Options()),
    "cascade": Cascade(Options(light="tiny", heavy="wide")),
}


def broker_state(
    devices: Iterable[str] = ("cpu-0",),
    *,
    slots: Sequence[tuple[int, int]] = ((64 * KIB, 4),),
    policy: Policy | str = "static",
    variants: Iterable[VariantInfo] = (variant(),),
    adapters: Iterable[AdapterInfo] = (),
    now: float = 0.0,
    **rules: Any,
) -> BrokerState:
    """Return a broker's heart that checks itself after each event; `rules` are [broker]'s keys."""
    return BrokerState(
        rules=config.Broker(**{"validate": True, "actor_silence": 3.1, **rules}),
        policy=POLICIES[policy] if isinstance(policy, str) else policy,
        variants={info.name: info for info in variants},
        adapters={info.name: info for info in adapters},
        segments=segments(devices, slots),
        epoch=EPOCH,
        now=now,
    )


class House:
    """A broker's heart, the time, and short words for what happens to it. Each returns the effects."""

    def __init__(self, **options: Any) -> None:
        self.now: float = options.get("now", 0.0)
        self.delivers: bool = options.pop("delivers", True)
        self.state = broker_state(**options)

    def handle(self, event: Event) -> list[Effect]:
        """Let something happen now; pictures that travel inline are copied at once."""
        effects = self.state.handle(event, self.now)
        leases = [lease for e in effects if isinstance(e, TellClient) for lease in e.leases]
        if leases and self.delivers:
            effects = effects + self.handle(Delivered(tuple(leases)))
        return effects

    def ask(self, message: ClientMessage | str, route: bytes = CLIENT, **wishes: Any) -> list[Effect]:
        """Let a client speak; a text is the id of a `generate`."""
        said = generate(message, **wishes) if isinstance(message, str) else message
        return self.handle(ClientSaid(route, said))

    def tell(self, message: FromActor, route: bytes = b"cpu-0") -> list[Effect]:
        """Let an actor or the supervisor speak; an actor's route is its device's name by default."""
        return self.handle(ActorSaid(route, message))

    def join(self, device: str = "cpu-0", *, route: bytes | None = None, **changes: Any) -> list[Effect]:
        """Let an actor become ready."""
        return self.tell(ready(device, **changes), route or device.encode())

    def supervise(self) -> list[Effect]:
        """Let the supervisor introduce itself."""
        return self.tell(Supervise(1), SUPERVISOR)

    def wait(self, seconds: float) -> list[Effect]:
        """Let time pass, then tick once."""
        self.now += seconds
        return self.handle(Ticked())


def served(**options: Any) -> House:
    """Return a house whose every device has a ready actor with `credits` (2) credits."""
    number = options.pop("credits", 2)
    house = House(**options)
    for device in house.state.books.segments:
        house.join(device, credits=number)
    return house


POOL_OF_4 = 4
"""The slots of a device where a test says nothing else."""
TWO = (variant("tiny"), variant("wide"))


def pulse(house: House, progress: int, device: str = "cpu-0") -> list[Effect]:
    """Let an actor give a sign of life."""
    return house.tell(Pulse(f"{device}.first", progress, reading()), b"pulse socket")


def free_slots(house: House, device: str = "cpu-0") -> int:
    """Return how many slots of a device are free."""
    return house.state.books.pools[device].free


def is_over(house: House) -> bool:
    """Whether no request, attempt, hold or client is left and every slot is free."""
    books = house.state.books
    has_all_slots = all(pool.free == pool.total for pool in books.pools.values())
    records = (books.requests, books.waiting, books.attempts, books.holds, books.clients)
    return has_all_slots and not any(records)


# ---- reading effects ----------------------------------------------------------------------------


def told(effects: Iterable[Effect], kind: type[T], route: bytes | None = None) -> list[T]:
    """Return the messages of type `kind` among what is sent (to `route`), in order."""
    return [
        effect.message
        for effect in effects
        if isinstance(effect, (TellClient, TellActor, TellSupervisor))
        and isinstance(effect.message, kind)
        and route in (None, effect.route)
    ]


def only(effects: Iterable[Effect], kind: type[T], route: bytes | None = None) -> T:
    """Return the one message of type `kind` that is sent (to `route`)."""
    (found,) = told(effects, kind, route)
    return found


def executes(effects: Iterable[Effect]) -> list[str]:
    """Return the ids of what is dispatched, in order."""
    return [message.request_id for message in told(effects, Execute)]


def refused(effects: Iterable[Effect]) -> Error:
    """Return the refusal that is all there is."""
    (effect,) = effects
    return only([effect], Error)


# ---- what actors report -------------------------------------------------------------------------


def finished(execute: Execute, **changes: Any) -> Finished:
    """Return the report that `execute` is done as asked."""
    facts: dict[str, Any] = {
        "images": tuple(Sealed(slot.index, 12, 34) for slot in execute.slots),
        "encode_s": 0.01,
        "steps_s": 0.2,
        "decode_s": 0.02,
        "deliver_s": 0.0,
        "seed_contract": "bitwise",
    }
    return Finished(execute.attempt, **facts | changes)


def ended(execute: Execute, code: str = "cancelled") -> Ended:
    """Return the report that `execute` ended without images."""
    return Ended(execute.attempt, code, "as the test wants")


def stepped(execute: Execute, step: int = 1, image: int = 0, **changes: Any) -> Stepped:
    """Return the report of one step of an image."""
    return Stepped(execute.attempt, image, step, execute.steps, **changes)


def execute(**changes: Any) -> Execute:
    """Return an order to paint a 64x64 picture into the first slot of a 64 KiB class."""
    facts: dict[str, Any] = {
        "attempt": 1,
        "request_id": "r1",
        "variant": "tiny",
        "prompt": "red apple",
        "negative_prompt": "",
        "width": 64,
        "height": 64,
        "steps": 3,
        "guidance_scale": 2.5,
        "sampler": "ddim",
        "seeds": (5,),
        "deadline": 100.0,
        "slots": (Slot(0, layout.PAGE_BYTES, 64 * KIB, 1),),
        "format": "raw",
        "metadata": "",
    }
    return Execute(**facts | changes)


# ---- what the broker says -----------------------------------------------------------------------


def plan(**changes: Any) -> Plan:
    """Return a plan."""
    facts: dict[str, Any] = {
        "variant": "tiny",
        "family": "sd15",
        "precision": "fp32",
        "device": "cpu-0",
        "memory_mode": "full",
        "width": 64,
        "height": 64,
        "steps": 20,
        "guidance_scale": 2.5,
        "sampler": "ddim",
        "prediction": Prediction(0.0, 0.0, 0.01, 0.2, 0.02, 0.23, "measured"),
        "reason": "the only one",
        "policy": "static",
    }
    return Plan(**facts | changes)


def result(request_id: str = "r1", leases: Sequence[int] = (), **changes: Any) -> Result:
    """Return a result with one inline image, or with one leased image for each of `leases`."""
    image: dict[str, Any] = {
        "seed": 5,
        "height": 64,
        "width": 64,
        "channels": 3,
        "format": "raw",
        "nbytes": 12288,
        "crc32": 1,
    }
    places: list[dict[str, Any]] = [
        {"segment": "/segments/cpu-0", "offset": 4096 * (i + 1), "generation": 1, "lease": lease}
        for i, lease in enumerate(leases)
    ]
    facts: dict[str, Any] = {
        "epoch": EPOCH,
        "attempt": 1,
        "images": tuple(Image(**image, **place) for place in places or [{"frame": 0}]),
        "plan": plan(),
        "timings": Timings(0.0, 0.01, 0.2, 0.02, 0.0, 0.23),
        "seed_contract": "bitwise",
        "lease_s": 30.0,
    }
    return Result(request_id, **facts | changes)


# ---- what policies see --------------------------------------------------------------------------


def device_view(
    device: str = "cpu-0",
    backlog_s: float = 0.0,
    names: Iterable[str] = ("tiny",),
    parked: Iterable[Resident] = (),
    **facts: Any,
) -> DeviceView:
    """Return a ready device with `names` resident."""
    facts.setdefault("residents", {name: resident(name) for name in names})
    found = {found.variant: found for found in parked}
    return DeviceView(device=device, backlog_s=backlog_s, queued=0, free_credits=2, parked=found, **facts)


def view(
    *devices: DeviceView,
    variants: Iterable[VariantInfo] = (variant(),),
    decisions: int = 0,
    adapters: Iterable[AdapterInfo] = (),
    now: float = 0.0,
    memory: object = None,
) -> View:
    """Return what a policy sees."""
    known = {info.name: info for info in variants}
    return View(now, devices, known, decisions, {info.name: info for info in adapters}, memory)
