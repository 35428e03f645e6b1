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

pytestmark = pytest.mark.torch

EMOJI = Path(__file__).parents[2] / "model_repo" / "emoji-base"
BOUND = 1e-5
ROOMY = 2**30
NONE: tuple[Adapter, ...] = ()


def one(name: str, weight: float = 1.0) -> tuple[Adapter, ...]:
    return (Adapter(name, weight),)


class Scene:
    """A bare pipeline, another for diffusers' own loader, and inputs for the UNet."""

    def __init__(self, folder: Path) -> None:
        from diffusers import DiffusionPipeline

        self.ours, self.theirs = (
            DiffusionPipeline.from_pretrained(folder, local_files_only=True) for _ in range(2)
        )
        for pipe in (self.ours, self.theirs):
            pipe.set_progress_bar_config(disable=True)
        numbers = torch.Generator().manual_seed(0)
        self.latents = torch.randn(8, 4, 16, 16, generator=numbers)
        self.times = torch.tensor([981, 700, 400, 100, 3, 500, 250, 800])
        self.texts = torch.randn(8, 24, self.ours.unet.config.cross_attention_dim, generator=numbers)
        self.pooled = torch.randn(8, tiny.WIDTH, generator=numbers)

    def unet(self, rows: list[int], unet: Any = None) -> torch.Tensor:
        """Call the UNet for some of the input rows."""
        unet = self.ours.unet if unet is None else unet
        added = None
        if unet.config.addition_embed_type:
            sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * len(rows))
            added = {"text_embeds": self.pooled[rows], "time_ids": sizes}
        with torch.inference_mode():
            out: torch.Tensor = unet(
                self.latents[rows],
                self.times[rows],
                encoder_hidden_states=self.texts[rows],
                added_cond_kwargs=added,
                return_dict=False,
            )[0]
        return out

    def texts_of(self, prompt: str) -> torch.Tensor:
        """Encode a prompt."""
        with torch.inference_mode():
            encoded: torch.Tensor = self.ours.encode_prompt(
                prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
            )[0]
        return encoded

    def theirs_paints(self, files: dict[str, Path], weights: list[float]) -> torch.Tensor:
        """Paint with diffusers' own LoRA; the pipeline is bare again afterwards."""
        try:
            for name, path in files.items():
                self.theirs.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)
            self.theirs.set_adapters(list(files), weights)
            return paint(self.theirs)
        finally:
            self.theirs.unload_lora_weights()


def hooks(pipe: Any) -> int:
    return sum(len(m._forward_hooks) for part in (pipe.unet, pipe.text_encoder) for m in part.modules())


def paint(pipe: Any) -> torch.Tensor:
    """Return the latent that a whole pipeline run ends with."""
    latent: torch.Tensor = pipe(
        "red apple",
        height=64,
        width=64,
        num_inference_steps=3,
        guidance_scale=2.5,
        generator=torch.Generator().manual_seed(7),
        output_type="latent",
    ).images
    return latent


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
        assert torch.equal(layer(x), single)
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


def test_both_formats_paint_the_same_bits_as_diffusers(scene: Scene, tmp_path: Path) -> None:
    lora = draw(scene.ours, 5, ATTENTION, alphas=(2.0,))
    files = {
        "diffusers": save_diffusers(tmp_path / "diffusers.safetensors", lora),
        "kohya": save_kohya(tmp_path / "kohya.safetensors", lora),
    }
    expected = scene.theirs_paints({"kohya": files["kohya"]}, [1.3])
    shelf = AdapterShelf(scene.ours, ROOMY)
    for name, path in files.items():
        shelf.load(name, path)
        with shelf.applied([one(name, 1.3)]):
            assert torch.equal(paint(scene.ours), expected)


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


# ---- files that do not fit ----------------------------------------------------------------------


Spoil = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


def _one_key(ending: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Spoil:
    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        key = next(key for key in tensors if key.endswith(ending))
        return tensors | {key: change(tensors[key])}

    return spoil


SPOILT: dict[str, tuple[Spoil, str]] = {
    "a layer of another width": (_one_key("lora_down.weight", lambda t: t[:, :-1]), "takes the shapes"),
    "halves of different ranks": (_one_key("lora_up.weight", lambda t: t[:, :-1]), "takes the shapes"),
    "a scalar": (_one_key("lora_down.weight", lambda t: t.sum()), "takes the shapes"),
    "not a number": (_one_key("lora_up.weight", lambda t: t / 0), "not finite"),
    "whole numbers": (_one_key("lora_up.weight", lambda t: t.to(torch.int8)), "not finite"),
    "two alphas": (_one_key(".alpha", lambda t: torch.ones(2)), "not one finite number"),
    "one half": (
        lambda tensors: {k: t for k, t in tensors.items() if not k.endswith("to_q.lora_up.weight")},
        "not both halves",
    ),
    "another architecture": (
        lambda tensors: {k.replace("mid_block", "mid_block_9"): t for k, t in tensors.items()},
        "tensors belong to none of its layers, as 'lora_unet_mid_block_9",
    ),
    "DoRA": (
        lambda tensors: tensors | {"lora_unet_mid_block_resnets_0_conv1.dora_scale": torch.ones(1)},
        "1 of .* tensors .*no DoRA",
    ),
    "a whole checkpoint": (lambda tensors: {"conv_in.weight": torch.ones(1)}, "1 of 1 tensors"),
    "nothing": (lambda tensors: {}, "holds no tensors"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_file_that_does_not_fit_is_refused_in_words_and_leaves_no_trace(
    scene: Scene, tmp_path: Path, case: str
) -> None:
    from safetensors.torch import load_file, save_file

    spoil, words = SPOILT[case]
    base, before = scene.unet([0]), hooks(scene.ours)
    path = save_kohya(
        tmp_path / "lora.safetensors", draw(scene.ours, 1, "mid_block.*to_q", parts=("unet",))
    )
    save_file({key: t.contiguous() for key, t in spoil(load_file(path)).items()}, path)
    shelf = AdapterShelf(scene.ours, ROOMY)
    with pytest.raises(EngineFailed, match=f"adapter my-lora does not load: lora.safetensors.*{words}"):
        shelf.load("my-lora", path)
    assert (shelf.names, shelf.nbytes) == ((), 0)
    assert hooks(scene.ours) == before
    assert torch.equal(scene.unet([0]), base)


def test_a_file_that_is_none_is_refused_in_words(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    shelf = AdapterShelf(scene.ours, ROOMY)
    with pytest.raises(EngineFailed, match="no readable safetensors file"):
        shelf.load("lora", path)
    path.write_bytes(b"not a tensor in sight" * 9)
    with pytest.raises(EngineFailed, match="no readable safetensors file"):
        shelf.load("lora", path)


def test_an_adapter_for_another_base_is_refused(scene: Scene, tmp_path: Path) -> None:
    other = tiny.make_sd2_v(tmp_path / "tiny-sd2")
    path = save_diffusers(tmp_path / "lora.safetensors", draw(Scene(other).ours, 1, ATTENTION))
    with pytest.raises(EngineFailed, match="does not fit its base"):
        AdapterShelf(scene.ours, ROOMY).load("lora", path)
