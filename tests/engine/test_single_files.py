"""Single-file checkpoints: registered, loaded and painted with, and no network to ask."""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from difs import repository
from difs.actor_messages import LoadFailed
from difs.actors import loading, single_file
from difs.actors.recipes import RECIPES
from difs.errors import EngineFailed
from difs.messages import Adapter
from difs.registration import derive
from difs.registration.orders import Order
from difs.registration.register import register
from tests.engine import single_files
from tests.engine.conftest import Bench
from tests.engine.lora_files import draw, save_kohya
from tests.engine.test_bitwise import reference
from tests.engine.test_engine_adapters import largest

pytestmark = pytest.mark.torch


class Library:
    """A user's files, and the repository that they are registered in."""

    def __init__(self, root: Path, pipes: dict[str, Any]) -> None:
        self.pipes = pipes
        self.files, self.shipped, self.user = root / "files", root / "shipped", root / "user"
        self.shipped.mkdir()

    def register(self, path: Path, **wishes: Any) -> str:
        """Register a file; returns its name."""
        order = Order(self.shipped, self.user, self.scan(), **wishes)
        (outcome,) = register(path, order, lambda outcome: None)
        return outcome.name

    def scan(self) -> repository.Repository:
        found = repository.scan(self.shipped, self.user)
        assert not found.problems
        return found


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Library:
    """Return a library of `sd15`, `sd2` (velocity), `sdxl`, `inked` (sd15, `ink`), and `sd15-unipc`."""
    root = tmp_path_factory.mktemp("library")
    pipes = single_files.fit_configurations(patch, root / "pipelines")
    made = Library(root, pipes)
    for family, pipe in pipes.items():
        single_files.save(pipe, family, made.files / f"{family}.safetensors")
    patch.setattr(socket.socket, "connect", _no_network)
    patch.setattr(socket, "getaddrinfo", _no_network)
    for family in pipes:
        made.register(
            made.files / f"{family}.safetensors", prediction="v_prediction" if family == "sd2" else None
        )
    save_kohya(made.files / "ink.safetensors", draw(pipes["sd15"], 3, parts=("unet",)))
    made.register(made.files / "ink.safetensors")
    known = made.scan()
    base = known.variant("sd15")
    derive.make(derive.fused(base, known.adapter("ink"), 0.6), base, made.user, "inked")
    derive.make(derive.choose(base, known, "unipc"), base, made.user)
    return made


def _no_network(*args: Any, **kwargs: Any) -> None:
    raise AssertionError(f"the network was asked: {args[:2]}")


@pytest.fixture(scope="module")
def bench(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("segments"), library.shipped, library.user, max_rows=16)
    yield made
    made.close()


def paint(bench: Bench, variant: str, **changes: Any) -> NDArray[np.uint8]:
    bench.ensure(variant)
    facts = {"sampler": "ddim", "steps": 4, "guidance_scale": 5.0} | changes
    return bench.paint(bench.execute("a red apple", variant=variant, seeds=(11,), **facts))[0]


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_a_single_file_paints_bit_for_bit_what_its_pipeline_paints(
    library: Library, bench: Bench, family: str
) -> None:
    pipe = library.pipes[family]
    pipe.set_progress_bar_config(disable=True)
    if family == "sd2":
        own = pipe.scheduler
        pipe.scheduler = type(own).from_config(own.config, prediction_type="v_prediction")
    expected = reference(
        pipe, "ddim", "a red apple", 11, num_inference_steps=4, guidance_scale=5.0, height=64, width=64
    )
    painted = paint(bench, family)
    assert painted.std() > 5
    assert np.array_equal(painted, expected)


def test_all_of_a_derived_variant_is_in_memory_once(library: Library, bench: Bench) -> None:
    bench.ensure("sd15")
    bench.ensure("sd15-unipc")
    pipes = [bench.engine._painters[name].pipe for name in ("sd15", "sd15-unipc")]
    for part in ("unet", "vae", "text_encoder"):
        assert getattr(pipes[0], part) is getattr(pipes[1], part)
    assert np.array_equal(paint(bench, "sd15-unipc"), paint(bench, "sd15"))
    on_disk = [path for path in (library.user / "sd15-unipc").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in on_disk) < derive.MANIFEST_BYTES


def test_a_fused_adapter_shares_all_but_the_denoiser(bench: Bench) -> None:
    fused, added = paint(bench, "inked"), paint(bench, "sd15", adapters=(Adapter("ink", 0.6),))
    assert largest(fused, added) <= 1
    assert largest(fused, paint(bench, "sd15")) > 8
    pipes = [bench.engine._painters[name].pipe for name in ("sd15", "inked")]
    assert pipes[0].vae is pipes[1].vae
    assert pipes[0].unet is not pipes[1].unet


def test_exact_weights_come_back_from_the_file(library: Library, bench: Bench) -> None:
    before = paint(bench, "inked")
    painter = bench.engine._painters["inked"]
    for weight in painter.pipe.unet.parameters():
        weight.data.add_(0.01)
    assert largest(paint(bench, "inked"), before) > 0
    loading.restore_denoiser(painter.pipe, library.scan().variant("inked"), torch.float32)
    assert np.array_equal(paint(bench, "inked"), before)


def test_two_checkpoints_with_the_same_autoencoder_have_it_in_memory_once(
    library: Library, tmp_path: Path
) -> None:
    other = single_files.make("sd15", seed=1)
    other.vae = library.pipes["sd15"].vae
    name = library.register(
        single_files.save(other, "sd15", tmp_path / "relative.safetensors"), copy=True
    )
    known = library.scan()
    keys = {
        part: {loading.part_key(known.variant(v), part, torch.float32) for v in ("sd15", name)}
        for part in ("vae", "text_encoder", "unet")
    }
    assert {part: len(found) for part, found in keys.items()} == {"vae": 1, "text_encoder": 2, "unet": 2}
    shutil.rmtree(library.user / name)


def test_half_precision_is_honoured(library: Library) -> None:
    variant = library.scan().variant("sdxl")
    store = loading.PartStore()
    pipe = loading.load_pipeline(variant, RECIPES["sdxl"], torch.bfloat16, store, lambda: None)
    assert {p.dtype for p in pipe.unet.parameters()} == {torch.bfloat16}


def test_a_file_that_changed_does_not_load(library: Library, bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "fickle.safetensors"
    shutil.copy(library.files / "sd15.safetensors", path)
    name = library.register(path)
    tensors = load_file(path)
    next(iter(tensors.values())).add_(1.0)
    save_file(tensors, path)
    bench.repository = bench.engine._library = library.scan()
    bench.engine.load(name)
    (failed,) = bench.work()
    assert isinstance(failed, LoadFailed)
    assert "has changed since it was registered" in failed.message
    shutil.rmtree(library.user / name)


def test_a_file_that_lacks_tensors_says_which(library: Library, tmp_path: Path) -> None:
    path = tmp_path / "holes.safetensors"
    tensors = load_file(library.files / "sd15.safetensors")
    gone = "first_stage_model.decoder.conv_out.weight"
    del tensors[gone]
    save_file(tensors, path)
    stands = library.scan().variant("sd15").part("vae")
    cut = type(stands)(stands.folder, {}, path, stands.file_digest)
    with pytest.raises(EngineFailed, match=r"lacks 1 tensors of its vae, as decoder.conv_out"):
        single_file.load_part(cut, "vae", type(library.pipes["sd15"].vae), torch.float32)


def test_the_older_spelling_of_clips_keys_is_read(library: Library, tmp_path: Path) -> None:
    tensors = load_file(library.files / "sd15.safetensors")
    path = tmp_path / "older.safetensors"
    save_file(
        {key.replace("transformer.text_model.", "transformer."): t for key, t in tensors.items()}, path
    )
    stands = library.scan().variant("sd15").part("text_encoder")
    older = type(stands)(stands.folder, {}, path, stands.file_digest)
    encoder = library.pipes["sd15"].text_encoder
    read = single_file.load_part(older, "text_encoder", type(encoder), torch.float32).state_dict()
    assert all(torch.equal(read[key], tensor) for key, tensor in encoder.state_dict().items())


def test_clips_own_tokens(library: Library) -> None:
    """The numbers that OpenAI's CLIP gives these words."""
    folder = Path(repository.__file__).parents[1] / "configs" / "pipelines"
    first = single_file.load_tokenizer(folder / "sd15" / "tokenizer")
    assert len(first) == 49408
    assert first("a photo of a cat, riding a dog!").input_ids == [
        49406, 320, 1125, 539, 320, 2368, 267, 6765, 320, 1929, 256, 49407,
    ]  # fmt: skip
    second = single_file.load_tokenizer(folder / "sdxl" / "tokenizer_2")
    padded = second("a", padding="max_length", max_length=5).input_ids
    assert padded == [49406, 320, 49407, 0, 0]
