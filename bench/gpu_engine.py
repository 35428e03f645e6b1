"""The engine on a GPU: SD 1.5 at 512 and SDXL at 1024, against the bare diffusers pipeline.

    python -m bench.gpu_engine [--families sd15,sdxl] [--batches 1,2,4,8,16] [--steps 20]
        [--full | --eager] [--folder FOLDER]
    python -m bench.gpu_engine --dry-cpu     # the same script on tiny models: does it work?

The weights are random, the architectures true (`bench.architectures`): times and memory are the real
ones, pictures are noise. They are made in a temporary folder (9 GB; `--folder` keeps them for another
run, or for `bench.gpu_promises` and `bench.neighbour`). Measured: images a second and latency of bare
diffusers (eager, its repeated blocks compiled, with `--full` the whole UNet) and of DIFS's engine (eager,
compiled) at every batch size; every memory mode with its peak and resting VRAM and its switch time;
loading, parking and unparking; the hand-over of pixels from the GPU to shared memory. `--eager` compiles
nothing. Without a CUDA device nothing is measured, and it says so.

Where there is no package registry: `pip download --no-deps --only-binary=:all: --python-version 3.12
--platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -d wheels diffusers==0.42.1 pyzmq
msgspec isal importlib_metadata zipp`, carry `wheels` and this repository over, and there
`python -m pip install --no-index --no-deps --target site wheels/*.whl; PYTHONPATH=site python -m
bench.gpu_engine`. torch, transformers, accelerate, peft, psutil and msgpack are taken to be there.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench import architectures
from bench.architectures import Architecture
from bench.gpu_rooms import Bare, Studio, is_out_of_memory
from bench.report import keep, need_gpu, say
from difs import memory_modes

GIB = 2**30


class Meter:
    """Seconds and peak memory of what a device does."""

    def __init__(self, device: torch.device) -> None:
        """Measure on `device`; on a CPU there is no peak to be read."""
        self._device = device

    def measure(self, act: Callable[[], Any]) -> dict[str, Any]:
        """Return the seconds of `act` and the most memory that tensors took meanwhile."""
        is_cuda = self._device.type == "cuda"
        if is_cuda:
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        started = time.perf_counter()
        act()
        if is_cuda:
            torch.cuda.synchronize(self._device)
        found: dict[str, Any] = {"seconds": round(time.perf_counter() - started, 4)}
        if is_cuda:
            found["peak_gib"] = round(torch.cuda.max_memory_allocated(self._device) / GIB, 3)
        return found

    def resting_gib(self) -> float | None:
        """Return what tensors take now."""
        if self._device.type != "cuda":
            return None
        return round(torch.cuda.memory_allocated(self._device) / GIB, 3)


class Bench:
    """One run on one device."""

    def __init__(self, asked: argparse.Namespace, root: Path) -> None:
        """Take the options; models come into `root`."""
        self._asked = asked
        self._root = root
        self.device = torch.device("cpu" if asked.dry_cpu else "cuda:0")
        self.dtype = torch.float32 if asked.dry_cpu else torch.float16
        self._meter = Meter(self.device)
        self.figures: dict[str, Any] = {"device": self._device_facts(), "families": {}}

    def _device_facts(self) -> dict[str, Any]:
        if self.device.type == "cpu":
            return {"name": "cpu: a dry run"}
        facts = torch.cuda.get_device_properties(self.device)
        return {"name": facts.name, "gib": round(facts.total_memory / GIB, 1), "cuda": torch.version.cuda}

    def family(self, name: str) -> None:
        """Measure one architecture."""
        made = (architectures.TINY if self._asked.dry_cpu else architectures.TRUE)[name]
        parameters = architectures.count(made)
        if made.parameters and parameters != made.parameters:
            raise SystemExit(f"{name} is not the published architecture: {parameters}")
        found = self.figures["families"][name] = {"label": made.label, "parameters": parameters}
        if not (self._root / name / "variant.toml").exists():
            say(f"{name}: drawing weights ({made.label})")
            architectures.write(made, self._root, self.device, self.dtype)
        found["bare"] = self._bare(made)
        found |= self._engine(made)

    # ---- bare diffusers ---------------------------------------------------------------------------

    def _bare(self, made: Architecture) -> dict[str, Any]:
        found = {}
        for kind in self._asked.kinds:
            with Bare(made, self._root / made.family, self.device, self.dtype, kind) as bare:
                title = f"{made.family}: diffusers, {kind}"
                paint = partial(bare.paint, steps=self._asked.steps)
                found[kind] = self._by_batch(title, paint)
        return found

    def _by_batch(self, title: str, paint: Callable[[int], None]) -> dict[str, Any]:
        """Measure batches; the first call of a size only warms up (and compiles)."""
        found: dict[str, Any] = {}
        for n in self._asked.batches:
            try:
                first = self._meter.measure(partial(paint, n))
                runs = [self._meter.measure(partial(paint, n)) for _ in range(self._asked.runs)]
            except Exception as error:
                reason = "out of memory" if is_out_of_memory(error) else _words(error)
                found[str(n)] = {"not_measured": reason}
                say(f"{title}, {n} together: not measured: {reason}")
                continue
            best = dict(min(runs, key=lambda run: run["seconds"]))
            best["first_s"] = first["seconds"]
            best["images_per_s"] = round(n / best["seconds"], 3)
            found[str(n)] = best
            say(f"{title}, {n} together: {best}")
        return found

    # ---- the engine -------------------------------------------------------------------------------

    def _engine(self, made: Architecture) -> dict[str, Any]:
        found: dict[str, Any] = {}
        with Studio(made, self._root, self.device) as studio:
            found["load"] = self._loading(studio, made.family)
            found["engine"] = {"eager": self._engine_batches(studio, made.family, "eager")}
            found["modes"] = self._modes(studio, made.family)
            found["parking"] = self._parking(studio, made.family)
            found["hand_over"] = studio.hand_over(made.family)
            say(f"{made.family}: hand-over: {found['hand_over']}")
        if "regional" in self._asked.kinds:
            compiled = architectures.write_compiled(made, self._root, self.dtype)
            with Studio(made, self._root, self.device) as studio:
                found["load_compiled"] = self._loading(studio, compiled)
                found["engine"]["regional"] = self._engine_batches(studio, compiled, "regional")
            shutil.rmtree(self._root / compiled)
        return found

    def _loading(self, studio: Studio, variant: str) -> dict[str, Any]:
        found = self._meter.measure(lambda: studio.load(variant))
        studio.settle()
        resident = studio.resident(variant)
        costs = resident.costs
        found |= {
            "from_disk_s": round(costs.load_s, 3),
            "weights_gib": round(resident.weight_bytes / GIB, 3),
            "encode_ms": round(costs.encode_s * 1e3, 2),
            "step_ms_by_rows": {str(c.rows): round(c.seconds * 1e3, 2) for c in costs.steps},
            "decode_ms": round(costs.decode_s * 1e3, 2),
            "seed_bound": resident.seed_bound,
        }
        say(f"{variant}: loaded and measured: {found}")
        return found

    def _engine_batches(self, studio: Studio, variant: str, kind: str) -> dict[str, Any]:
        title = f"{variant}: DIFS, {kind}"
        paint = partial(studio.paint, variant, steps=self._asked.steps)
        return self._by_batch(title, paint)

    def _modes(self, studio: Studio, variant: str) -> dict[str, Any]:
        """Go through all memory modes and back to the first: switch, rest, one picture, four together."""
        found: dict[str, Any] = {}
        modes = memory_modes.available(self.device.type)
        for mode in (*modes, modes[0]):
            switch = self._meter.measure(partial(studio.switch, variant, mode))
            entry: dict[str, Any] = {"switch_s": switch["seconds"], "rest_gib": self._meter.resting_gib()}
            studio.settle()
            for n in (1, min(4, max(self._asked.batches))):
                studio.paint(variant, n, 2)
                whole = partial(studio.paint, variant, n, self._asked.steps)
                entry[f"{n}_together"] = self._meter.measure(whole)
            name = mode if mode not in found else f"{mode}, again"
            found[name] = entry
            say(f"{variant}: memory mode {name}: {entry}")
        return found

    def _parking(self, studio: Studio, variant: str) -> dict[str, Any]:
        parks, returns = [], []
        for _ in range(3):
            parks.append(self._meter.measure(lambda: studio.evict(variant))["seconds"])
            rest = self._meter.resting_gib()
            returns.append(self._meter.measure(lambda: studio.load(variant))["seconds"])
        found = {
            "park_s": parks,
            "unpark_s": returns,
            "parked_rest_gib": rest,
        }
        say(f"{variant}: parking: {found}")
        return found


def _words(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160] if lines else ''}"


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="difs-bench-") as name:
        yield Path(name)


def options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--families", type=lambda text: text.split(","), default=["sd15", "sdxl"])
    numbers = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    parser.add_argument("--batches", type=numbers, default=[1, 2, 4, 8, 16])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--runs", type=int, default=2, help="of each size; the faster one counts")
    more = parser.add_mutually_exclusive_group()
    more.add_argument("--full", action="store_true", help="compile the bare UNet as a whole, too")
    more.add_argument("--eager", action="store_true", help="compile nothing")
    parser.add_argument("--folder", type=Path, help="where models are made, and kept")
    parser.add_argument("--dry-cpu", action="store_true", help="tiny models on the CPU; keeps no result")
    asked = parser.parse_args()
    asked.kinds = ["eager", *([] if asked.eager else ["regional"]), *(["full"] if asked.full else [])]
    if asked.dry_cpu:
        vars(asked).update({"batches": [1, 2], "steps": 2, "runs": 1})
    return asked


def main() -> None:
    """Measure, print, keep."""
    asked = options()
    os.environ["HF_HUB_OFFLINE"] = "1"
    if not asked.dry_cpu:
        need_gpu()
    with _folder(asked.folder) as root:
        bench = Bench(asked, root)
        say(f"device: {bench.figures['device']}")
        for name in asked.families:
            bench.family(name)
            if not asked.dry_cpu:  # after each family, so that a run that is cut short leaves something
                batches = ",".join(map(str, asked.batches))
                command = f"python -m bench.gpu_engine --batches {batches} --steps {asked.steps}"
                for option in ("full", "eager"):
                    command += f" --{option}" if getattr(asked, option) else ""
                print(keep("gpu-engine", command, bench.figures))
    if asked.dry_cpu:
        print("the script works; nothing was measured: tiny models on a CPU")


if __name__ == "__main__":
    main()
