"""difs.client.requests: arguments become a valid message, or an error before anything is sent."""

from typing import Any, cast

import pytest

from difs.client.requests import Wishes, build
from difs.errors import InvalidRequest
from difs.messages import Adapter, Delivery, Generate, Overrides, Requirements


def made(prompt: Any = "red apple", *, progress: bool = False, **wishes: Any) -> Generate:
    """Return what `build` makes of any arguments."""
    return build(prompt, cast(Wishes, wishes), progress=progress)


def test_a_prompt_alone_is_enough() -> None:
    message = made()
    assert message.prompt == "red apple"
    assert message.delivery == Delivery(mode="shm", format="raw")
    assert (message.requirements, message.overrides) == (Requirements(), Overrides())
    assert (message.width, message.height, message.seed, message.n) == (None, None, None, 1)


def test_every_request_gets_an_id_of_its_own() -> None:
    ids = {made().request_id for _ in range(100)}
    assert len(ids) == 100
    assert made(request_id="mine").request_id == "mine"


def test_every_argument_finds_its_place() -> None:
    message = made(
        progress=True,
        latency_s=1.5,
        quality="high",
        width=64,
        height=128,
        n=3,
        seed=2**64 - 1,
        negative_prompt="worm",
        variant="tiny",
        family="sd15",
        steps=7,
        guidance_scale=0,
        sampler="Euler a",
        adapters=[("a", 0.5), ("b", 1)],
        priority=9,
        best_effort=True,
        on_infeasible="reject",
        timeout_s=5,
        delivery="inline",
        format="webp",
        metadata=False,
        request_id="r1",
        retries=5,
    )
    assert message == Generate(
        request_id="r1",
        prompt="red apple",
        negative_prompt="worm",
        width=64,
        height=128,
        n=3,
        seed=2**64 - 1,
        timeout_s=5.0,
        requirements=Requirements(1.5, "high", 9, "reject", best_effort=True),
        overrides=Overrides("tiny", "sd15", 7, 0.0, "Euler a", (Adapter("a", 0.5), Adapter("b", 1.0))),
        delivery=Delivery("inline", "webp", progress=True, metadata=False),
    )


def test_every_argument_that_is_offered_is_taken() -> None:
    for name in Wishes.__annotations__:
        given: dict[str, Any] = {name: None}
        made(**given)


def test_none_means_not_given() -> None:
    assert made(seed=None, variant=None, quality=None, adapters=None, request_id="r") == made(
        request_id="r"
    )


def test_adapters_may_be_a_mapping() -> None:
    assert made(adapters={"a": 0.5}).overrides.adapters == (Adapter("a", 0.5),)


@pytest.mark.parametrize(
    ("wishes", "field"),
    [
        ({"n": 9}, "n"),
        ({"n": True}, "n"),
        ({"n": "3"}, "n"),
        ({"width": 64}, "height"),
        ({"width": 64.0, "height": 64}, "width"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"seed": -(2**80)}, "seed"),
        ({"steps": 151}, "overrides.steps"),
        ({"guidance_scale": float("nan")}, "overrides.guidance_scale"),
        ({"latency_s": 0}, "requirements.latency_s"),
        ({"latency_s": "1s"}, "requirements.latency_s"),
        ({"quality": "superb"}, "requirements.quality"),
        ({"timeout_s": float("inf")}, "timeout_s"),
        ({"variant": "../x"}, "overrides.variant"),
        ({"delivery": "post"}, "delivery.mode"),
        ({"format": "gif"}, "delivery.format"),
        ({"request_id": "a b"}, "request_id"),
        ({"adapters": ["a"]}, "adapters"),
        ({"adapters": 5}, "adapters"),
        ({"adapters": [("a", 9.0)]}, "overrides.adapters[0].weight"),
        ({"negative_prompt": "\0"}, "negative_prompt"),
    ],
)
def test_a_bad_value_is_refused_and_its_field_named(wishes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        made(**wishes)
    assert caught.value.field == field


@pytest.mark.parametrize(("char", "count"), [("x", 4097), ("x", 70_000), ("x", 10**7), ("\u20ac", 1366)])
def test_a_prompt_that_is_too_long_is_refused_as_such(char: str, count: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        made(char * count)
    assert caught.value.field == "prompt"


@pytest.mark.parametrize("prompt", ["\ud800", b"bytes", None, 5, object()])
def test_a_prompt_that_is_no_text_is_refused(prompt: Any) -> None:
    with pytest.raises(InvalidRequest):
        made(prompt)


def test_an_unknown_argument_is_a_type_error_as_of_any_function() -> None:
    with pytest.raises(TypeError, match="no argument guidance, size"):
        made(size=5, guidance=3)
