"""What an engine's turn adds to a bare UNet call and scheduler step: `python -m bench.house_steps`.

Prints one JSON object; `bench.house` runs it. One thread, the embedded `emoji-base`, guided pictures of
twenty steps, one after the other, in turn with the bare loop. CPU seconds of this thread: what others do
on the machine does not count, but that it slows both alike.
"""

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

import torch

from bench.lone_engine import GUIDANCE, NAME, SAMPLER, SIDE, loaded, order
from bench.report import percentile
from difs.actor_messages import Stepped
from difs.actors import schedulers
from difs.actors.torch_engine import TorchEngine

STEPS, SEED, WARM = 20, 7, 2


@torch.inference_mode()
def bare(painter: Any, prompt: Any) -> Iterator[float]:
    """Yield the seconds of each step of a loop as diffusers' own pipeline has it."""
    pipe = painter.pipe
    scheduler = schedulers.build(SAMPLER, pipe.scheduler, "base")
    scheduler.set_timesteps(STEPS)
    side = SIDE // pipe.vae_scale_factor
    noise = torch.Generator().manual_seed(SEED)
    latents = torch.randn((1, pipe.unet.config.in_channels, side, side), generator=noise)
    latents = latents * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        started = time.thread_time()
        rows = scheduler.scale_model_input(torch.cat([latents] * 2), t)
        eps = pipe.unet(rows, t, encoder_hidden_states=prompt, return_dict=False)[0]
        negative, positive = eps.chunk(2)
        eps = negative + GUIDANCE * (positive - negative)
        latents = scheduler.step(eps, t, latents, return_dict=False)[0]
        yield time.thread_time() - started


def ours(engine: TorchEngine, attempt: int) -> Iterator[float]:
    """Yield the seconds of each turn in which a step was done."""
    engine.submit(order(attempt, STEPS, SEED))
    while not engine.is_idle:
        started = time.thread_time()
        reports = engine.turn()
        seconds = time.thread_time() - started
        if any(isinstance(report, Stepped) for report in reports):
            yield seconds


def measure(rounds: int) -> dict[str, float]:
    """Return the figures."""
    found: dict[str, list[float]] = {"bare": [], "difs": []}
    with loaded(TorchEngine) as engine:
        painter = engine._painters[NAME]
        encoded = painter.encode(order(0, STEPS, SEED))
        prompt = torch.cat([encoded.negative.embeds, encoded.positive.embeds])
        for attempt in range(rounds + WARM):
            taken = {"bare": list(bare(painter, prompt)), "difs": list(ours(engine, attempt + 1))}
            for name, seconds in taken.items():
                found[name] += seconds if attempt >= WARM else []
    figures = {
        f"{name}_{where}_ms": round(percentile(found[name], share) * 1e3, 3)
        for name in found
        for where, share in (("p10", 0.1), ("p50", 0.5))
    }
    ratios = {
        f"ratio_{where}": round(figures[f"difs_{where}_ms"] / figures[f"bare_{where}_ms"], 4)
        for where in ("p10", "p50")
    }
    return {**figures, **ratios}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=12)
    print(json.dumps(measure(parser.parse_args().rounds)))
