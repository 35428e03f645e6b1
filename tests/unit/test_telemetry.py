"""difs.telemetry: which devices there are, and what they say of themselves."""

import os
import sys
from types import SimpleNamespace

import psutil
import pytest

from difs import telemetry
from difs.errors import ConfigError


def no_gpu() -> None:
    """Stand in for nvmlInit where there is no driver."""
    raise OSError("no driver")


def machine(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    """Let NVML see `gpus` GPUs, for which torch was built."""
    monkeypatch.setattr(telemetry, "FOR_CPUS", "+nothing")
    nvml = SimpleNamespace(nvmlInit=no_gpu if not gpus else lambda: None, nvmlDeviceGetCount=lambda: gpus)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)


@pytest.mark.parametrize(
    ("wanted", "gpus", "found"),
    [
        (("auto",), 0, ["cpu-0"]),
        (("auto",), 1, ["cuda-0"]),
        (("auto",), 3, ["cuda-0", "cuda-1", "cuda-2"]),
        (("auto", "cpu"), 1, ["cuda-0", "cpu-0"]),
        (("cpu",), 2, ["cpu-0"]),
        (("simulated",), 0, ["simulated-0"]),
        (("simulated:3",), 2, ["simulated-0", "simulated-1", "simulated-2"]),
        (("cuda:2", "cuda:0"), 0, ["cuda-2", "cuda-0"]),
        (("cpu", "simulated:1"), 0, ["cpu-0", "simulated-0"]),
    ],
    ids=str,
)
def test_devices_are_found_as_they_are_wanted(
    monkeypatch: pytest.MonkeyPatch, wanted: tuple[str, ...], gpus: int, found: list[str]
) -> None:
    machine(monkeypatch, gpus)
    assert telemetry.discover(wanted) == found


def test_auto_is_the_cpu_where_torch_was_installed_for_cpus_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine(monkeypatch, 1)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.99" + telemetry.FOR_CPUS)
    assert telemetry.discover(("auto",)) == ["cpu-0"]
    assert "torch was installed for CPUs only" in caplog.text
    assert telemetry.discover(("cuda:0",)) == ["cuda-0"], "its actor says why that cannot be"


@pytest.mark.parametrize(
    "name",
    [
        *("", "gpu", "cpu:0", "cpu:1", " cpu", "AUTO", "auto:1", "\0"),
        *("cuda", "cuda:", "cuda:x", "cuda:-1", "cuda:1.5", "cuda:²", "cuda-0", "cuda:0:1"),
        *("simulated:x", "simulated:-1", "simulated:²"),
    ],
)
def test_what_names_no_device_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    machine(monkeypatch, 0)
    with pytest.raises(ConfigError) as caught:
        telemetry.discover((name,))
    assert caught.value.message.startswith("actors.devices: ")
    assert repr(name) in caught.value.message


@pytest.mark.parametrize(
    "wanted",
    [
        ("cpu", "cpu"),
        ("auto", "cpu"),
        ("simulated", "simulated:2"),
        ("cuda:1", "cuda:1"),
        ("cuda:1", "cuda:01"),
    ],
    ids=str,
)
def test_a_device_that_is_named_twice_is_refused(
    monkeypatch: pytest.MonkeyPatch, wanted: tuple[str, ...]
) -> None:
    machine(monkeypatch, 0)
    with pytest.raises(ConfigError, match="each device once"):
        telemetry.discover(wanted)


@pytest.mark.parametrize("wanted", [(), ("simulated:0",)])
def test_no_device_at_all_is_refused(wanted: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="at least one"):
        telemetry.discover(wanted)


@pytest.mark.parametrize(
    ("device", "kind"), [("cuda-3", "cuda"), ("simulated-0", "simulated"), ("cpu-0", "cpu")]
)
def test_a_devices_name_tells_its_kind(device: str, kind: str) -> None:
    assert telemetry.kind_of(device) == kind


# ---- the host -----------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu-0", "simulated-1"])
def test_the_hosts_numbers_agree_with_each_other(device: str) -> None:
    found = telemetry.reader(device, 0)()
    total = psutil.virtual_memory().total
    assert found.kind == telemetry.kind_of(device)
    assert found.memory_total_bytes == total
    assert 0 < found.memory_own_bytes <= found.memory_used_bytes <= total
    assert 0 < found.memory_free_bytes <= total - found.memory_own_bytes
    assert found.memory_free_bytes + found.memory_used_bytes <= total
    assert found.utilisation is not None
    assert 0 <= found.utilisation <= 1
    assert (found.temperature_c, found.power_w) == (None, None)


def test_a_budget_is_all_the_memory_that_there_is() -> None:
    found = telemetry.reader("cpu-0", 64 * 2**20, held=lambda: 2**20, others=lambda: 2**21)()
    assert (found.memory_total_bytes, found.memory_own_bytes) == (64 * 2**20, 2**20)
    assert found.memory_used_bytes == 3 * 2**20
    assert found.memory_free_bytes == 61 * 2**20


def test_a_budget_that_is_spent_leaves_nothing() -> None:
    found = telemetry.reader("cpu-0", 1, held=lambda: 1)()
    assert (found.memory_total_bytes, found.memory_free_bytes) == (1, 0)


def test_programs_that_share_the_budget_are_counted_by_their_names() -> None:
    own = psutil.Process().name()
    assert telemetry.resident_bytes((own,)) >= psutil.Process().memory_info().rss // 2
    assert telemetry.resident_bytes(("no such program",)) == telemetry.resident_bytes(()) == 0


def test_a_budget_beyond_the_machine_is_the_machine() -> None:
    found = telemetry.reader("cpu-0", 2**60)()
    assert found.memory_total_bytes == psutil.virtual_memory().total


# ---- a GPU --------------------------------------------------------------------------------------


class NvmlError(Exception):
    """What NVML raises for what a card does not tell."""


def test_a_gpus_numbers_are_its_own_and_what_it_does_not_tell_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def silent(*_: object) -> None:
        raise NvmlError("not supported")

    processes = [
        SimpleNamespace(pid=os.getpid(), usedGpuMemory=300),
        SimpleNamespace(pid=os.getpid(), usedGpuMemory=None),
        SimpleNamespace(pid=1, usedGpuMemory=50),
    ]
    nvml = SimpleNamespace(
        NVMLError=NvmlError,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(total=1000, used=400, free=600),
        nvmlDeviceGetComputeRunningProcesses=lambda _: processes,
        nvmlDeviceGetUtilizationRates=lambda _: SimpleNamespace(gpu=25),
        nvmlDeviceGetTemperature=silent,
        nvmlDeviceGetPowerUsage=lambda _: 75_500,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda _: 0x01 | 0x04 | 0x40,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    found = telemetry.reader("cuda-1", 5)()
    assert (found.kind, found.memory_total_bytes, found.memory_used_bytes) == ("cuda", 1000, 400)
    assert (found.memory_free_bytes, found.memory_own_bytes) == (600, 300)
    assert (found.utilisation, found.temperature_c, found.power_w) == (0.25, None, 75.5)
    assert found.throttled == ("power", "hardware thermal")
    processes.clear()
    found = telemetry.reader("cuda-1", 5, held=lambda: 77)()
    assert found.memory_own_bytes == 77, "NVML does not tell: what we count ourselves"
