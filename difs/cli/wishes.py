"""The options by which a command says what picture is wanted, as arguments of the client."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer


def _size(text: str | None) -> tuple[int, int] | tuple[None, None]:
    if text is None or text.lower() == "auto":
        return None, None
    width, times, height = text.lower().partition("x")
    if not (times and width.isdigit() and height.isdigit()):
        raise typer.BadParameter(f"{text!r} is not a size such as 512x512, nor auto", param_hint="--size")
    return int(width), int(height)


def _quality(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return text


def _adapters(texts: list[str] | None) -> list[tuple[str, float]]:
    pairs = []
    for text in texts or ():
        name, _, weight = text.partition(":")
        try:
            pairs.append((name, float(weight or 1.0)))
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not name[:weight]", param_hint="--adapter") from None
    return pairs


def wishes_of(options: Mapping[str, Any]) -> Any:
    """Turn what a command has of the options below into arguments of the client."""
    width, height = _size(options["size"])
    return {
        "latency_s": options["latency"],
        "quality": _quality(options["quality"]),
        "width": width,
        "height": height,
        "steps": options["steps"],
        "guidance_scale": options["guidance"],
        "sampler": options["sampler"],
        "seed": options.get("seed"),
        "n": options["n"],
        "negative_prompt": options.get("negative"),
        "variant": options["variant"],
        "family": options["family"],
        "adapters": _adapters(options["adapter"]),
        "priority": options.get("priority"),
        "best_effort": options.get("best_effort") or None,
        "on_infeasible": "reject" if options.get("strict") else None,
        "timeout_s": options.get("timeout"),
        "deterministic": options.get("deterministic") or None,
    }


Latency = Annotated[float | None, typer.Option("--latency", help="Seconds to keep.")]
Quality = Annotated[
    str | None, typer.Option("--quality", help="draft, low, medium, high, best, auto, or 0..1.")
]
Size = Annotated[
    str | None, typer.Option("--size", help="WIDTHxHEIGHT, or auto: the variant's own (the default).")
]
Steps = Annotated[int | None, typer.Option("--steps", help="Pin the denoising steps.")]
Guidance = Annotated[float | None, typer.Option("--guidance", help="Pin the guidance scale.")]
SamplerOption = Annotated[str | None, typer.Option("--sampler", help="Pin the sampler.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of the first image.")]
Count = Annotated[int | None, typer.Option("-n", help="How many images; image i has seed + i.")]
Negative = Annotated[str | None, typer.Option("--negative", help="What not to paint.")]
VariantOption = Annotated[str | None, typer.Option("--variant", help="Pin the variant.")]
Family = Annotated[str | None, typer.Option("--family", help="Pin the family.")]
AdapterOption = Annotated[list[str] | None, typer.Option("--adapter", help="LoRA, as name[:weight].")]
Priority = Annotated[int | None, typer.Option("--priority", help="0 to 9, higher goes first; default 5.")]
BestEffort = Annotated[
    bool, typer.Option("--best-effort", help="Compute only while nobody else wants the device.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse rather than miss the latency.")]
Deterministic = Annotated[
    bool, typer.Option("--deterministic", help="Compute each image alone: same seed, same bits.")
]
Timeout = Annotated[float | None, typer.Option("--timeout", help="Give up after so many seconds.")]
