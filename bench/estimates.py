"""How near an estimate comes to what is measured afterwards: each variant told from the others.

    python -m bench.estimates [--without-real]

The denoisers and decoders of emoji-base, emoji-small and emoji-xl, and those of Stable Diffusion 1.5, as
their configurations say; no files of weights are read, so that pictures mean nothing. CPU seconds of one
thread, so others' work on the machine counts little: the lower quartile of some calls. Then every variant
is estimated from one other, or from all others, and the worst ratio of both is told.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from msgspec.structs import replace

from bench.report import keep, percentile, verdict
from difs import efforts, estimates, repository
from difs.actor_messages import Costs, Resident, RowCost, SizeCost
from difs.messages import VariantInfo
from difs.profiles import step_seconds
from difs.sizes import at, grid

BUDGET_S, LEAST, MOST = 1.5, 3, 40
"""Seconds and number of the calls of which one figure is made."""
ROWS: dict[str, dict[int, tuple[int, ...]]] = {
    "emoji": {64: (1, 2, 8), 128: (1, 4)},
    "real": {128: (1,), 256: (1,)},
}
"""Rows of the denoiser's calls, by side."""
EMBEDDED = ("emoji-base", "emoji-small", "emoji-xl")
REAL = "sd15-real"
REAL_BYTES = 2_133_000_000
"""Of its file in fp16."""


def folders(known: repository.Repository, name: str) -> dict[str, Path]:
    """Return where the configuration of each counted part stands."""
    parts = [part for part in efforts.PARTS if part != "text_encoder_2"]
    if name == REAL:
        return {part: repository.PIPELINES / "sd15" / part for part in parts}
    return {part: known.variant(name).part(part).folder for part in parts}


def config(folder: Path) -> dict[str, Any]:
    """Return a part's configuration."""
    found: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return found


def timed(call: Callable[[], object]) -> float:
    """Return the CPU seconds of a call."""
    call()
    found: list[float] = []
    end = time.monotonic() + BUDGET_S
    while len(found) < LEAST or (time.monotonic() < end and len(found) < MOST):
        started = time.thread_time()
        call()
        found.append(time.thread_time() - started)
    return percentile(found, 0.25)


def made(cls: Any, facts: dict[str, Any]) -> Any:
    """Return a network whose weights are all the same: they are not drawn, which takes minutes."""
    with torch.device("meta"):
        network = cls.from_config(facts)
    network = network.to_empty(device="cpu").eval()
    for weights in network.parameters():
        weights.fill_(0.01)
    return network


@torch.no_grad()
def measure(parts: dict[str, Path], rows: dict[int, tuple[int, ...]]) -> Costs:
    """Return what the denoiser and the decoder of a pipeline cost."""
    facts, decoder_facts = config(parts["unet"]), config(parts["vae"])
    scale = 2 ** (len(decoder_facts["block_out_channels"]) - 1)
    tokens = config(parts["text_encoder"])["max_position_embeddings"]
    denoiser, decoder = made(UNet2DConditionModel, facts), made(AutoencoderKL, decoder_facts)
    times = facts.get("addition_time_embed_dim") or 0
    pooled = (facts.get("projection_class_embeddings_input_dim") or 0) - 6 * times

    def step(side: int, n: int) -> object:
        latents = torch.randn(n, 4, side // scale, side // scale)
        text, one = torch.randn(n, tokens, facts["cross_attention_dim"]), torch.ones(1)
        added = {"text_embeds": torch.randn(n, pooled), "time_ids": torch.zeros(n, 6)}
        return denoiser(latents, one, text, added_cond_kwargs=added if pooled else None)

    def decode(side: int) -> object:
        return decoder.decode(torch.randn(1, 4, side // scale, side // scale))

    own, *others = [
        SizeCost(
            side * side,
            tuple(RowCost(n, timed(partial(step, side, n))) for n in numbers),
            timed(partial(decode, side)),
        )
        for side, numbers in rows.items()
    ]
    return Costs(own.pixels, 0.0, own.steps, own.decode_s, 0.0, tuple(others))


def ratios(found: Costs, seen: Costs) -> dict[str, float]:
    """Return estimated over measured seconds, call by call."""
    told = {}
    for size in grid(seen):
        side = round(size.pixels**0.5)
        for cost in size.steps:
            told[f"step {side} x{cost.rows}"] = step_seconds(found, size.pixels, cost.rows) / cost.seconds
        told[f"decode {side}"] = at(found, size.pixels).decode_s / size.decode_s
    return {name: round(ratio, 2) for name, ratio in told.items()}


def infos_of(known: repository.Repository, names: Sequence[str]) -> dict[str, VariantInfo]:
    """Return what a service knows of the variants."""
    found = {name: known.variant(name).info() for name in names if name != REAL}
    if REAL in names:
        texts = {part: (path / "config.json").read_bytes() for part, path in folders(known, REAL).items()}
        found[REAL] = replace(
            found["emoji-base"],
            name=REAL,
            bytes=REAL_BYTES,
            native_sizes=((512, 512),),
            efforts=efforts.of_parts(texts),
        )
    return found


def main() -> None:
    """Measure, estimate, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--without-real", action="store_true", help="leave out Stable Diffusion 1.5")
    names = [*EMBEDDED] if parser.parse_args().without_real else [*EMBEDDED, REAL]
    torch.set_num_threads(1)
    known = repository.scan(repository.locate("model_repo"))
    infos, measured = infos_of(known, names), {}
    for name in names:
        costs = measure(folders(known, name), ROWS["real" if name == REAL else "emoji"])
        measured[name] = Resident(name, "full", "fp32", infos[name].bytes, costs)
        print(f"  {name}: {costs.steps} {costs.sizes}", flush=True)
    told = {}
    for name in names:
        relatives = [other for other in EMBEDDED if other != name]
        for others in [*[[other] for other in relatives], relatives]:
            found = estimates.of_all(infos, {other: measured[other] for other in others})[name]
            what = f"{name} from {' and '.join(others)}"
            told[what] = ratios(found.costs, measured[name].costs)
            print(f"  {what}: {told[what]}")
    worst = max(max(r, 1 / r) for found in told.values() for r in found.values())
    goals = [verdict("worst ratio of estimated and measured seconds", worst, 2.0)]
    print(keep("estimates", "python -m bench.estimates", {"ratios": told, "goals": goals}))


if __name__ == "__main__":
    main()
