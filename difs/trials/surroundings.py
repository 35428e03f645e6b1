"""What a reader must know to judge the figures of a trial: the machine, versions, and settings."""

import contextlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import psutil

from difs import processes, telemetry
from difs.errors import Unavailable
from difs.rundir import RunDir
from difs.version import __version__

PACKAGES = ("diffusers", "msgspec", "numpy", "pyzmq", "torch")
SECTIONS = ("broker", "policy", "autoscaler", "actors", "shm")
"""Of the configuration: those that change figures. The others hold paths and addresses."""


def generator() -> dict[str, Any]:
    """Describe the machine that asks; its name and its user are not told."""
    return {
        "processor": telemetry.name_of("cpu-0"),
        "cores": processes.cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
        "packages": {"difs": __version__, **versions()},
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that change figures, of those that are here."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def settings(address: str | None) -> dict[str, Any] | None:
    """Return the settings of the service at an address of this machine; None where they are not here."""
    if address is None or not address.startswith("ipc://"):
        return None
    with contextlib.suppress(Unavailable):
        found, _ = RunDir(Path(address.removeprefix("ipc://")).parent).read_facts()
        tree: dict[str, Any] = msgspec.to_builtins(found)
        return {name: tree[name] for name in SECTIONS}
    return None
