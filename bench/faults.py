"""What faults cost: seconds until each is noticed and mended, against the goals of docs/RELIABILITY.md.

    python -m bench.faults [--trials 20]

Real processes, simulated devices. Goals are for a quiet machine of two cores.
"""

import argparse
import contextlib
import io
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import psutil

from difs import Client
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


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _say(what: str, values: list[float], goal: str, unit: str = "s") -> None:
    median, p99 = statistics.median(values), _percentile(values, 0.99)
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


PARTS: dict[str, Callable[[int], None]] = {
    "kill": lambda n: requeue(n, signal.SIGKILL, "<= 0.5 s (p99)"),
    "stop": lambda n: requeue(max(2, n // 4), signal.SIGSTOP, "<= 3 s"),
    "broker": lambda n: broker(max(2, n // 4)),
    "supervisor": lambda n: supervisor(max(2, n // 4)),
    "refusals": lambda n: refusals(50 * n),
    "flood": lambda n: flood(200 * n),
    "clients": dead_clients,
    "slow": lambda _: slow_clients(),
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
