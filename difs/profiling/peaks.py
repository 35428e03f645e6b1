"""How much memory a call takes at most, beyond what was taken before it.

On a GPU as torch's caching allocator counts it. On a CPU every allocation that torch's CPU allocator
makes and frees within the call, summed in order: exact for tensors, weights and code not among them, nor
what a kernel library (oneDNN, MKL) takes for itself.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

ARE = {
    "cuda": "torch's CUDA allocator: most that a call takes beyond rest_bytes, visiting weights included",
    "cpu": "torch's CPU allocator: most that a call allocates; not what kernel libraries take themselves",
}
"""What the peaks of a kind of device count."""


def peak_bytes(device: torch.device, act: Callable[[], Any], rest_bytes: int) -> int:
    """Do `act`; return the bytes that it took at most, beyond `rest_bytes` that were taken before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        act()
        torch.cuda.synchronize(device)
        return max(0, torch.cuda.max_memory_allocated(device) - rest_bytes)
    with (
        _quiet(),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched,
    ):
        act()
    return _most_held(watched)


def _most_held(watched: Any) -> int:
    events = watched.profiler.kineto_results.events()
    changes = sorted(
        (e.start_ns(), i, e.nbytes()) for i, e in enumerate(events) if e.name() == "[memory]"
    )
    held = most = 0
    for _, _, nbytes in changes:
        held += nbytes
        most = max(most, held)
    return most


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep kineto's lines about its start and end off standard error; they come from C++."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
