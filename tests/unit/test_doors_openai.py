"""difs.doors.openai: requests in OpenAI's words to orders, and outcomes back."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs.client import requests
from difs.doors import openai
from difs.doors.answers import Refused, refused
from difs.doors.orders import Order, Outcome, Picture
from difs.errors import (
    DifsError,
    EngineFailed,
    Infeasible,
    InvalidRequest,
    Overloaded,
    TooManyOutstanding,
)
from difs.messages import MAX_SIDE, MIN_SIDE, SIDE_MULTIPLE, Adapter, Generate
from tests import builders

VARIANTS = ("tiny", "wide", "best")


def order(**fields: Any) -> Order:
    """Return the order that a body makes."""
    body = json.dumps({"prompt": "red apple", **fields}).encode()
    return openai.order(openai.read(body), body, VARIANTS)


def message(**fields: Any) -> Generate:
    """Return the message that a body ends as."""
    found = order(**fields)
    return requests.build(found.prompt, found.wishes, progress=False)


def outcome(n: int = 1) -> Outcome:
    """Return what came of an order."""
    pictures = tuple(Picture(b"file", "ZmlsZQ==", "png", 5 + i, 64, 64, "red apple") for i in range(n))
    timings = builders.result().timings
    return Outcome("r1", pictures, builders.plan(), timings, "bitwise", 0.0, 1, ("a note",))


def problem(**fields: Any) -> DifsError:
    """Return what a body is refused with."""
    with pytest.raises(DifsError) as caught:
        message(**fields)
    return caught.value


# ---- what is asked for ----------------------------------------------------------------------------


def test_a_prompt_alone_leaves_everything_to_difs() -> None:
    asked = message()
    assert asked.prompt == "red apple"
    assert asked.overrides == builders.generate(prompt="red apple").overrides
    assert (asked.width, asked.height, asked.n, asked.seed) == (None, None, 1, None)
    assert asked.requirements.quality is None


@pytest.mark.parametrize(
    ("model", "quality"),
    [("auto", None), ("draft", "draft"), ("fast", "low"), ("balanced", "medium"), ("best", "best")],
)
def test_a_goal_as_the_model_asks_for_a_quality_and_pins_nothing(model: str, quality: Any) -> None:
    asked = message(model=model)
    assert asked.requirements.quality == quality
    assert asked.overrides.variant is None


def test_a_variant_as_the_model_is_pinned() -> None:
    assert message(model="wide").overrides.variant == "wide"


def test_an_unknown_model_is_served_as_auto_and_that_is_said() -> None:
    found = order(model="dall-e-3")
    assert "variant" not in found.wishes
    assert any("dall-e-3" in note for note in found.notes)


@pytest.mark.parametrize(
    ("quality", "wanted"),
    [
        ("auto", None),
        ("standard", "medium"),
        ("hd", "high"),
        ("low", "low"),
        ("high", "high"),
        (0.5, 0.5),
    ],
)
def test_quality_is_a_requirement(quality: Any, wanted: Any) -> None:
    assert message(quality=quality).requirements.quality == wanted


def test_a_stated_quality_is_stronger_than_that_of_a_goal() -> None:
    assert message(model="draft", quality="high").requirements.quality == "high"
    assert message(model="draft", quality="auto").requirements.quality == "draft"


@given(width=st.integers(-10, 5000), height=st.integers(-10, 5000))
@settings(max_examples=300)
def test_a_size_is_kept_or_refused(width: int, height: int) -> None:
    good = all(MIN_SIDE <= s <= MAX_SIDE and s % SIDE_MULTIPLE == 0 for s in (width, height))
    try:
        assert openai.sides(f"{width}x{height}") == (width, height)
    except InvalidRequest as error:
        assert not good
        assert error.field == "size"
    else:
        assert good


@given(steps=st.integers(1, 150), partials=st.integers(0, 3))
@settings(max_examples=200)
def test_previews_are_spread_over_the_steps(steps: int, partials: int) -> None:
    every = openai.preview_every(steps, partials)
    assert (every == 0) == (partials == 0)
    if partials:
        assert min(partials, steps) <= steps // every


def test_extensions_become_overrides_and_requirements() -> None:
    asked = message(
        seed=7, steps=4, guidance_scale=2.0, sampler="Euler a", latency_s=1.5, negative_prompt="blue",
        adapters=["ink", {"name": "oil", "weight": 0.5}], priority=3,
    )  # fmt: skip
    assert asked.overrides.adapters == (Adapter("ink"), Adapter("oil", 0.5))
    assert (asked.seed, asked.overrides.steps, asked.overrides.guidance_scale) == (7, 4, 2.0)
    assert (asked.requirements.latency_s, asked.requirements.priority) == (1.5, 3)
    assert asked.negative_prompt == "blue"


def test_steps_go_by_diffusers_name_too() -> None:
    assert message(num_inference_steps=9).overrides.steps == 9


def test_what_has_no_meaning_here_is_named() -> None:
    [note] = order(style="vivid", moderation="low", user="me").notes
    assert "moderation, style" in note
    assert "user" not in note


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": 3}, "prompt"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"quality": "superb"}, "quality"),
        ({"size": "12x12"}, "size"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_compression": 101}, "output_compression"),
        ({"background": "transparent"}, "background"),
        ({"partial_images": 4}, "partial_images"),
        ({"seed": -1}, "seed"),
        ({"adapters": [{"name": "ink", "weight": 9}]}, "adapters[0].weight"),
        ({"latency_s": 0}, "requirements.latency_s"),
    ],
)
def test_a_bad_value_is_refused_with_its_field(fields: dict[str, Any], field: str) -> None:
    error = problem(**fields)
    assert isinstance(error, InvalidRequest)
    assert error.field == field
    assert error.message.startswith(field)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
))  # fmt: skip
@settings(max_examples=200)
def test_any_json_is_an_order_or_a_refusal(tree: Any) -> None:
    body = json.dumps(tree).encode()
    try:
        openai.read(body)
    except DifsError as error:
        assert error.http_status == 400


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"prompt": "\\ud800"}', b"[" * 100_000])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        openai.read(body)


# ---- what comes back ------------------------------------------------------------------------------


def test_a_reply_has_the_pictures_and_how_they_came_to_be() -> None:
    asked = openai.read(b'{"prompt": "x", "quality": "hd"}')
    reply = openai.reply(asked, outcome(2), 1000)
    assert reply["created"] == 1000
    assert [datum["b64_json"] for datum in reply["data"]] == ["ZmlsZQ=="] * 2
    assert (reply["size"], reply["quality"], reply["background"]) == ("64x64", "hd", "opaque")
    assert reply["difs"]["seeds"] == [5, 6]
    assert reply["difs"]["notes"] == ("a note",)


def test_a_url_holds_the_picture_itself() -> None:
    asked = openai.read(b'{"prompt": "x", "response_format": "url"}')
    assert openai.reply(asked, outcome(), 0)["data"] == [{"url": "data:image/png;base64,ZmlsZQ=="}]


def test_models_are_goals_then_variants() -> None:
    listed = openai.models([builders.variant("wide"), builders.variant("best")])["data"]
    assert [model["id"] for model in listed] == [*openai.INTENTS, "wide"]
    assert {model["object"] for model in listed} == {"model"}


@pytest.mark.parametrize(
    ("error", "status", "kind", "retry"),
    [
        (InvalidRequest("n: no", field="n"), 400, "invalid_request_error", None),
        (TooManyOutstanding("many", retry_after_s=2.2), 429, "rate_limit_error", "3"),
        (Overloaded("full", retry_after_s=0.2), 503, "server_error", "1"),
        (Infeasible("cannot", field="requirements.latency_s"), 422, "invalid_request_error", None),
        (EngineFailed("/home/me/weights broke"), 500, "server_error", None),
    ],
)
def test_an_error_has_openais_shape(error: DifsError, status: int, kind: str, retry: str | None) -> None:
    told = refused(error)
    tree = openai.error(told)["error"]
    assert (told.status, tree["type"], tree["code"]) == (status, kind, error.code)
    assert tree["param"] in (None, "n", "latency_s")
    assert told.headers().get("retry-after") == retry
    assert told.headers()["x-should-retry"] == ("true" if error.retryable else "false")


@pytest.mark.parametrize("path", ["/home/me/model.safetensors", 'File "/srv/x.py", line 3'])
def test_errors_of_the_service_keep_its_inside_to_themselves(path: str) -> None:
    told = refused(EngineFailed(f"cannot open {path}"))
    assert path not in told.message
    assert isinstance(told, Refused)
