"""difs.doors.a1111: requests in A1111's words to orders, and outcomes back."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs import samplers
from difs.client import requests
from difs.doors import a1111, a1111_lists
from difs.doors.jobs import Job
from difs.doors.orders import Order, Outcome, Picture
from difs.errors import DifsError, InvalidRequest, UnknownName, Unsupported
from difs.messages import Accepted, Adapter, Generate, Preview, Progress
from tests import builders

VARIANTS = frozenset({"tiny", "wide"})
DEFAULTS = a1111.Settings()
WEBUIAPI: dict[str, Any] = {
    "enable_hr": False,
    "hr_scale": 2,
    "hr_upscaler": "Latent",
    "hr_second_pass_steps": 0,
    "hr_resize_x": 0,
    "hr_resize_y": 0,
    "hr_checkpoint_name": None,
    "hr_sampler_name": None,
    "hr_scheduler": None,
    "hr_prompt": "",
    "hr_negative_prompt": "",
    "denoising_strength": 0.7,
    "firstphase_width": 0,
    "firstphase_height": 0,
    "prompt": "red apple",
    "styles": [],
    "seed": -1,
    "subseed": -1,
    "subseed_strength": 0.0,
    "seed_resize_from_h": 0,
    "seed_resize_from_w": 0,
    "batch_size": 1,
    "n_iter": 1,
    "steps": 20,
    "cfg_scale": 7.0,
    "width": 512,
    "height": 512,
    "restore_faces": False,
    "tiling": False,
    "do_not_save_samples": False,
    "do_not_save_grid": False,
    "negative_prompt": "",
    "eta": 1.0,
    "s_churn": 0,
    "s_tmax": 0,
    "s_tmin": 0,
    "s_noise": 1,
    "override_settings": {},
    "override_settings_restore_afterwards": True,
    "sampler_name": "Euler a",
    "scheduler": "automatic",
    "sampler_index": "Euler a",
    "script_name": None,
    "script_args": [],
    "send_images": True,
    "save_images": False,
    "alwayson_scripts": {},
}
"""What webuiapi 0.9.17 sends for `txt2img(prompt="red apple")`."""


def order(settings: a1111.Settings = DEFAULTS, **fields: Any) -> Order:
    """Return the order that a body makes."""
    body = json.dumps({"prompt": "red apple", **fields}).encode()
    return a1111.order(a1111.read(body), body, settings, VARIANTS)


def message(**fields: Any) -> Generate:
    """Return the message that a body ends as."""
    found = order(**fields)
    return requests.build(found.prompt, found.wishes, progress=True)


def problem(**fields: Any) -> DifsError:
    """Return what a body is refused with."""
    with pytest.raises(DifsError) as caught:
        message(**fields)
    return caught.value


# ---- what is asked for ----------------------------------------------------------------------------


def test_a_prompt_alone_leaves_everything_to_difs() -> None:
    asked = message()
    assert (asked.width, asked.n, asked.seed) == (None, 1, None)
    assert asked.overrides == builders.generate().overrides


def test_what_webuiapi_sends_always_is_understood_without_a_note() -> None:
    assert order(**WEBUIAPI).notes == ()
    asked = message(**WEBUIAPI)
    assert (asked.overrides.sampler, asked.overrides.steps) == ("euler_a", 20)
    assert (asked.width, asked.height, asked.overrides.guidance_scale) == (512, 512, 7.0)


def test_batches_are_images_of_one_request() -> None:
    asked = message(batch_size=2, n_iter=3, seed=9)
    assert (asked.n, asked.seed) == (6, 9)
    assert problem(batch_size=5, n_iter=2).field == "batch_size"


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"sampler_name": "DPM++ 2M", "scheduler": "Karras"}, "dpmpp_2m_karras"),
        ({"sampler_name": "DPM++ 2M Karras"}, "dpmpp_2m_karras"),
        ({"sampler_name": "DPM++ 2M Karras", "scheduler": "karras"}, "dpmpp_2m_karras"),
        ({"sampler_name": "Euler a", "scheduler": "Automatic"}, "euler_a"),
        ({"sampler_index": "DDIM"}, "ddim"),
        ({"sampler_name": "Automatic"}, None),
        ({"scheduler": "Karras"}, None),
    ],
)
def test_sampler_and_schedule_make_one_name(fields: dict[str, Any], name: str | None) -> None:
    assert message(**fields).overrides.sampler == name


def test_every_sampler_with_its_schedule_is_found_again() -> None:
    for name, known in samplers.SAMPLERS.items():
        found = message(sampler_name=known.label, scheduler=known.schedule or "Automatic")
        assert found.overrides.sampler == name


def test_an_unknown_sampler_is_named() -> None:
    error = problem(sampler_name="Euler", scheduler="Beta")
    assert isinstance(error, UnknownName)
    assert "Euler Beta" in error.message


# ---- loras ----------------------------------------------------------------------------------------


def test_loras_in_the_prompt_become_adapters() -> None:
    asked = message(prompt="red <lora:ink:0.8> apple <lora:oil>")
    assert asked.prompt == "red apple"
    assert asked.overrides.adapters == (Adapter("ink", 0.8), Adapter("oil", 1.0))


@pytest.mark.parametrize(
    "tag", ["<lora:ink:x>", "<lora:ink:0.5:0.7>", "<lora:ink:9>", "<lora:../../x:1>"]
)
def test_a_bad_lora_is_refused(tag: str) -> None:
    error = problem(prompt=f"apple {tag}")
    assert isinstance(error, InvalidRequest)
    assert error.field == "prompt"


@given(st.text(max_size=60))
@settings(max_examples=300)
def test_a_prompt_without_loras_stays_as_it_is(prompt: str) -> None:
    if "<lora:" not in prompt:
        assert a1111.split_loras(prompt) == (prompt, ())


# ---- what is not here -----------------------------------------------------------------------------

WRONG: dict[str, Any] = {
    "styles": ["x"],
    "subseed_strength": 0.5,
    "seed_resize_from_h": 64,
    "seed_resize_from_w": 64,
    "restore_faces": True,
    "tiling": True,
    "enable_hr": True,
    "firstphase_width": 64,
    "firstphase_height": 64,
    "refiner_checkpoint": "x",
    "script_name": "x",
    "save_images": True,
}


@pytest.mark.parametrize("name", sorted(a1111.UNSUPPORTED))
def test_what_is_not_supported_is_refused_by_name(name: str) -> None:
    error = problem(**{name: WRONG[name]})
    assert isinstance(error, Unsupported)
    assert error.message.startswith(f"{name}: ")


@pytest.mark.parametrize(
    "script", [{"args": [{"image": "x"}]}, {"args": [True]}, {"args": {"x": 1}}, [1]]
)
def test_a_script_that_would_do_something_is_refused(script: Any) -> None:
    assert "ControlNet" in problem(alwayson_scripts={"ControlNet": script}).message


@pytest.mark.parametrize("script", [{"args": []}, {"args": [False]}, {}])
def test_a_script_that_is_switched_off_is_let_be(script: Any) -> None:
    assert message(alwayson_scripts={"ControlNet": script})


def test_what_has_no_meaning_here_is_named() -> None:
    assert "mystery" in order(mystery=1).notes[0]


# ---- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wide", "wide [0a1b2c3d4e]", "tiny"])
def test_a_checkpoint_pins_a_variant(name: str) -> None:
    asked = message(override_settings={"sd_model_checkpoint": name})
    assert asked.overrides.variant == name.partition(" ")[0]


def test_a_goal_as_the_checkpoint_is_a_quality() -> None:
    found = order(a1111.Settings(sd_model_checkpoint="best"))
    assert found.wishes["quality"] == "best"
    assert "variant" not in found.wishes


def test_an_unknown_checkpoint_is_refused_with_those_that_are_known() -> None:
    error = problem(override_settings={"sd_model_checkpoint": "sdxl.safetensors"})
    assert isinstance(error, UnknownName)
    assert "tiny, wide" in error.message


def test_options_echoed_whole_change_just_what_was_changed() -> None:
    echoed = a1111.options(DEFAULTS) | {"sd_model_checkpoint": "wide"}
    assert a1111.settings_after(DEFAULTS, echoed) == a1111.Settings(sd_model_checkpoint="wide")


@pytest.mark.parametrize(
    "changes",
    [{"mystery": 1}, {"samples_save": True}, {"samples_format": "gif"}, {"CLIP_stop_at_last_layers": 2}],
)
def test_an_option_that_cannot_be_is_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(DifsError) as caught:
        a1111.settings_after(DEFAULTS, changes)
    assert caught.value.message.startswith(next(iter(changes)))


def test_the_format_of_the_files_is_an_option() -> None:
    assert order(override_settings={"samples_format": "jpg"}).form == "jpeg"


# ---- replies --------------------------------------------------------------------------------------


def outcome(n: int) -> Outcome:
    """Return what came of an order."""
    pictures = tuple(
        Picture(b"f", "Zg==", "png", 5 + i, 64, 64, f"apple, Seed: {5 + i}") for i in range(n)
    )
    timings = builders.result().timings
    return Outcome("r1", pictures, builders.plan(), timings, "bitwise", 0.0, 1, ())


def test_a_reply_has_images_and_info_as_text() -> None:
    body = b'{"prompt": "apple <lora:ink:1>"}'
    asked = a1111.read(body)
    made = a1111.order(asked, body, DEFAULTS, VARIANTS)
    reply = a1111.reply(asked, body, made, outcome(2), "20260101000000")
    info = json.loads(reply["info"])
    assert reply["images"] == ["Zg==", "Zg=="]
    assert info["all_seeds"] == [5, 6]
    assert info["prompt"] == "apple <lora:ink:1>"
    assert info["infotexts"] == ["apple, Seed: 5", "apple, Seed: 6"]
    assert (info["sampler_name"], info["sd_model_name"]) == ("DDIM", "tiny")


def test_images_are_left_out_when_nobody_wants_them() -> None:
    body = b'{"send_images": false}'
    asked = a1111.read(body)
    made = a1111.order(asked, body, DEFAULTS, VARIANTS)
    assert a1111.reply(asked, body, made, outcome(1), "")["images"] == []


def test_nothing_open_is_what_clients_wait_for() -> None:
    idle = a1111_lists.progress(None, 0.0, None)
    assert (idle["progress"], idle["state"]["job_count"]) == (0.0, 0)


@given(steps=st.lists(st.integers(1, 20), max_size=5))
@settings(max_examples=60)
def test_progress_lies_between_nothing_and_all(steps: list[int]) -> None:
    job = Job("", "r1", 2, 0.0)
    job.heard(Accepted("r1", 1, 1, builders.plan()), 0.0)
    for image, step in enumerate(steps):
        job.heard(Progress("r1", image % 2, step, 20, Preview(1, 1, b"rgb")), 0.1)
    told = a1111_lists.progress(a1111_lists.Shown(job, "task", False), 0.1, None)
    assert 0 < told["progress"] < 1
    assert told["state"]["job_count"] == 1
    assert told["eta_relative"] == pytest.approx(0.13)
    assert told["current_task"] == "task"


def test_lists_name_what_there_is_and_no_path() -> None:
    models = a1111_lists.models([builders.variant("wide")])
    assert [m["title"] for m in models][-1] == "wide"
    assert all("/" not in str(value) for m in models for value in m.values())
    assert {s["name"] for s in a1111_lists.samplers()} == {s.label for s in samplers.SAMPLERS.values()}
    [lora] = a1111_lists.loras([builders.adapter("ink")])
    assert (lora["name"], lora["path"]) == ("ink", "ink")
