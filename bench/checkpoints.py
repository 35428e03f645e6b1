"""Real-size single files with random weights: registered, loaded and stepped once, without a network.

    python -m bench.checkpoints [sd15 sd2 sdxl] [--dir DIR] [--out FILE.json]

Writes each checkpoint (fp16, in the original key layout) into a temporary folder below DIR, registers it
in a repository of its own, loads it on the CPU in fp32 and computes one UNet call on a 64x64 latent; then
removes it. The numbers are this machine's, of a disk that has just been written to.
"""

import argparse
import json
import math
import os
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from difs import repository
from difs.registration.orders import Order
from difs.registration.register import register

FAMILIES = ("sd15", "sd2", "sdxl")
LATENT = 64
SPREAD = 0.02
BLOCK = 1 << 20
BYTES = 2
"""Of a number in fp16."""


def shapes(family: str) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a family's single file at real size."""
    import diffusers
    import torch
    import transformers

    from bench import ldm_layout

    folder = repository.PIPELINES / family
    index = json.loads((folder / "model_index.json").read_text())
    parts = {}
    with torch.device("meta"):
        for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
            if part not in index:
                continue
            library, name = index[part]
            if library == "transformers":
                config = transformers.CLIPTextConfig.from_pretrained(folder / part)
                parts[part] = getattr(transformers, name)(config)
            else:
                cls = getattr(diffusers, name)
                parts[part] = cls.from_config(cls.load_config(folder / part))
    return {key: tuple(t.shape) for key, t in ldm_layout.checkpoint(family, parts).items()}


def write(path: Path, tensors: Mapping[str, tuple[int, ...]]) -> None:
    """Write a safetensors file of random fp16 numbers, in little memory."""
    header: dict[str, Any] = {}
    end = 0
    for key, shape in tensors.items():
        begin, end = end, end + math.prod(shape) * BYTES
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    dice = np.random.default_rng(0)
    block = (dice.standard_normal(BLOCK, np.float32) * SPREAD).astype(np.float16).tobytes()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        while end > 0:
            file.write(block[: min(end, len(block))])
            end -= len(block)


def measure(family: str, root: Path) -> dict[str, Any]:
    """Write, register, load and step one checkpoint; the latter two in a process of their own."""
    file = root / f"{family}.safetensors"
    started = time.perf_counter()
    write(file, shapes(family))
    written = time.perf_counter()
    shipped, user = root / "shipped", root / "user"
    shipped.mkdir(exist_ok=True)
    order = Order(shipped, user, repository.scan(shipped, user))
    (outcome,) = register(file, order, lambda _: None)
    registered = time.perf_counter()
    if outcome.what != f"variant of {family}":
        raise AssertionError(f"{family} was taken for a {outcome.what}")
    command = [sys.executable, "-m", "bench.checkpoints", "--load", family, "--dir", str(root)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    facts = {
        "family": family,
        "file_gb": file.stat().st_size / 1e9,
        "tensors": len(shapes(family)),
        "entry_bytes": sum(p.lstat().st_size for p in (user / family).rglob("*")),
        "write_s": written - started,
        "register_s": registered - written,
    }
    file.unlink()
    return {**facts, **found}


def load_and_step(family: str, root: Path) -> dict[str, Any]:
    """Load a registered variant on the CPU and compute one call; runs in a process of its own."""
    cut_the_network()
    import torch

    from difs.actors import loading
    from difs.actors.recipes import RECIPES

    variant = repository.scan(root / "shipped", root / "user").variant(family)
    recipe = RECIPES[family]
    started = time.perf_counter()
    variant.verify()
    verified = time.perf_counter()
    pipe = loading.load_pipeline(variant, recipe, torch.float32, loading.PartStore(), lambda: None)
    loaded = time.perf_counter()
    with torch.inference_mode():
        text = recipe.encode(pipe, "a photo of a cat", torch.device("cpu"))
        encoded = time.perf_counter()
        side = LATENT * 8
        added = recipe.conditions(pipe, [text], [(side, side)], torch.float32)
        latent = torch.randn(1, 4, LATENT, LATENT, generator=torch.Generator().manual_seed(0))
        noise = pipe.unet(latent, 500, text.embeds, added_cond_kwargs=added, return_dict=False)[0]
    stepped = time.perf_counter()
    if noise.shape != latent.shape or not bool(torch.isfinite(noise).all()):
        raise AssertionError(f"{family}: the step gave {noise.shape}, finite: {noise.isfinite().all()}")
    return {
        "verify_s": verified - started,
        "load_s": loaded - verified,
        "encode_s": encoded - loaded,
        "step_s": stepped - encoded,
        "weights_gb": loading.weight_bytes(pipe) / 1e9,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "noise_std": float(noise.std()),
    }


def cut_the_network() -> None:
    """Let every look-up and connection of this process fail."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError(f"the network is cut: {args[:2]}")

    socket.socket.connect = refuse  # type: ignore[method-assign]
    socket.getaddrinfo = refuse
    os.environ["HF_HUB_OFFLINE"] = "1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", help=f"of {', '.join(FAMILIES)}; default: sd15 sdxl")
    parser.add_argument("--dir", type=Path, default=None, help="where there is room for one checkpoint")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--load", choices=FAMILIES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if not set(asked.families) <= set(FAMILIES):
        parser.error(f"families are {', '.join(FAMILIES)}")
    if asked.load:
        print(json.dumps(load_and_step(asked.load, asked.dir)))
        return
    cut_the_network()
    found = []
    for family in asked.families or ["sd15", "sdxl"]:
        with tempfile.TemporaryDirectory(prefix="difs-checkpoints.", dir=asked.dir) as folder:
            found.append(measure(family, Path(folder)))
        print(json.dumps(found[-1], indent=2), flush=True)
    if asked.out is not None:
        asked.out.write_bytes(msgspec.json.format(msgspec.json.encode(found)))


if __name__ == "__main__":
    main()
