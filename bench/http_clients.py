"""Drive a running HTTP door with the unmodified `openai` and `webuiapi` clients and say what they got.

    difs serve --http &
    pip install openai webuiapi                # into any Python; DIFS is not needed there
    python -m bench.http_clients http://127.0.0.1:7860

Ends with status 1 when a case fails. tests/process/test_http_clients.py runs it. What Open WebUI sends
is replayed in tests/process/test_open_webui.py.
"""

import base64
import io
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import openai
import webuiapi
from PIL import Image

MOST_CHARS = 80
CASES: list[tuple[str, Callable[[], None]]] = []
BASE = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:7860"
PLACE = urlsplit(BASE)
client = openai.OpenAI(base_url=f"{BASE}/v1", api_key="none")
web = webuiapi.WebUIApi(host=PLACE.hostname, port=PLACE.port)


def case(work: Callable[[], None]) -> Callable[[], None]:
    """Note a case."""
    CASES.append((work.__name__.replace("_", " "), work))
    return work


def each(*values: Any) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Note a case for each value."""

    def noted(work: Callable[[Any], None]) -> Callable[[Any], None]:
        for value in values:
            name = f"{work.__name__.replace('_', ' ')}: {value}"
            CASES.append((name[:MOST_CHARS], partial(work, value)))
        return work

    return noted


def picture(text: str | None) -> Image.Image:
    """Return an image from base64."""
    assert text is not None
    return Image.open(io.BytesIO(base64.b64decode(text)))


# ---- openai ---------------------------------------------------------------------------------------


@case
def openai_lists_goals_and_variants() -> None:
    names = [model.id for model in client.models.list()]
    assert names[:5] == ["auto", "draft", "fast", "balanced", "best"], names
    assert len(names) > 5
    assert client.models.retrieve("auto").id == "auto"


@case
def openai_makes_a_picture_of_a_size() -> None:
    got = client.images.generate(prompt="red apple", model="auto", size="256x256")
    assert picture(got.data[0].b64_json).size == (256, 256)
    assert got.size == "256x256"
    assert got.difs["plan"]["reason"]


@case
def openai_makes_several_with_seeds_and_a_form() -> None:
    got = client.images.generate(
        prompt="red apple",
        n=2,
        output_format="jpeg",
        output_compression=40,
        extra_body={"seed": 7, "steps": 4},
    )
    assert [picture(d.b64_json).format for d in got.data] == ["JPEG", "JPEG"]
    assert got.difs["seeds"] == [7, 8]
    assert got.difs["plan"]["steps"] == 4


@case
def openai_serves_an_unknown_model_and_says_so() -> None:
    got = client.images.generate(
        prompt="red apple", model="dall-e-3", quality="hd", response_format="url"
    )
    assert got.data[0].url.startswith("data:image/png;base64,")
    assert any("dall-e-3" in note for note in got.difs["notes"])


@case
def openai_streams_previews_and_the_picture() -> None:
    events = list(
        client.images.generate(
            prompt="red apple", stream=True, partial_images=2, extra_body={"steps": 12}
        )
    )
    kinds = [event.type for event in events]
    assert kinds[-1] == "image_generation.completed", kinds
    assert kinds[:-1] == ["image_generation.partial_image"] * 2, kinds
    assert [event.partial_image_index for event in events[:-1]] == [0, 1]
    assert all(picture(event.b64_json).width > 0 for event in events)


@case
def openai_maps_errors_to_its_classes() -> None:
    for fields, kind in (
        ({"size": "13x13"}, openai.BadRequestError),
        ({"background": "transparent"}, openai.BadRequestError),
        ({"extra_body": {"adapters": ["nope"]}}, openai.NotFoundError),
    ):
        try:
            client.images.generate(prompt="red apple", **fields)
        except kind as error:
            assert error.body["message"]
        else:
            raise AssertionError(f"{fields} was served")


@case
def openai_is_told_once_that_edits_are_not_here() -> None:
    before = time.monotonic()
    try:
        client.images.edit(image=("a.png", b"x"), prompt="blue")
    except openai.InternalServerError as error:
        assert error.status_code == 501
    else:
        raise AssertionError("served")
    assert time.monotonic() - before < 0.5, "it was tried again"


SMALL = {"prompt": "red apple", "size": "64x64"}


@each("auto", "draft", "fast", "balanced", "best", "dall-e-2", "gpt-image-1", "emoji-base")
def openai_serves_the_model(model: str) -> None:
    assert client.images.generate(model=model, **SMALL).data[0].b64_json


@each("auto", "low", "medium", "high", "standard", "hd")
def openai_serves_the_quality(quality: Any) -> None:
    assert client.images.generate(quality=quality, **SMALL).quality == quality


@each("auto", "64x64", "256x256", "512x256", "256x512")
def openai_serves_the_size(size: str) -> None:
    got = client.images.generate(prompt="red apple", size=size, extra_body={"steps": 2})
    width, height = picture(got.data[0].b64_json).size
    assert got.size == f"{width}x{height}"
    assert size in ("auto", got.size)


@each("png", "jpeg", "webp")
def openai_writes_the_form(form: Any) -> None:
    got = client.images.generate(output_format=form, **SMALL)
    assert picture(got.data[0].b64_json).format == form.upper()


@each(0, 1, 2, 3)
def openai_streams_as_many_previews(partials: int) -> None:
    fields = {"stream": True, "partial_images": partials, "extra_body": {"steps": 20}}
    events = list(client.images.generate(**SMALL, **fields))
    assert len(events) == partials + 1


@each(1, 2, 5, 8)
def openai_makes_as_many(n: int) -> None:
    assert len(client.images.generate(n=n, **SMALL).data) == n


@each({"n": 11}, {"size": "0x0"}, {"prompt": "x" * 5000}, {"quality": "x"}, {"output_format": "gif"})
def openai_is_refused_with_the_field(fields: dict[str, Any]) -> None:
    try:
        client.images.generate(**{**SMALL, **fields})
    except openai.BadRequestError as error:
        assert error.param == next(iter(fields))
    else:
        raise AssertionError("served")


# ---- webuiapi -------------------------------------------------------------------------------------


@case
def webuiapi_makes_a_picture() -> None:
    got = web.txt2img(prompt="red apple", seed=5, steps=4, width=64, height=64)
    assert got.image.size == (64, 64)
    assert got.info["all_seeds"] == [5]
    assert got.info["sampler_name"] == "Euler a"
    assert "Steps: 4" in web.png_info(got.image).info


@case
def webuiapi_finds_and_sets_models() -> None:
    names = web.util_get_model_names()
    assert "best" in names
    web.util_set_model("best")
    assert web.util_get_current_model() == "best"
    web.set_options({"sd_model_checkpoint": "auto"})
    web.util_wait_for_ready(0.1)


@case
def webuiapi_reads_its_lists() -> None:
    assert "Euler a" in web.util_get_sampler_names()
    assert "karras" in web.util_get_scheduler_names()
    for ask in (web.get_loras, web.get_upscalers, web.get_sd_vae, web.get_hypernetworks, web.get_memory):
        ask()
    assert web.get_scripts() == {"txt2img": [], "img2img": []}
    assert web.refresh_checkpoints() == {}
    assert web.get_embeddings()["loaded"] == {}


@case
def webuiapi_pins_a_variant_and_a_schedule() -> None:
    name = web.util_get_model_names()[-1]
    variant = next(m.id for m in client.models.list() if m.owned_by == "difs-variant")
    got = web.txt2img(
        prompt="red apple",
        steps=4,
        width=64,
        height=64,
        sampler_name="DPM++ 2M",
        scheduler="Karras",
        override_settings={"sd_model_checkpoint": variant},
    )
    assert got.info["sd_model_name"] == variant, name
    assert got.info["scheduler"] == "Karras"


@case
def webuiapi_is_refused_by_name() -> None:
    for fields in ({"enable_hr": True}, {"script_name": "x"}, {"styles": ["x"]}, {"tiling": True}):
        try:
            web.txt2img(prompt="red apple", steps=2, width=64, height=64, **fields)
        except RuntimeError as error:
            assert next(iter(fields)) in str(error.args)
        else:
            raise AssertionError(f"{fields} was served")


@each(*web.util_get_sampler_names())
def webuiapi_paints_with_the_sampler(name: str) -> None:
    got = web.txt2img(
        prompt="apple", steps=4, width=64, height=64, sampler_name=name, scheduler="Automatic"
    )
    assert got.info["sampler_name"] == name


@each("png", "jpg", "webp")
def webuiapi_gets_the_format(form: str) -> None:
    fields = {"steps": 2, "width": 64, "height": 64, "override_settings": {"samples_format": form}}
    got = web.txt2img(prompt="apple", **fields)
    assert got.image.format == {"jpg": "JPEG"}.get(form, form.upper())


@each((1, 1), (2, 1), (1, 3), (2, 2))
def webuiapi_makes_batches(sizes: tuple[int, int]) -> None:
    fields = {
        "steps": 2,
        "width": 64,
        "height": 64,
        "batch_size": sizes[0],
        "n_iter": sizes[1],
        "seed": 3,
    }
    got = web.txt2img(prompt="apple", **fields)
    assert got.info["all_seeds"] == [3 + i for i in range(sizes[0] * sizes[1])]


@case
def webuiapi_interrupts() -> None:
    ended: list[object] = []

    def make() -> None:
        with suppress(Exception):
            ended.append(web.txt2img(prompt="red apple", steps=150, width=512, height=512, batch_size=4))

    thread = threading.Thread(target=make)
    thread.start()
    until = time.monotonic() + 5
    while not web.get_progress()["state"]["job_count"] and thread.is_alive() and time.monotonic() < until:
        time.sleep(0.01)
    assert web.interrupt() == {}
    thread.join(30)
    assert ended
    web.util_wait_for_ready(0.1)


def main() -> None:
    """Run all cases."""
    failed = 0
    for name, work in CASES:
        try:
            work()
        except Exception as error:
            failed += 1
            print(f"FAILED  {name}: {type(error).__name__}: {error}")
        else:
            print(f"ok      {name}")
    print(f"{len(CASES) - failed} of {len(CASES)} cases; openai {openai.__version__}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
