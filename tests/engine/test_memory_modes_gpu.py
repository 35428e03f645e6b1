"""Memory modes on a real GPU: what moves, what is pinned, what the device's memory shows."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch

from difs import memory_modes
from difs.actors import loading
from difs.actors.memory_modes import ModeKeeper
from difs.messages import MemoryMode
from tests.engine.modes import ALL, LEVEL, load, paint, variant

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]
GPU = torch.device("cuda", 0)
OFFLOADED: tuple[MemoryMode, ...] = ("model_offload", "group_offload", "sequential_offload")


@pytest.fixture
def keeper() -> Iterator[ModeKeeper]:
    pipe = load()
    keeper = ModeKeeper(pipe, GPU, partial(loading.restore_denoiser, pipe, variant()))
    keeper.switch("full")
    yield keeper
    keeper.to_host()


def weights(keeper: ModeKeeper) -> list[torch.Tensor]:
    modules = (keeper._pipe.unet, keeper._pipe.vae, keeper._pipe.text_encoder)
    return [p for module in modules for p in module.parameters()]


@pytest.mark.parametrize("mode", ALL)
def test_a_mode_paints_the_same_picture_and_leaves_the_weights_on_the_gpu(
    keeper: ModeKeeper, mode: MemoryMode
) -> None:
    whole = paint(keeper)
    keeper.switch(mode)
    for _ in range(3):
        assert (paint(keeper) - whole).abs().max() <= (1 if memory_modes.MODES[mode].is_lossy else LEVEL)
    keeper.switch("full")
    assert all(p.device == GPU for p in weights(keeper))
    assert torch.equal(paint(keeper), whole)


@pytest.mark.parametrize("mode", OFFLOADED)
def test_between_two_pictures_nothing_is_on_the_gpu(keeper: ModeKeeper, mode: MemoryMode) -> None:
    paint(keeper)
    whole = torch.cuda.memory_allocated(GPU)
    keeper.switch(mode)
    paint(keeper)
    assert all(p.device.type == "cpu" for p in weights(keeper))
    assert whole - torch.cuda.memory_allocated(GPU) > 0.9 * loading.weight_bytes(keeper._pipe)


def test_parked_weights_are_pinned_and_come_back_with_every_bit(keeper: ModeKeeper) -> None:
    whole, allocated = paint(keeper), torch.cuda.memory_allocated(GPU)
    keeper.to_host()
    assert all(p.device.type == "cpu" and p.is_pinned() for p in weights(keeper))
    assert allocated - torch.cuda.memory_allocated(GPU) > 0.9 * loading.weight_bytes(keeper._pipe)
    keeper.to_device()
    assert torch.equal(paint(keeper), whole)


def test_offloading_lowers_the_peak_by_layer_the_most(keeper: ModeKeeper) -> None:
    peaks = []
    for mode in ("full", *OFFLOADED):
        keeper.switch(mode)
        paint(keeper)
        torch.cuda.reset_peak_memory_stats(GPU)
        paint(keeper)
        peaks.append(torch.cuda.max_memory_allocated(GPU))
    assert peaks[0] == max(peaks)
    assert peaks[-1] == min(peaks)


def test_a_hundred_switches_leave_the_gpu_s_memory_unchanged(keeper: ModeKeeper) -> None:
    whole, before = paint(keeper), torch.cuda.memory_allocated(GPU)
    for i in range(100):
        keeper.switch(ALL[i % len(ALL)])
        paint(keeper, steps=1)
    keeper.switch("full")
    assert torch.equal(paint(keeper), whole)
    assert abs(torch.cuda.memory_allocated(GPU) - before) < 2**20
