"""Strangers on the clients' socket: garbage, limits, and clients that never give anything back."""

import random
import socket
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest

from difs import Client
from difs.broker.loop import MAX_FRAME_BYTES
from difs.errors import BY_CODE, Expired, InvalidRequest, LeaseLost
from difs.messages import (
    MAX_ADAPTER_WEIGHT,
    MAX_ADAPTERS,
    MAX_FRAMES,
    MAX_GUIDANCE,
    MAX_HEADER_BYTES,
    MAX_ID_CHARS,
    MAX_IMAGES,
    MAX_LATENCY_S,
    MAX_LEASES_PER_RELEASE,
    MAX_NAME_CHARS,
    MAX_PRIORITY,
    MAX_PROMPT_BYTES,
    MAX_SIDE,
    MAX_STEPS,
    MAX_TIMEOUT_S,
    MIN_SIDE,
    PROTOCOL,
    SIDE_MULTIPLE,
)
from difs.shm.reader import SegmentReader
from tests.process.service import PATIENCE, SIDE, Calls, Raw, Service, picture, script, settings, until

pytestmark = pytest.mark.process

FAST_S = 2.0
"""Within this a healthy broker answers; `until` has what a busy machine gets."""


def generate(request_id: str, **parts: Any) -> dict[str, Any]:
    """Return a `generate` message."""
    return {"type": "generate", "request_id": request_id, "prompt": "x", **parts}


SHM = {"mode": "shm", "format": "raw"}


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    options = settings(script(), "broker.max_outstanding=6", "broker.validate=true")
    with Service(["--device", "simulated:2", *options]) as service:
        yield service


@pytest.fixture
def service(running: Service) -> Iterator[Service]:
    """Yield the service; whatever a test does to it, others are served, by the same processes."""
    until(running.is_idle, 10, "an idle service before the test")
    before = running.children()
    yield running
    asked_at = time.monotonic()
    with running.client.generate("others", seed=1) as result:
        assert np.array_equal(result.images[0], picture("others", 1))
    assert time.monotonic() - asked_at < PATIENCE * FAST_S
    until(running.is_idle, 10, "an idle service after the test")
    assert running.children() == before


@pytest.fixture
def raw(service: Service) -> Iterator[Raw]:
    with Raw(service.address) as raw:
        yield raw


def assert_error(message: dict[str, Any], code: str) -> None:
    assert message["type"] == "error", message
    assert message["code"] == code, message
    assert message["retryable"] is BY_CODE[code].retryable
    assert message["message"]


# ---- garbage --------------------------------------------------------------------------------------


def test_random_frames_are_answered_with_typed_errors(raw: Raw) -> None:
    chance = random.Random(1)
    for count in range(1, 51):
        raw.frames(*(chance.randbytes(chance.choice([0, 1, 5, 300])) for _ in range(count)))
        assert_error(raw.hear(FAST_S), "protocol")


@pytest.mark.parametrize("name", [b"", b"DIFS", b"DIFS2", b"difs1", b"DIFS1 ", b"MDPC01", b"\x00" * 300])
def test_another_protocol_name_is_named(raw: Raw, name: bytes) -> None:
    raw.frames(name, msgspec.msgpack.encode({"type": "ping"}))
    answer = raw.hear(FAST_S)
    assert_error(answer, "protocol")
    assert (answer["field"], answer["limit"]) == ("frame 0", "DIFS1")


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (b"", "protocol"),
        (b"\xc1", "protocol"),
        (b"\x81", "protocol"),
        (b"\xdf\xff\xff\xff\xff", "protocol"),
        (b"\x91" * 60_000, "protocol"),
        (b"\x81\xa4type" + b"\x81\xa1a" * 15_000, "unsupported"),
        (b"\x81\xa4type\xa4\xff\xfe\xfd\xfc", "protocol"),
        (msgspec.msgpack.encode({}), "unsupported"),
        (msgspec.msgpack.encode({"type": "pong"}), "unsupported"),
        (msgspec.msgpack.encode({"type": 7}), "unsupported"),
        (msgspec.msgpack.encode({"type": "stop"}), "unsupported"),
        (msgspec.msgpack.encode({"type": "supervise", "pid": 1}), "unsupported"),
        (msgspec.msgpack.encode({"type": "drain_all", "grace_s": 0.0}), "unsupported"),
        (msgspec.msgpack.encode([1, 2]), "protocol"),
        (msgspec.msgpack.encode("generate"), "protocol"),
    ],
)
def test_a_map_that_is_none_or_of_no_known_type(raw: Raw, header: bytes, code: str) -> None:
    raw.frames(PROTOCOL, header)
    assert_error(raw.hear(FAST_S), code)
    assert raw.ask({"type": "ping"}, FAST_S)["type"] == "pong", "the connection still serves"


def test_every_flipped_bit_of_a_message_is_answered_once(raw: Raw) -> None:
    good = msgspec.msgpack.encode({"type": "explain", "request": {"request_id": "r", "prompt": "x" * 20}})
    bits = 8 * len(good)
    for bit in range(bits):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        raw.frames(PROTOCOL, bytes(bad))
    raw.say({"type": "ping"})
    answers = [raw.hear(FAST_S) for _ in range(bits + 1)]
    assert answers[-1]["type"] == "pong"
    assert {answer["type"] for answer in answers[:-1]} == {"error", "explanation"}


def test_too_many_frames_are_counted(raw: Raw) -> None:
    header = msgspec.msgpack.encode({"type": "ping"})
    raw.frames(PROTOCOL, header, *[b""] * (MAX_FRAMES - 2))
    assert raw.hear(FAST_S)["type"] == "pong"
    for count in (MAX_FRAMES + 1, 2000):
        raw.frames(PROTOCOL, header, *[bytes(1000)] * (count - 2))
        answer = raw.hear(FAST_S)
        assert_error(answer, "protocol")
        assert (answer["field"], answer["limit"]) == ("frames", f"<= {MAX_FRAMES}")


def test_a_map_above_its_limit_is_refused_in_words(raw: Raw) -> None:
    def padded(nbytes: int) -> bytes:
        empty = msgspec.msgpack.encode({"type": "ping", "padding": bytes(40_000)})
        header = msgspec.msgpack.encode({"type": "ping", "padding": bytes(40_000 + nbytes - len(empty))})
        assert len(header) == nbytes
        return header

    raw.frames(PROTOCOL, padded(MAX_HEADER_BYTES))
    assert raw.hear(FAST_S)["type"] == "pong", "an unknown field is no harm"
    raw.frames(PROTOCOL, padded(MAX_HEADER_BYTES + 1))
    answer = raw.hear(FAST_S)
    assert_error(answer, "protocol")
    assert answer["field"] == "frame 1"


def test_a_frame_above_the_hard_limit_ends_the_connection_only(service: Service, raw: Raw) -> None:
    lost = service.count("clients_lost")
    raw.say(generate("big", width=SIDE, height=SIDE, delivery=SHM))
    assert raw.hear(FAST_S)["type"] == "accepted"
    raw.frames(PROTOCOL, bytes(MAX_FRAME_BYTES + 1))
    until(lambda: service.count("clients_lost") == lost + 1, FAST_S, "the loss of the connection")

    def again() -> bool:
        raw.say({"type": "ping"})
        return raw.socket.poll(200) != 0

    until(again, 5, "service on a new connection")
    assert raw.hear(FAST_S)["type"] == "pong"


def test_bytes_that_are_no_zeromq_do_no_harm(service: Service) -> None:
    broker = psutil.Process(service.children()["broker"])
    files = broker.num_fds()
    chance = random.Random(2)
    path = service.address.removeprefix("ipc://")
    blobs = [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\xff" + bytes(8) + b"\x7f",  # half a greeting of ZMTP
        b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL" + bytes(48),  # a greeting, then silence
        *(chance.randbytes(2**k) for k in range(21)),
    ]
    peers = []
    for blob in blobs:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.settimeout(1)
        peer.connect(path)
        peers.append(peer)
        try:
            peer.sendall(blob)
        except (BrokenPipeError, ConnectionResetError):
            continue  # thrown out already
        assert service.client.ping().ready
    for peer in peers:
        peer.close()
    until(lambda: broker.num_fds() <= files, 5, "the files of the broker's closed connections")


def test_strangers_on_the_actors_socket_do_no_harm(service: Service) -> None:
    """Only this user can reach it; a message that breaks the protocol is dropped all the same."""
    with Raw(service.home.actors) as stranger:
        stranger.frames(b"DIFS1")
        stranger.frames(PROTOCOL, b"\xc1")
        stranger.say({"type": "generate", "request_id": "r", "prompt": "x"})
        stranger.say({"type": "finished", "attempt": 1, "images": [], "seed_contract": ""})
        stranger.say({"type": "leaving"})
        until(
            lambda: service.log_text().count("an actor broke the protocol") >= 3, 5, "the broker's words"
        )


# ---- limits ---------------------------------------------------------------------------------------

TOO_LONG = "a" * (MAX_NAME_CHARS + 1)
LIMITS: list[tuple[str, Any, Any]] = [
    ("prompt", "x" * MAX_PROMPT_BYTES, "x" * (MAX_PROMPT_BYTES + 1)),
    ("prompt", "\u20ac" * (MAX_PROMPT_BYTES // 3), "\u20ac" * (MAX_PROMPT_BYTES // 3 + 1)),
    ("prompt", "", "a\0b"),
    ("negative_prompt", "x" * MAX_PROMPT_BYTES, "x" * (MAX_PROMPT_BYTES + 1)),
    ("task", "text-to-image", "image-to-image"),
    ("n", MAX_IMAGES, MAX_IMAGES + 1),
    ("n", 1, 0),
    ("seed", 2**64 - 1, -1),
    ("timeout_s", MAX_TIMEOUT_S, MAX_TIMEOUT_S * 1.0001),
    ("timeout_s", 1e-3, 0),
    ("timeout_s", 1.0, float("nan")),
    ("timeout_s", 1.0, float("inf")),
    ("requirements.latency_s", MAX_LATENCY_S, MAX_LATENCY_S * 1.0001),
    ("requirements.latency_s", 1e-3, 0.0),
    ("requirements.latency_s", 1.0, float("nan")),
    ("requirements.quality", 1.0, 1.0001),
    ("requirements.quality", 0.0, -0.0001),
    ("requirements.quality", 0.5, float("nan")),
    ("requirements.quality", "best", "bestest"),
    ("requirements.priority", MAX_PRIORITY, MAX_PRIORITY + 1),
    ("requirements.priority", 0, -1),
    ("requirements.on_infeasible", "reject", "panic"),
    ("overrides.steps", MAX_STEPS, MAX_STEPS + 1),
    ("overrides.steps", 1, 0),
    ("overrides.guidance_scale", MAX_GUIDANCE, MAX_GUIDANCE + 0.01),
    ("overrides.guidance_scale", 0.0, -0.01),
    ("overrides.guidance_scale", 1.0, float("nan")),
    ("overrides.sampler", "ddim", TOO_LONG),
    ("overrides.sampler", "ddim", ""),
    ("overrides.variant", "emoji-base", TOO_LONG),
    ("overrides.variant", "emoji-base", "../emoji-base"),
    ("overrides.family", "sd15", "SD15\n"),
    ("overrides.adapters", [], [{"name": "a"}] * (MAX_ADAPTERS + 1)),
    ("delivery.mode", "shm", "pigeon"),
    ("delivery.format", "png", "gif"),
    ("delivery.preview_every", MAX_STEPS, MAX_STEPS + 1),
    ("delivery.preview_every", 0, -1),
    ("deterministic", True, "yes"),
    ("request_id", "r" * MAX_ID_CHARS, "r" * (MAX_ID_CHARS + 1)),
    ("request_id", "r", ""),
    ("request_id", "r", "a/b"),
]


def at(path: str, value: Any) -> dict[str, Any]:
    """Return a `generate` message with a value at a dotted path."""
    message = generate("limit")
    place = message
    *outer, name = path.split(".")
    for part in outer:
        place = place.setdefault(part, {})
    place[name] = value
    return message


@pytest.mark.parametrize(("path", "good", "bad"), LIMITS)
def test_each_limit_is_kept_and_named(raw: Raw, path: str, good: Any, bad: Any) -> None:
    message = at(path, good)
    del message["type"]
    answer = raw.ask({"type": "explain", "request": message}, FAST_S)
    assert answer["type"] == "explanation", answer
    answer = raw.ask(at(path, bad), FAST_S)
    assert_error(answer, "invalid_request")
    assert answer["field"] == path
    assert path in answer["message"]
    if path != "request_id":
        assert answer["request_id"] == "limit", "the refusal says whose it is"


@pytest.mark.parametrize(
    "side", [MIN_SIDE - SIDE_MULTIPLE, MAX_SIDE + SIDE_MULTIPLE, MIN_SIDE + 1, 0, -64]
)
@pytest.mark.parametrize("name", ["width", "height"])
def test_sides_have_bounds_and_a_grid(raw: Raw, name: str, side: int) -> None:
    answer = raw.ask(generate("side", **{"width": 64, "height": 64, name: side}), FAST_S)
    assert_error(answer, "invalid_request")
    assert answer["field"] == name
    assert answer["limit"]


def test_one_side_alone_is_refused(raw: Raw) -> None:
    answer = raw.ask(generate("side", width=64), FAST_S)
    assert_error(answer, "invalid_request")
    assert answer["field"] == "height"


@pytest.mark.parametrize(
    "weight", [MAX_ADAPTER_WEIGHT * 1.001, -MAX_ADAPTER_WEIGHT * 1.001, float("nan")]
)
def test_an_adapters_weight_has_bounds(raw: Raw, weight: float) -> None:
    answer = raw.ask(at("overrides.adapters", [{"name": "a", "weight": weight}]), FAST_S)
    assert_error(answer, "invalid_request")
    assert answer["field"].startswith("overrides.adapters")


@pytest.mark.parametrize(
    ("path", "name"), [("variant", "no-such"), ("family", "no-such"), ("sampler", "x")]
)
def test_a_name_that_nobody_has_is_refused_with_those_there_are(raw: Raw, path: str, name: str) -> None:
    answer = raw.ask(at(f"overrides.{path}", name), FAST_S)
    assert_error(answer, "unknown_name")
    assert answer["field"] == f"overrides.{path}"
    assert name in answer["message"]
    assert "there is:" in answer["message"]


def test_one_request_cannot_ask_for_hours_of_work(raw: Raw) -> None:
    parts = {"width": MAX_SIDE, "height": MAX_SIDE, "n": 2, "overrides": {"steps": MAX_STEPS}}
    answer = raw.ask(generate("hours", **parts), FAST_S)
    assert_error(answer, "invalid_request")
    assert answer["field"] == "overrides.steps"
    assert answer["limit"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"memory_mode": "fast"}, "memory_mode"),
        ({"memory_mode": None}, "memory_mode"),
        ({"variant": "../x"}, "variant"),
        ({"device": "cuda:0"}, "device"),
    ],
)
def test_a_bad_switch_of_the_memory_mode_is_refused(
    raw: Raw, changes: dict[str, Any], field: str
) -> None:
    good = {"type": "set_mode", "variant": "emoji-base", "memory_mode": "full"}
    answer = raw.ask(good | changes, FAST_S)
    assert_error(answer, "invalid_request")
    assert answer["field"] == field
    assert raw.ask(good, FAST_S)["type"] == "done"


def test_a_preview_is_bytes_to_any_client(raw: Raw) -> None:
    """And it comes without `progress` being asked for."""
    raw.say(generate("seen", seed=1, overrides={"steps": 5}, delivery={"preview_every": 2}))
    heard = []
    for message in raw.all_heard(FAST_S):
        if message["type"] == "result":
            break
        heard.append(message)
    shown = [message for message in heard if message["type"] == "progress"]
    assert [message["step"] for message in shown] == [2, 4]
    small = picture("x", 1)[::8, ::8]
    for message in shown:
        height, width, _ = small.shape
        assert message["preview"] == {"height": height, "width": width, "pixels": small.tobytes()}


@pytest.mark.parametrize("count", [0, MAX_LEASES_PER_RELEASE + 1])
def test_a_release_has_bounds(raw: Raw, count: int) -> None:
    answer = raw.ask({"type": "release", "leases": list(range(count))}, FAST_S)
    assert_error(answer, "invalid_request")
    assert answer["field"] == "leases"


def test_a_release_of_what_one_does_not_hold_does_nothing(service: Service, raw: Raw) -> None:
    with service.client.generate("mine") as result:
        [lease] = [i.lease for i in result._message.images]
        raw.say({"type": "release", "leases": [lease, 0, 2**64 - 1]})
        assert raw.ask({"type": "ping"}, FAST_S)["type"] == "pong", "a release has no reply"
        assert service.slots_used() == 1


def test_a_cancel_of_what_one_did_not_ask_does_nothing(service: Service, raw: Raw, calls: Calls) -> None:
    job = calls.submit(service.client.generate, "mine", request_id="mine", width=SIDE, height=SIDE)
    until(lambda: service.status().running == 1, 5, "the request")
    assert_error(raw.ask({"type": "cancel", "request_id": "mine"}, FAST_S), "not_found")
    job.result(20).release()


def test_too_many_open_requests_of_one_client_are_refused(service: Service, raw: Raw) -> None:
    """And of this one only: the others are served at once."""
    for i in range(7):
        raw.say(generate(f"greedy-{i}", width=SIDE, height=SIDE, overrides={"steps": 100}))
    answers = [raw.hear(FAST_S) for _ in range(7)]
    assert [a["type"] for a in answers] == ["accepted"] * 6 + ["error"]
    assert_error(answers[6], "too_many_outstanding")
    assert answers[6]["request_id"] == "greedy-6"
    assert answers[6]["retry_after_s"] > 0
    assert answers[6]["limit"] == "<= 6"
    for i in range(6):
        raw.say({"type": "cancel", "request_id": f"greedy-{i}"})
    ends = [raw.ends(FAST_S) for _ in range(6)]
    assert {(e["code"], e["request_id"]) for e in ends} == {
        ("cancelled", f"greedy-{i}") for i in range(6)
    }


def test_a_request_ends_once_and_its_id_is_joined_meanwhile(service: Service, raw: Raw) -> None:
    """A retry under the same id, from another connection of the same caller."""
    accepted = service.count("accepted")
    message = generate("once", width=SIDE, height=SIDE, seed=3, overrides={"steps": 10})
    raw.say(message)
    assert raw.hear(FAST_S)["type"] == "accepted"
    with Raw(service.address) as again:
        again.say(message)
        assert again.hear(FAST_S)["type"] == "accepted"
        assert again.ends()["type"] == "result"
        again.say({"type": "ping"})
        assert again.hear(FAST_S)["type"] == "pong", "nothing more after the end"
    assert service.count("accepted") == accepted + 1


def test_who_waits_hears_the_broker_each_second(raw: Raw) -> None:
    raw.say(generate("slow", width=SIDE, height=SIDE, overrides={"steps": 60}))
    kinds: list[str] = []
    heard_at = [time.monotonic()]
    while not kinds or kinds[-1] != "result":
        assert raw.socket.poll(10_000)
        kinds.append(msgspec.msgpack.decode(raw.socket.recv_multipart()[1])["type"])
        heard_at.append(time.monotonic())
    assert kinds.count("beat") >= 2, "three seconds of work"
    assert max(b - a for a, b in pairwise(heard_at)) < 2.9, "a whole beat is missing"


def test_a_client_that_takes_nothing_is_given_up(service: Service) -> None:
    lost = service.count("clients_lost")
    with Raw(service.address, high_water=1) as deaf:
        deaf.say(generate("held", delivery=SHM))
        assert deaf.ends()["type"] == "result"
        assert service.slots_used() == 1
        ask = msgspec.msgpack.encode({"type": "explain", "request": {"request_id": "r", "prompt": "x"}})
        for _ in range(4000):  # some megabytes of answers
            deaf.frames(PROTOCOL, ask)
        asked_at = time.monotonic()
        assert service.client.ping().ready
        assert time.monotonic() - asked_at < PATIENCE * FAST_S
        until(lambda: service.slots_used() == 0, 20, "the slot of a client that takes nothing")
        assert service.count("clients_lost") == lost + 1


def test_clients_that_come_and_vanish_leave_nothing(service: Service) -> None:
    broker = psutil.Process(service.children()["broker"])

    def come_and_vanish(times: int) -> None:
        for i in range(times):
            with Raw(service.address) as raw:
                raw.say(generate(f"held-{i}", n=2, delivery=SHM, overrides={"steps": 2}))
                assert raw.ends()["type"] == "result"
                if i % 20 == 0:
                    raw.say(generate(f"open-{i}", width=SIDE, height=SIDE, overrides={"steps": 150}))
        until(service.is_idle, 5, "an end of all their work")

    come_and_vanish(20)  # what the allocator and ZeroMQ keep, they keep once
    files, memory = broker.num_fds(), broker.memory_info().rss
    come_and_vanish(150)
    until(lambda: broker.num_fds() <= files, 5, "the files of closed connections")
    assert broker.memory_info().rss - memory < 8 * 2**20


# ---- slots and leases -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_slots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    file = tmp_path_factory.mktemp("config") / "difs.toml"
    file.write_text('[shm.slots]\n"64KiB" = 2\n[broker]\nlease = "1s"\nvalidate = true\n')
    options = ["--device", "simulated:1", "--config", str(file), *settings(script())]
    with Service(options) as service:
        yield service


@pytest.fixture
def small(two_slots: Service) -> Iterator[Service]:
    """Yield a service with two slots, and leases of one second."""
    until(lambda: two_slots.is_idle(1), 10, "an idle service before the test")
    assert two_slots.status().devices[0].slots_total == 2
    yield two_slots
    until(lambda: two_slots.is_idle(1), 10, "an idle service after the test")


def test_a_full_pool_queues_and_goes_on_when_slots_are_released(small: Service, calls: Calls) -> None:
    with Client(small.address) as client:
        first, second = client.generate("first"), client.generate("second")
        third = calls.submit(client.generate, "third", seed=3)
        until(lambda: small.status().queued == 1, 5, "a queue")
        time.sleep(0.3)  # nothing to wait for: it must not run
        report = small.status()
        assert (report.queued, report.running) == (1, 0)
        assert not third.done()
        first.release()
        with third.result(30) as result:
            assert np.array_equal(result.images[0], picture("third", 3))
        second.release()


def test_a_device_with_full_slots_does_not_hold_up_the_other(service: Service) -> None:
    with Client(service.address) as client:
        held = [client.generate("held", n=8) for _ in range(6)]  # 48 of 49 slots, if on one device
        held += [client.generate("more", n=8, timeout_s=5, retries=0) for _ in range(6)]
        assert service.slots_used() == 96
        assert {result.plan.device for result in held} == {"simulated-0", "simulated-1"}
        for result in held:
            result.release()


def test_more_images_than_slots_are_refused_at_once(small: Service) -> None:
    with pytest.raises(InvalidRequest, match="shared memory") as caught:
        small.client.generate("three", n=3)
    assert caught.value.field == "n"


def test_who_waits_for_slots_in_vain_is_told_why(small: Service) -> None:
    with Client(small.address) as client:
        held = client.generate("held", n=2)
        with pytest.raises(Expired, match="slots are held"):
            client.generate("waits", timeout_s=0.6, retries=0)
        held.release()


def test_a_lease_ends_when_nobody_renews_it(small: Service) -> None:
    timed_out = small.count("leases_timed_out")
    with Raw(small.address) as raw:
        raw.say(generate("kept", seed=1, delivery=SHM))
        result = raw.ends()
        got_at = time.monotonic()
        assert result["lease_s"] == 1.0
        assert small.slots_used() == 1
        until(lambda: small.slots_used() == 0, 4, "the end of the lease")
        assert time.monotonic() - got_at > 0.9
        assert small.count("leases_timed_out") == timed_out + 1
        [image] = result["images"]
        reader = SegmentReader(Path(image["segment"]))
        place = (image["offset"], image["nbytes"], image["generation"])
        before = bytes(reader.image(*place))
        assert before == picture("x", 1).tobytes(), "nobody has written there yet"
        with small.client.generate("other", seed=2, n=2), pytest.raises(LeaseLost):
            reader.image(*place)
        raw.say({"type": "release", "leases": [image["lease"]]})
        assert raw.ask({"type": "ping"}, FAST_S)["type"] == "pong"


def test_a_ping_renews_the_leases(small: Service) -> None:
    with Raw(small.address) as raw:
        raw.say(generate("kept", delivery=SHM))
        result = raw.ends()
        until_s = time.monotonic() + 2.5
        while time.monotonic() < until_s:
            assert raw.ask({"type": "ping"}, FAST_S)["type"] == "pong"
            assert small.slots_used() == 1
            time.sleep(0.2)
        raw.say({"type": "release", "leases": [result["images"][0]["lease"]]})
        until(lambda: small.slots_used() == 0, FAST_S, "the slot")


def test_the_python_client_keeps_its_leases_alive(small: Service) -> None:
    with Client(small.address) as client:
        result = client.generate("kept", seed=6)
        until_s = time.monotonic() + 2.5
        while time.monotonic() < until_s:
            assert small.slots_used() == 1
            time.sleep(0.1)
        assert np.array_equal(result.images[0], picture("kept", 6))
        result.release()


def test_a_disconnected_client_gives_its_slots_back_before_their_time(small: Service) -> None:
    with Raw(small.address) as raw:
        raw.say(generate("kept", n=2, delivery=SHM))
        assert raw.ends()["type"] == "result"
    timed_out = small.count("leases_timed_out")
    until(lambda: small.slots_used() == 0, FAST_S, "both slots")
    assert small.count("leases_timed_out") == timed_out
