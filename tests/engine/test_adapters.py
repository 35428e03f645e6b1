"""LoRA beside a base: each row as if alone, each picture as diffusers paints it, the base untouched."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from difs.actors.adapters import AdapterShelf
from difs.errors import EngineFailed
from difs.messages import Adapter
from tests.engine import tiny
from tests.engine.lora_files import ATTENTION, Lora, draw, save_diffusers, save_kohya
from tests.engine.scene import BOUND, EMOJI, NONE, ROOMY, Scene, hooks, one, paint

pytestmark = pytest.mark.torch


def merged(pipe: Any, lora: Lora, weight: float) -> Callable[[], None]:
    """Add a LoRA to the weights themselves; returns what takes it out."""
    kept = []
    for (part, name), low in lora.items():
        parameter = getattr(pipe, part).get_submodule(name).weight
        kept.append((parameter, parameter.data))
        parameter.data = parameter.data + weight * low.matrix

    def restore() -> None:
        for parameter, data in kept:
            parameter.data = data

    return restore


@pytest.fixture(scope="module", params=["emoji", "sdxl"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    if request.param == "emoji":
        return Scene(EMOJI)
    return Scene(tiny.make_sdxl(tmp_path_factory.mktemp("tiny") / "tiny-xl"))


@pytest.fixture
def shelf(scene: Scene, tmp_path: Path) -> AdapterShelf:
    """A shelf with three adapters: attention only, all layers, all layers at another rank."""
    shelf = AdapterShelf(scene.ours, ROOMY)
    shelf.load("a", save_diffusers(tmp_path / "a.safetensors", draw(scene.ours, 1, ATTENTION)))
    shelf.load("b", save_kohya(tmp_path / "b.safetensors", draw(scene.ours, 2)))
    shelf.load("c.d-e_f", save_kohya(tmp_path / "c.safetensors", draw(scene.ours, 3, rank=7)))
    return shelf


# ---- rows ---------------------------------------------------------------------------------------


def solo(scene: Scene, shelf: AdapterShelf, row: int, adapters: tuple[Adapter, ...]) -> torch.Tensor:
    with shelf.applied([adapters]):
        return scene.unet([row])


MIXES: dict[str, list[tuple[Adapter, ...]]] = {
    "different adapters and none": [one("a"), one("b"), NONE, one("a")],
    "one adapter at different weights": [one("a", 0.3), one("a", -1.0), one("a", 0.3), NONE],
    "several adapters a row": [one("a") + one("b", 0.5), one("b") + one("c.d-e_f"), NONE, one("b")],
    "two rows a request": [NONE, NONE, one("c.d-e_f", 0.7), one("c.d-e_f", 0.7)],
    "one set for all": [one("b", 0.8) + one("a", 0.4)] * 4,
}


@pytest.mark.parametrize("mix", MIXES)
def test_every_row_of_a_mixed_batch_is_what_it_is_alone(
    scene: Scene, shelf: AdapterShelf, mix: str
) -> None:
    rows = MIXES[mix]
    with shelf.applied(rows):
        together = scene.unet([0, 1, 2, 3])
    for row, adapters in enumerate(rows):
        alone = solo(scene, shelf, row, adapters)
        assert (together[row : row + 1] - alone).abs().max() <= BOUND
        base = scene.unet([row])
        if adapters:
            assert (alone - base).abs().max() > 100 * BOUND
        else:
            assert torch.equal(alone, base)


def test_a_row_does_not_see_the_adapters_of_the_others(scene: Scene, shelf: AdapterShelf) -> None:
    with shelf.applied([one("b"), NONE, one("a"), one("b")]):
        among_some = scene.unet([0, 1, 2, 3])[1]
    with shelf.applied([one("c.d-e_f", 4.0), NONE, one("c.d-e_f", 4.0), one("c.d-e_f", 4.0)]):
        among_others = scene.unet([0, 1, 2, 3])[1]
    assert torch.equal(among_some, among_others)


def test_batches_of_changing_composition_follow_each_other(scene: Scene, shelf: AdapterShelf) -> None:
    mixes = [[one("a"), NONE], [one("a"), NONE], [one("b"), one("a")], [NONE, NONE], [one("a"), NONE]]
    for rows in mixes:
        with shelf.applied(rows):
            together = scene.unet([4, 5])
        alone = torch.cat([solo(scene, shelf, 4, rows[0]), solo(scene, shelf, 5, rows[1])])
        assert (together - alone).abs().max() <= BOUND


def test_weights_follow_the_base_to_another_precision_and_back(scene: Scene, shelf: AdapterShelf) -> None:
    layer = scene.ours.unet.mid_block.resnets[0].time_emb_proj
    x = torch.randn(2, layer.in_features)
    with torch.inference_mode(), shelf.applied([one("b"), NONE]):
        single = layer(x)
        layer.double()
        double = layer(x.double())
        layer.float()
        assert torch.allclose(layer(x), single, atol=BOUND)
    assert double.dtype is torch.float64
    assert torch.allclose(double.float(), single, atol=BOUND)


# ---- pictures -----------------------------------------------------------------------------------


def test_alone_a_picture_is_bit_for_bit_what_diffusers_paints(scene: Scene, tmp_path: Path) -> None:
    lora = draw(scene.ours, 4)
    path = save_diffusers(tmp_path / "lora.safetensors", lora)
    expected = scene.theirs_paints({"lora": path}, [0.7])
    shelf = AdapterShelf(scene.ours, ROOMY)
    shelf.load("lora", path)
    with shelf.applied([one("lora", 0.7)]):
        painted = paint(scene.ours)
    assert torch.equal(painted, expected)
    assert not torch.allclose(painted, paint(scene.ours), atol=0.01)


def test_both_formats_paint_what_diffusers_paints(scene: Scene, tmp_path: Path) -> None:
    lora = draw(scene.ours, 5, ATTENTION, alphas=(2.0,))
    painted = []
    for save in (save_diffusers, save_kohya):
        path = save(tmp_path / f"{save.__name__}.safetensors", lora)
        shelf = AdapterShelf(scene.ours, ROOMY)
        shelf.load("lora", path)
        with shelf.applied([one("lora", 1.3)]):
            painted.append(paint(scene.ours))
        assert torch.equal(painted[-1], scene.theirs_paints({"lora": path}, [1.3]))
    assert torch.allclose(
        painted[0], painted[1], atol=1e-4
    )  # the tensors lie differently in the two files


def test_a_file_in_half_precision_is_used_in_the_base_s(scene: Scene, tmp_path: Path) -> None:
    path = save_kohya(tmp_path / "lora.safetensors", draw(scene.ours, 6, ATTENTION), dtype=torch.float16)
    expected = scene.theirs_paints({"lora": path}, [1.0])
    shelf = AdapterShelf(scene.ours, ROOMY)
    shelf.load("half", path)
    with shelf.applied([one("half")]):
        assert torch.equal(paint(scene.ours), expected)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")
def test_two_adapters_add_up_as_in_diffusers(scene: Scene, tmp_path: Path) -> None:
    files = {
        name: save_diffusers(tmp_path / f"{name}.safetensors", draw(scene.ours, seed))
        for name, seed in (("x", 7), ("y", 8))
    }
    expected = scene.theirs_paints(files, [0.5, 0.9])
    shelf = AdapterShelf(scene.ours, ROOMY)
    for name in ("y", "x"):
        shelf.load(name, files[name])
    with shelf.applied([one("x", 0.5) + one("y", 0.9)]):
        assert torch.equal(paint(scene.ours), expected)


@pytest.mark.parametrize("save", [save_diffusers, save_kohya])
def test_every_layer_has_its_own_alpha(
    scene: Scene, tmp_path: Path, save: Callable[[Path, Lora], Path]
) -> None:
    """Against merged weights: diffusers 0.42 loses such alphas of kohya's format."""
    lora = draw(scene.ours, 9, alphas=(1.0, 4.0, 8.0), strength=0.2)
    shelf = AdapterShelf(scene.ours, ROOMY)
    shelf.load("lora", save(tmp_path / "lora.safetensors", lora))
    with shelf.applied([one("lora", 0.5)]):
        painted, encoded = scene.unet([0, 1]), scene.texts_of("red apple")
    restore = merged(scene.ours, lora, 0.5)
    expected, expected_text = scene.unet([0, 1]), scene.texts_of("red apple")
    restore()
    assert (painted - expected).abs().max() <= BOUND
    assert (encoded - expected_text).abs().max() <= BOUND


# ---- the base -----------------------------------------------------------------------------------


def test_the_base_keeps_its_bits_and_names_through_load_use_and_drop(
    scene: Scene, tmp_path: Path
) -> None:
    base, before = paint(scene.ours), {k: v.clone() for k, v in scene.ours.unet.state_dict().items()}
    shelf = AdapterShelf(scene.ours, 0)
    shelf.load("b", save_kohya(tmp_path / "b.safetensors", draw(scene.ours, 2)))
    assert torch.equal(paint(scene.ours), base)
    with shelf.applied([one("b", 0.8)]):
        assert not torch.equal(paint(scene.ours), base)
    assert torch.equal(paint(scene.ours), base)
    assert shelf.trim(()) == ("b",)
    assert torch.equal(paint(scene.ours), base)
    after = scene.ours.unet.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_weight_0_is_the_base(scene: Scene, shelf: AdapterShelf) -> None:
    base = scene.unet([0, 1])
    with shelf.applied([one("a", 0.0), one("b", 0.0)]):
        assert torch.equal(scene.unet([0, 1]), base)


def test_a_call_that_breaks_leaves_nothing_applied(scene: Scene, shelf: AdapterShelf) -> None:
    base = scene.unet([0])
    with pytest.raises(ZeroDivisionError), shelf.applied([one("a")]):
        raise ZeroDivisionError
    assert torch.equal(scene.unet([0]), base)


def test_an_adapter_that_is_not_loaded_is_refused(shelf: AdapterShelf) -> None:
    with (
        pytest.raises(EngineFailed, match="adapter nobody is not loaded"),
        shelf.applied([one("nobody")]),
    ):
        pass


def test_what_was_compiled_before_an_adapter_was_loaded_knows_it_too(
    scene: Scene, tmp_path: Path
) -> None:
    block = scene.ours.unet.mid_block.attentions[0].transformer_blocks[0].ff
    compiled: Any = torch.compile(block, backend="eager")
    x = torch.randn(2, 5, block.net[2].out_features)
    shelf = AdapterShelf(scene.ours, ROOMY)
    with torch.inference_mode():
        base = compiled(x)
        shelf.load("a", save_kohya(tmp_path / "a.safetensors", draw(scene.ours, 1, "ff.net")))
        with shelf.applied([one("a"), NONE]):
            expected = block(x)
            assert torch.equal(compiled(x), expected)
        assert torch.equal(compiled(x), base)
    assert torch.allclose(expected[1], base[1], atol=BOUND)
    assert (expected[0] - base[0]).abs().max() > 100 * BOUND


# ---- texts --------------------------------------------------------------------------------------


def test_a_text_is_encoded_with_the_adapter_s_part_and_the_next_without(
    scene: Scene, shelf: AdapterShelf
) -> None:
    base = scene.texts_of("red apple")
    with shelf.applied_to_text(one("a", 0.6)):
        changed = scene.texts_of("red apple")
    assert (changed - base).abs().max() > 100 * BOUND
    assert torch.equal(scene.texts_of("red apple"), base)


def test_pipelines_with_one_text_encoder_do_not_see_each_other_s_adapters(
    scene: Scene, tmp_path: Path
) -> None:
    base = scene.texts_of("red apple")
    first, second = AdapterShelf(scene.ours, ROOMY), AdapterShelf(scene.ours, ROOMY)
    for seed, shelf in ((1, first), (2, second)):
        path = tmp_path / f"{seed}.safetensors"
        shelf.load("same-name", save_kohya(path, draw(scene.ours, seed, parts=("text_encoder",))))
    encoded = []
    for shelf in (first, second):
        with shelf.applied_to_text(one("same-name")):
            encoded.append(scene.texts_of("red apple"))
    assert not torch.equal(encoded[0], encoded[1])
    before = hooks(scene.ours)
    del first, shelf  # as when its pipeline is evicted
    gc.collect()
    assert hooks(scene.ours) == before - 12
    with second.applied_to_text(one("same-name")):
        assert torch.equal(scene.texts_of("red apple"), encoded[1])
    assert torch.equal(scene.texts_of("red apple"), base)


# ---- room ---------------------------------------------------------------------------------------


def test_unused_adapters_are_dropped_by_size_the_least_recently_used_first(
    scene: Scene, tmp_path: Path
) -> None:
    path = save_kohya(tmp_path / "lora.safetensors", draw(scene.ours, 1, ATTENTION))
    shelf = AdapterShelf(scene.ours, 0)
    shelf.load("one", path)
    size = shelf.nbytes
    low = draw(scene.ours, 1, ATTENTION).values()
    assert size == sum(4 * (layer.down.numel() + layer.up.numel()) for layer in low)

    shelf = AdapterShelf(scene.ours, 2 * size)
    for name in ("one", "two", "three", "four"):
        shelf.load(name, path)
    with shelf.applied([one("one"), one("two")]):
        scene.unet([0, 1])
    assert shelf.trim({"three"}) == ("four", "one")
    assert (shelf.names, shelf.nbytes) == (("three", "two"), 2 * size)
    assert shelf.trim({"three"}) == ()
    with shelf.applied([one("two")]):
        scene.unet([0])


def test_what_is_in_use_stays_above_the_budget(scene: Scene, tmp_path: Path) -> None:
    shelf = AdapterShelf(scene.ours, 0)
    shelf.load("used", save_kohya(tmp_path / "lora.safetensors", draw(scene.ours, 1, ATTENTION)))
    assert shelf.trim({"used"}) == ()
    assert shelf.names == ("used",)


def test_what_is_loaded_is_not_read_again(scene: Scene, shelf: AdapterShelf, tmp_path: Path) -> None:
    before = shelf.nbytes
    shelf.load("a", tmp_path / "no-such-file.safetensors")
    assert shelf.nbytes == before


def test_adapters_work_on_after_a_stay_in_host_memory(scene: Scene, shelf: AdapterShelf) -> None:
    with shelf.applied([one("a"), one("b")]):
        expected = scene.unet([0, 1])
    shelf.to_host()
    with shelf.applied([one("a"), one("b")]):
        assert torch.equal(scene.unet([0, 1]), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_weights_leave_the_device_and_return_at_the_next_use(scene: Scene, shelf: AdapterShelf) -> None:
    linear = scene.ours.text_encoder.get_submodule("encoder.layers.0.mlp.fc1").cuda()
    x = torch.randn(2, linear.in_features, device="cuda")
    try:
        with torch.inference_mode(), shelf.applied([one("a"), NONE]):
            expected = linear(x)
        taken = torch.cuda.memory_allocated()
        shelf.to_host()
        assert torch.cuda.memory_allocated() < taken
        with torch.inference_mode(), shelf.applied([one("a"), NONE]):
            assert torch.equal(linear(x), expected)
    finally:
        linear.cpu()
