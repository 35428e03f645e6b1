"""difs.pictures: files that other tools can read, that say how they came to be, and nothing else."""

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PilImage
from PIL.ExifTags import IFD, Base

from difs import pictures
from difs.messages import Adapter, Requirements
from difs.samplers import SAMPLERS
from difs.version import __version__
from tests import builders

FORMATS = ["png", "jpeg", "webp"]
PIXELS = np.random.default_rng(3).integers(0, 256, (64, 80, 3), np.uint8)
GOAL = Requirements(latency_s=2.0)


def facts(**changes: Any) -> pictures.Facts:
    """Return how a picture came to be."""
    values: dict[str, Any] = {
        "prompt": "red apple",
        "negative_prompt": "",
        "steps": 20,
        "sampler": "euler_a",
        "guidance_scale": 2.5,
        "seed": 2**64 - 1,
        "variant": "tiny",
        "plan_json": builders.plan().describe(GOAL),
    }
    return pictures.Facts(**values | changes)


def encode(form: str, known: pictures.Facts | None, pixels: Any = PIXELS) -> bytes:
    """Return a file with `pixels`."""
    return pictures.encode(pixels.tobytes(), pixels.shape[:2], form, known)


def opened(data: bytes) -> PilImage.Image:
    """Return a file as Pillow sees it."""
    image = PilImage.open(io.BytesIO(data))
    image.load()
    return image


def user_comment(data: bytes) -> bytes:
    """Return the EXIF comment of a file."""
    found = opened(data).getexif().get_ifd(IFD.Exif)[Base.UserComment]
    assert isinstance(found, bytes)
    return found


# ---- the text -----------------------------------------------------------------------------------


def test_the_text_has_the_form_that_other_tools_parse() -> None:
    known = facts(negative_prompt="blurry, grey", sampler="dpmpp_2m_karras", seed=42, guidance_scale=7.0)
    assert pictures.parameters_text(known, 64, 80) == (
        "red apple\n"
        "Negative prompt: blurry, grey\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 42, Size: 80x64,"
        f" Model: tiny, Version: difs {__version__}"
    )


def test_adapters_stand_behind_the_prompt_as_a1111_writes_them() -> None:
    known = facts(adapters=(Adapter("ink", 0.75), Adapter("old-film", -1.0)), seed=0)
    assert pictures.parameters_text(known, 64, 64).splitlines()[0] == (
        "red apple <lora:ink:0.75> <lora:old-film:-1>"
    )
    bare = facts(prompt="", adapters=(Adapter("ink"),))
    assert pictures.parameters_text(bare, 64, 64).splitlines()[0] == "<lora:ink:1>"


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_is_written_with_its_label_and_schedule(name: str) -> None:
    text = pictures.parameters_text(facts(sampler=name), 64, 64)
    found = re.search(r"Sampler: ([^,]+)(?:, Schedule type: ([^,]+))?, CFG scale", text)
    assert found
    assert (found[1], found[2]) == (SAMPLERS[name].label, SAMPLERS[name].schedule)


def test_the_text_leaves_out_what_there_is_not() -> None:
    assert pictures.parameters_text(facts(seed=0), 64, 64) == (
        "red apple\n"
        "Steps: 20, Sampler: Euler a, CFG scale: 2.5, Seed: 0, Size: 64x64,"
        f" Model: tiny, Version: difs {__version__}"
    )


# ---- files --------------------------------------------------------------------------------------


def test_a_png_carries_the_parameters_and_our_plan_and_goal() -> None:
    known = facts(prompt="ein Apfel 🍎", negative_prompt="日本")
    info = opened(encode("png", known)).info
    assert set(info) == {"parameters", "difs"}
    assert info["parameters"] == pictures.parameters_text(known, 64, 80)
    assert info["difs"] == known.plan_json


def test_our_key_is_json_of_the_plan_and_the_goal() -> None:
    tree = json.loads(opened(encode("png", facts())).info["difs"])
    assert set(tree) == {"plan", "goal"}
    assert (tree["plan"]["steps"], tree["goal"]) == (20, {"latency_s": 2.0})


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_jpeg_and_webp_carry_the_parameters_as_a_comment(form: str) -> None:
    known = facts(prompt="ein Apfel 🍎")
    comment = user_comment(encode(form, known))
    assert comment[:8] == b"UNICODE\0"
    assert comment[8:].decode("utf-16-be") == pictures.parameters_text(known, 64, 80)


@pytest.mark.parametrize("form", FORMATS)
def test_without_facts_nothing_tells_how_a_picture_came_to_be(form: str) -> None:
    data = encode(form, None)
    assert set(opened(data).info) <= {
        *("jfif", "jfif_version", "jfif_unit", "jfif_density"),
        *("loop", "background", "timestamp", "duration"),  # what Pillow says of each WebP
    }
    assert not re.search(rb"tEXt|zTXt|iTXt|eXIf|EXIF|Exif|UNICODE", data)


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_is_of_its_format_and_size(form: str) -> None:
    image = opened(encode(form, facts()))
    assert (image.format, image.size, image.mode) == (form.upper(), (80, 64), "RGB")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("known", [facts(), None], ids=["facts", "none"])
def test_no_file_tells_of_the_machine_that_made_it(form: str, known: pictures.Facts | None) -> None:
    data = encode(form, known)
    for secret in (Path.cwd(), Path.home(), Path(__file__).parent):
        assert str(secret).encode() not in data
        assert str(secret).encode("utf-16-be") not in data
    said = " ".join(str(value) for value in opened(data).info.values() if isinstance(value, str))
    if known is not None and form != "png":
        said += user_comment(data)[8:].decode("utf-16-be")
    assert not re.search(rf"(?:^|[\s\"':=,]){re.escape(os.sep)}\w", said)
    assert (known is None) == (said == "")


@settings(max_examples=30)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    known=st.sampled_from([facts(), None]),
)
def test_a_png_keeps_every_pixel(
    height: int, width: int, seed: int, known: pictures.Facts | None
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    found = pictures.decode(encode("png", known, pixels))
    assert np.array_equal(found, pixels)


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_jpeg_and_webp_stay_close_to_a_smooth_picture(form: str) -> None:
    ramp = np.linspace(0, 255, 80, dtype=np.uint8)
    pixels = np.broadcast_to(ramp[None, :, None], (64, 80, 3))
    found = pictures.decode(encode(form, None, np.ascontiguousarray(pixels)))
    assert np.abs(found.astype(int) - pixels).max() <= 8


def test_decoding_gives_rgb_bytes_of_any_picture() -> None:
    file = io.BytesIO()
    PilImage.new("LA", (5, 7), (9, 255)).save(file, "png")
    found = pictures.decode(memoryview(file.getvalue()))
    assert found.shape == (7, 5, 3)
    assert found.dtype == np.uint8
    assert bytes(found.flatten()) == b"\x09" * 105


def test_pixels_may_come_as_a_view() -> None:
    flat = PIXELS.data.cast("B")
    assert pictures.encode(flat, (64, 80), "png", None) == encode("png", None)


# ---- what a file says -----------------------------------------------------------------------------


def test_the_texts_of_a_png_are_read_without_its_pixels() -> None:
    file = pictures.encode(PIXELS.tobytes(), (64, 80), "png", facts())
    texts = pictures.texts(file)
    assert texts["parameters"] == pictures.parameters_text(facts(), 64, 80)
    assert all(type(text) is str for text in texts.values())
    cut = pictures.texts(file[: file.index(b"IDAT") + 20])
    assert cut["parameters"] == texts["parameters"]


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_what_is_no_png_is_a_bad_value(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a PNG file"):
        pictures.texts(data)


def test_quality_makes_a_lossy_file_smaller() -> None:
    sizes = [
        len(pictures.encode(PIXELS.tobytes(), (64, 80), "jpeg", None, quality=quality))
        for quality in (5, 50, 95)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]
