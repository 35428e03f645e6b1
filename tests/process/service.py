"""What the process tests share: a service to torment, a raw client, and looks for what was left."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, Unpack

import msgspec
import numpy as np
import psutil
import zmq
from numpy.typing import NDArray

from difs import Client
from difs.actors.simulated import pattern
from difs.client.requests import Wishes
from difs.messages import PROTOCOL, StatusReport
from difs.private import PrivateService
from difs.rundir import RunDir

P = ParamSpec("P")
T = TypeVar("T")

SIDE = 512
"""A side at which a scripted step takes as long as the script says."""


PATIENCE = 5
"""A test waits so many times what a quiet machine needs: it finds what never comes; benches, how soon."""


def until(found: Callable[[], T], within_s: float, what: str) -> T:
    """Return the first truthy value of `found`, asked again and again; a busy machine gets PATIENCE."""
    deadline = time.monotonic() + PATIENCE * within_s
    while True:
        value = found()
        if value:
            return value
        late = f"not within {PATIENCE * within_s:g} s: {what}; last seen: {value!r}"
        assert time.monotonic() < deadline, late
        time.sleep(0.01)


def picture(prompt: str, seed: int, side: int = 64) -> NDArray[np.uint8]:
    """Return what the simulated engine must paint."""
    return pattern(prompt, seed, side, side)


def big(**wishes: Unpack[Wishes]) -> Wishes:
    """Return wishes for a picture of a size at which a step takes its scripted time."""
    return {"width": SIDE, "height": SIDE, **wishes}


def script(faults: Sequence[str] = (), step_s: float = 0.05) -> str:
    """Return the option that scripts the simulated engine; faults are TOML inline tables."""
    return f'actors.script="step_s = {step_s}\\nfaults = [{", ".join(faults)}]"'


def settings(*pairs: str) -> list[str]:
    """Return `--set` options."""
    return [text for pair in pairs for text in ("--set", pair)]


def free_port() -> int:
    """Return a TCP port of this machine that was free just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


# ---- processes ------------------------------------------------------------------------------------


def processes_of(home: Path) -> dict[int, list[str]]:
    """Return pid and command line of every process that names the run directory."""
    found = {}
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = process.info["cmdline"] or []
        if any(str(home) in word for word in words):
            found[process.info["pid"]] = words
    return found


def segments_of(pid: int) -> list[Path]:
    """Return the folders of shared memory that the supervisor `pid` made."""
    return list(Path(f"/dev/shm/difs-{os.getuid()}").glob(f"{pid}.*"))


def sockets_in(home: Path) -> list[str]:
    """Return the names of the sockets in a run directory."""
    return [path.name for path in home.iterdir() if path.is_socket()] if home.is_dir() else []


def end_all(home: Path) -> None:
    """Kill what names the run directory: the clean-up of a test that failed."""
    for pid in processes_of(home):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not processes_of(home), 10, f"the end of the processes of {home}")


class Service(PrivateService):
    """A private service whose parts can be found, and hurt."""

    def __init__(self, options: Sequence[str] = (), *, home: Path | None = None) -> None:
        """`home`: the run directory; by default a new one.

        One variant is loaded and serves all, unless the options say otherwise: what the simulated
        engine paints says nothing of quality.
        """
        said = " ".join(options)
        plain = [] if "policy" in said else settings("policy.name=static")
        if not ("actors.preload" in said or "model_repo" in said):
            plain += settings('actors.preload=["emoji-base"]')
        super().__init__([*plain, *options], wait_s=60)
        if home is not None:
            self.home = RunDir(home)
        self._client: Client | None = None
        self._supervisors: list[int] = []

    def start(self) -> None:
        """See PrivateService."""
        self.home.make()
        self._ready_file.unlink(missing_ok=True)
        super().start()
        self._supervisors.append(self.pid)

    @property
    def pid(self) -> int:
        """Return the supervisor's process."""
        assert self.process is not None
        return self.process.pid

    def children(self) -> dict[str, int]:
        """Return the process of the broker and of each device."""
        found = {}
        for pid, words in processes_of(self.home.path).items():
            if "difs.broker" in words:
                found["broker"] = pid
            found |= {word: pid for word in words if word.startswith("simulated-")}
        return found

    @property
    def client(self) -> Client:
        """Return a client of our own, for questions."""
        if self._client is None:
            self._client = Client(self.address)
        return self._client

    def status(self) -> StatusReport:
        """Return the broker's report."""
        return self.client.status()

    def count(self, what: str) -> int:
        """Return one of the broker's counts."""
        return self.status().counts.get(what, 0)

    def is_idle(self, devices: int = 2) -> bool:
        """Whether all devices are ready, nothing is open and every slot is free."""
        report = self.status()
        return (
            len(report.devices) == devices
            and report.queued + report.running + report.clients == 0
            and all(d.slots_free == d.slots_total for d in report.devices)
        )

    def slots_used(self) -> int:
        """Return how many slots are not free, over all devices."""
        return sum(d.slots_total - d.slots_free for d in self.status().devices)

    def log_text(self) -> str:
        """Return what the service has logged."""
        return self.home.log.read_text("utf-8", "replace")

    def end(self, within_s: float) -> int:
        """Wait for the supervisor's end and return its exit status; see `until` for how long."""
        assert self.process is not None
        return self.process.wait(PATIENCE * within_s)

    def stop(self) -> int:
        """End the service and check that it left nothing; the run directory goes too."""
        if self._client is not None:
            self._client.close()
            self._client = None
        log = self.log_text() if self.home.log.exists() else ""
        status = super().stop()
        print(log)  # noqa: T201 -- pytest shows it beside a failure
        try:
            assert not processes_of(self.home.path)
        finally:
            end_all(self.home.path)
            left = [folder for pid in self._supervisors for folder in segments_of(pid)]
            for folder in left:
                shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(self.home.path, ignore_errors=True)
        assert not left, f"segments were left behind: {left}"
        return status


# ---- calls ----------------------------------------------------------------------------------------


class Calls:
    """Calls in threads of their own, which end with the test run even when a call never does."""

    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Call `work` in the background."""
        future: Future[T] = Future()

        def call() -> None:
            future.set_running_or_notify_cancel()
            try:
                future.set_result(work(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=call, daemon=True).start()
        return future


# ---- the command line -----------------------------------------------------------------------------


def difs(
    *arguments: str, env: dict[str, str] | None = None, timeout_s: float = 60
) -> "subprocess.CompletedProcess[str]":
    """Run the command line to its end."""
    return subprocess.run(
        [sys.executable, "-m", "difs", *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        env={**os.environ, **(env or {})},
        check=False,
    )


def assert_one_line(text: str) -> None:
    """Check that an error reads as one line for people."""
    assert "Traceback" not in text
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("difs: ")


# ---- a raw client ---------------------------------------------------------------------------------


class Raw:
    """A DEALER and nothing more: a client of another make, or none at all."""

    def __init__(self, address: str, *, high_water: int = 1000) -> None:
        """Connect; at most `high_water` messages are taken before they are read."""
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.rcvhwm = high_water
        self.socket.linger = 0
        self.socket.connect(address)

    def frames(self, *frames: bytes) -> None:
        """Send frames as they are."""
        self.socket.send_multipart(frames)

    def say(self, tree: Any) -> None:
        """Send a message."""
        self.frames(PROTOCOL, msgspec.msgpack.encode(tree))

    def hear(self, within_s: float = 10.0) -> dict[str, Any]:
        """Return the next message that is no heartbeat; see `all_heard`."""
        return next(self.all_heard(within_s))

    def all_heard(self, within_s: float) -> Iterator[dict[str, Any]]:
        """Yield the messages that come, heartbeats left out; see `until` for how long."""
        deadline = time.monotonic() + PATIENCE * within_s
        while True:
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"nothing more heard within {PATIENCE * within_s:g} s"
            if self.socket.poll(int(left_s * 1000) + 1):
                _, header, *_ = self.socket.recv_multipart()
                message: dict[str, Any] = msgspec.msgpack.decode(header)
                if message["type"] != "beat":
                    yield message

    def ask(self, tree: Any, within_s: float = 10.0) -> dict[str, Any]:
        """Send a message and return the next answer."""
        self.say(tree)
        return self.hear(within_s)

    def ends(self, within_s: float = 30.0) -> dict[str, Any]:
        """Return the next `result` or `error`."""
        return next(m for m in self.all_heard(within_s) if m["type"] in ("result", "error"))

    def close(self) -> None:
        """Disconnect."""
        self._context.destroy(linger=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()
