"""Which runtime options of a variant pay on this machine: the UNet's seconds a call, and its bits.

    python -m bench.runtime_options [--model emoji-base] [--rounds 5] [--compile-limit 240]

Every option is applied by `difs.actors.runtime` to a UNet of its own, as the engine would, and all are
timed in turns, in one run, with 1, 2 and 8 rows; `pays` means 1.05 times faster than eager with every
number of rows, or with some of them. Compilation that takes longer than `--compile-limit` seconds, or
an option that the device cannot do, is named as not measured.
"""

import argparse
import copy
import gc
import json
import os
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.report import keep
from difs import manifests, processes, repository
from difs.actors.runtime import Runtime

ROWS = (1, 2, 8)
PAYS = 1.05
CALLS_S = 0.4
"""Each option is called for so long in each round, at least twice."""

OPTIONS: dict[str, dict[str, Any]] = {
    "eager": {},
    "channels_last": {"channels_last": True},
    "flash attention": {"attention": "flash"},
    "efficient attention": {"attention": "efficient"},
    "math attention": {"attention": "math"},
    "regional compilation": {"compilation": "regional"},
    "regional, channels_last": {"compilation": "regional", "channels_last": True},
    "full compilation": {"compilation": "full"},
    "full, channels_last": {"compilation": "full", "channels_last": True},
}
CUDA_OPTIONS: dict[str, dict[str, Any]] = {
    "regional, CUDA graphs": {"compilation": "regional", "cuda_graphs": True},
    "full, CUDA graphs": {"compilation": "full", "cuda_graphs": True},
}
BF16 = "bf16"
"""Not a runtime option but a precision: it changes the pictures."""


class TooSlow(BaseException):
    """The limit passed; not an Exception, so that no compiler takes it for a failure of its own."""


@dataclass
class Entry:
    """One option and what was found about it."""

    runtime: Runtime
    dtype: torch.dtype
    seconds: dict[int, list[float]] = field(default_factory=dict)
    outputs: dict[int, torch.Tensor] = field(default_factory=dict)
    first_calls_s: float = 0.0


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise TooSlow in the block once `seconds` are over."""

    def over(*_: Any) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Bench:
    """The UNet in all its forms."""

    def __init__(self, unet: Any, tokens: int, device: torch.device) -> None:
        """Take a loaded UNet, the model of all copies, and how many tokens a prompt has."""
        self._unet = unet
        self._tokens = tokens
        self._device = device
        self.entries: dict[str, Entry] = {}
        self.not_measured: dict[str, str] = {}

    def inputs(self, rows: int, dtype: torch.dtype) -> dict[str, Any]:
        """Return what a call of `rows` rows gets, the same for all options."""
        config = self._unet.config
        dice = torch.Generator("cpu").manual_seed(rows)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(rows, *shape, generator=dice).to(self._device, dtype)

        found: dict[str, Any] = {
            "sample": draw(config.in_channels, config.sample_size, config.sample_size),
            "timestep": torch.linspace(10, 900, rows).to(self._device),
            "encoder_hidden_states": draw(self._tokens, config.cross_attention_dim),
            "return_dict": False,
        }
        if config.addition_embed_type == "text_time":  # SDXL: six sizes and a pooled text
            pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            found["added_cond_kwargs"] = {"text_embeds": draw(pooled), "time_ids": draw(6)}
        return found

    def add(self, name: str, options: dict[str, Any], limit_s: float, dtype: torch.dtype) -> None:
        """Apply an option to a copy and call it once with each number of rows."""
        entry = Entry(Runtime(copy.deepcopy(self._unet).to(dtype), manifests.Runtime(**options)), dtype)
        started = time.perf_counter()
        try:
            with limit(limit_s):
                for rows in ROWS:
                    self.call(entry, rows)
                    entry.outputs[rows] = self.call(entry, rows).float().cpu()
        except TooSlow:
            self.not_measured[name] = f"compilation took longer than {limit_s:g} s"
        except Exception as error:  # what a device cannot do, each backend says in its own way
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self.not_measured[name] = lines[0][:160]
        else:
            entry.first_calls_s = time.perf_counter() - started
            self.entries[name] = entry
        words = self.not_measured.get(name, f"first calls {time.perf_counter() - started:.1f} s")
        print(f"  {name:>24} {words}", flush=True)
        gc.collect()

    @torch.inference_mode()
    def call(self, entry: Entry, rows: int) -> torch.Tensor:
        """Evaluate the UNet once, to the end."""
        with entry.runtime.around(exact=False):
            out: torch.Tensor = entry.runtime.unet(**self.inputs(rows, entry.dtype))[0]
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return out

    def round(self, turn: int) -> None:
        """Time every option with every number of rows; every other round in the opposite order."""
        names = list(self.entries) if turn % 2 == 0 else list(self.entries)[::-1]
        for rows in ROWS:
            for name in names:
                self.entries[name].seconds.setdefault(rows, []).append(
                    self._timed(self.entries[name], rows)
                )

    def _timed(self, entry: Entry, rows: int) -> float:
        taken: list[float] = []
        end = time.perf_counter() + CALLS_S
        while len(taken) < 2 or time.perf_counter() < end:
            started = time.perf_counter()
            self.call(entry, rows)
            taken.append(time.perf_counter() - started)
        return statistics.median(taken)

    def figures(self) -> dict[str, dict[str, Any]]:
        """Return the table."""
        eager = self.entries["eager"]
        found = {}
        for name, entry in self.entries.items():
            seconds = {rows: statistics.median(entry.seconds[rows]) for rows in ROWS}
            gains = {rows: statistics.median(eager.seconds[rows]) / seconds[rows] for rows in ROWS}
            differences = [(entry.outputs[r] - eager.outputs[r]).abs().max().item() for r in ROWS]
            found[name] = {
                "step_ms": {str(rows): round(value * 1e3, 2) for rows, value in seconds.items()},
                "gain": {str(rows): round(value, 3) for rows, value in gains.items()},
                "first_calls_s": round(entry.first_calls_s, 1),
                "same_bits": all(torch.equal(entry.outputs[r], eager.outputs[r]) for r in ROWS),
                "largest_difference": max(differences),
                "pays": _pays(gains),
            }
        return found


def _pays(gains: dict[int, float]) -> str:
    good = [str(rows) for rows, gain in gains.items() if gain >= PAYS]
    if not good:
        return "no"
    return "yes" if len(good) == len(gains) else f"with {', '.join(good)} rows"


def load_unet(name: str, device: torch.device) -> tuple[Any, int]:
    """Return the UNet of a registered variant, and how many tokens its prompts have."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from diffusers import UNet2DConditionModel

    found = repository.scan(repository.locate("model_repo")).variant(name)
    encoder = json.loads((found.part("text_encoder").folder / "config.json").read_text("utf-8"))
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    unet = UNet2DConditionModel.from_pretrained(
        found.part("unet").folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True
    )
    return unet.eval().to(device), encoder["max_position_embeddings"]


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="emoji-base")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile-limit", type=float, default=240.0)
    asked = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(processes.cores())
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no compiler goes on when the limit is over
    unet, tokens = load_unet(asked.model, device)
    bench = Bench(unet, tokens, device)
    for name, options in (OPTIONS | (CUDA_OPTIONS if device.type == "cuda" else {})).items():
        bench.add(name, options, asked.compile_limit, unet.dtype)
    bench.add(BF16, {}, asked.compile_limit, torch.bfloat16)
    for turn in range(asked.rounds):
        bench.round(turn)
    found = bench.figures()
    for name, entry in found.items():
        times = "  ".join(f"{rows}: {ms:8.2f} ms" for rows, ms in entry["step_ms"].items())
        gains = " ".join(f"{gain:.2f}" for gain in entry["gain"].values())
        bits = "same bits" if entry["same_bits"] else f"differs by {entry['largest_difference']:.1e}"
        print(f"  {name:>24}  {times}  gain {gains}  {bits}; pays: {entry['pays']}")
    for name, reason in bench.not_measured.items():
        print(f"  {name:>24}  not measured: {reason}")
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    command = f"python -m bench.runtime_options --model {asked.model} --rounds {asked.rounds}"
    figures = {"device": device_name, "options": found, "not_measured": bench.not_measured}
    print(keep("runtime-options", command, {"model": asked.model, **figures}))


if __name__ == "__main__":
    main()
