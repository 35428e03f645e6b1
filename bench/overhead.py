"""What DIFS adds to a picture: `Client.generate` against bare `StableDiffusionPipeline.__call__`.

    python -m bench.overhead [--pairs 60] [--steps 4]

The same weights, prompt, seed, steps and guidance, in pairs, alternating, in one run: the pipeline in
this process, DIFS as a private service beside it, both with the threads that DIFS takes, and with cores
that are kept awake. Two figures:

- added: the DIFS call less the bare call, pair by pair. Noisy: two computations differ by more than
  the way costs; `noise` says by how much two bare calls in a row differ (its 99th percentile).
- way: the DIFS call less the seconds that its engine measured for encode, steps and decode. What the
  client, two sockets, the broker, the policy, shared memory and Python's loops cost.
"""

import argparse
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bench.calibration import largest_difference
from bench.load import awake
from bench.peers import pipeline
from bench.report import keep, percentile, verdict
from difs import Client, processes
from difs.private import PrivateService

MODEL = Path(__file__).parents[1] / "model_repo" / "emoji-base"
PROMPT, GUIDANCE = "red apple", 2.5
REST_S = 0.01


def load_bare() -> Any:
    """Load the pipeline with as many threads as DIFS takes."""
    return pipeline.load(MODEL, processes.cores_share(1))


def paint_bare(pipe: Any, seed: int, steps: int) -> tuple[float, Any]:
    """Return seconds and pixels of one call of the pipeline."""
    import torch

    started = time.perf_counter()
    image = pipe(
        PROMPT,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        generator=torch.Generator("cpu").manual_seed(seed),
    ).images[0]
    return time.perf_counter() - started, np.asarray(image)


def paint_difs(client: Client, seed: int, steps: int) -> tuple[float, float, Any]:
    """Return seconds, seconds less the engine's own, and pixels of one call of DIFS."""
    started = time.perf_counter()
    pins: Any = {"variant": MODEL.name, "steps": steps, "guidance_scale": GUIDANCE}
    with client.generate(PROMPT, seed=seed, **pins) as result:
        seconds = time.perf_counter() - started
        engine = result.timings
        way = seconds - engine.encode_s - engine.steps_s - engine.decode_s
        return seconds, way, result.images[0].copy()


def measure(pairs: int, steps: int) -> dict[str, float]:
    """Return the figures in milliseconds."""
    pipe = load_bare()
    added, ways, bares, ours = [], [], [], []
    with PrivateService() as service, Client(service.address) as client:
        for seed in range(-5, pairs):  # the first few only warm up
            bare_s, expected = paint_bare(pipe, max(0, seed), steps)
            time.sleep(REST_S)  # let the other's threads go to sleep
            difs_s, way_s, painted = paint_difs(client, max(0, seed), steps)
            time.sleep(REST_S)
            if off := largest_difference([expected], [painted]):
                raise SystemExit(f"seed {seed}: the pictures must be the same, but differ by {off}/255")
            if seed >= 0:
                added.append(difs_s - bare_s)
                ways.append(way_s)
                bares.append(bare_s)
                ours.append(difs_s)
    figures = {
        "bare_p50": statistics.median(bares),
        "difs_p50": statistics.median(ours),
        "added_p50": statistics.median(added),
        "added_p99": percentile(added, 0.99),
        "noise_p99": percentile([abs(a - b) for a, b in pairwise(bares)], 0.99),
        "way_p50": statistics.median(ways),
        "way_p99": percentile(ways, 0.99),
    }
    return {f"{name}_ms": round(value * 1e3, 3) for name, value in figures.items()}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--steps", type=int, default=4)
    asked = parser.parse_args()
    with awake():
        figures = measure(asked.pairs, asked.steps)
    for name, value in figures.items():
        print(f"  {name:>14} {value}")
    goals = [
        verdict("added p50, ms", figures["added_p50_ms"], 5.0),
        verdict("added p99, ms", figures["added_p99_ms"], 15.0),
        verdict("way p50, ms", figures["way_p50_ms"], 5.0),
        verdict("way p99, ms", figures["way_p99_ms"], 15.0),
    ]
    command = f"python -m bench.overhead --pairs {asked.pairs} --steps {asked.steps}"
    print(keep("overhead", command, {**figures, "goals": goals}))


if __name__ == "__main__":
    main()
