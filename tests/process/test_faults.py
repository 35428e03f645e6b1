"""Processes that die, hang and misbehave: every request ends, and everything comes back."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Literal

import numpy as np
import psutil
import pytest

from difs import AsyncClient, Client, Result
from difs.client.requests import Wishes
from difs.errors import (
    ActorLost,
    BrokerLost,
    DifsError,
    Draining,
    EngineFailed,
    Expired,
    LeaseLost,
    OutOfMemory,
)
from tests.process.conftest import Start
from tests.process.service import (
    SIDE,
    Calls,
    Raw,
    Service,
    big,
    end_all,
    picture,
    processes_of,
    script,
    segments_of,
    settings,
    sockets_in,
    until,
)

pytestmark = pytest.mark.process

RESTLESS = settings(
    "supervisor.backoff='50ms'", "supervisor.backoff_cap='100ms'", "supervisor.max_restarts=1000"
)
DEATHS = ("segfault", "abort", "exit", "kill")
TWO = ("--device", "simulated:2")
MODES: tuple[Literal["shm", "inline"], ...] = ("shm", "inline")


def fault(kind: str, *, phase: str = "step", step: int = 1) -> str:
    """Return a fault of the script; the prompts that it strikes hold its kind."""
    return f"{{kind='{kind}', prompt='{kind}', phase='{phase}', step={step}}}"


def is_right(result: Result, prompt: str, seed: int, side: int = SIDE) -> bool:
    """Whether a result is the picture that was asked for; gives it back."""
    with result:
        return np.array_equal(result.images[0], picture(prompt, seed, side))


# ---- actors ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hardened() -> Iterator[Service]:
    """Yield a service whose actors break in every way and come back soon."""
    faults = [
        *(fault(kind, step=2) for kind in (*DEATHS, "hang", "stop", "error")),
        fault("oom", phase="decode"),
        "{kind='error', prompt='unencodable', phase='encode'}",
    ]
    quick = settings("broker.stall_floor='2s'", "broker.actor_silence='2s'", "broker.validate=true")
    with Service([*TWO, *settings(script(faults)), *RESTLESS, *quick]) as service:
        yield service


@pytest.fixture
def service(hardened: Service) -> Iterator[Service]:
    """Yield the service with its whole fleet ready and nothing open, before and after."""
    until(hardened.is_idle, 20, "an idle service before the test")
    yield hardened
    until(hardened.is_idle, 20, "all devices and all slots back after the test")


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.address) as client:
        yield client


def device_at_work(service: Service) -> str:
    """Return the device that works, once one does."""

    def find() -> str:
        return next((d.device for d in service.status().devices if d.running), "")

    return until(find, 5, "a device at work")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_request_survives_the_death_of_its_actor(
    service: Service, client: Client, calls: Calls, number: signal.Signals
) -> None:
    lost = service.count("actors_lost")
    job = calls.submit(client.generate, "survivor", **big(seed=4, steps=20))
    victim = device_at_work(service)
    pid = service.children()[victim]
    os.kill(pid, number)
    until(lambda: service.count("actors_lost") > lost, 2, "the broker's knowledge of the death")
    result = job.result(30)
    assert result.attempts == 2
    assert result.plan.device != victim
    assert is_right(result, "survivor", 4)
    until(service.is_idle, 10, "the actor's return and all slots free")
    assert service.children()[victim] != pid
    assert f"{victim} was ended by {number.name}" in service.log_text()


def test_all_actors_die_at_once_and_every_request_is_answered(
    service: Service, client: Client, calls: Calls
) -> None:
    jobs = [calls.submit(client.generate, "all", **big(seed=i, steps=8)) for i in range(8)]
    until(lambda: service.status().running == 8, 5, "both devices at work")
    for name, pid in service.children().items():
        if name != "broker":
            os.kill(pid, signal.SIGKILL)
    assert all(is_right(job.result(30), "all", i) for i, job in enumerate(jobs))


def test_a_stopped_actor_is_replaced(service: Service, client: Client, calls: Calls) -> None:
    job = calls.submit(client.generate, "frozen", **big(seed=4, steps=20))
    victim = device_at_work(service)
    pid = service.children()[victim]
    os.kill(pid, signal.SIGSTOP)
    struck_at = time.monotonic()
    until(lambda: not psutil.pid_exists(pid), 2 + 3, "the end of a process that is silent for 2 s")
    assert time.monotonic() - struck_at > 1.0, "patience with an actor that is merely slow"
    result = job.result(30)
    assert result.attempts == 2
    assert is_right(result, "frozen", 4)
    assert "no heartbeat" in service.log_text()


def test_an_actor_asked_to_end_finishes_its_work_first(
    service: Service, client: Client, calls: Calls
) -> None:
    job = calls.submit(client.generate, "polite", **big(seed=4, steps=10))
    victim = device_at_work(service)
    pid = service.children()[victim]
    os.kill(pid, signal.SIGTERM)
    result = job.result(30)
    assert result.attempts == 1
    assert is_right(result, "polite", 4)
    until(lambda: service.children().get(victim, pid) != pid, 5, "a new actor")


def test_an_actor_asked_to_end_leaves_under_load_too(
    service: Service, client: Client, calls: Calls
) -> None:
    enough = Event()

    def go_on() -> int:
        done = 0
        while not enough.is_set():
            client.generate("more and more", **big(steps=2)).release()
            done += 1
        return done

    jobs = [calls.submit(go_on) for _ in range(8)]
    try:
        victim = device_at_work(service)
        pid = service.children()[victim]
        os.kill(pid, signal.SIGTERM)
        until(lambda: service.children().get(victim, pid) != pid, 5, "a new actor")
    finally:
        enough.set()
    assert all(job.result(20) for job in jobs)


@pytest.mark.parametrize("kind", [*DEATHS, "hang", "stop"])
def test_poison_ends_and_the_others_are_answered(
    service: Service, client: Client, calls: Calls, kind: str
) -> None:
    before = service.status().counts
    lost = before.get("actors_lost", 0)
    poison = calls.submit(client.generate, f"this will {kind}", **big(seed=1, steps=4))
    until(lambda: service.count("attempts") > before.get("attempts", 0), 5, "an attempt")
    innocents = [calls.submit(client.generate, "innocent", **big(seed=i, steps=4)) for i in range(3)]
    with pytest.raises(ActorLost, match="3 attempts") as caught:
        poison.result(40)
    assert not caught.value.retryable
    assert all(is_right(job.result(40), "innocent", i) for i, job in enumerate(innocents))
    assert service.count("actors_lost") == lost + 3
    reason = {
        "segfault": "SIGSEGV",
        "abort": "SIGABRT",
        "kill": "SIGKILL",
        "exit": "left",
        "hang": "no step",
        "stop": "no heartbeat",
    }[kind]
    assert reason in caught.value.message or "connection is gone" in caught.value.message


def test_poison_takes_no_innocent_along(start: Start, calls: Calls) -> None:
    service = start("--device", "simulated:1", *settings(script([fault("exit")])), *RESTLESS)
    poison = calls.submit(service.client.generate, "exit", **big(steps=4))
    until(lambda: service.status().running == 1, 5, "the poison at work")
    mate = calls.submit(service.client.generate, "mate", **big(seed=2, steps=4))
    with pytest.raises(ActorLost):
        poison.result(30)
    assert is_right(mate.result(30), "mate", 2), "what waited behind the poison is innocent"


def test_a_deadline_is_kept_although_the_actor_hangs(service: Service, client: Client) -> None:
    asked_at = time.monotonic()
    with pytest.raises(Expired):
        client.generate("hang", timeout_s=1, retries=0)
    assert 0.9 < time.monotonic() - asked_at < 10, "the hang itself has no end"
    assert service.slots_used() == 1, "the actor may still write into it"
    lost = service.count("actors_lost")
    until(lambda: service.count("actors_lost") == lost + 1, 5, "an end of the actor's patience")
    until(lambda: service.slots_used() == 0, 2, "its slot")


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ("an error here", EngineFailed),
        ("unencodable", EngineFailed),
    ],
)
def test_an_engine_error_is_typed_and_its_actor_lives_on(
    service: Service, client: Client, prompt: str, error: type[DifsError]
) -> None:
    before = service.children()
    lost = service.count("actors_lost")
    for _ in range(4):
        with pytest.raises(error) as caught:
            client.generate(prompt, n=2)
        assert not caught.value.retryable
        assert caught.value.request_id
    assert is_right(client.generate("and on", seed=8), "and on", 8, 64)
    assert service.children() == before
    assert service.count("actors_lost") == lost


def test_memory_that_does_not_suffice_is_typed_and_the_second_time_its_actor_starts_anew(
    start: Start, calls: Calls
) -> None:
    service = start(
        "--device", "simulated:1", *settings(script([fault("oom", phase="decode")])), *RESTLESS
    )
    [before] = [pid for name, pid in service.children().items() if name != "broker"]
    with Client(service.address) as client:
        with pytest.raises(OutOfMemory) as caught:
            client.generate("oom at the end", n=2, variant="emoji-base")
        assert caught.value.request_id
        assert is_right(client.generate("and on", seed=8), "and on", 8, 64)
        assert before in service.children().values()
        mate = calls.submit(client.generate, "mate", **big(seed=3, steps=20))
        with pytest.raises(OutOfMemory):
            client.generate("oom once more", variant="emoji-base")
        until(lambda: before not in service.children().values(), 10, "the end of the old process")
        result = mate.result(20)
        assert result.attempts == 1, "it left when its work was done"
        assert is_right(result, "mate", 3)
        until(lambda: len(service.status().devices) == 1, 10, "a new one")
        assert is_right(client.generate("afterwards", seed=9), "afterwards", 9, 64)
    assert "exited with status 70" in service.log_text()


def test_a_sticky_device_error_ends_the_process_and_its_request_goes_elsewhere(
    start: Start, calls: Calls
) -> None:
    once = "{kind='sticky', prompt='sticky', phase='step', step=2, times=1}"
    service = start(*TWO, *settings(script([once])), *RESTLESS)
    with Client(service.address) as client:
        mates = [calls.submit(client.generate, "mate", **big(seed=i, steps=8)) for i in range(4)]
        # each new process has a fault of its own; its end is seen first by the broker or the supervisor
        with pytest.raises(ActorLost, match=r"status 70|connection is gone"):
            client.generate("sticky", **big(steps=4))
        assert all(is_right(mate.result(30), "mate", i) for i, mate in enumerate(mates))
    assert "exited with status 70" in service.log_text()


def test_pictures_outlive_the_actor_that_painted_them(service: Service, client: Client) -> None:
    held = client.generate("held", seed=6, n=4)
    [pixels, *_] = held.images
    victim = held.plan.device
    pid = service.children()[victim]
    os.kill(pid, signal.SIGKILL)
    until(lambda: service.children().get(victim, pid) != pid, 5, "a new actor")
    until(lambda: len(service.status().devices) == 2, 5, "a ready one")
    for seed in range(12):
        client.generate("others", seed=seed, n=2).release()
    assert np.array_equal(pixels, picture("held", 6))
    held.verify()
    del pixels
    held.release()


def test_no_prompt_is_logged_and_no_path_is_told(service: Service, client: Client) -> None:
    for words in ("canary", "error canary", "oom canary", "abort canary", "canary \udcff"):
        with contextlib.suppress(DifsError):
            client.generate(words, negative_prompt="canary", timeout_s=20).release()
    with pytest.raises(DifsError) as caught:
        client.generate("error", seed=1)
    assert "canary" not in service.log_text()
    for path in service.home.path.iterdir():
        if path.is_file():
            assert b"canary" not in path.read_bytes()
    assert str(service.home.path) not in str(caught.value)
    assert "/dev/shm" not in str(caught.value)


def test_an_actor_that_always_breaks_ends_the_service(start: Start, calls: Calls) -> None:
    service = start(
        "--device",
        "simulated:1",
        *settings(script([fault("exit")]), "supervisor.backoff='10ms'", "supervisor.max_restarts=2"),
    )
    calls.submit(service.client.generate, "exit", retries=0)
    assert service.end(20) == 1
    assert "difs ERROR: no actor can be kept running" in service.log_text()
    until(lambda: not processes_of(service.home.path), 2, "an end of the broker")


def test_a_storm_of_faults_loses_nothing_and_mixes_nothing_up(start: Start) -> None:
    """Every call ends once, with its own picture; in the end all slots are free."""
    service = start(
        "--device",
        "simulated:3",
        *settings(
            script(),
            "broker.validate=true",
            "broker.actor_silence='2s'",
            "broker.max_attempts=10",
            "supervisor.start_timeout='5s'",  # one may be stopped before it is ready
        ),
        *RESTLESS,
    )
    chance = random.Random(5)
    stop_at = time.monotonic() + 4

    async def ask(client: AsyncClient, number: int) -> int:
        right = 0
        while time.monotonic() < stop_at:
            prompt, side = f"storm {number}", chance.choice([64, 64, 64, SIDE])
            wishes: Wishes = {"width": side, "height": side, "steps": 4, "seed": right}
            wishes |= {"n": chance.choice([1, 2]), "delivery": chance.choice(MODES)}
            result = await client.generate(prompt, **wishes)
            with result:
                for image, seed in zip(result.images, result.seeds, strict=True):
                    assert np.array_equal(image, picture(prompt, seed, side))
            right += 1
        return right

    async def strike() -> None:
        while time.monotonic() < stop_at - 1:
            await asyncio.sleep(chance.expovariate(2))
            children = await asyncio.to_thread(service.children)
            victims = [pid for name, pid in children.items() if name != "broker"]
            if victims:
                kind = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP])
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(victims), kind)

    async def storm() -> list[int | None]:
        async with AsyncClient(service.address) as one, AsyncClient(service.address) as other:
            asking = [ask((one, other)[i % 2], i) for i in range(24)]
            return await asyncio.wait_for(asyncio.gather(strike(), *asking), 90)

    assert sum(done or 0 for done in asyncio.run(storm())) > 24
    until(lambda: service.is_idle(3), 20, "all devices, all slots")
    report = service.status()
    assert report.counts["actors_lost"] > 0
    assert report.counts["accepted"] == report.counts["finished"]


# ---- clients --------------------------------------------------------------------------------------

GREEDY = """
import asyncio, sys
from difs import AsyncClient

async def main():
    async with AsyncClient(sys.argv[1]) as client:
        held = [await client.generate("held", seed=i, n=2) for i in range(3)]
        tasks = [
            asyncio.create_task(client.generate("open", seed=i, width=512, height=512, steps=50))
            for i in range(40)
        ]
        await asyncio.sleep(0)
        print("open", flush=True)
        await asyncio.gather(*tasks)

asyncio.run(main())
"""


def test_what_a_killed_client_had_comes_back(service: Service) -> None:
    before = service.status().counts
    child = subprocess.Popen(
        [sys.executable, "-c", GREEDY, service.address], stdout=subprocess.PIPE, text=True
    )
    with child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
            until(lambda: service.status().queued == 8, 5, "40 requests in the service, 32 at work")
            assert service.slots_used() == 3 * 2 + 32
        finally:
            child.kill()
    until(service.is_idle, 3, "slots, credits and queue free again")
    after = service.status().counts
    assert after["cancelled"] - before.get("cancelled", 0) == 40
    assert after["clients_lost"] - before.get("clients_lost", 0) == 1


# ---- the broker -----------------------------------------------------------------------------------


def test_a_killed_broker_loses_no_call(start: Start) -> None:
    service = start(*TWO, *settings(script()), *RESTLESS)
    old = service.status().epoch

    async def load() -> list[bool]:
        async with AsyncClient(service.address) as client:

            async def one(seed: int) -> bool:
                # the default retries last 13 s: on a busy machine a broker may need more to start
                result = await client.generate("lasting", **big(seed=seed, steps=6, retries=20))
                return is_right(result, "lasting", seed)

            tasks = [asyncio.create_task(one(seed)) for seed in range(12)]
            await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
            os.kill(service.children()["broker"], signal.SIGKILL)
            return await asyncio.wait_for(asyncio.gather(*tasks), 90)

    assert asyncio.run(load()) == [True] * 12
    until(service.is_idle, 10, "a new broker with all devices and slots")
    assert service.status().epoch != old


def test_pictures_of_a_dead_broker_are_never_others(start: Start) -> None:
    service = start("--device", "simulated:1", *settings(script()), *RESTLESS)
    with Client(service.address) as client:
        held = client.generate("mine", seed=5)
        pid = service.children()["broker"]
        os.kill(pid, signal.SIGKILL)
        until(lambda: service.children().get("broker", pid) != pid, 10, "a new broker")
        until(lambda: service.is_idle(1), 20, "a device that is ready")
        assert np.array_equal(held.images[0], picture("mine", 5)), "nothing was written there yet"
        with Client(service.address) as other:
            taken = [other.generate("theirs", seed=i, n=8) for i in range(4)]
            with pytest.raises(LeaseLost):
                _ = held.images
        held.release()
        assert all(r.seeds == list(range(i, i + 8)) for i, r in enumerate(taken))
    until(lambda: service.is_idle(1), 5, "all slots back")


def test_what_a_dead_broker_never_read_is_answered(start: Start, calls: Calls) -> None:
    """A client that is busy with other things hears the new broker all the time."""
    service = start(*TWO, *settings(script()), *RESTLESS)
    with Client(service.address) as client:
        client.ping()
        pid = service.children()["broker"]
        os.kill(pid, signal.SIGSTOP)
        unread = calls.submit(client.generate, "unread", seed=7, timeout_s=60)
        unasked = calls.submit(client.variants)
        time.sleep(0.3)  # the messages are on their way to a broker that will not take them
        os.kill(pid, signal.SIGKILL)
        until(lambda: service.children().get("broker", pid) != pid, 10, "a new broker")
        deadline = time.monotonic() + 15
        while not (unread.done() and unasked.done()) and time.monotonic() < deadline:
            with contextlib.suppress(BrokerLost):
                client.status()
                client.generate("busy", **big(steps=4)).release()
        assert unread.done(), "the call is forgotten"
        assert is_right(unread.result(), "unread", 7, 64)
        assert unasked.done(), "the question is forgotten"


def test_a_hanging_broker_is_replaced(start: Start) -> None:
    service = start("--device", "simulated:1", *settings(script()), *RESTLESS)
    with Client(service.address) as client:
        client.ping()
        pid = service.children()["broker"]
        os.kill(pid, signal.SIGSTOP)
        assert is_right(client.generate("patient", seed=3), "patient", 3, 64)
    assert service.children()["broker"] != pid
    assert "broker is killed: silent for 5 s" in service.log_text()


# ---- the supervisor -------------------------------------------------------------------------------


def test_a_killed_supervisor_leaves_no_process_and_the_next_start_no_segment(
    start: Start, calls: Calls
) -> None:
    first = start(*TWO, *settings(script()))
    with Client(first.address) as client:
        for _ in range(4):
            calls.submit(client.generate, "x", **big())
        until(lambda: first.status().running == 4, 5, "load")
        assert segments_of(first.pid)
        os.kill(first.pid, signal.SIGKILL)
        first.end(5)
        until(lambda: not processes_of(first.home.path), 2, "the end of all children")
        assert segments_of(first.pid), "there is something to remove"

        second = start(*TWO, *settings(script()), home=first.home.path)
        assert not segments_of(first.pid)
        assert is_right(second.client.generate("anew", seed=2), "anew", 2, 64)
        assert second.is_idle()


# ---- the end --------------------------------------------------------------------------------------


def assert_nothing_left(service: Service, pid: int) -> None:
    """Check that a service which ended took everything with it."""
    assert not processes_of(service.home.path)
    assert not segments_of(pid)
    assert not sockets_in(service.home.path)
    kept = {path.name for path in service.home.path.iterdir()}
    assert kept <= {"lock", "difs.log", "ready"}, kept


def test_sigterm_answers_every_accepted_request(start: Start) -> None:
    service = start(*TWO, *settings(script(), "broker.validate=true", "actors.credits=8"))
    pid = service.pid

    async def load() -> list[bool]:
        async with AsyncClient(service.address) as client:
            tasks = [
                asyncio.create_task(client.generate("last", **big(seed=i, steps=6))) for i in range(24)
            ]
            await asyncio.to_thread(until, lambda: service.status().queued == 8, 5, "24 accepted")
            os.kill(pid, signal.SIGTERM)
            await asyncio.to_thread(until, lambda: service.status().draining, 2, "the drain")
            with pytest.raises(Draining) as refused:
                await client.generate("too late", retries=0)
            assert refused.value.retryable
            assert refused.value.retry_after_s
            results = await asyncio.wait_for(asyncio.gather(*tasks), 90)
            assert await asyncio.to_thread(service.end, 30) == 0
            return [is_right(result, "last", i) for i, result in enumerate(results)]

    assert asyncio.run(load()) == [True] * 24, "also when the service is gone already"
    assert_nothing_left(service, pid)


def test_a_drain_that_takes_too_long_ends_with_typed_errors(start: Start, calls: Calls) -> None:
    service = start("--device", "simulated:1", *settings(script(), "supervisor.drain='1s'"))
    pid = service.pid
    with Client(service.address) as client:
        jobs = [calls.submit(client.generate, "long", **big(steps=150, retries=0)) for _ in range(18)]
        until(lambda: service.status().queued == 2, 5, "sixteen at work, two queued")
        os.kill(pid, signal.SIGTERM)
        for job in jobs:
            with pytest.raises(Draining, match="shut down"):
                job.result(30)
        assert service.end(5) == 0
    assert_nothing_left(service, pid)


def test_a_second_sigterm_ends_at_once(start: Start, calls: Calls) -> None:
    service = start(*TWO, *settings(script()))
    pid = service.pid
    with Client(service.address) as client:
        job = calls.submit(client.generate, "long", **big(steps=150))
        until(lambda: service.status().running == 1, 5, "work")
        os.kill(pid, signal.SIGTERM)
        until(lambda: service.status().draining, 3, "the drain")
        os.kill(pid, signal.SIGTERM)
        asked_at = time.monotonic()
        assert service.end(10) == 1, "not as asked: work was dropped"
        assert time.monotonic() - asked_at < 7, "the picture alone would take longer"
        assert_nothing_left(service, pid)
    assert isinstance(job.exception(30), DifsError)


def test_a_drain_by_message_stops_the_service(start: Start, calls: Calls) -> None:
    service = start(*TWO, *settings(script()))
    pid = service.pid
    with Client(service.address) as client:
        job = calls.submit(client.generate, "last", **big(seed=2, steps=10))
        until(lambda: service.status().running == 1, 5, "work")
        with Raw(service.address) as raw:
            assert raw.ask({"type": "drain"})["type"] == "done"
        assert is_right(job.result(30), "last", 2)
        assert service.end(10) == 0
    assert_nothing_left(service, pid)


def test_a_broker_that_dies_in_the_drain_does_not_hold_it_up(start: Start, calls: Calls) -> None:
    service = start(*TWO, *settings(script()))
    pid = service.pid
    with Client(service.address) as client:
        calls.submit(client.generate, "lost", **big(steps=20))
        until(lambda: service.status().running == 1, 5, "work")
        os.kill(pid, signal.SIGTERM)
        until(lambda: service.status().draining, 3, "the drain")
        os.kill(service.children()["broker"], signal.SIGKILL)
        service.end(10)
    assert_nothing_left(service, pid)


def test_sigint_drains_too(start: Start) -> None:
    service = start("--device", "simulated:1", *settings(script()))
    pid = service.pid
    os.kill(pid, signal.SIGINT)
    assert service.end(10) == 0
    assert_nothing_left(service, pid)


def test_sigterm_while_the_actors_still_load_ends_cleanly(tmp_path: Path) -> None:
    """The drain is asked for before anybody is there to drain."""
    slow = 'actors.script="load_s = 30.0"'
    home = tmp_path / "run"
    command = [sys.executable, "-m", "difs", "serve", "--run-dir", str(home)]
    with subprocess.Popen(
        [*command, "--device", "simulated:1", *settings(slow)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            until(lambda: len(sockets_in(home)) == 2, 20, "a broker")
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            assert not processes_of(home)
            assert not segments_of(process.pid)
            assert not sockets_in(home)
            assert process.stdout is not None
            assert "Traceback" not in process.stdout.read()
        finally:
            process.kill()
            end_all(home)


def test_the_facts_of_a_run_are_gone_with_it(start: Start) -> None:
    service = start("--device", "simulated:1", *settings(script()))
    facts = json.loads(service.home.segments.read_bytes())
    [path] = map(Path, facts.values())
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    os.kill(service.pid, signal.SIGTERM)
    assert service.end(10) == 0
    assert not path.parent.exists()
    assert not service.home.segments.exists()
