"""What faults cost: seconds until each is noticed and mended, against the goals of docs/RELIABILITY.md.

    python -m bench.faults [--trials 20]

Real processes, simulated devices. Goals are for a quiet machine of two cores.
"""

import argparse
import asyncio
import contextlib
import io
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil

from bench import fault_trials
from bench.report import percentile
from difs import AsyncClient, Client
from difs.errors import DifsError
from tests.process.service import (
    Calls,
    Raw,
    Service,
    big,
    processes_of,
    script,
    segments_of,
    settings,
    until,
)

QUICK = settings(
    "supervisor.backoff='50ms'", "supervisor.backoff_cap='100ms'", "supervisor.max_restarts=10000"
)


def _say(what: str, values: list[float], goal: str, unit: str = "s") -> None:
    median, p99 = statistics.median(values), percentile(values, 0.99)
    print(
        f"{what}: median {median:.3f} {unit}, p99 {p99:.3f} {unit} of {len(values)}; goal {goal}",
        flush=True,
    )


class _Quiet(Service):
    """A service that keeps its log to itself."""

    def stop(self) -> int:
        with contextlib.redirect_stdout(io.StringIO()):
            return super().stop()


@contextlib.contextmanager
def _service(devices: int = 2, *options: str) -> Iterator[Service]:
    keys = settings(script(step_s=0.02))
    with _Quiet(["--device", f"simulated:{devices}", *keys, *QUICK, *options]) as made:
        made.client.generate("warm", width=512, height=512, delivery="inline").release()
        yield made


def _working(service: Service) -> str:
    return until(lambda: next((d.device for d in service.status().devices if d.running), ""), 5, "work")


def _until_lost(service: Service, before: int) -> None:
    until(lambda: service.count("actors_lost") > before, 10, "the loss")


def requeue(trials: int, number: signal.Signals, goal: str) -> None:
    """Seconds from a signal to an actor at work to the next dispatch of its request."""
    seconds = []
    with _service() as service:
        calls = Calls()
        for trial in range(trials):
            name = f"struck-{number.name}-{trial}"
            job = calls.submit(service.client.generate, "x", **big(steps=40, request_id=name))
            pid = service.children()[_working(service)]
            lost = service.count("actors_lost")
            struck_at = time.monotonic()
            os.kill(pid, number)
            _until_lost(service, lost)
            noticed_s = time.monotonic() - struck_at
            job.result(60).release()
            told = service.client.story(name)
            again = [one.at_s for one in told if one.what == "dispatched"]
            requeued = next(one.at_s for one in told if one.what == "requeued")
            seconds.append(noticed_s + again[1] - requeued)
            until(service.is_idle, 20, "the whole fleet")
    _say(f"{number.name} of an actor, until its request is dispatched anew", seconds, goal)


def broker(trials: int) -> None:
    """Seconds from the broker's death to the first picture of the next one."""
    seconds = []
    with _service() as service:
        for _ in range(trials):
            os.kill(service.children()["broker"], signal.SIGKILL)
            died_at = time.monotonic()
            with Client(service.address) as client:
                client.generate("x", retries=20).release()
            seconds.append(time.monotonic() - died_at)
            until(service.is_idle, 20, "the whole fleet")
    _say("SIGKILL of the broker, until the next picture", seconds, "<= 3 s")


def supervisor(trials: int) -> None:
    """Seconds from the supervisor's death to the end of its children."""
    seconds, left = [], 0
    for _ in range(trials):
        with _service() as service:
            os.kill(service.pid, signal.SIGKILL)
            died_at = time.monotonic()
            service.end(5)
            until(lambda: not processes_of(service.home.path), 10, "the end of all")
            seconds.append(time.monotonic() - died_at)
            with _Quiet(["--device", "simulated:1"], home=service.home.path):
                left += len(segments_of(service.pid))
    _say("SIGKILL of the supervisor, until no process is left", seconds, "<= 2 s")
    print(f"segments left after the next start: {left}; goal 0")


def refusals(count: int) -> None:
    """Milliseconds until a full service refuses."""
    with _service(1, *settings("broker.max_queued=4")) as service:
        calls = Calls()
        for _ in range(24):
            calls.submit(service.client.generate, "x", **big(steps=150, retries=0, timeout_s=3600))
        until(lambda: service.status().queued == 4, 10, "a full queue")
        with Raw(service.address) as raw:
            seconds = []
            for number in range(count):
                asked_at = time.monotonic()
                answer = raw.ask({"type": "generate", "request_id": f"r{number}", "prompt": "x"})
                seconds.append(1000 * (time.monotonic() - asked_at))
                assert (answer["type"], answer["code"]) == ("error", "overloaded"), answer
                assert answer["retry_after_s"] > 0
        os.kill(service.pid, signal.SIGTERM)  # twice: what is queued is not worth the wait
        os.kill(service.pid, signal.SIGTERM)
    _say("a refusal for overload", seconds, "<= 5 ms (p99)", "ms")


def flood(count: int) -> None:
    """Growth of the broker under messages that it refuses: bombs, noise, bad values."""
    bombs: list[bytes] = [
        b"\xdd\xff\xff\xff\xff",  # an array that says it has 2**32 - 1 elements
        b"\x81\xa4type" + b"\x91" * 60_000,  # nested 60 000 deep
        msgspec.msgpack.encode({"type": "generate", "request_id": "r", "prompt": "x" * 60_000}),
        msgspec.msgpack.encode({"type": "generate", "request_id": "r", "prompt": "x", "seed": -1}),
        msgspec.msgpack.encode({"type": "ping", "x": [{}] * 20_000}),
    ]
    with _service(1) as service, Raw(service.address) as raw:
        process = psutil.Process(service.children()["broker"])

        def send(number: int) -> None:
            for i in range(number):
                raw.frames(b"DIFS1", bombs[i % len(bombs)])
                answer: dict[str, Any] = raw.hear()
                assert answer["type"] in ("error", "pong"), answer

        send(500)
        before = process.memory_info().rss
        began = time.monotonic()
        send(count)
        each_ms = 1000 * (time.monotonic() - began) / count
        grown = (process.memory_info().rss - before) / 2**20
    print(
        f"{count} bombs: {each_ms:.2f} ms each with the answer, the broker grew by {grown:.1f} MiB;"
        " goal <= 1 MiB"
    )


def dead_clients(trials: int) -> None:
    """Seconds until what a client that vanished had is back."""
    seconds = []
    with _service(1) as service:
        for trial in range(trials):
            raw = Raw(service.address)
            for number in range(8):
                wish = {
                    "type": "generate",
                    "request_id": f"{trial}-{number}",
                    "prompt": "x",
                    "width": 512,
                    "height": 512,
                }
                raw.say(wish)
            until(lambda: service.status().running > 0, 5, "work")
            raw.close()
            gone_at = time.monotonic()
            until(lambda: service.is_idle(1), 10, "all slots")
            seconds.append(time.monotonic() - gone_at)
    _say("a client with 8 requests vanished, until all slots are free", seconds, "<= 1 s")


def slow_client(kind: str, say: Callable[[Raw, int], None], messages: int) -> None:
    """Growth of the broker by a client that reads nothing, and what another one notices of it."""
    with _service(1, *settings("broker.send_patience='30s'")) as service:
        process = psutil.Process(service.children()["broker"])
        with Raw(service.address) as warm:
            for number in range(200):  # what the allocator keeps, it keeps once
                say(warm, number)
            time.sleep(1.0)
        until(lambda: service.is_idle(1), 30, "an idle service")
        alone, meanwhile = _pings(service), []
        before = process.memory_info().rss
        with Raw(service.address, high_water=1) as raw:
            for number in range(messages):
                say(raw, number)
            grown = 0.0
            for _ in range(20):
                meanwhile += _pings(service, 10)
                grown = max(grown, (process.memory_info().rss - before) / 2**20)
                time.sleep(0.1)
        until(lambda: service.is_idle(1), 30, "an idle service")
        print(f"a client that reads no {kind}: the broker grew by {grown:.1f} MiB; goal <= 1 MiB")
        _say("another's ping before", alone, "-", "ms")
        _say("another's ping meanwhile", meanwhile, "as before", "ms")


def _pings(service: Service, count: int = 200) -> list[float]:
    """Return the milliseconds of some pings."""
    found = []
    for _ in range(count):
        asked_at = time.monotonic()
        service.client.ping()
        found.append(1000 * (time.monotonic() - asked_at))
    return found


def _ask_questions(raw: Raw, number: int) -> None:
    raw.say({"type": "variants"} if number % 2 else {"type": "status"})


def _ask_pictures(raw: Raw, number: int) -> None:
    asked = {"type": "generate", "request_id": f"picture-{number}", "prompt": "x", "width": 512}
    raw.say(asked | {"height": 512, "delivery": {"format": "raw"}, "overrides": {"steps": 1}})


def slow_clients() -> None:
    """The largest answers there are, and pictures."""
    slow_client("answers", _ask_questions, 2000)
    slow_client("pictures", _ask_pictures, 60)


# ---- what requests do -----------------------------------------------------------------------------


def poison(requests: int) -> None:
    """What one per cent of poison among many requests costs, and whether the others are served."""
    ends: Counter[str] = Counter()
    faults = ["{kind='kill', prompt='poison', phase='step', step=1}"]
    keys = settings(script(faults, step_s=0.005))
    with _Quiet(["--device", "simulated:3", *keys, *QUICK]) as service:

        async def one(client: AsyncClient, numbers: Iterator[int]) -> None:
            for number in numbers:
                kind = "poison" if number % 100 == 50 else "innocent"
                asked = client.generate(f"{kind} {number}", steps=2, retries=20, timeout_s=600)
                try:
                    (await asked).release()
                    ends[f"{kind}: served"] += 1
                except DifsError as error:
                    ends[f"{kind}: {error.code}"] += 1

        async def load() -> None:
            numbers = iter(range(requests))
            async with AsyncClient(service.address) as client:
                await asyncio.gather(*(one(client, numbers) for _ in range(24)))

        began = time.monotonic()
        asyncio.run(load())
        deaths, took_s = service.count("actors_lost"), time.monotonic() - began
    print(
        f"{requests} requests, {requests // 100} poison: {dict(ends)}; {deaths} deaths in {took_s:.0f} s;"
        f" goal <= {3 * (requests // 100)}, all innocent served",
        flush=True,
    )


def deadlines(trials: int) -> None:
    """Seconds from a deadline to the answer, while the actor hangs in a step."""
    seconds = []
    keys = settings(script(["{kind='hang', prompt='hang', phase='step', step=1}"], step_s=0.02))
    with (
        _Quiet(
            ["--device", "simulated:1", *keys, *QUICK, *settings("broker.stall_floor='2s'")]
        ) as service,
        Raw(service.address) as raw,
    ):
        for trial in range(trials):
            asked_at = time.monotonic()
            raw.say(
                {"type": "generate", "request_id": f"late-{trial}", "prompt": "hang", "timeout_s": 1.5}
            )
            end = raw.ends()
            assert end["code"] == "expired", end
            seconds.append(time.monotonic() - asked_at - 1.5)
            until(lambda: service.is_idle(1), 30, "a new actor")
    _say("a deadline passed, until the answer", seconds, "<= 0.1 s")


# ---- the network ----------------------------------------------------------------------------------


def network(trials: int) -> None:
    """Seconds until the next picture over a network that was spoiled: cut, silent for good, healed."""
    from tests.process.network import Far

    with tempfile.TemporaryDirectory() as folder:
        far = Far(Path(folder))
        with far.network as net, _service(2, *settings(*far.settings)):
            for spoil in (net.cut, net.stall):
                seconds = []
                for _ in range(trials):
                    with Client(key=far.key) as client:
                        client.generate("x", retries=20).release()
                        spoil()
                        spoiled_at = time.monotonic()
                        client.generate("x", retries=20).release()
                        seconds.append(time.monotonic() - spoiled_at)
                    net.heal()
                _say(f"a network of CURVE over TCP, {spoil.__name__}", seconds, "<= 3 s")


# ---- paths ----------------------------------------------------------------------------------------


def paths(_: int) -> None:
    """Which files the broker opens when it is asked for names that are paths (with strace)."""
    if shutil.which("strace") is None:
        print("paths: not measured, there is no strace")
        return
    stems = [
        "..",
        "../..",
        "/etc/passwd",
        "%2e%2e/x",
        "a/../../b",
        "a\\b",
        "a\0b",
        "\u2024\u2024/x",
        "~",
        "",
    ]
    with _service(1) as service, tempfile.TemporaryDirectory() as folder, Raw(service.address) as raw:
        pid, log = service.children()["broker"], Path(folder) / "opens"
        command = [
            "strace",
            "-f",
            "-qq",
            "-e",
            "trace=open,openat,openat2",
            "-o",
            str(log),
            "-p",
            str(pid),
        ]
        with subprocess.Popen(command) as tracer:
            time.sleep(1.0)
            for number in range(500):
                name = stems[number % len(stems)] + "/" * (number // 100) + "shadow" * (number % 7 > 3)
                asked = {"type": "generate", "request_id": f"p{number}", "prompt": "x"}
                overrides = {"variant": name} if number % 2 else {"adapters": [{"name": name}]}
                answer = raw.ask(asked | {"overrides": overrides})
                assert answer["type"] == "error", answer
            tracer.terminate()
        opened = [line.split('"')[1] for line in log.read_text().splitlines() if '"' in line]
    strange = [path for path in opened if "shadow" in path or "passwd" in path or ".." in path]
    print(f"500 odd names: {len(opened)} files opened meanwhile, {len(strange)} of them named so; goal 0")


PARTS: dict[str, Callable[[int], None]] = {
    "kill": lambda n: requeue(n, signal.SIGKILL, "<= 0.5 s (p99)"),
    "stop": lambda n: requeue(max(2, n // 4), signal.SIGSTOP, "<= 3 s"),
    "broker": lambda n: broker(max(2, n // 4)),
    "supervisor": lambda n: supervisor(max(2, n // 4)),
    "refusals": lambda n: refusals(50 * n),
    "flood": lambda n: flood(200 * n),
    "clients": dead_clients,
    "slow": lambda _: slow_clients(),
    "poison": lambda n: poison(100 * n),
    "deadlines": lambda n: deadlines(max(2, n // 4)),
    "network": lambda n: network(max(2, n // 4)),
    "paths": paths,
    "scribbles": lambda n: fault_trials.scribbles(500 * n),
    "submits": lambda n: fault_trials.submits(50_000 * n),
    "greedy": fault_trials.greedy,
    "truncated": lambda n: fault_trials.truncated(50 * n),
}


def main() -> None:
    """Measure what is asked for, or all."""
    options = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__)
    options.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all by default")
    options.add_argument("--trials", type=int, default=20)
    asked = options.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores before")
    for name in asked.parts or PARTS:
        try:
            PARTS[name](asked.trials)
        except (AssertionError, DifsError) as error:
            print(f"{name}: BROKEN: {error}", flush=True)


if __name__ == "__main__":
    main()
