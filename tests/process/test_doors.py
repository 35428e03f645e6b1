"""The HTTP doors over a running service: pictures by every API, progress, cancelling, jobs."""

import base64
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.process.door import (
    CREDITS,
    SLOW,
    SLOW_JOB,
    SLOW_TXT2IMG,
    Door,
    events_in,
    left_idle,
    opened,
    pixels,
    shown,
)
from tests.process.service import Calls, picture, until

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def running() -> Iterator[Door]:
    with opened() as door:
        yield door


@pytest.fixture
def door(running: Door) -> Iterator[Door]:
    yield from left_idle(running)


# ---- OpenAI ---------------------------------------------------------------------------------------


def test_openai_pictures_are_those_of_the_service(door: Door) -> None:
    got = door.post(
        "/v1/images/generations", {"prompt": "a red apple", "n": 2, "seed": 11, "size": "64x64"}
    )
    assert got.status_code == 200
    for i, datum in enumerate(got.json()["data"]):
        assert np.array_equal(shown(datum["b64_json"]), picture("a red apple", 11 + i))
    assert got.json()["difs"]["plan"]["variant"] == "emoji-base"


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_openai_forms_and_compression(door: Door, form: str) -> None:
    sizes = []
    for compression in (5, 95):
        fields = {"prompt": "apple", "output_format": form, "output_compression": compression}
        got = door.post("/v1/images/generations", fields).json()
        sizes.append(len(got["data"][0]["b64_json"]))
        with Image.open(io.BytesIO(base64.b64decode(got["data"][0]["b64_json"]))) as image:
            assert image.format == form.upper()
    assert sizes[0] < sizes[1]


def test_openai_streams_previews_and_at_last_the_picture(door: Door) -> None:
    fields = {
        "prompt": "apple",
        "seed": 3,
        "steps": 12,
        "size": "64x64",
        "stream": True,
        "partial_images": 2,
    }
    events = events_in(door.post("/v1/images/generations", fields).text)
    assert [name.partition(".")[2] for name, _ in events] == [
        "partial_image",
        "partial_image",
        "completed",
    ]
    assert [tree["type"] for _, tree in events] == [name for name, _ in events]
    assert np.array_equal(shown(events[-1][1]["b64_json"]), picture("apple", 3))


def test_openai_a_stream_that_is_refused_at_once_has_a_status(door: Door) -> None:
    got = door.post("/v1/images/generations", {"prompt": "apple", "stream": True, "adapters": ["nope"]})
    assert got.status_code == 404
    assert got.json()["error"]["type"] == "invalid_request_error"


def test_too_many_at_once_are_told_when_to_come_again(door: Door, calls: Calls) -> None:
    fields = {**SLOW, "steps": 20}
    pending = [calls.submit(door.post, "/v1/images/generations", fields) for _ in range(6)]
    refused = [got for got in (call.result(60) for call in pending) if got.status_code != 200]
    assert len(refused) == 2
    for got in refused:
        assert got.status_code == 429
        assert got.headers["x-should-retry"] == "true"
        assert int(got.headers["retry-after"]) >= 1


# ---- A1111 ----------------------------------------------------------------------------------------


def test_a1111_a_checkpoint_that_is_chosen_paints_and_the_file_says_so(door: Door) -> None:
    assert door.post("/sdapi/v1/options", {"sd_model_checkpoint": "emoji-base"}).status_code == 200
    fields = {"prompt": "apple", "width": 64, "height": 64, "steps": 4}
    got = door.post("/sdapi/v1/txt2img", fields).json()
    info = json.loads(got["info"])
    assert np.array_equal(shown(got["images"][0]), picture("apple", info["seed"]))
    assert info["sd_model_name"] == "emoji-base"
    read = door.post("/sdapi/v1/png-info", {"image": got["images"][0]}).json()
    assert f"Seed: {info['seed']}" in read["info"]
    assert door.post("/sdapi/v1/options", {"sd_model_checkpoint": "auto"}).status_code == 200


def test_a1111_progress_and_interrupt(door: Door, calls: Calls) -> None:
    assert door.get("/sdapi/v1/progress").json()["state"]["job_count"] == 0
    pending = calls.submit(door.post, "/sdapi/v1/txt2img", {**SLOW_TXT2IMG, "force_task_id": "task(1)"})
    until(lambda: door.get("/sdapi/v1/progress").json()["current_image"], 20, "a preview")
    told = door.get("/sdapi/v1/progress").json()
    assert 0 < told["progress"] < 1
    assert told["current_task"] == "task(1)"
    assert told["state"]["sampling_steps"] == 60
    assert door.post("/sdapi/v1/interrupt").json() == {}
    got = pending.result(20)
    assert got.status_code == 200
    assert shown(got.json()["images"][0]).size
    assert door.get("/sdapi/v1/progress").json()["state"]["job_count"] == 0
    assert door.service.count("cancelled") >= 1


def test_a1111_errors_have_its_shape(door: Door) -> None:
    got = door.post("/sdapi/v1/img2img", {"init_images": []})
    assert got.status_code == 501
    assert got.json().keys() == {"error", "detail", "body", "errors"}
    assert "img2img" in got.json()["detail"]


# ---- jobs -----------------------------------------------------------------------------------------


def test_a_job_is_begun_watched_and_its_picture_fetched(door: Door) -> None:
    tree = {"prompt": "apple", "request_id": "job-1", "seed": 4, "overrides": {"steps": 8}}
    begun = door.post("/difs/v1/generate", tree)
    assert begun.status_code == 202
    assert begun.headers["location"] == "/difs/v1/requests/job-1"
    assert begun.json()["plan"]["steps"] == 8
    states = [name for name, _ in events_in(door.get("/difs/v1/requests/job-1/events").text)]
    assert states[-1] == "done"
    told = door.get("/difs/v1/requests/job-1").json()
    image = door.get(told["result"]["images"][0]["url"])
    assert image.headers["content-type"] == "image/png"
    assert np.array_equal(pixels(image.content), picture("apple", 4))
    assert door.post("/difs/v1/generate", tree).json()["id"] == "job-1", "the same again is the same job"
    assert door.post("/difs/v1/generate", tree | {"seed": 5}).status_code == 409
    assert door.http.delete("/difs/v1/requests/job-1").status_code == 200
    assert door.get("/difs/v1/requests/job-1").status_code == 404


def test_a_job_outlives_its_reader_and_is_cancelled_by_name(door: Door) -> None:
    door.post("/difs/v1/generate", SLOW_JOB | {"request_id": "job-2"})
    with door.http.stream("GET", "/difs/v1/requests/job-2/events") as stream:
        next(stream.iter_lines())
    until(lambda: door.get("/difs/v1/requests/job-2").json()["state"] == "running", 20, "it runs on")
    assert door.http.delete("/difs/v1/requests/job-2").json()["state"] == "cancelled"
    until(lambda: door.service.is_idle(1), 1.5, "a cancelled request, long before its end")


def test_a_job_that_waits_is_told_where(door: Door) -> None:
    names = [f"waits-{i}" for i in range(CREDITS + 2)]
    begun = []
    for name in names:
        steps = 6 if name == names[0] else 60
        body = {**SLOW_JOB, "overrides": {"steps": steps}, "request_id": name}
        begun.append(door.post("/difs/v1/generate", body).json()["position"])
    assert begun[CREDITS:] == [1, 2]
    last = f"/difs/v1/requests/{names[-1]}"
    assert door.get(last).json()["position"] == 2
    told = []
    with door.http.stream("GET", f"{last}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                told.append(json.loads(line.removeprefix("data: "))["position"])
            if told and told[-1] == 1:  # the first has ended: it moved up
                break
    assert told[0] == 2
    for name in names:
        door.http.delete(f"/difs/v1/requests/{name}")


def test_a_job_that_is_refused_never_was_one(door: Door) -> None:
    tree = {"prompt": "apple", "request_id": "job-3", "overrides": {"variant": "nope"}}
    got = door.post("/difs/v1/generate", tree)
    assert (got.status_code, got.json()["error"]["code"]) == (404, "unknown_name")
    assert door.get("/difs/v1/requests/job-3").status_code == 404


def test_questions_are_answered(door: Door) -> None:
    told = door.post("/difs/v1/explain", {"prompt": "apple", "survey": True}).json()
    assert told["plan"]["variant"] == "emoji-base"
    assert door.get("/difs/v1/status").json()["ready"]
    assert "emoji-base" in [v["name"] for v in door.get("/difs/v1/variants").json()["variants"]]
    assert "# TYPE difs_" in door.get("/metrics").text
    assert door.get("/openapi.json").json()["openapi"] == "3.1.0"
    assert "<title>" in door.get("/").text


def test_the_example_makes_a_picture_with_nothing_but_a_url(door: Door, tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "http_client.py"
    target = tmp_path / "apple.png"
    command = [sys.executable, str(example), "red apple", str(target), f"http://127.0.0.1:{door.port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert pixels(target.read_bytes()).shape[2] == 3
