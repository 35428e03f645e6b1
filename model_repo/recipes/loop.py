"""The training loop of every part: resumable, seeded by update, averaged weights, losses logged.

A run lives in a folder: `state.safetensors` (weights, averages, Adam's moments, and in its metadata where
it stands) and `log.jsonl` (a line every `LOG_EVERY` updates). No model and no data here.
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec import Struct
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

STATE = "state.safetensors"
LOG_EVERY = 50
KEEP_EVERY_S = 120.0

Loss = Callable[[int], Tensor]
"""Returns the loss of update `i`; all its dice must come from `i`."""


class Schedule(Struct, frozen=True, forbid_unknown_fields=True):
    """How long and how fast one part learns."""

    updates: int
    rate: float
    batch: int
    hold: float = 0.4
    """The share of the updates with the full rate; a cosine to 0 follows."""
    warm_up: int = 50
    average: float = 0.999
    decay: float = 0.01
    clip: float = 1.0

    def rate_at(self, update: int) -> float:
        """Return the learning rate of an update."""
        done = update / self.updates
        falling = max(0.0, done - self.hold) / max(1e-9, 1.0 - self.hold)
        return self.rate * min(1.0, (update + 1) / self.warm_up) * 0.5 * (1 + math.cos(math.pi * falling))


class Run:
    """One part's training: modules, their averages, and where it stands."""

    def __init__(self, folder: Path, modules: Mapping[str, nn.Module], schedule: Schedule) -> None:
        """Take the modules as they are, or as a former run in `folder` left them."""
        self.folder, self.schedule = folder, schedule
        self.weights = {
            f"{part}.{name}": weight
            for part, module in modules.items()
            for name, weight in module.named_parameters()
            if weight.requires_grad
        }
        self.averages = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self._adam = torch.optim.AdamW(
            self.weights.values(), lr=schedule.rate, betas=(0.9, 0.98), weight_decay=schedule.decay
        )
        self.done = 0
        if (folder / STATE).is_file():
            self._resume()

    def _resume(self) -> None:
        with safe_open(self.folder / STATE, "pt") as file:
            self.done = int(file.metadata()["done"])
            kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        for name, weight in self.weights.items():
            weight.data.copy_(kept[f"weight/{name}"])
            self.averages[name].copy_(kept[f"average/{name}"])
            self._adam.state[weight] = {
                "step": torch.tensor(float(self.done)),
                "exp_avg": kept[f"first/{name}"].to(weight.device),
                "exp_avg_sq": kept[f"second/{name}"].to(weight.device),
            }

    def keep(self) -> None:
        """Write where the run stands; a kill at any moment leaves the former state or this one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name, weight in self.weights.items():
            state = self._adam.state[weight]
            tensors[f"weight/{name}"] = weight.detach().contiguous()
            tensors[f"average/{name}"] = self.averages[name].contiguous()
            tensors[f"first/{name}"] = state["exp_avg"].contiguous()
            tensors[f"second/{name}"] = state["exp_avg_sq"].contiguous()
        save_file(tensors, self.folder / f"new-{STATE}", {"done": str(self.done)})
        os.replace(self.folder / f"new-{STATE}", self.folder / STATE)

    def train(self, loss_of: Loss) -> None:
        """Do the updates that are missing, then put the averages in place of the weights."""
        kept_at = started = time.monotonic()
        first = logged = self.done
        total = 0.0
        while self.done < self.schedule.updates:
            total += self._update(loss_of)
            if self.done % LOG_EVERY == 0 or self.done == self.schedule.updates:
                pace = (self.done - first) / (time.monotonic() - started)
                self._log(total / (self.done - logged), pace)
                logged, total = self.done, 0.0
            if time.monotonic() - kept_at > KEEP_EVERY_S or self.done == self.schedule.updates:
                self.keep()
                kept_at = time.monotonic()
        for name, weight in self.weights.items():
            weight.data.copy_(self.averages[name])

    def _update(self, loss_of: Loss) -> float:
        for group in self._adam.param_groups:
            group["lr"] = self.schedule.rate_at(self.done)
        loss = loss_of(self.done)
        self._adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        nn.utils.clip_grad_norm_(self.weights.values(), self.schedule.clip)
        self._adam.step()
        self.done += 1
        # Young averages forget faster, so that the start does not stay in them.
        keep = min(self.schedule.average, (1 + self.done) / (10 + self.done))
        averages = list(self.averages.values())
        torch._foreach_lerp_(averages, [w.detach() for w in self.weights.values()], 1.0 - keep)
        return float(loss.detach())

    def _log(self, loss: float, pace: float) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        left_s = (self.schedule.updates - self.done) / pace
        line: dict[str, Any] = {"update": self.done, "loss": round(loss, 6), "per_s": round(pace, 3)}
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        print(
            f"{self.folder.name}: {self.done}/{self.schedule.updates}, loss {loss:.5f},"
            f" {pace * self.schedule.batch:.0f} pictures/s, {left_s / 60:.0f} min left",
            flush=True,
        )


def schedule(settings: Mapping[str, Any]) -> Schedule:
    """Return a schedule from a table of settings.toml."""
    return msgspec.convert(settings, Schedule)
