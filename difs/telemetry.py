"""Readings of devices: NVML where there is a GPU, psutil otherwise.

No torch: the supervisor looks for devices before any actor has loaded it.
"""

import contextlib
import importlib.metadata
import logging
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import psutil

from difs.errors import ConfigError
from difs.messages import Reading

Kind = Literal["cuda", "cpu", "simulated"]

FOR_CPUS = "+cpu"
"""How the version of a torch ends that was built without CUDA, where its maker says so."""
log = logging.getLogger(__name__)
_DEVICE = re.compile(r"(auto|cpu)|(?:(cuda):([0-9]{1,2}))|(?:(simulated)(?::([0-9]{1,2}))?)")


def discover(wanted: tuple[str, ...]) -> list[str]:
    """Return device names: `auto` is every GPU that NVML sees, else `cpu-0`; `simulated:3` is three.

    Where torch was installed for CPUs only, `auto` is `cpu-0` whatever NVML sees. Raises ConfigError for
    a name that is none of these.
    """
    found: list[str] = []
    for name in wanted:
        match = _DEVICE.fullmatch(name)
        if match is None:
            raise ConfigError(
                f"actors.devices: {name!r} is none of auto, cpu, cuda:<index>, simulated:<count>"
            )
        kind = match[1] or match[2] or match[4]
        number = match[3] or match[5]
        if kind == "auto":
            found += [f"cuda-{i}" for i in range(_usable_gpus())] or ["cpu-0"]
        elif kind == "simulated":
            found += [f"simulated-{i}" for i in range(int(number or 1))]
        else:
            found.append(f"{kind}-{int(number or 0)}")
    if len(set(found)) != len(found) or not found:
        raise ConfigError(f"actors.devices: each device once, and at least one: {found}")
    return found


def kind_of(device: str) -> Kind:
    """Return the kind of a device name."""
    match device.partition("-")[0]:
        case "cuda":
            return "cuda"
        case "simulated":
            return "simulated"
        case _:
            return "cpu"


def _nvml() -> Any | None:
    """Return an initialised pynvml, or None where there is no NVIDIA driver."""
    try:
        import pynvml  # noqa: PLC0415 -- costs nothing where no GPU is looked for

        pynvml.nvmlInit()
    except Exception:  # the module's own errors differ by version; all mean: no GPU here
        return None
    return pynvml


def _usable_gpus() -> int:
    count = _gpu_count()
    if count and importlib.metadata.version("torch").endswith(FOR_CPUS):
        log.warning("NVML sees %d GPUs, but torch was installed for CPUs only: it computes there", count)
        return 0
    return count


def _gpu_count() -> int:
    nvml = _nvml()
    return int(nvml.nvmlDeviceGetCount()) if nvml is not None else 0


def torch_name(device: str) -> str:
    """Return torch's name of a device: "cpu", "cuda:1"."""
    kind, _, index = device.partition("-")
    return "cpu" if kind == "cpu" else f"cuda:{index}"


def name_of(device: str) -> str:
    """Return what a device calls itself, such as a GPU's or a processor's model name."""
    if kind_of(device) == "cuda":
        nvml = _nvml()
        return str(nvml.nvmlDeviceGetName(_handle(nvml, device))) if nvml is not None else "cuda"
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def memory_of(device: str) -> int:
    """Return a device's memory in bytes, whoever uses it."""
    if kind_of(device) == "cuda":
        nvml = _nvml()
        if nvml is not None:
            return int(nvml.nvmlDeviceGetMemoryInfo(_handle(nvml, device)).total)
    return int(psutil.virtual_memory().total)


def _handle(nvml: Any, device: str) -> Any:
    return nvml.nvmlDeviceGetHandleByIndex(int(device.partition("-")[2]))


def _nothing() -> int:
    return 0


def reader(
    device: str,
    memory_budget_bytes: int,
    *,
    held: Callable[[], int] = _nothing,
    others: Callable[[], int] = _nothing,
) -> Callable[[], Reading]:
    """Return a function that reads `device`.

    On CPU and simulated devices a budget stands for the total: then `held`, the bytes that this process
    counts itself, are its own, and `others` take of the budget, too. On a GPU `held` counts where NVML
    does not tell processes apart.
    """
    kind = kind_of(device)
    nvml = _nvml() if kind == "cuda" else None
    if nvml is not None:
        handle = _handle(nvml, device)
        return lambda: _read_gpu(nvml, handle, held())
    if memory_budget_bytes:
        return lambda: _read_budget(kind, memory_budget_bytes, held(), others())
    return lambda: _read_host(kind)


def resident_bytes(names: tuple[str, ...]) -> int:
    """Return the memory that all processes with one of these names have in use."""
    found = 0
    for process in psutil.process_iter(["name", "memory_info"]) if names else ():
        memory = process.info["memory_info"]
        if memory is not None and process.info["name"] in names:
            found += int(memory.rss)
    return found


def _read_budget(kind: Kind, budget: int, own: int, others: int) -> Reading:
    memory = psutil.virtual_memory()
    total = min(budget, memory.total)
    return Reading(
        kind=kind,
        memory_total_bytes=total,
        memory_used_bytes=min(total, own + others),
        memory_own_bytes=own,
        memory_free_bytes=max(0, min(memory.available, total - own - others)),
        utilisation=psutil.cpu_percent() / 100,
    )


def _read_host(kind: Kind) -> Reading:
    memory = psutil.virtual_memory()
    own = psutil.Process().memory_info().rss
    total = memory.total
    return Reading(
        kind=kind,
        memory_total_bytes=total,
        memory_used_bytes=memory.total - memory.available,
        memory_own_bytes=own,
        memory_free_bytes=max(0, min(memory.available, total - own)),
        utilisation=psutil.cpu_percent() / 100,
    )


def _read_gpu(nvml: Any, handle: Any, held: int) -> Reading:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    own = 0
    with contextlib.suppress(nvml.NVMLError):
        for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
            if process.pid == os.getpid():
                own += int(process.usedGpuMemory or 0)
    return Reading(
        kind="cuda",
        memory_total_bytes=int(memory.total),
        memory_used_bytes=int(memory.used),
        memory_own_bytes=own or held,
        memory_free_bytes=int(memory.free),
        utilisation=_or_none(nvml, lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
        temperature_c=_or_none(
            nvml, lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        ),
        power_w=_or_none(nvml, lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
        throttled=_throttled(nvml, handle),
    )


THROTTLES = {
    0x04: "power",
    0x08: "hardware",
    0x20: "thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
}
"""NVML's bits of why clocks are lower than they could be (nvmlClocksEventReasons); idle is none."""


def _throttled(nvml: Any, handle: Any) -> tuple[str, ...]:
    """Return why a GPU is slowed; empty where it is not, or its driver cannot tell."""
    try:
        bits = int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    except (nvml.NVMLError, AttributeError):
        return ()
    return tuple(name for bit, name in THROTTLES.items() if bits & bit)


def _or_none(nvml: Any, ask: Callable[[], float]) -> float | None:
    """Return a reading that not every card gives, or None."""
    try:
        return ask()
    except nvml.NVMLError:
        return None
