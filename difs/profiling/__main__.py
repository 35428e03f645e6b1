"""The process that measures: `python -m difs.profiling ORDER PARENT_PID`; reports on standard output.

`ORDER` is a `reports.Order` as JSON. Ended at any moment, it loses the cell that it is at. Where nothing
is to be measured torch is not loaded.
"""

import math
import os
import sys
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import msgspec

from difs import memory_modes, processes, repository, telemetry
from difs.errors import DifsError, first_line
from difs.messages import QualityKind
from difs.profiling import agreement, asking, quality, reference, runner, store
from difs.profiling.asking import Point
from difs.profiling.grid import PAINS
from difs.profiling.reports import Broken, Noted, Order, Report
from difs.repository import Repository
from difs.variants import Variant


def main(order_json: str, parent_pid: str) -> int:
    """Measure what the order names; returns the exit status."""
    processes.die_with_parent(int(parent_pid))
    processes.set_name("difs-profile")
    tell = _mouth()
    order = msgspec.json.decode(order_json, type=Order)
    found = repository.scan(Path(order.model_repo), Path(order.user_repo))
    for name in order.variants:
        try:
            variant = found.variant(name)
            for report in _times(variant, order):
                tell(report)
            for report in _quality(variant, found, order):
                tell(report)
        except DifsError as error:
            tell(Broken(name, error.message))
        except Exception as error:  # memory, or a checkpoint that breaks: the others go on
            tell(Broken(name, f"{type(error).__name__}: {first_line(error)}"))
    return 0


def _mouth() -> Callable[[Report], None]:
    """Return what reports; whatever a library prints goes to standard error."""
    out = os.dup(1)
    os.dup2(2, 1)

    def tell(report: Report) -> None:
        os.write(out, msgspec.json.encode(report) + b"\n")

    return tell


def _times(variant: Variant, order: Order) -> Iterator[Report]:
    kind = telemetry.kind_of(order.device)
    key = store.key_of(variant, store.device_facts(order.device, order.threads))
    own = variant.manifest.default_mode
    usable = memory_modes.available(kind)
    modes = [mode for mode in order.modes or usable if mode in usable]
    modes.sort(key=lambda mode: mode != own)  # the one that it is loaded into is measured first

    def open_meter() -> runner.Meter:
        from difs.profiling.torch_meter import TorchMeter

        return TorchMeter(variant, order.device, order.threads)

    yield from runner.run(
        variant,
        key,
        open_meter,
        modes,
        PAINS[order.effort],
        is_fresh=order.is_fresh,
    )


def _quality(variant: Variant, found: Repository, order: Order) -> Iterator[Report]:
    kind = _kind(variant, order)
    if kind is None:
        return
    if variant.manifest.quality is not None:
        yield Noted(variant.name, "its manifest states a quality, which goes before what is measured")
    opened: list[quality.Artist] = []

    def open_artist() -> quality.Artist:
        from difs.profiling.torch_artist import TorchArtist

        opened.append(TorchArtist(variant, telemetry.torch_name(order.device)))
        return opened[0]

    points = asking.points(variant.manifest, kind, order.effort)
    asked = asking.by_seed(_prompts(variant, kind, found), asking.PROMPTS[order.effort], order.seeds)
    try:
        judge = _judge(variant, kind, found, order)
        yield from quality.run(variant, open_artist, judge, points, asked, is_fresh=order.is_fresh)
    finally:
        for artist in opened:
            artist.close()


def _kind(variant: Variant, order: Order) -> QualityKind | None:
    """Return how quality is to be measured; None: not at all."""
    if order.quality == "none":
        return None
    if order.quality != "auto":
        return order.quality
    if order.clip:
        return "clip"
    is_known = variant.manifest.quality is not None or (
        variant.quality is not None and not order.is_fresh
    )
    return None if is_known else "agreement"


def _judge(variant: Variant, kind: QualityKind, found: Repository, order: Order) -> quality.Judge:
    """Return who judges; raises DifsError."""
    manifest = variant.manifest
    width, height = manifest.native_sizes[0]
    side = math.isqrt(width * height)
    match kind:
        case "clip":
            from difs.profiling.clip import Clip

            return Clip(Path(order.clip), telemetry.torch_name(order.device), side)
        case "reference":
            return reference.of_variant(variant, found)
        case _:
            many = Point(manifest.steps.max, manifest.guidance_scale)
            return agreement.Agreement(variant.name, variant.fingerprint, many, side)


def _prompts(variant: Variant, kind: QualityKind, found: Repository) -> dict[str, str]:
    """Return what is asked: the captions of a variant that knows only these, else a fixed list."""
    if kind == "reference":
        names = reference.of_variant(variant, found).scorer.names
        return dict(zip(names, (caption for caption, *_ in variant.captions), strict=True))
    if variant.captions:
        return asking.plain([caption for caption, *_ in variant.captions])
    return asking.plain(files("difs.profiling").joinpath("prompts.txt").read_text("utf-8").splitlines())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
