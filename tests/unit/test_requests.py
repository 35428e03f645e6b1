"""difs.client.requests: each wish lands in its place, or is refused by name before anything is sent."""

from collections import UserDict
from typing import Any, cast, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs.client.requests import Wishes, build
from difs.errors import InvalidRequest
from difs.messages import (
    MAX_PROMPT_BYTES,
    Adapter,
    Delivery,
    Generate,
    Overrides,
    Requirements,
)

EVERY_WISH: Wishes = {
    "latency_s": 2.5,
    "quality": "high",
    "width": 128,
    "height": 64,
    "n": 3,
    "seed": 2**64 - 1,
    "negative_prompt": "grey",
    "variant": "tiny",
    "family": "sd15",
    "steps": 7,
    "guidance_scale": 3.5,
    "sampler": "Euler a",
    "adapters": [("style", 0.5)],
    "priority": 8,
    "best_effort": True,
    "on_infeasible": "reject",
    "timeout_s": 9.0,
    "deterministic": True,
    "delivery": "inline",
    "format": "webp",
    "metadata": False,
    "preview_every": 5,
    "request_id": "mine",
    "retries": 2,
}


def refusal(prompt: Any = "red apple", **wishes: Any) -> InvalidRequest:
    """Return the error that a request is refused with."""
    with pytest.raises(InvalidRequest) as caught:
        build(prompt, cast(Wishes, wishes), progress=False)
    return caught.value


def test_every_wish_lands_in_its_place() -> None:
    assert set(EVERY_WISH) == set(get_type_hints(Wishes))
    assert build("red apple", EVERY_WISH, progress=True) == Generate(
        request_id="mine",
        prompt="red apple",
        negative_prompt="grey",
        width=128,
        height=64,
        n=3,
        seed=2**64 - 1,
        timeout_s=9.0,
        deterministic=True,
        requirements=Requirements(
            latency_s=2.5, quality="high", priority=8, on_infeasible="reject", best_effort=True
        ),
        overrides=Overrides(
            variant="tiny",
            family="sd15",
            steps=7,
            guidance_scale=3.5,
            sampler="Euler a",
            adapters=(Adapter("style", 0.5),),
        ),
        delivery=Delivery(mode="inline", format="webp", progress=True, metadata=False, preview_every=5),
    )


def test_without_wishes_raw_pixels_in_shared_memory_are_asked_for() -> None:
    asked = build("red apple", {}, progress=False)
    assert asked == Generate(
        request_id=asked.request_id,
        prompt="red apple",
        delivery=Delivery(mode="shm", format="raw", progress=False, metadata=True),
    )


def test_wishes_are_left_as_they_were() -> None:
    wishes = EVERY_WISH.copy()
    build("red apple", wishes, progress=False)
    assert wishes == EVERY_WISH


@pytest.mark.parametrize("name", EVERY_WISH)
def test_none_is_no_wish(name: str) -> None:
    wishes: Any = {name: None}
    asked = build("x", wishes, progress=False)
    assert asked == build("x", {"request_id": asked.request_id}, progress=False)


@pytest.mark.parametrize("name", ["no_such", "mode", "progress", "prompt", "task", "requirements"])
def test_an_unknown_argument_is_a_type_error_that_names_it(name: str) -> None:
    wishes: Any = {name: 1, "steps": 5}
    with pytest.raises(TypeError, match=rf"no argument {name}$"):
        build("x", wishes, progress=False)


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("latency_s", 0, "requirements.latency_s"),
        ("latency_s", float("nan"), "requirements.latency_s"),
        ("latency_s", "fast", "requirements.latency_s"),
        ("quality", 1.5, "requirements.quality"),
        ("quality", "superb", "requirements.quality"),
        ("priority", 10, "requirements.priority"),
        ("best_effort", 1, "requirements.best_effort"),
        ("on_infeasible", "cry", "requirements.on_infeasible"),
        ("variant", "../x", "overrides.variant"),
        ("family", "A", "overrides.family"),
        ("steps", 0, "overrides.steps"),
        ("steps", 151, "overrides.steps"),
        ("steps", 5.5, "overrides.steps"),
        ("steps", True, "overrides.steps"),
        ("steps", -(2**63), "overrides.steps"),
        ("steps", -(2**63) - 1, "steps"),
        ("guidance_scale", float("inf"), "overrides.guidance_scale"),
        ("guidance_scale", 51, "overrides.guidance_scale"),
        ("sampler", "", "overrides.sampler"),
        ("adapters", [("x", 5.0)], "overrides.adapters"),
        ("adapters", [(f"a{i}", 1.0) for i in range(9)], "overrides.adapters"),
        ("adapters", ["X"], "overrides.adapters"),
        ("adapters", ["x", 5], "adapters"),
        ("adapters", [b"x"], "adapters"),
        ("adapters", {"x": "much"}, "overrides.adapters"),
        ("adapters", "style", "adapters"),
        ("adapters", 5, "adapters"),
        ("adapters", [("x", 1.0, 2.0)], "adapters"),
        ("delivery", "mail", "delivery.mode"),
        ("format", "gif", "delivery.format"),
        ("metadata", "yes", "delivery.metadata"),
        ("preview_every", -1, "delivery.preview_every"),
        ("preview_every", 151, "delivery.preview_every"),
        ("preview_every", True, "delivery.preview_every"),
        ("deterministic", 1, "deterministic"),
        ("width", 64, "height"),
        ("height", 64, "width"),
        ("n", 0, "n"),
        ("n", 9, "n"),
        ("n", 10**30, "n"),
        ("seed", -1, "seed"),
        ("seed", 2**64, "seed"),
        ("seed", -(2**64), "seed"),
        ("seed", 1.5, "seed"),
        ("negative_prompt", "a\0b", "negative_prompt"),
        ("negative_prompt", 5, "negative_prompt"),
        ("negative_prompt", "x" * (MAX_PROMPT_BYTES + 1), "negative_prompt"),
        ("negative_prompt", "x" * 1_000_000, "negative_prompt"),
        ("timeout_s", 0, "timeout_s"),
        ("timeout_s", float("inf"), "timeout_s"),
        ("request_id", "a b", "request_id"),
        ("request_id", "x" * 65, "request_id"),
        ("request_id", "", "request_id"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_bad_value_is_refused_by_its_name(name: str, value: Any, field: str) -> None:
    found = refusal(**{name: value}).field or ""
    assert found == field or found.startswith((f"{field}[", f"{field}."))


@pytest.mark.parametrize("side", [63, 65, 4096, 0, -64, 64.5, "64"])
def test_a_size_that_cannot_be_painted_is_refused(side: Any) -> None:
    assert refusal(width=side, height=64).field == "width"
    assert refusal(width=64, height=side).field == "height"


@pytest.mark.parametrize("prompt", ["a\0b", 5, None, b"bytes", ["x"], "x" * (MAX_PROMPT_BYTES + 1)])
def test_a_bad_prompt_is_refused_by_its_name(prompt: Any) -> None:
    assert refusal(prompt).field == "prompt"


@pytest.mark.parametrize("size", [70_000, 10_000_000])
def test_a_giant_prompt_is_refused_before_anything_is_sent(size: int) -> None:
    error = refusal("é" * size)
    assert (error.field, error.limit) == ("prompt", f"<= {MAX_PROMPT_BYTES} bytes")


@pytest.mark.parametrize("value", [object(), {1, 2}, "\ud800", (x for x in "abc")])
def test_what_cannot_be_sent_is_refused_and_not_raised_raw(value: Any) -> None:
    refusal(value)
    refusal(variant=value)


def test_the_longest_prompts_are_taken() -> None:
    text = "é" * (MAX_PROMPT_BYTES // 2)
    asked = build(text, {"negative_prompt": text}, progress=False)
    assert (asked.prompt, asked.negative_prompt) == (text, text)


@pytest.mark.parametrize(
    "given_as",
    [
        [("a", 0.5), ("b", -4.0)],
        (("a", 0.5), ("b", -4.0)),
        {"a": 0.5, "b": -4.0},
        UserDict({"a": 0.5, "b": -4.0}),
        {"a": 0.5, "b": -4}.items(),
        [Adapter("a", 0.5), ("b", -4.0)],
    ],
    ids=["list", "tuple", "dict", "mapping", "items", "structs"],
)
def test_adapters_are_pairs_or_a_mapping_or_structs(given_as: Any) -> None:
    asked = build("x", {"adapters": given_as}, progress=False)
    assert asked.overrides.adapters == (Adapter("a", 0.5), Adapter("b", -4.0))


@pytest.mark.parametrize(
    "given_as", [["ab", "c"], ("ab", "c"), {"ab": 1.0, "c": 1}, ["ab", Adapter("c")]]
)
def test_an_adapters_name_alone_has_weight_1(given_as: Any) -> None:
    asked = build("x", {"adapters": given_as}, progress=False)
    assert asked.overrides.adapters == (Adapter("ab", 1.0), Adapter("c", 1.0))


@pytest.mark.parametrize("given_as", [[], (), {}])
def test_no_adapters_are_no_adapters(given_as: Any) -> None:
    assert build("x", {"adapters": given_as}, progress=False).overrides == Overrides()


def test_ids_are_made_anew_for_each_request() -> None:
    ids = {build("x", {}, progress=False).request_id for _ in range(200)}
    assert len(ids) == 200
    assert all(build("x", {"request_id": own}, progress=False).request_id == own for own in ids)


@settings(max_examples=100)
@given(
    st.dictionaries(
        st.sampled_from(sorted(EVERY_WISH)),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.text(max_size=5),
            st.binary(max_size=5),
            st.lists(st.integers(), max_size=2),
        ),
    )
)
def test_whatever_is_wished_is_a_valid_message_or_a_typed_refusal(wishes: Any) -> None:
    try:
        assert isinstance(build("x", wishes, progress=False), Generate)
    except InvalidRequest as error:
        assert error.message
