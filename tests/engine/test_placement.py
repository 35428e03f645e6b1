"""Where weights lie in the offloading modes: whoever is called fetches his own, and nothing stays."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from difs.actors import placement
from difs.actors.memory_modes import ModeKeeper
from difs.messages import MemoryMode
from tests.engine import tiny
from tests.engine.modes import ALL, CPU, LEVEL, keep, load, own_attributes, paint

pytestmark = pytest.mark.torch


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are put away are spoilt, so that who uses them without fetching them sees it."""
    put_away = placement.Weights.put_away

    def spoil(self: placement.Weights) -> None:
        put_away(self)
        for tensor, host in self._pairs:
            tensor.data = torch.full_like(host, torch.nan if host.is_floating_point() else 10**9)

    monkeypatch.setattr(placement.Weights, "put_away", spoil)


@pytest.mark.parametrize("mode", ["model_offload", "sequential_offload"])
@pytest.mark.usefixtures("poisoned")
def test_whatever_is_called_fetches_its_weights(mode: MemoryMode) -> None:
    keeper = keep(load())
    picture = paint(keeper)
    keeper.switch(mode)
    assert keeper._pipe.unet.conv_in.weight.isnan().all()
    with keeper.exact():
        assert torch.equal(paint(keeper), picture)


@pytest.mark.usefixtures("poisoned")
def test_one_part_at_a_time_is_on_the_device_and_none_when_nothing_runs() -> None:
    pipe = load()
    keeper = keep(pipe)
    parts = {"text": pipe.text_encoder, "unet": pipe.unet, "vae": pipe.vae}
    seen = []

    def present() -> list[str]:
        return [n for n, m in parts.items() if not any(p.isnan().any() for p in m.parameters())]

    keeper.switch("model_offload")
    assert present() == []
    for module in (pipe.text_encoder, pipe.unet, pipe.vae.decoder.conv_in):
        module.register_forward_hook(lambda *_: seen.append(present()))
    paint(keeper, steps=2)
    assert seen == [["text"]] * 2 + [["unet"]] * 2 + [["vae"]]
    assert present() == []
    with torch.inference_mode():
        pipe.encode_prompt("cat", CPU, 1, False)
    assert present() == ["text"]
    keeper.rest()
    assert present() == []


def test_weights_keep_a_precision_that_was_given_to_them_meanwhile() -> None:
    layer = torch.nn.Linear(4, 4)
    weights = placement.Weights(layer, CPU)
    layer.double()
    weights.fetch()
    assert layer(torch.ones(4, dtype=torch.float64)).dtype is torch.float64
    weights.put_away()
    assert layer.weight.dtype is torch.float64


def test_host_memory_that_cannot_be_pinned_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no more memory can be pinned")

    layer, gpu = torch.nn.Linear(4, 4), torch.device("cuda", 0)
    before = layer.weight.clone()
    monkeypatch.setattr(torch, "empty_like", refuse)
    placement.to_host([layer], gpu)
    assert torch.equal(layer.weight, before)


def test_weights_are_copied_to_pinned_memory_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Tensor] = []

    def allocate(like: torch.Tensor, *, device: torch.device, pin_memory: bool) -> torch.Tensor:
        assert pin_memory
        pinned.append(torch.empty(like.shape, device=device))
        return pinned[-1]

    layer = torch.nn.Linear(4, 4, bias=False)
    before = layer.weight.clone()
    monkeypatch.setattr(torch, "empty_like", allocate)
    monkeypatch.setattr(
        torch.Tensor, "is_pinned", lambda self: any(self.data_ptr() == p.data_ptr() for p in pinned)
    )
    for _ in range(2):
        placement.to_host([layer], torch.device("cuda", 0))
        assert layer.weight.data_ptr() == pinned[0].data_ptr()
    assert len(pinned) == 1
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("error", [None, torch.OutOfMemoryError("no room")])
def test_moving_on_a_gpu_waits_for_its_work_before_and_for_the_copies_after(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    deeds: list[str] = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            deeds.append("stream")

        def synchronize(self) -> None:
            deeds.append("copied")

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: deeds.append("idle"))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: deeds.append("given back"))
    with contextlib.suppress(torch.OutOfMemoryError), placement.moving(torch.device("cuda", 0)):
        deeds.append("move")
        if error is not None:
            raise error
    assert deeds == ["idle", "stream", "move", "copied", "given back"]


# ---- other families -----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tiny.make_sdxl, tiny.make_generic])
def test_whole_pipeline_calls_of_other_families_work_in_every_mode(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    folder = make(tmp_path / "tiny")
    pipe = load(folder)
    keeper = ModeKeeper(pipe, CPU, lambda dtype: _restore(pipe, folder))

    def call() -> torch.Tensor:
        numbers = torch.Generator().manual_seed(1)
        with keeper.decoding():
            facts = {"width": 64, "height": 64, "num_inference_steps": 3, "output_type": "pt"}
            image: torch.Tensor = pipe("red apple", generator=numbers, **facts).images
        return image

    keeper.switch("full")
    expected, attributes = call(), own_attributes(pipe)
    for mode in ALL:
        keeper.switch(mode)
        off = (call() - expected).abs().max()
        assert off <= LEVEL or mode == "fp8"
        keeper.switch("full")
        assert own_attributes(pipe) == attributes
        assert torch.equal(call(), expected)


def _restore(pipe: Any, folder: Path) -> None:
    fresh = load(folder)
    for name in ("unet", "transformer"):
        if getattr(pipe, name, None) is not None:
            getattr(pipe, name).load_state_dict(getattr(fresh, name).state_dict(), assign=True)
