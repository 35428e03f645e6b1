"""Memory modes on a CPU stand-in: switched live, without a trace in modules, memory or pictures."""

from collections.abc import Iterator
from itertools import cycle, islice, permutations
from typing import Any

import psutil
import pytest
import torch
from diffusers import StableDiffusionPipeline

from difs import memory_modes
from difs.actors import loading, placement
from difs.actors.memory_modes import HOW, Mode, ModeKeeper
from difs.errors import EngineFailed, OutOfMemory
from difs.messages import MemoryMode
from tests.engine.modes import (
    ALL,
    CPU,
    LEVEL,
    LOSSLESS,
    MARKS,
    keep,
    load,
    own_attributes,
    paint,
    tensor_bytes,
)

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def loaded() -> tuple[ModeKeeper, torch.Tensor, dict[str, set[str]]]:
    """The embedded model, what it paints in `full`, and what its modules have before any mode."""
    torch.set_num_threads(1)
    pipe = load()
    before = own_attributes(pipe)
    keeper = keep(pipe)
    return keeper, paint(keeper), before


@pytest.fixture
def keeper(loaded: tuple[ModeKeeper, torch.Tensor, dict[str, set[str]]]) -> Iterator[ModeKeeper]:
    """The embedded model in `full`; whatever a test does, no hook and no changed bit may be left."""
    keeper, picture, before = loaded
    keeper.switch("full")
    yield keeper
    keeper.switch("full")
    assert own_attributes(keeper._pipe) == before
    assert torch.equal(paint(keeper), picture)
    assert not any(p.is_inference() for p in keeper._pipe.unet.parameters())


@pytest.fixture
def picture(loaded: tuple[ModeKeeper, torch.Tensor, dict[str, set[str]]]) -> torch.Tensor:
    """What the embedded model paints in `full`."""
    return loaded[1]


# ---- what a mode does to pictures ---------------------------------------------------------------


def test_every_mode_of_the_protocol_can_be_entered() -> None:
    assert tuple(HOW) == ALL == tuple(memory_modes.MODES)


@pytest.mark.parametrize("mode", LOSSLESS)
def test_a_lossless_mode_paints_the_same_picture(
    keeper: ModeKeeper, picture: torch.Tensor, mode: MemoryMode
) -> None:
    keeper.switch(mode)
    assert keeper.mode == mode
    assert (paint(keeper) - picture).abs().max() <= LEVEL / 10
    assert keeper.is_exact == (mode == "full")
    with keeper.exact():
        assert keeper.is_exact
        assert torch.equal(paint(keeper), picture)


def test_fp8_stores_the_denoiser_in_a_quarter_and_paints_nearly_the_same(
    keeper: ModeKeeper, picture: torch.Tensor
) -> None:
    def size() -> int:
        return sum(p.nbytes for p in keeper._pipe.unet.parameters())

    whole = size()
    keeper.switch("fp8")
    assert size() < 0.3 * whole
    mean = (paint(keeper) - picture).abs().mean()
    assert 0 < mean < 0.03
    assert size() < 0.3 * whole
    with keeper.exact():
        assert not keeper.is_exact


def test_feed_forward_layers_and_decoder_compute_piece_by_piece(keeper: ModeKeeper) -> None:
    rows: dict[str, int] = {}
    unet, vae = keeper._pipe.unet, keeper._pipe.vae
    watched = {
        "feed forward": unet.mid_block.attentions[0].transformer_blocks[0].ff.net[0].proj,
        "decoder": vae.decoder.conv_out,
    }
    for name, module in watched.items():
        module.register_forward_pre_hook(
            lambda _, args, name=name: rows.update({name: args[0].shape[-2]})
        )
    paint(keeper, size=128)
    whole = dict(rows)
    keeper.switch("tiled")
    paint(keeper, size=128)
    assert rows["feed forward"] == whole["feed forward"] // 4
    assert rows["decoder"] <= whole["decoder"] // 7
    for module in watched.values():
        module._forward_pre_hooks.clear()


# ---- switching ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", LOSSLESS)
def test_a_switch_between_two_steps_changes_no_level_by_more_than_one(
    keeper: ModeKeeper, picture: torch.Tensor, mode: MemoryMode
) -> None:
    changed = paint(keeper, lambda step: keeper.switch(mode) if step == 1 else None)
    assert (changed - picture).abs().max() <= LEVEL
    keeper.switch(mode)
    changed = paint(keeper, lambda step: keeper.switch("full") if step == 1 else None)
    assert (changed - picture).abs().max() <= LEVEL


def test_every_mode_can_follow_every_other(keeper: ModeKeeper) -> None:
    for former, mode in permutations(ALL, 2):
        keeper.switch(former)
        keeper.switch(mode)
        paint(keeper, steps=1, size=32)


def test_a_hundred_switches_leave_memory_and_pictures_unchanged(
    keeper: ModeKeeper, picture: torch.Tensor
) -> None:
    def switch(times: int) -> None:
        for mode in islice(cycle(ALL), times):
            keeper.switch(mode)
            paint(keeper, steps=1, size=32)
        keeper.switch("full")

    process = psutil.Process()
    switch(2 * len(ALL))
    tensors, resident = tensor_bytes(), process.memory_info().rss
    switch(100)
    assert tensor_bytes() <= tensors
    assert process.memory_info().rss - resident < loading.weight_bytes(keeper._pipe)
    assert torch.equal(paint(keeper), picture)


def test_switching_within_inference_mode_makes_no_inference_tensors(keeper: ModeKeeper) -> None:
    with torch.inference_mode():
        for mode in ALL:
            keeper.switch(mode)
            paint(keeper, steps=1, size=32)
        keeper.switch("full")
    modules = [keeper._pipe.unet, keeper._pipe.vae, keeper._pipe.text_encoder]
    assert not any(p.is_inference() for module in modules for p in module.parameters())


def test_a_pipeline_is_brought_straight_into_its_first_mode() -> None:
    pipe = load()
    keeper = ModeKeeper(pipe, CPU, lambda dtype: None)
    keeper.switch("sequential_offload")
    assert not keeper._stay.forwards[pipe.unet]  # type: ignore[union-attr]
    assert hasattr(pipe.unet.conv_in, "_hf_hook")
    keeper.switch("full")
    assert not hasattr(pipe.unet.conv_in, "_hf_hook")


# ---- a switch that fails ------------------------------------------------------------------------


def breaking(error: Exception) -> Mode:
    """A mode whose entry breaks when hooks are on already."""

    def place(parts: placement.Parts) -> placement.Rest:
        placement.by_layer(parts)
        raise error

    return Mode(place, is_sliced=True)


@pytest.mark.parametrize("former", ALL)
def test_a_mode_that_cannot_be_entered_leaves_the_former_one(
    keeper: ModeKeeper, monkeypatch: pytest.MonkeyPatch, former: MemoryMode
) -> None:
    keeper.switch(former)
    expected, attributes = paint(keeper), own_attributes(keeper._pipe)
    failed: MemoryMode = "tiled" if former != "tiled" else "sliced"
    with monkeypatch.context() as patch:
        patch.setitem(HOW, failed, breaking(torch.OutOfMemoryError("no room\nsome details")))
        with pytest.raises(
            OutOfMemory, match=rf"{failed} could not be entered, back in {former}: no room$"
        ):
            keeper.switch(failed)
        assert keeper.mode == former
        assert own_attributes(keeper._pipe) == attributes
        assert torch.equal(paint(keeper), expected)
        patch.setitem(HOW, failed, breaking(ValueError("odd")))
        with pytest.raises(EngineFailed, match="odd"):
            keeper.switch(failed)
    keeper.switch(failed)


def test_weights_that_cannot_be_restored_stay_in_fp8(
    keeper: ModeKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper.switch("fp8")
    expected = paint(keeper)

    def gone(dtype: torch.dtype) -> None:
        raise EngineFailed("the file is gone")

    with monkeypatch.context() as patch:
        patch.setattr(keeper, "_reload", gone)
        with pytest.raises(EngineFailed, match="back in fp8: the file is gone"):
            keeper.switch("full")
    assert keeper.mode == "fp8"
    assert torch.equal(paint(keeper), expected)


def test_a_pipeline_that_cannot_come_back_says_so_and_can_be_tried_again(
    keeper: ModeKeeper, picture: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(HOW, "full", breaking(torch.OutOfMemoryError("no room")))
        patch.setitem(HOW, "tiled", breaking(torch.OutOfMemoryError("no room")))
        with pytest.raises(OutOfMemory, match="neither memory mode tiled nor full"):
            keeper.switch("tiled")
    keeper.switch("sliced")
    assert (paint(keeper) - picture).abs().max() <= LEVEL


def test_a_broken_device_is_not_taken_for_a_mode_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = keep(load())
    monkeypatch.setitem(HOW, "tiled", breaking(torch.AcceleratorError("CUDA error: illegal address")))
    with pytest.raises(torch.AcceleratorError):
        keeper.switch("tiled")


def test_a_pipeline_without_a_denoiser_has_no_fp8() -> None:
    pipe = load()
    keeper = keep(pipe)
    del keeper._modules["unet"]
    with pytest.raises(EngineFailed, match="no unet or transformer of its own"):
        keeper.switch("fp8")
    assert keeper.mode == "full"


# ---- parking, sharing -----------------------------------------------------------------


@pytest.mark.parametrize("mode", ALL)
def test_parked_and_back_is_bit_equal(keeper: ModeKeeper, mode: MemoryMode) -> None:
    keeper.switch(mode)
    before = paint(keeper)
    keeper.to_host()
    assert not any(MARKS & names for names in own_attributes(keeper._pipe).values())
    assert keeper._stay is None
    keeper.to_device()
    assert keeper.mode == mode
    assert torch.equal(paint(keeper), before)


def test_what_cannot_return_stays_in_host_memory(
    keeper: ModeKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper.to_host()
    with monkeypatch.context() as patch:
        patch.setitem(HOW, "full", breaking(torch.OutOfMemoryError("no room")))
        with pytest.raises(OutOfMemory, match="back in host memory: no room"):
            keeper.to_device()
    keeper.to_device()


def sharing(keeper: ModeKeeper) -> ModeKeeper:
    """Return the keeper of a second pipeline with the same text encoder and autoencoder."""
    first = keeper._pipe
    pipe = StableDiffusionPipeline(
        **first.components | {"unet": load().unet}, requires_safety_checker=False
    )
    return keep(pipe)


@pytest.mark.parametrize("mode", ALL)
def test_a_shared_part_is_unaffected_by_the_other_s_mode(
    keeper: ModeKeeper, picture: torch.Tensor, mode: MemoryMode
) -> None:
    other = sharing(keeper)
    before = dict(vars(keeper._pipe.vae))
    other.switch(mode)
    assert (paint(other) - picture).abs().max() <= (LEVEL if mode != "fp8" else 1)
    assert vars(keeper._pipe.vae) == before
    assert torch.equal(paint(keeper), picture)
    other.switch("full")
    other.to_host()


def twin(keeper: ModeKeeper) -> ModeKeeper:
    """Return a keeper of a pipeline that shares everything."""
    return keep(StableDiffusionPipeline(**keeper._pipe.components, requires_safety_checker=False))


@pytest.mark.parametrize("mode", ALL)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_shared_denoiser_stays_exact_for_the_other(
    keeper: ModeKeeper, picture: torch.Tensor, mode: MemoryMode, is_first: bool
) -> None:
    other = twin(keeper)
    switching, staying = (keeper, other) if is_first else (other, keeper)
    switching.switch(mode)
    assert not placement.is_in_fp8(keeper._pipe.unet)
    assert (paint(staying) - picture).abs().max() <= LEVEL
    with staying.exact():
        assert staying.is_exact
        assert torch.equal(paint(staying), picture)
    switching.to_host()
    assert staying.is_exact
    assert torch.equal(paint(staying), picture)
    switching.to_device()
    assert torch.equal(paint(staying), picture) or not staying.is_exact
    switching.switch("full")
    other.to_host()


def test_a_denoiser_that_is_parked_elsewhere_is_not_put_into_fp8(
    keeper: ModeKeeper, picture: torch.Tensor
) -> None:
    other = twin(keeper)
    other.to_host()
    keeper.switch("fp8")
    assert not placement.is_in_fp8(keeper._pipe.unet)
    other.to_device()
    assert torch.equal(paint(other), picture)
    other.to_host()


def test_weights_in_fp8_are_not_taken_over(keeper: ModeKeeper) -> None:
    keeper.switch("fp8")
    pipe = StableDiffusionPipeline(**keeper._pipe.components, requires_safety_checker=False)
    with pytest.raises(EngineFailed, match="same weights in fp8"):
        keep(pipe)


def test_shared_parts_move_with_the_last_who_uses_them(
    keeper: ModeKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[torch.nn.Module] = []
    monkeypatch.setattr(placement, "to_host", lambda modules, device: moved.extend(modules))
    other = sharing(keeper)
    other.to_host()
    assert moved == [other._pipe.unet]
    moved.clear()
    keeper.to_host()
    assert set(moved) == {keeper._pipe.unet, keeper._pipe.vae, keeper._pipe.text_encoder}


def test_one_who_leaves_a_shared_part_behind_leaves_it_on_the_device(
    keeper: ModeKeeper, picture: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    returned: list[torch.nn.Module] = []
    to_device = placement.to_device

    def watch(modules: Any, device: torch.device) -> None:
        found = list(modules)
        returned.extend(found)
        to_device(found, device)

    keeper.switch("model_offload")
    other = sharing(keeper)
    assert (paint(other) - picture).abs().max() <= LEVEL / 10, "through the first one's hooks"
    monkeypatch.setattr(placement, "to_device", watch)
    keeper.to_host()
    assert set(returned) == {keeper._pipe.vae, keeper._pipe.text_encoder}
    assert torch.equal(paint(other), picture)
