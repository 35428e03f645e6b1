"""What all doors share: an order in the client's words, and what came of it. Values only."""

from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from difs.errors import Denied
from difs.messages import DEFAULT_PRIORITY, Plan, SeedContract, Timings

if TYPE_CHECKING:
    from difs.client.requests import Wishes

FileForm = Literal["png", "jpeg", "webp"]


class Order(Struct, frozen=True):
    """What to ask of `AsyncClient.generate`, and how its images are to be written."""

    prompt: str
    wishes: "Wishes"
    form: FileForm = "png"
    compression: int | None = None
    """0..100 for a lossy form; None: as DIFS does by itself."""
    notes: tuple[str, ...] = ()
    """What the door could not translate, in words."""


def check(order: Order, *, is_admin: bool) -> None:
    """Refuse wishes that this caller may not have; raises Denied.

    Priorities are strict: whoever may raise his own needs no fair share. (So says the broker of keys.)
    """
    if order.wishes.get("priority", DEFAULT_PRIORITY) > DEFAULT_PRIORITY and not is_admin:
        raise Denied(
            f"priority: above {DEFAULT_PRIORITY} is for tokens made with --admin",
            field="requirements.priority",
            limit=f"<= {DEFAULT_PRIORITY}",
        )


class Picture(Struct, frozen=True):
    """One image, written as a file."""

    data: bytes
    base64: str
    form: FileForm
    seed: int
    height: int
    width: int
    parameters: str
    """How it came to be, in A1111's words."""


class Outcome(Struct, frozen=True):
    """What came of an order."""

    request_id: str
    pictures: tuple[Picture, ...]
    plan: Plan
    timings: Timings
    seed_contract: SeedContract
    seed_bound: float
    attempts: int
    notes: tuple[str, ...]
    """What was done otherwise than asked: by the door, then by the service."""

    def facts(self) -> dict[str, Any]:
        """Return everything but the images, for JSON: the `difs` object of a reply."""
        return {
            "request_id": self.request_id,
            "plan": self.plan,
            "timings": self.timings,
            "seeds": [picture.seed for picture in self.pictures],
            "seed_contract": self.seed_contract,
            "seed_bound": self.seed_bound,
            "attempts": self.attempts,
            "notes": self.notes,
        }
