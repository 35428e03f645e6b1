"""The HTTP doors over a running service: pictures by every API, cancelling, and what is kept out."""

import asyncio
import base64
import functools
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from difs import AsyncClient
from difs.clock import MonotonicClock
from difs.doors import app, guard, openapi
from tests.process.service import (
    SIDE,
    Calls,
    Service,
    assert_one_line,
    difs,
    free_port,
    picture,
    processes_of,
    script,
    until,
)
from tests.process.service import settings as options

pytestmark = pytest.mark.process

SLOW = {"prompt": "red apple", "steps": 60, "size": f"{SIDE}x{SIDE}"}
"""Three seconds."""
SLOW_TXT2IMG = {"prompt": "red apple", "steps": 60, "width": SIDE, "height": SIDE}
SLOW_JOB = {"prompt": "red apple", "width": SIDE, "height": SIDE, "overrides": {"steps": 60}}


class Door:
    """A service with an HTTP door, and a client of it."""

    def __init__(self, service: Service, port: int) -> None:
        self.service = service
        self.port = port
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    def post(self, path: str, tree: Any = None, **more: Any) -> httpx2.Response:
        return self.http.post(path, json=tree if tree is not None else {}, **more)

    def get(self, path: str, **more: Any) -> httpx2.Response:
        return self.http.get(path, **more)

    def pid(self) -> int:
        """Return the door's process, 0 where there is none."""
        words = processes_of(self.service.home.path)
        return next((pid for pid, line in words.items() if "difs.doors" in line), 0)


@pytest.fixture(scope="module")
def running() -> Iterator[Door]:
    port = free_port()
    bounds = options("broker.max_outstanding=4")
    with Service(
        ["--device", "simulated", *options(script()), *bounds, "--http", f"127.0.0.1:{port}"]
    ) as service:
        door = Door(service, port)
        until(lambda: _answers(door), 20, "the door")
        yield door
        door.http.close()


def _answers(door: Door) -> bool:
    try:
        return door.get("/readyz").status_code == 200
    except httpx2.TransportError:
        return False


@pytest.fixture
def door(running: Door) -> Iterator[Door]:
    """Yield the door with nothing open; nothing may be open afterwards either."""
    yield running
    until(lambda: running.service.is_idle(1), 20, "an idle service after the test")


def pixels(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def shown(text: str) -> NDArray[np.uint8]:
    return pixels(base64.b64decode(text))


def events_in(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the name and data of each server-sent event."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


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


def test_what_open_webui_asks_of_an_openai_server(door: Door) -> None:
    fields = {
        "model": "gpt-image-1",
        "prompt": "apple",
        "n": 1,
        "size": "512x512",
        "response_format": "b64_json",
    }
    got = door.post("/v1/images/generations", fields, headers={"authorization": "Bearer sk-anything"})
    assert shown(got.json()["data"][0]["b64_json"]).shape == (512, 512, 3)
    files = {"image": ("a.png", b"x", "image/png")}
    edit = door.http.post("/v1/images/edits", files=files, data={"prompt": "x"})
    assert (edit.status_code, edit.headers["x-should-retry"]) == (501, "false")
    assert "error" in edit.json()


# ---- A1111 ----------------------------------------------------------------------------------------


def test_what_open_webui_asks_of_automatic1111(door: Door) -> None:
    assert door.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "auto"
    titles = [model["title"] for model in door.get("/sdapi/v1/sd-models").json()]
    assert "emoji-base" in titles
    whole = door.get("/sdapi/v1/options").json()
    assert (
        door.post("/sdapi/v1/options", whole | {"sd_model_checkpoint": "emoji-base"}).status_code == 200
    )
    fields = {
        "prompt": "apple",
        "batch_size": 1,
        "width": 64,
        "height": 64,
        "steps": 4,
        "negative_prompt": "",
    }
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


# ---- connections ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "tree"),
    [
        ("/v1/images/generations", SLOW),
        ("/v1/images/generations", {**SLOW, "stream": True}),
        ("/sdapi/v1/txt2img", SLOW_TXT2IMG),
    ],
)
def test_a_closed_connection_cancels_its_request(door: Door, path: str, tree: dict[str, Any]) -> None:
    body = json.dumps(tree).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", door.port)) as raw:
        raw.sendall(head + body)
        until(lambda: door.service.status().running, 10, "a running request")
    until(lambda: door.service.is_idle(1), 1.5, "a cancelled request, long before its end")


def test_half_a_request_holds_nobody_up(door: Door) -> None:
    raws = [socket.create_connection(("127.0.0.1", door.port)) for _ in range(100)]
    try:
        for raw in raws:
            raw.sendall(
                b"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n{"
            )
        assert door.post("/v1/images/generations", {"prompt": "apple"}).status_code == 200
        assert door.service.client.generate("apple").images
    finally:
        for raw in raws:
            raw.close()


@pytest.mark.parametrize("said", [True, False])
def test_a_body_that_is_too_long_is_refused(door: Door, *, said: bool) -> None:
    chunk = b"x" * 65536
    content: Any = chunk * 6 if said else iter([chunk] * 6)
    got = door.http.post("/v1/images/generations", content=content)
    assert got.status_code == 413
    assert got.json()["error"]["code"] == "too_large"


def test_foreign_hosts_and_pages_are_kept_out(door: Door) -> None:
    for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
        got = door.post("/v1/images/generations", {"prompt": "apple"}, headers=headers)
        assert got.status_code == 403
    assert "access-control-allow-origin" not in door.get("/healthz").headers


@pytest.mark.parametrize(
    "path", ["/../etc/passwd", "/page/../app.py", "/%2e%2e/app.py", "/page.js/..%2fapp.py"]
)
def test_no_path_is_taken_from_a_request(door: Door, path: str) -> None:
    with socket.create_connection(("127.0.0.1", door.port)) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(functools.partial(raw.recv, 65536), b""))
    assert answer.startswith(b"HTTP/1.1 404")
    assert os.fsencode(Path(app.__file__).parent) not in answer


def test_a_door_that_ends_is_started_again_and_the_service_goes_on(door: Door) -> None:
    before = door.pid()
    os.kill(before, signal.SIGKILL)
    assert door.service.client.generate("apple").images
    until(lambda: door.pid() not in (0, before), 20, "another door")
    with httpx2.Client(base_url=f"http://127.0.0.1:{door.port}", timeout=30) as http:
        assert http.get("/healthz").status_code == 200


# ---- the application in process -------------------------------------------------------------------


def in_process(
    door: Door, work: Callable[[httpx2.AsyncClient], Awaitable[None]], rules: guard.Rules
) -> None:
    """Call `work` with a client of an application of our own over the same service."""

    async def call() -> None:
        connect = functools.partial(AsyncClient, door.service.address)
        made = app.make(connect, MonotonicClock(), lambda: rules)
        transport = httpx2.ASGITransport(made)  # what breaks is raised here
        async with (
            made.router.lifespan_context(made),
            httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http,
        ):
            await work(http)

    asyncio.run(call())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
POSTS = [path for path in openapi.PATHS if path.takes is not None]


def bodies(path: openapi.Path) -> st.SearchStrategy[dict[str, Any]]:
    """Return strange bodies with the fields that a path knows."""
    assert path.takes is not None
    return st.dictionaries(st.sampled_from(path.takes.__struct_fields__), JSON, max_size=5)


def test_no_body_breaks_the_door(door: Door) -> None:
    @given(st.data())
    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    def strange(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(POSTS))
        body = data.draw(bodies(path) | JSON)
        got = loop.run(http.post(path.path, content=json.dumps(body).encode()))
        assert got.status_code < 500 or got.status_code in (501, 503), (path.path, body, got.text)

    made = app.make(functools.partial(AsyncClient, door.service.address), MonotonicClock())
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(made), base_url="http://127.0.0.1")
    life = made.router.lifespan_context(made)
    with asyncio.Runner() as loop:
        loop.run(life.__aenter__())
        try:
            strange()
        finally:
            loop.run(http.aclose())
            loop.run(life.__aexit__(None, None, None))


def test_tokens_are_asked_for_and_callers_do_not_see_each_other(door: Door) -> None:
    rules = guard.Rules(needs_token=True, tokens=(("ann", guard.digest("a")), ("bob", guard.digest("b"))))

    async def work(http: httpx2.AsyncClient) -> None:
        ann, bob = {"authorization": "Bearer a"}, {"authorization": "Bearer b"}
        assert (await http.get("/v1/models")).status_code == 401
        assert (await http.get("/v1/models", headers={"authorization": "Bearer c"})).status_code == 401
        assert "basic" in (await http.get("/")).headers["www-authenticate"].lower()
        tree = {"prompt": "apple", "request_id": "mine"}
        assert (await http.post("/difs/v1/generate", json=tree, headers=ann)).status_code == 202
        assert (await http.get("/difs/v1/requests/mine", headers=bob)).status_code == 404
        assert (await http.post("/difs/v1/generate", json=tree, headers=bob)).status_code == 202
        await http.post("/sdapi/v1/options", json={"sd_model_checkpoint": "best"}, headers=ann)
        options_of_bob = (await http.get("/sdapi/v1/options", headers=bob)).json()
        assert options_of_bob["sd_model_checkpoint"] == "auto"

    in_process(door, work, rules)


# ---- the command line -----------------------------------------------------------------------------


def test_other_machines_are_not_served_without_a_flag_and_a_token(tmp_path: Path) -> None:
    done = difs("serve", "--device", "simulated", "--run-dir", str(tmp_path), "--http", "0.0.0.0:0")
    assert done.returncode == os.EX_CONFIG
    assert_one_line(done.stderr)
    assert "--http-remote" in done.stderr


def test_a_token_is_shown_once(tmp_path: Path) -> None:
    done = difs("http-token", "ann", str(tmp_path / "tokens"))
    assert done.returncode == 0
    assert done.stdout.strip()
    assert done.stdout.strip() not in (tmp_path / "tokens").read_text()


def test_the_example_makes_a_picture_with_nothing_but_a_url(door: Door, tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "http_client.py"
    target = tmp_path / "apple.png"
    command = [sys.executable, str(example), "red apple", str(target), f"http://127.0.0.1:{door.port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert pixels(target.read_bytes()).shape[2] == 3
