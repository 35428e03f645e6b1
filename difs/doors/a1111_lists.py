"""The lists and states that A1111's clients ask for: pure, from what the service tells."""

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from difs.doors.jobs import Job
from difs.doors.openai import INTENTS
from difs.messages import AdapterInfo, DeviceStatus, StatusReport, VariantInfo
from difs.samplers import SAMPLERS

NOT_HERE = (
    *("img2img", "extra-single-image", "extra-batch-images", "interrogate"),
    *("create/embedding", "create/hypernetwork", "train/embedding", "train/hypernetwork"),
    *("server-kill", "server-restart", "server-stop"),
)
"""What `sdapi` has and DIFS has not: refused by name."""
EMPTY_LISTS = (
    *("upscalers", "latent-upscale-modes", "sd-vae", "sd-modules", "hypernetworks", "face-restorers"),
    *("realesrgan-models", "prompt-styles", "script-info", "extensions", "artists", "artist-categories"),
)


def models(variants: Iterable[VariantInfo]) -> list[dict[str, Any]]:
    """Return goals and variants as A1111's checkpoints."""
    names = [*INTENTS, *(variant.name for variant in variants if variant.name not in INTENTS)]
    return [
        {"title": n, "model_name": n, "hash": None, "sha256": None, "filename": n, "config": None}
        for n in names
    ]


def samplers() -> list[dict[str, Any]]:
    """Return the samplers without their schedules, which `schedulers` has."""
    labels: dict[str, set[str]] = {}
    for name, sampler in SAMPLERS.items():
        labels.setdefault(sampler.label, set()).update({name, *sampler.aliases})
    return [{"name": n, "aliases": sorted(aliases), "options": {}} for n, aliases in labels.items()]


def schedulers() -> list[dict[str, Any]]:
    """Return the schedules; each goes with the samplers that have it."""
    found = dict.fromkeys(s.schedule for s in SAMPLERS.values() if s.schedule is not None)
    return [
        {
            "name": name.lower(),
            "label": name,
            "aliases": None,
            "default_rho": -1,
            "need_inner_model": False,
        }
        for name in ("Automatic", *found)
    ]


def loras(adapters: Iterable[AdapterInfo]) -> list[dict[str, Any]]:
    """Return the adapters; a path is nobody's business."""
    return [
        {"name": a.name, "alias": a.name, "path": a.name, "metadata": {"family": a.family}}
        for a in adapters
    ]


def memory(report: StatusReport) -> dict[str, Any]:
    """Return the memory of the host (a CPU's device) and of the first GPU, as far as it is told."""
    return {"ram": _memory(report.devices, "cpu", "ram"), "cuda": _memory(report.devices, "cuda", "cuda")}


def _memory(devices: Iterable[DeviceStatus], kind: str, what: str) -> dict[str, Any]:
    reading = next((d.reading for d in devices if d.reading is not None and d.reading.kind == kind), None)
    if reading is None:
        return {"error": f"no device tells of {what}"}
    sizes = {
        "free": reading.memory_free_bytes,
        "used": reading.memory_used_bytes,
        "total": reading.memory_total_bytes,
    }
    return {"system": sizes} if kind == "cuda" else sizes


class Shown(Struct, frozen=True):
    """What `/progress` needs of the oldest open request."""

    job: Job
    task: str
    is_interrupted: bool


def progress(shown: Shown | None, now: float, image: str | None) -> dict[str, Any]:
    """Return the reply of `/progress`; `image` is the last preview in base64."""
    job = shown.job if shown is not None else None
    left_s = job.left_s(now) if job is not None else None
    return {
        "progress": min(0.99, max(0.01, job.share())) if job is not None else 0.0,
        "eta_relative": left_s if left_s is not None else 0.0,
        "state": {
            "skipped": False,
            "interrupted": shown.is_interrupted if shown is not None else False,
            "stopping_generation": False,
            "job": shown.task if shown is not None else "",
            "job_count": 1 if job is not None else 0,
            "job_timestamp": "0",
            "job_no": 0,
            "sampling_step": job.step if job is not None else 0,
            "sampling_steps": job.steps if job is not None else 0,
        },
        "current_image": image,
        "textinfo": None,
        "current_task": shown.task if shown is not None else None,
    }


def text_of(items: dict[str, Any]) -> dict[str, Any]:
    """Return the reply of `/png-info` from the texts of an image file."""
    texts = {name: value for name, value in items.items() if isinstance(value, str)}
    return {"info": texts.get("parameters", ""), "items": texts, "parameters": {}}
