"""The embedded family as it is shipped: all members load and paint what is asked, with no network."""

import json
import socket
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray

from difs import repository
from difs.actors.recipes import RECIPES
from difs.messages import Adapter
from difs.scorer import Scorer
from model_repo.recipes.lora import mono
from tests.engine.conftest import MODEL_REPO, Bench

pytestmark = pytest.mark.torch

REPOSITORY = repository.scan(MODEL_REPO)
MEMBERS = sorted(v.name for v in REPOSITORY.variants.values() if v.manifest.captions == "emoji-base")
ADAPTERS = sorted(a.name for a in REPOSITORY.adapters.values() if "emoji-base" in a.manifest.variants)
THINGS = ("frog", "red-apple", "rocket")
MOST_BYTES = 48 * 2**20
MOST_FILE_BYTES = 25 * 2**20


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.load(MODEL_REPO / "emoji-base")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("segments"), max_rows=16)
    yield made
    made.close()


def captions() -> dict[str, str]:
    text = (MODEL_REPO / "emoji-base" / "captions.json").read_text("utf-8")
    return {name: entry["caption"] for name, entry in json.loads(text).items()}


def test_there_is_a_family() -> None:
    assert REPOSITORY.problems == ()
    assert {"emoji-base", "emoji-small", "emoji-turbo"} <= set(MEMBERS)
    assert {"style-fluent", "style-mono", "turbo"} <= set(ADAPTERS)


def test_the_small_member_has_at_most_a_third_of_the_arithmetic() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    flops = {}
    for name in ("emoji-base", "emoji-small"):
        folder = REPOSITORY.variant(name).part("unet").folder
        unet = UNet2DConditionModel.from_pretrained(folder, dtype=torch.float32)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            unet(torch.zeros(1, 4, 16, 16), 500, torch.zeros(1, 24, unet.config.cross_attention_dim))
        flops[name] = counter.get_total_flops()
    assert flops["emoji-small"] <= flops["emoji-base"] / 3


def test_a_style_is_another_and_the_thing_the_same(engine: Bench, scorer: Scorer) -> None:
    fluent = Scorer.load(MODEL_REPO / "style-fluent", MODEL_REPO / "emoji-base")
    grey = Scorer({name: mono(scorer.reference(name, 64)) for name in THINGS})
    engine.ensure("emoji-base")
    engine.variant = "emoji-base"
    said = captions()
    for thing in THINGS:
        facts = {"width": 64, "height": 64, "steps": 20, "sampler": "ddim", "guidance_scale": 1.5}
        for own, style in (("style-fluent", fluent), ("style-mono", grey), (None, scorer)):
            adapters = (Adapter(own),) if own is not None else ()
            (picture,) = engine.paint(engine.execute(said[thing], adapters=adapters, **facts))
            nearest = min((fluent, grey, scorer), key=lambda s: s.distance(picture, thing))
            assert nearest is style, f"{thing} with {own} looks like another style"


def test_the_family_is_small_enough_for_the_repository() -> None:
    files = [path for path in MODEL_REPO.rglob("*") if path.is_file() and path.suffix == ".safetensors"]
    assert max(path.stat().st_size for path in files) <= MOST_FILE_BYTES
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    assert all(REPOSITORY.adapter(name).nbytes < 3e6 for name in ADAPTERS)


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_paints_what_is_asked(engine: Bench, scorer: Scorer, name: str) -> None:
    engine.ensure(name)
    engine.variant = name
    manifest = REPOSITORY.variant(name).manifest
    side = manifest.native_sizes[0][0]
    said = captions()
    facts = {
        "width": side,
        "height": side,
        "steps": manifest.steps.default,
        "sampler": manifest.sampler,
        "guidance_scale": manifest.guidance_scale,
    }
    for thing in THINGS:
        (picture,) = engine.paint(engine.execute(said[thing], **facts))
        judged = scorer.judge(picture, thing, side)
        assert judged.rank == 0, f"{name} paints something else for {said[thing]!r}"
        assert judged.score > 0.4


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_loads_in_plain_diffusers(scorer: Scorer, name: str) -> None:
    variant = REPOSITORY.variant(name)
    recipe: Any = RECIPES[variant.manifest.family]
    borrowed = {}
    index = json.loads((variant.folder / "model_index.json").read_text("utf-8"))
    for part in variant.borrowed:
        import diffusers
        import transformers

        library, cls = index[part]
        source = {"diffusers": diffusers, "transformers": transformers}[library]
        options = {} if "tokenizer" in part else {"dtype": torch.float32}
        borrowed[part] = getattr(source, cls).from_pretrained(variant.part(part).folder, **options)
    pipe = recipe.pipeline.from_pretrained(
        variant.folder, dtype=torch.float32, local_files_only=True, **borrowed
    )
    for adapter, weight in variant.fused:
        pipe.load_lora_weights(adapter.path)
        pipe.fuse_lora(lora_scale=weight)
    pipe.set_progress_bar_config(disable=True)
    manifest = variant.manifest
    image: NDArray[np.float32] = pipe(
        captions()["frog"],
        num_inference_steps=manifest.steps.default,
        guidance_scale=manifest.guidance_scale,
        height=manifest.native_sizes[0][1],
        width=manifest.native_sizes[0][0],
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    ).images[0]
    assert scorer.rank((image * 255).round().astype(np.uint8), "frog") == 0
