"""What the HTTP doors keep out, bound and survive: strangers, what tokens may not, slow peers."""

import asyncio
import functools
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from difs import AsyncClient
from difs.clock import MonotonicClock
from difs.doors import app, guard, openapi
from tests.process import documented
from tests.process.door import SLOW, SLOW_JOB, SLOW_TXT2IMG, Door, left_idle, opened
from tests.process.service import assert_one_line, difs, until

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def running() -> Iterator[Door]:
    with opened() as door:
        yield door


@pytest.fixture
def door(running: Door) -> Iterator[Door]:
    yield from left_idle(running)


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
    cancelled, finished = door.service.count("cancelled"), door.service.count("finished")
    with socket.create_connection(("127.0.0.1", door.port)) as raw:
        raw.sendall(head + body)
        until(lambda: door.service.status().running, 10, "a running request")
    until(lambda: door.service.is_idle(1), 5, "an end of the request")
    assert door.service.count("cancelled") == cancelled + 1
    assert door.service.count("finished") == finished


def test_half_a_request_holds_nobody_up(door: Door) -> None:
    raws = [socket.create_connection(("127.0.0.1", door.port)) for _ in range(500)]
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
    door: Door, work: Callable[[httpx2.AsyncClient], Awaitable[None]], rules: Callable[[], guard.Rules]
) -> None:
    """Call `work` with a client of an application of our own over the same service."""

    async def call() -> None:
        connect = functools.partial(AsyncClient, door.service.address)
        made = app.make(connect, MonotonicClock(), rules)
        transport = httpx2.ASGITransport(made)  # what breaks is raised here
        async with (
            made.router.lifespan_context(made),
            httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http,
        ):
            await work(http)

    asyncio.run(call())


SMALL = {"size": "64x64", "width": 64, "height": 64, "steps": 2, "num_inference_steps": 2, "timeout_s": 5}
"""Put in place of what would take long."""
DOCUMENT = openapi.document()
OPERATIONS = [
    (method, path, operation)
    for path, tree in DOCUMENT["paths"].items()
    for method, operation in tree.items()
    if not path.endswith("/events")  # ends with its job
]


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, dict[str, str], Any]:
    """Return a method, a path, a query and a body: as the document allows, or stranger."""
    method, path, operation = draw(st.sampled_from(OPERATIONS))
    for one in operation.get("parameters", ()):
        value = draw(documented.values(one["schema"], {}))
        path = path.replace(f"{{{one['name']}}}", quote(str(value), safe="") or "x")
    query = draw(st.dictionaries(st.text(max_size=6), st.text(max_size=6), max_size=2))
    body: Any = None
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        allowed = documented.values(schema, DOCUMENT["components"]["schemas"])
        body = draw(allowed | documented.JSON)
    if isinstance(body, dict):
        body |= {name: value for name, value in SMALL.items() if name in body}
        if isinstance(overrides := body.get("overrides"), dict) and overrides.get("steps"):
            overrides["steps"] = SMALL["steps"]
    return method, path, query, body


def test_nothing_that_the_document_allows_breaks_the_door(door: Door) -> None:
    @given(requests())
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    def strange(asked: tuple[str, str, dict[str, str], Any]) -> None:
        method, path, query, body = asked
        content = None if body is None else json.dumps(body).encode()
        got = loop.run(http.request(method, path, params=query, content=content))
        assert got.status_code not in (500, 502), (asked, got.text)

    made = app.make(functools.partial(AsyncClient, door.service.address), MonotonicClock())
    http = httpx2.AsyncClient(
        transport=httpx2.ASGITransport(made), base_url="http://127.0.0.1", timeout=30
    )
    life = made.router.lifespan_context(made)
    with asyncio.Runner() as loop:
        loop.run(life.__aenter__())
        try:
            strange()
        finally:
            loop.run(http.aclose())
            loop.run(life.__aexit__(None, None, None))
    assert door.service.client.load("emoji-base")  # it may have been unloaded
    until(lambda: "emoji-base" in door.service.status().devices[0].residents, 10, "it came back")


NAMES = ("ann", "bob", "root")
ANN, BOB, ROOT = (
    guard.Token(name, guard.digest(name), name == "root") for name in ("ann", "bob", "root")
)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_tokens_are_asked_for_and_callers_do_not_see_each_other(door: Door) -> None:
    async def work(http: httpx2.AsyncClient) -> None:
        assert (await http.get("/v1/models")).status_code == 401
        assert (await http.get("/v1/models", headers=bearer("c"))).status_code == 401
        assert "basic" in (await http.get("/")).headers["www-authenticate"].lower()
        tree = {"prompt": "apple", "request_id": "mine"}
        ann, bob = bearer("ann"), bearer("bob")
        assert (await http.post("/difs/v1/generate", json=tree, headers=ann)).status_code == 202
        assert (await http.get("/difs/v1/requests/mine", headers=bob)).status_code == 404
        assert (await http.post("/difs/v1/generate", json=tree, headers=bob)).status_code == 202
        await http.post("/sdapi/v1/options", json={"sd_model_checkpoint": "best"}, headers=ann)
        options_of_bob = (await http.get("/sdapi/v1/options", headers=bob)).json()
        assert options_of_bob["sd_model_checkpoint"] == "auto"

    in_process(door, work, lambda: guard.Rules(needs_token=True, tokens=(ANN, BOB)))


def test_a_token_administers_only_if_it_was_made_to(door: Door) -> None:
    urgent = {"prompt": "apple", "priority": 9}
    job = {"prompt": "apple", "requirements": {"priority": 9}}
    loads = {"sd_model_checkpoint": "emoji-base"}

    async def work(http: httpx2.AsyncClient) -> None:
        for token, status in (("ann", 403), ("root", 200)):
            head = bearer(token)
            asks = [
                await http.post("/v1/images/generations", json=urgent, headers=head),
                await http.post("/v1/images/generations", json={**urgent, "stream": True}, headers=head),
                await http.post("/difs/v1/explain", json=job, headers=head),
                await http.post("/sdapi/v1/unload-checkpoint", headers=head),
                await http.post("/sdapi/v1/reload-checkpoint", headers=head),
            ]
            assert [got.status_code for got in asks] == [status] * len(asks), token
            begun = await http.post("/difs/v1/generate", json=job, headers=head)
            assert begun.status_code == (202 if status == 200 else 403)
            await http.post("/sdapi/v1/options", json=loads, headers=head)
        await asyncio.to_thread(until, lambda: not is_busy(door), 10, "what was asked for is done")
        assert (await http.post("/sdapi/v1/unload-checkpoint", headers=bearer("root"))).status_code == 200
        await asyncio.to_thread(until, lambda: not has_base(door), 10, "it left")
        assert (await http.post("/sdapi/v1/reload-checkpoint", headers=bearer("root"))).status_code == 200

    in_process(door, work, lambda: guard.Rules(needs_token=True, tokens=(ANN, ROOT)))
    until(lambda: has_base(door), 10, "it came back")


def is_busy(door: Door) -> bool:
    report = door.service.status()
    return report.queued + report.running > 0 or any(device.loading for device in report.devices)


def has_base(door: Door) -> bool:
    return "emoji-base" in door.service.status().devices[0].residents


def test_deleting_a_token_ends_what_it_has_open(door: Door) -> None:
    allowed = [ANN, BOB]

    async def work(http: httpx2.AsyncClient) -> None:
        for name in ("ann", "bob"):
            job = {**SLOW_JOB, "request_id": f"of-{name}"}
            assert (
                await http.post("/difs/v1/generate", json=job, headers=bearer(name))
            ).status_code == 202
        pending = asyncio.create_task(
            http.post("/v1/images/generations", json=SLOW, headers=bearer("ann"))
        )
        while door.service.status().running + door.service.status().queued < 3:
            await asyncio.sleep(0.02)
        allowed.remove(ANN)
        assert (await http.get("/difs/v1/requests/of-ann", headers=bearer("ann"))).status_code == 401
        assert (await pending).status_code == 499
        of_bob = (await http.get("/difs/v1/requests/of-bob", headers=bearer("bob"))).json()
        assert of_bob["state"] in ("queued", "running")
        allowed.append(ANN)
        assert (await http.get("/difs/v1/requests/of-ann", headers=bearer("ann"))).status_code == 404

    in_process(door, work, lambda: guard.Rules(needs_token=True, tokens=tuple(allowed)))


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
    assert difs("http-token", "root", str(tmp_path / "tokens"), "--admin").returncode == 0
    assert (tmp_path / "tokens").read_text().splitlines()[1].endswith(" admin")
