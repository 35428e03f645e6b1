"""Contents that end their actors, actors that write where they must not, devices that never come up."""

import contextlib
import json
import os
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator

import msgspec
import numpy as np
import psutil
import pytest

from difs import Client
from difs.errors import ActorLost, NotFound, Quarantined, RemoteProtocolError
from difs.messages import PROTOCOL
from tests.chaos import means
from tests.process.conftest import Start
from tests.process.service import (
    Calls,
    Raw,
    Service,
    assert_one_line,
    big,
    difs,
    picture,
    processes_of,
    script,
    settings,
    until,
)
from tests.process.test_faults import TWO, fault, is_right

pytestmark = pytest.mark.process

KINDS = {"segfault": "SIGSEGV", "exit": "left", "spin": "stalled"}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """Yield a service of the default limits on restarts, whose log is for machines."""
    faults = [fault(kind, step=2) for kind in KINDS]
    faults.append("{kind='scribble', prompt='scribble', phase='encode'}")
    options = ("broker.stall_floor='1s'", "broker.validate=true", "service.log_format='json'")
    quick = ("supervisor.backoff='50ms'", "service.log_level='debug'")
    with Service([*TWO, *settings(script(faults), *options, *quick)]) as service:
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    until(service.is_idle, 20, "an idle service before the test")
    with Client(service.address) as client:
        yield client
    until(service.is_idle, 20, "all devices and all slots back after the test")


def exits(service: Service) -> dict[str, float]:
    """Return how many processes of actors ended, by reason."""
    (family,) = [f for f in service.client.metrics() if f.name == "difs_actor_restarts_total"]
    found: dict[str, float] = {}
    for sample in family.samples:
        reason = sample.labels["reason"]
        found[reason] = found.get(reason, 0) + sample.value
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_poison_is_stopped_at_three_deaths_and_kept_out(
    service: Service, client: Client, calls: Calls, kind: str
) -> None:
    """More kinds than the supervisor would forgive a device that never worked."""
    before = exits(service)
    prompt = f"this will {kind}"
    poison = calls.submit(client.generate, prompt, **big(steps=4))
    mates = [calls.submit(client.generate, "innocent", **big(seed=i, steps=4)) for i in range(3)]
    with pytest.raises(ActorLost, match="3 attempts"):
        poison.result(40)
    assert all(is_right(mate.result(40), "innocent", i) for i, mate in enumerate(mates))
    until(lambda: sum(exits(service).values()) == sum(before.values()) + 3, 5, "three ends")
    grown = {reason: n - before.get(reason, 0) for reason, n in exits(service).items()}
    assert {reason: n for reason, n in grown.items() if n} == {KINDS[kind]: 3}
    with pytest.raises(Quarantined, match="ended 3 actors") as refused:
        client.generate(prompt, **big(steps=4))
    assert not refused.value.retryable
    assert refused.value.retry_after_s
    assert sum(exits(service).values()) == sum(before.values()) + 3, "nobody else died of it"


def test_the_quarantine_is_listed_and_cleared_from_the_command_line(
    service: Service, client: Client, calls: Calls
) -> None:
    with pytest.raises(ActorLost):
        client.generate("a canary that will exit", **big(seed=8, steps=4))
    run = ("--run-dir", str(service.home.path))
    digest = client.quarantine()[-1].digest
    shown = difs("quarantine", "list", *run).stdout
    assert digest in shown
    assert "canary" not in shown
    assert difs("quarantine", "clear", digest, *run).stdout == "1 set free\n"
    again = difs("quarantine", "clear", digest, *run)
    assert again.returncode == 64
    assert_one_line(again.stderr)
    assert difs("quarantine", "clear", *run).returncode == 0
    assert not client.quarantine()


def test_what_an_actor_scribbles_over_is_never_taken_for_a_picture(
    service: Service, client: Client
) -> None:
    held = [client.generate("held", seed=seed) for seed in range(16)]
    fine = client.generate("copied in time", seed=3)
    assert is_right(fine, "copied in time", 3, 64)
    for _ in range(4):  # on whichever device
        client.generate("scribble", seed=4, n=2).release()
    spoilt = 0
    for seed, result in enumerate(held):
        try:
            assert np.array_equal(result.images[0], picture("held", seed))
        except RemoteProtocolError as error:
            assert "not what its actor sealed" in str(error)
            spoilt += 1
        result.release()
    assert spoilt > 0, "something was scribbled over"
    assert is_right(client.generate("afterwards", seed=5), "afterwards", 5, 64)


def test_every_line_of_the_log_is_an_object_with_ids_and_without_prompts(
    service: Service, client: Client
) -> None:
    client.generate("canary", request_id="logged-1").release()
    with pytest.raises(NotFound):
        client.story("never-heard-of")

    def lines() -> list[dict[str, object]]:
        said = service.log_text().splitlines()
        return [json.loads(line) for line in said if not line.startswith("DIFS is ready on ")]

    found = until(
        lambda: [one for one in lines() if one.get("request_id") == "logged-1"][2:], 5, "three lines"
    )
    assert found[0]["attempt"] == 1
    assert str(found[0]["actor"]).startswith("simulated-")
    assert {str(one["process"]) for one in lines()} >= {"difs", "broker"}
    assert "canary" not in service.log_text()


def test_bombs_do_not_stay_with_the_broker(service: Service, client: Client) -> None:
    bombs = (b"\x81\xa4type" + b"\x91" * 60_000, msgspec.msgpack.encode({"type": "x" * 60_000}))
    process = psutil.Process(service.children()["broker"])
    with Raw(service.address) as raw:

        def throw(count: int) -> None:
            for number in range(count):
                raw.frames(PROTOCOL, bombs[number % 2])
                assert raw.hear()["type"] == "error"

        throw(50)
        before = process.memory_info().rss
        throw(400)
        assert process.memory_info().rss - before < 400 * 60_000 / 4


def test_a_story_is_told_on_the_command_line(service: Service, client: Client) -> None:
    client.generate("canary", request_id="told-1").release()
    told = difs("story", "told-1", "--run-dir", str(service.home.path)).stdout
    assert [line.split()[1] for line in told.splitlines()[1:]] == ["accepted", "dispatched", "finished"]
    assert "canary" not in told


# ---- memory ---------------------------------------------------------------------------------------


def test_an_actor_that_the_kernel_ends_for_its_memory_is_replaced(start: Start, calls: Calls) -> None:
    hog = "{kind='hog', prompt='hog', times=1}"
    with means.memory_group() as group:
        if group is None:
            pytest.skip("no memory cgroup is to be had here")
        service = start(*TWO, *settings(script([hog]), "supervisor.backoff='10ms'"))
        for name, pid in service.children().items():
            if name != "broker":
                group.squeeze(pid)
        mates = [calls.submit(service.client.generate, "mate", **big(seed=i, steps=4)) for i in range(2)]
        result = service.client.generate("hog", **big(seed=1, steps=4))
        assert result.attempts == 3, "two had no memory for it; those that come after have"
        assert is_right(result, "hog", 1)
        assert all(is_right(mate.result(20), "mate", i) for i, mate in enumerate(mates))
        assert exits(service) == {"SIGKILL": 2}
        until(service.is_idle, 10, "a whole fleet, on which the group has no claim")


# ---- devices --------------------------------------------------------------------------------------


def test_a_device_that_never_comes_up_is_given_up_and_the_others_go_on(start: Start) -> None:
    broken = "{kind='exit', phase='load', device='simulated-1'}"
    service = start(
        *TWO, *settings(script([broken]), "supervisor.backoff='10ms'", "supervisor.max_restarts=2")
    )
    (device,) = service.status().devices
    assert device.device == "simulated-0"
    assert "simulated-1 is given up: restarted 2 times within 300 s" in service.log_text()
    assert is_right(service.client.generate("without it", seed=2), "without it", 2, 64)
    time.sleep(0.3)
    assert exits(service) == {"left": 3}, "it is not tried again"


# ---- numbers --------------------------------------------------------------------------------------


def test_numbers_are_served_on_loopback_by_a_process_of_their_own(start: Start) -> None:
    pytest.importorskip("prometheus_client")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    service = start("--device", "simulated:1", *settings(script(), f"metrics.port={port}"))
    service.client.generate("counted").release()

    def read(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as reply:
            return str(reply.read().decode())

    def scrape() -> str:
        with contextlib.suppress(OSError):
            return read("metrics")
        return ""

    counted = 'difs_requests_total{model="emoji-base",outcome="ok"} 1.0'
    until(lambda: counted in scrape(), 10, "a request that is counted")
    assert read("readyz") == "ready\n"
    assert read("livez") == "live\n"
    (pid,) = [pid for pid, words in processes_of(service.home.path).items() if "difs.metrics" in words]
    os.kill(pid, signal.SIGKILL)
    assert is_right(service.client.generate("without it", seed=2), "without it", 2, 64)
    again = counted.replace("1.0", "2.0")
    until(lambda: again in scrape(), 10, "its return")
    assert scrape().count("difs_actor_restarts_total{") == 0, "it is no actor"
