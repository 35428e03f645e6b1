"""How long policy `modelless` needs for a decision: pure Python, no service.

    python -m bench.decisions [--variants 64] [--devices 8] [--rounds 300]

Every variant has costs and a measured curve of eight numbers of steps of its own. Half of them are loaded
on every device; the others could come in each of four memory modes. Requests state a latency. CPU seconds
of this thread: others' work on the machine does not count.
"""

import argparse
import time

from msgspec.structs import replace

from bench.report import keep, percentile, verdict
from difs.actor_messages import Costs, Resident, Room, RowCost
from difs.messages import Generate, MemoryMode, QualityPoint, Requirements, VariantInfo
from difs.policy.base import DeviceView, Options, View
from difs.policy.modelless import Modelless
from difs.profiles import slowed

MODES: tuple[MemoryMode, ...] = ("full", "tiled", "model_offload", "group_offload")
STEPS = (1, 2, 4, 6, 8, 12, 20, 30)


def variant(number: int) -> VariantInfo:
    """Return a variant whose best quality, and whose gain by steps, are its own."""
    best = 0.5 + 0.4 * number / 64
    curve = tuple(QualityPoint(64, n, 1.0, round(best * (1 - 0.5 / n), 4)) for n in STEPS)
    return VariantInfo(
        name=f"variant-{number:03}",
        task="text-to-image",
        family="sd15",
        precision="fp16",
        sampler="ddim",
        steps_min=1,
        steps_default=8,
        steps_max=30,
        guidance_scale=1.0,
        native_sizes=((64, 64),),
        licence="",
        description="",
        bytes=1,
        quality=curve,
        quality_kind="reference",
    )


def device(number: int, infos: tuple[VariantInfo, ...]) -> DeviceView:
    """Return a device on which every other variant is loaded, and all of them profiled."""
    residents, profiled = {}, {}
    for i, info in enumerate(infos):
        step_s = 0.005 + 0.001 * i + 0.002 * number
        found = resident(info.name, step_s)
        if i % 2 == 0:
            residents[info.name] = found
        profiled[info.name] = tuple(in_mode(found, mode, place) for place, mode in enumerate(MODES))
    return DeviceView(
        f"cpu-{number}", residents, 0.05 * number, 0, 8, profiled=profiled, room_bytes=1000 + 50 * number
    )


def resident(name: str, step_s: float) -> Resident:
    """Return a variant as it is on a device where a step takes so long."""
    costs = Costs(64 * 64, 0.01, (RowCost(1, step_s), RowCost(2, 1.7 * step_s)), 0.02, 1.0)
    return Resident(name, "full", "fp16", 1000, costs, room=Room(1000, 100, 300))


def in_mode(found: Resident, mode: MemoryMode, place: int) -> Resident:
    """Return a resident in a lighter mode: the lighter, the slower."""
    costs = slowed(found.costs, steps=1.0 + 0.3 * place)
    return replace(found, memory_mode=mode, costs=costs, room=Room(1000 - 300 * place, 100, 300))


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--variants", type=int, default=64)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=300)
    asked = parser.parse_args()
    infos = tuple(variant(i) for i in range(asked.variants))
    devices = tuple(device(i, infos) for i in range(asked.devices))
    view = View(0.0, devices, {info.name: info for info in infos}, 0)
    policy = Modelless(Options())
    seconds = []
    for i in range(asked.rounds):
        request = Generate(
            f"r{i}", "red apple", requirements=Requirements(latency_s=0.1 + 0.01 * (i % 90))
        )
        started = time.thread_time()
        policy.decide(view, request)
        seconds.append(time.thread_time() - started)
    figures = {
        "first_ms": round(seconds[0] * 1e3, 3),
        "p50_ms": round(percentile(seconds, 0.5) * 1e3, 3),
        "p99_ms": round(percentile(seconds, 0.99) * 1e3, 3),
    }
    what = f"{asked.variants} variants x {len(STEPS)} steps x {len(MODES)} modes"
    print(f"  {what} x {asked.devices} devices: {figures}")
    goals = [verdict("a decision, median, ms", figures["p50_ms"], 1.0)]
    command = f"python -m bench.decisions --variants {asked.variants} --devices {asked.devices}"
    print(keep("decisions", command, {**figures, "goals": goals}))


if __name__ == "__main__":
    main()
