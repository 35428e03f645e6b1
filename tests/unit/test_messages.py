"""difs.messages: what a struct made in Python refuses, beyond what `test_wire` says of bytes."""

import json
from collections.abc import Callable

import msgspec
import pytest

from difs.messages import Adapter, Bad, DeviceStatus, Generate, Overrides, Requirements
from tests import builders

NOT_FINITE = [float("nan"), float("inf"), float("-inf")]
MAKERS: dict[str, Callable[[float], object]] = {
    "latency_s": lambda value: Requirements(latency_s=value),
    "quality": lambda value: Requirements(quality=value),
    "weight": lambda value: Adapter("a", value),
    "guidance_scale": lambda value: Overrides(guidance_scale=value),
    "timeout_s": lambda value: Generate("r1", "x", timeout_s=value),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("value", NOT_FINITE)
def test_numbers_are_finite(name: str, value: float) -> None:
    with pytest.raises(Bad, match=f"^{name}: must be a finite number"):
        MAKERS[name](value)


def test_a_message_cannot_be_changed() -> None:
    message = Generate("r1", "x")
    with pytest.raises(AttributeError):
        message.prompt = "y"  # type: ignore[misc]


def test_an_old_clients_request_means_what_it_meant() -> None:
    """What came later is off unless it is asked for."""
    asked = Generate("r1", "x")
    assert (asked.deterministic, asked.delivery.preview_every) == (False, 0)
    assert set(msgspec.to_builtins(asked)) == {"type", "request_id", "prompt"}


def test_the_memory_modes_of_a_device_are_its_own() -> None:
    first, second = (DeviceStatus("cpu-0", "ready", (), 0, 0, 8, 0.0, 1, 1) for _ in range(2))
    assert first.memory_modes is not second.memory_modes


def test_a_plan_describes_itself_and_the_goal_without_any_path() -> None:
    plan = builders.plan(notes=("a note",))
    found = json.loads(plan.describe(Requirements(latency_s=0.5)))
    assert found["goal"] == {"latency_s": 0.5}
    assert (found["plan"]["variant"], found["plan"]["steps"]) == ("tiny", 20)
    assert "/" not in plan.describe(Requirements())
