"""Good neighbours: another program takes device memory, DIFS gives way and comes back."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from difs import Client
from difs.messages import DeviceStatus
from tests.process.conftest import Start
from tests.process.service import Service, settings, until

pytestmark = pytest.mark.process

MB = 10**6
MARGIN_S = 1.5
"""For a machine that does other things, too; the promises themselves are 2 s and 10 s."""
ROOMS = "{full = {rest_bytes = 600000000, peak_bytes = 300000000}, tiled = {rest_bytes = 600000000}}"


def device(service: Service) -> DeviceStatus:
    (found,) = service.status().devices
    return found


class Customer:
    """Asks for one picture after the other, until it is told to stop."""

    def __init__(self, address: str) -> None:
        self.notes: list[tuple[str, ...]] = []
        """Of each picture; the pictures themselves would hold their slots."""
        self.failures: list[BaseException] = []
        self._address = address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def _ask(self) -> None:
        with Client(self._address) as client:
            while not self._stop.is_set():
                try:
                    result = client.generate("red apple", width=64, height=64, steps=4)
                    self.notes.append(result.notes)
                    result.release()
                except Exception as error:
                    self.failures.append(error)

    def __enter__(self) -> "Customer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)


def seconds_until(found: Callable[[], object], within_s: float, what: str) -> float:
    started = time.monotonic()
    until(found, within_s, what)
    return time.monotonic() - started


def gives_way_and_comes_back(
    service: Service, begins: Callable[[], object], ends: Callable[[], object]
) -> None:
    """Check the promise while a customer is served: `begins` and `ends` return when it did."""
    with Customer(service.address) as customer:
        until(lambda: customer.notes, 20, "the first picture")
        begins()
        gave_way_s = seconds_until(lambda: mode(service) != "full", 2 + MARGIN_S, "gave way")
        until(lambda: not device(service).pressure_bytes, 2 + MARGIN_S, "room enough for both")
        said = len(customer.notes)
        until(lambda: len(customer.notes) > said + 1, 20, "a picture beside the neighbour")
        notes = customer.notes[-1]
        ends()
        back_s = seconds_until(lambda: mode(service) == "full", 10 + MARGIN_S, "came back")
        said = len(customer.notes)
        until(lambda: len(customer.notes) > said + 1, 20, "a picture at full speed")
    print(f"gave way after {gave_way_s:.2f} s, came back after {back_s:.2f} s")  # noqa: T201
    assert any("memory mode" in note and "others take" in note for note in notes)
    assert not any("memory mode" in note for note in customer.notes[-1])
    assert customer.failures == []
    counts = service.status().counts
    assert counts.get("failed", 0) == counts.get("actors_lost", 0) == counts.get("lightened", 0) == 0
    assert any("memory is free again" in d.reason for d in service.status().decisions)


def mode(service: Service) -> str:
    (found,) = device(service).memory_modes.values()
    return found


def test_a_simulated_device_makes_room_for_a_neighbour_and_takes_it_back(start: Start) -> None:
    neighbour = "{nbytes = 300000000, from_s = 3.0, until_s = 5.5}"
    script = f"step_s = 0.5\\nrooms = {ROOMS}\\nneighbours = [{neighbour}]"
    service = start(
        *settings(
            'actors.devices=["simulated"]',
            f'actors.script="{script}"',
            'actors.memory_budget="1100MB"',
            'autoscaler.headroom="100MB"',
        )
    )

    def others() -> int:
        reading = device(service).reading
        return reading.memory_used_bytes - reading.memory_own_bytes if reading is not None else 0

    gives_way_and_comes_back(
        service,
        begins=lambda: until(lambda: others() > 100 * MB, 10, "the neighbour"),
        ends=lambda: until(lambda: others() == 0, 10, "the neighbour's end"),
    )


@contextmanager
def hungry(nbytes: int) -> Iterator[None]:
    """Run a program called `hungry` that has so many bytes of memory in use."""
    program = (
        "import sys, psutil; from difs import processes; processes.set_name('hungry');"
        f" held = bytearray(b'x') * max(0, {nbytes} - psutil.Process().memory_info().rss);"
        " print('full', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"full\n"
        yield
        process.kill()


def test_a_cpu_device_makes_room_for_a_program_that_shares_its_budget(start: Start) -> None:
    service = start(
        *settings(
            'actors.devices=["cpu"]',
            'actors.memory_budget="400MB"',
            'actors.memory_sharers=["hungry"]',
            'autoscaler.headroom="20MB"',
            "actors.threads=1",
            'actors.preload=["emoji-small"]',
            "policy.name=static",
            "policy.variant=emoji-small",
            "actors.warm_up_steps=2",
            "actors.max_rows=2",
        )
    )
    reading = until(lambda: device(service).reading, 10, "a reading")
    assert reading is not None
    weights = reading.memory_own_bytes
    assert 0 < weights < 100 * MB, "its tensors, and not what python and torch take"
    neighbour = hungry(380 * MB - round(1.4 * weights))
    gives_way_and_comes_back(
        service, begins=neighbour.__enter__, ends=lambda: neighbour.__exit__(None, None, None)
    )
