"""The profiles on disk: the key of a variant here and now, and the one profile that is valid for it.

No torch: versions come from the packages' metadata, a GPU's name from NVML.
"""

from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path

from msgspec.structs import replace

from difs import beside, processes, telemetry
from difs.actor_messages import Resident
from difs.profiling import cells, curves
from difs.profiling.cells import DeviceFacts, Key, Profile, Software
from difs.variants import Variant
from difs.version import __version__

GIB = 2**30


def device_facts(device: str, threads: int) -> DeviceFacts:
    """Return what of a device ("cpu-0", "cuda-1") decides how fast it is; `threads` compute on a CPU."""
    kind = telemetry.kind_of(device)
    is_cpu = kind != "cuda"
    return DeviceFacts(
        kind=kind,
        name=telemetry.name_of(device),
        # to a GiB: a kernel keeps a little more or less for itself
        memory_bytes=round(telemetry.memory_of(device) / GIB) * GIB,
        cores=processes.cores() if is_cpu else 0,
        threads=threads if is_cpu else 0,
    )


@cache
def software() -> Software:
    """Return the versions that are installed here."""
    return Software(_version("torch"), _version("diffusers"), __version__)


def _version(package: str) -> str:
    try:
        return version_of(package)
    except PackageNotFoundError:
        return "none"


def key_of(variant: Variant, facts: DeviceFacts) -> Key:
    """Return what a profile of `variant` must be for to be valid here and now."""
    return Key(
        variant=variant.name,
        fingerprint=variant.fingerprint,
        precision=variant.precision_on(facts.kind),
        device=facts,
        software=software(),
    )


def _name(key: Key) -> str:
    return f"profiles/{key.slug}.json"


def find(variant: Variant, key: Key) -> Profile | None:
    """Return the valid profile that was measured last, finished or not; None: there is none."""
    found = []
    for data in beside.read(variant.home, _name(key)):
        try:
            profile = cells.decode(data)
        except ValueError:
            continue  # of another version of DIFS, or damaged: measured anew
        if profile.key == key:
            found.append(profile)
    return max(found, key=lambda profile: profile.measured_at, default=None)


def keep(variant: Variant, profile: Profile) -> Path:
    """Write a profile; returns its path. Raises OSError."""
    return beside.write(variant.home, _name(profile.key), cells.encode(profile))


def place(variant: Variant, key: Key) -> Path:
    """Return where a variant's profile stands."""
    return beside.place(variant.home, _name(key))


def blank(variant: Variant, key: Key) -> Profile:
    """Return a profile in which nothing is measured yet."""
    manifest = variant.manifest
    return Profile(key=key, native=manifest.native_sizes[0], default_mode=manifest.default_mode)


def residents(variants: Iterable[Variant], facts: DeviceFacts) -> tuple[Resident, ...]:
    """Return what all profiled variants would be on a device, mode by mode."""
    found: list[Resident] = []
    for variant in variants:
        profile = find(variant, key_of(variant, facts))
        if profile is not None:
            found += curves.residents(replace(profile, default_mode=variant.manifest.default_mode))
    return tuple(found)
