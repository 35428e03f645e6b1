"""What must not get out: prompts into logs, paths and tracebacks to clients, the machine into files."""

import io
import site
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from PIL import Image

import difs
from difs.messages import PROTOCOL
from tests.process.conftest import Start
from tests.process.service import Raw, Service, script, settings

pytestmark = pytest.mark.process

CANARY = "xyzzy-canary"
BROKEN = "please-break"
ROOT = Path(difs.__file__).parents[1]


def internals(service: Service) -> list[bytes]:
    """Return texts that tell of this machine: folders, users, processes."""
    home = service.home.path
    found = [home, home.parent / "difs", ROOT, Path.home(), "/dev/shm", *site.getsitepackages()]
    return [str(text).encode() for text in found if str(text) not in ("/", "/tmp")]


def everything_asked(client: Raw) -> list[bytes]:
    """Ask for all that there is, well and badly; return every frame that came back."""
    small = {"type": "generate", "width": 64, "height": 64, "overrides": {"steps": 2}}
    broken = small | {"request_id": "bad", "prompt": BROKEN, "delivery": {"format": "png"}}
    asked: list[Any] = [
        small | {"request_id": "good", "prompt": CANARY, "delivery": {"format": "png"}},
        small
        | {"request_id": "seen", "prompt": CANARY, "delivery": {"format": "webp", "progress": True}},
        broken,
        small | {"request_id": "odd", "prompt": CANARY, "n": 99},
        small | {"request_id": "who", "prompt": CANARY, "overrides": {"variant": "nobody"}},
        small | {"request_id": "../../etc/passwd", "prompt": CANARY},
        small | {"request_id": "x", "prompt": CANARY, "overrides": {"adapters": [{"name": "../x"}]}},
        {"type": "explain", "request": small | {"request_id": "e", "prompt": CANARY}, "survey": True},
        {"type": "load", "variant": "nobody"},
        {"type": "cancel", "request_id": "nobody"},
        *({"type": kind} for kind in ("variants", "status", "ping", CANARY)),
    ]
    for tree in asked:
        client.say(tree)
    client.frames(PROTOCOL, b"\xc1" + CANARY.encode())
    client.frames(CANARY.encode())
    found: list[bytes] = []
    ended = 0
    while ended < 3 or len(found) < len(asked):
        assert client.socket.poll(10_000), f"{ended} ended of 3; {len(found)} answers"
        _, header, *payloads = client.socket.recv_multipart()
        message = msgspec.msgpack.decode(header)
        if message["type"] != "beat":
            found += [header, *payloads]
        is_over = message["type"] in ("result", "error")
        ended += is_over and message.get("request_id") in ("good", "seen", "bad")
    return found


def test_neither_logs_nor_answers_nor_files_tell_what_they_should_not(start: Start) -> None:
    """Good, bad and broken requests at the default log level; then all that came of them is searched."""
    fault = f"{{kind='error', prompt='{BROKEN}'}}"
    service = start("--device", "simulated:1", *settings(script([fault], step_s=0.001)))
    with Raw(service.address) as client:
        found = everything_asked(client)
    for text in (*internals(service), b"Traceback", b'.py"', b"line "):
        assert not [frame for frame in found if text in frame], f"a client was told {text!r}"

    pictures = [frame for frame in found if frame.startswith((b"\x89PNG", b"RIFF"))]
    assert len(pictures) == 2
    with Image.open(io.BytesIO(pictures[0])) as picture:
        assert {"parameters", "difs"} >= set(picture.info) - {"dpi"}
        assert CANARY in picture.info["parameters"], "what a picture shows, its owner may know"

    log = service.log_text()
    assert "ready" in log or "started" in log, "there is a log to search"
    assert CANARY not in log
    assert BROKEN not in log
    words = [
        word
        for pid in (service.pid, *service.children().values())
        for word in psutil.Process(pid).cmdline()
    ]
    assert not [word for word in words if CANARY in word]
