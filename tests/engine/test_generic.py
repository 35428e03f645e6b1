"""Pipelines without a recipe: suspended, interleaved, cancelled, and bit for bit diffusers' own."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from msgspec.structs import replace
from numpy.typing import NDArray

from difs import repository
from difs.actor_messages import Costs, Execute, RowCost
from difs.actors import generic
from difs.actors.generic import GenericPainter, Work, load_generic, load_painter, measure
from difs.actors.warmup import Measured
from difs.errors import EngineFailed, RepositoryError, Unsupported
from difs.messages import MemoryMode
from tests.engine import tiny

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")
EXECUTE = Execute(
    attempt=1,
    request_id="test",
    variant="any",
    prompt="red apple",
    negative_prompt="",
    width=64,
    height=64,
    steps=4,
    guidance_scale=5.0,
    sampler="euler",
    seeds=(7,),
    deadline=0.0,
    slots=(),
    format="raw",
    metadata="",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_generic(tmp_path_factory.mktemp("repo") / "any")


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    return load_generic(folder, torch.float32)


def run(work: Work) -> NDArray[np.uint8]:
    """Run a call to its end; return the picture."""
    while work.advance():
        pass
    assert work.pixels is not None
    return work.pixels


def direct(pipe: Any, execute: Execute, seed: int, **more: Any) -> NDArray[np.uint8]:
    """Return what the pipeline paints when it is simply called."""
    image = pipe(
        execute.prompt,
        width=execute.width,
        height=execute.height,
        num_inference_steps=execute.steps,
        guidance_scale=execute.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(seed),
        **more,
    ).images[0]
    return np.asarray(image)


def os_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


# ---- the call -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(64, 64), (96, 64)])
@pytest.mark.parametrize("negative", ["", "green leaf"])
def test_a_suspended_call_paints_bit_for_bit_what_a_call_paints(
    pipe: Any, negative: str, width: int, height: int
) -> None:
    execute = replace(EXECUTE, negative_prompt=negative, width=width, height=height)
    painted = run(Work(pipe, execute, 7))
    assert painted.shape == (height, width, 3)
    more = {"negative_prompt": negative} if negative else {}
    assert np.array_equal(painted, direct(pipe, execute, 7, **more))
    assert not np.array_equal(painted, run(Work(pipe, execute, 8)))


def test_it_stops_after_each_step_and_then_decodes(pipe: Any) -> None:
    work = Work(pipe, EXECUTE, 7)
    seen = [(work.done, work.total, work.pixels is None)]
    while work.advance():
        seen.append((work.done, work.total, work.pixels is None))
    assert seen == [(k, 4, True) for k in range(5)]
    assert (work.done, work.pixels is None) == (4, False)
    assert not work.advance()


def test_nothing_runs_while_it_is_suspended(pipe: Any) -> None:
    calls = []
    hook = pipe.transformer.register_forward_hook(lambda *_: calls.append(threading.get_ident()))
    try:
        work = Work(pipe, EXECUTE, 7)
        assert not calls
        work.advance()
        first = len(calls)
        assert first > 0
        threading.Event().wait(0.05)
        assert len(calls) == first
        run(work)
    finally:
        hook.remove()
    assert len(set(calls)) == 1
    assert threading.get_ident() not in calls


def test_calls_that_take_turns_on_one_pipeline_do_not_disturb_each_other(pipe: Any) -> None:
    executes = [replace(EXECUTE, steps=steps) for steps in (3, 6, 4)]
    untouched = pipe.scheduler.timesteps
    alone = [run(Work(pipe, execute, seed)) for seed, execute in enumerate(executes)]
    works = [Work(pipe, execute, seed) for seed, execute in enumerate(executes)]
    going = list(works)
    while going:
        going = [work for work in going if work.advance()]
    assert all(np.array_equal(run(w), a) for w, a in zip(works, alone, strict=True))
    assert pipe.scheduler.timesteps is untouched, "the pipeline's own scheduler was used"


def test_the_calls_thread_computes_as_its_caller_does(pipe: Any) -> None:
    seen = set()

    def look(*args: Any) -> None:
        seen.add((torch.get_num_threads(), torch.is_inference_mode_enabled()))

    before = torch.get_num_threads()
    hook = pipe.transformer.register_forward_hook(look)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            run(Work(pipe, replace(EXECUTE, steps=1), 7))
    finally:
        torch.set_num_threads(before)
        hook.remove()
    assert seen == {(1, True), (2, True)}


def test_no_thread_is_left_behind(pipe: Any) -> None:
    run(Work(pipe, EXECUTE, 7))
    python_threads, threads = threading.active_count(), os_threads()
    for _ in range(5):
        run(Work(pipe, EXECUTE, 7))
        cancelled = Work(pipe, EXECUTE, 7)
        cancelled.advance()
        cancelled.cancel()
        Work(pipe, EXECUTE, 7).cancel()
    assert threading.active_count() == python_threads
    assert os_threads() < threads + 5, "one more with each round; torch's own pools may grow a little"


def test_cancel_unwinds_the_call_between_two_steps(pipe: Any) -> None:
    calls = []
    hook = pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    work = Work(pipe, EXECUTE, 7)
    assert work.advance()
    before = len(calls)
    work.cancel()
    work.cancel()
    hook.remove()
    assert len(calls) == before
    assert not work.advance()
    assert work.pixels is None
    assert not work.is_spoilt
    assert np.array_equal(run(Work(pipe, EXECUTE, 7)), direct(pipe, EXECUTE, 7))


def test_cancel_after_the_end_changes_nothing(pipe: Any) -> None:
    work = Work(pipe, EXECUTE, 7)
    painted = run(work)
    work.cancel()
    assert work.pixels is painted


def test_what_the_call_raises_is_raised_where_it_was_waited_for(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(pipe, EXECUTE, 7)
    assert work.advance()

    def out_of_memory(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(pipe.transformer, "forward", out_of_memory)
        with pytest.raises(torch.OutOfMemoryError, match="no memory"):
            work.advance()
    assert work.is_spoilt
    assert not work.advance()
    work.restart()
    assert (work.done, work.is_spoilt) == (0, False)
    assert np.array_equal(run(work), direct(pipe, EXECUTE, 7))


def test_a_refusal_of_the_pipeline_is_raised_too(pipe: Any) -> None:
    with pytest.raises(ValueError, match="divisible"):
        Work(pipe, replace(EXECUTE, width=65), 7).advance()


class Fake(DiffusionPipeline):  # type: ignore[misc]  # diffusers has no types
    """A pipeline that paints its arguments' sum, in three steps."""

    def __init__(self) -> None:
        super().__init__()
        self.register_to_config()

    def paint(self, prompt: str, seed: int) -> Any:
        picture = np.full((1, 64, 64, 3), (len(prompt) + seed) / 255, np.float32)
        return ImagePipelineOutput(images=picture)


class OldStyle(Fake):
    def __call__(self, prompt: str, generator: Any = None, callback: Any = None) -> Any:
        for i in range(3):
            callback(i, 0, None)
        return self.paint(prompt, generator.initial_seed())


class StepLess(Fake):
    def __call__(self, prompt: str, generator: Any = None) -> Any:
        return self.paint(prompt, generator.initial_seed())


class Untidy(StepLess):
    def paint(self, prompt: str, seed: int) -> Any:
        return ImagePipelineOutput(images=np.zeros((1, 64, 64), np.float32))


def test_the_older_callback_suspends_too() -> None:
    work = Work(OldStyle(), EXECUTE, 7)
    assert work.has_steps
    assert [work.advance() for _ in range(4)] == [True, True, True, False]
    assert work.pixels is not None
    assert (work.pixels == len("red apple") + 7).all()


def test_a_pipeline_without_a_callback_is_one_unit() -> None:
    work = Work(StepLess(), EXECUTE, 7)
    assert not work.has_steps
    assert (work.done, work.total) == (0, 1)
    assert not work.advance()
    assert (work.done, work.total) == (1, 1)
    assert work.pixels is not None
    assert (work.pixels == len("red apple") + 7).all()


def test_what_is_no_rgb_picture_is_refused() -> None:
    with pytest.raises(EngineFailed, match=r"no RGB picture, but shape \(64, 64\)"):
        Work(Untidy(), EXECUTE, 7).advance()


# ---- loading ------------------------------------------------------------------------------------


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "copied")


def change(folder: Path, **entries: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"_class_name": ["evil", "Evil"]}, "no pipeline of diffusers"),
        ({"_class_name": "AutoencoderKL"}, "no pipeline of diffusers"),
        ({"_class_name": "NoSuchPipeline"}, "no pipeline of diffusers"),
        ({"_class_name": "DDPMPipeline"}, "takes no prompt"),
        ({"_class_name": "StableDiffusionInstructPix2PixPipeline"}, None),
        ({"_class_name": "TextToVideoSDPipeline"}, None),
        ({"vae": ["evil", "Evil"]}, "only classes of diffusers, transformers are run"),
        ({"vae": ["os", "system"]}, "only classes of"),
        ({"vae": ["../evil", "Evil"]}, "only classes of"),
        ({"vae": ["diffusers", "Evil"]}, "does not load"),
        ({"vae": ["diffusers"]}, "only classes of"),
        ({"vae": [None, "AutoencoderKL"]}, "only classes of"),
        ({"vae": "AutoencoderKL"}, "does not load"),
    ],
)
def test_only_classes_of_diffusers_and_transformers_are_loaded(
    copied: Path, entries: dict[str, Any], words: str | None
) -> None:
    change(copied, **entries)
    with pytest.raises(EngineFailed, match=words):
        load_generic(copied, torch.float32)


@pytest.mark.parametrize("place", ["vae/diffusers.py", "pipeline.py"])
def test_a_checkpoint_that_brings_code_is_refused_before_it_could_run(copied: Path, place: str) -> None:
    (copied / place).write_text("raise SystemExit('it ran')")
    with pytest.raises(EngineFailed, match="brings code"):
        load_generic(copied, torch.float32)


def test_a_part_in_a_pipelines_own_package_is_diffusers_own() -> None:
    assert generic._is_known(("stable_diffusion", "StableDiffusionSafetyChecker"))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"_class_name": "StableDiffusion3Pipeline"'])
def test_a_broken_index_is_told(copied: Path, content: str) -> None:
    (copied / "model_index.json").write_text(content)
    with pytest.raises(EngineFailed, match=r"model_index\.json"):
        load_generic(copied, torch.float32)


def test_weights_that_are_missing_are_told(copied: Path) -> None:
    (copied / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(EngineFailed, match="copied does not load"):
        load_generic(copied, torch.float32)


@pytest.mark.parametrize("make", [tiny.make_sd15, tiny.make_sdxl, tiny.make_lcm])
def test_pipelines_with_a_recipe_could_go_this_way_too(make: Any, tmp_path: Path) -> None:
    loaded = load_generic(make(tmp_path / "any"), torch.float32)
    assert np.array_equal(run(Work(loaded, EXECUTE, 7)), direct(loaded, EXECUTE, 7))


# ---- the painter --------------------------------------------------------------------------------


@pytest.fixture
def painter(folder: Path) -> GenericPainter:
    return load_painter(repository.scan(folder.parent).variant("any"), CPU, torch.float32)


def test_the_painter_paints_into_the_canvas(painter: GenericPainter) -> None:
    work = painter.begin(EXECUTE, 7, painter.encode(EXECUTE))
    for k in range(work.total):
        painter.step([work])
        assert work.done == k + 1
        assert painter.preview(work) is None
    canvas = np.zeros((64, 64, 3), np.uint8)
    painter.decode(work, canvas)
    assert np.array_equal(canvas, direct(painter.pipe, EXECUTE, 7))


def test_a_decoding_that_broke_is_made_again_from_the_noise(
    painter: GenericPainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    work = painter.begin(EXECUTE, 7, painter.encode(EXECUTE))
    canvas = np.zeros((64, 64, 3), np.uint8)
    with monkeypatch.context() as patch:
        patch.setattr(painter.pipe.vae, "decode", out_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            painter.decode(work, canvas)
    assert work.is_spoilt
    painter.decode(work, canvas, is_tiled=True)
    assert np.array_equal(canvas, direct(painter.pipe, EXECUTE, 7))


def test_a_picture_of_another_size_is_refused(painter: GenericPainter) -> None:
    work = painter.begin(EXECUTE, 7, painter.encode(EXECUTE))
    with pytest.raises(EngineFailed, match=r"painted \(64, 64, 3\) instead of \(96, 64, 3\)"):
        painter.decode(work, np.zeros((96, 64, 3), np.uint8))


def test_a_size_that_the_pipeline_refuses_is_refused_in_its_words(painter: GenericPainter) -> None:
    work = painter.begin(replace(EXECUTE, width=65), 7, painter.encode(EXECUTE))
    with pytest.raises(EngineFailed, match="the pipeline refuses: `height` and `width` have to be divi"):
        painter.step([work])


@pytest.mark.parametrize("mode", ["sliced", "tiled", "fp8", "sequential_offload"])
def test_memory_modes_are_entered_and_left_without_a_trace(
    painter: GenericPainter, mode: MemoryMode
) -> None:
    execute = replace(EXECUTE, width=96, height=96)  # larger than a tile
    canvas, again = np.zeros((2, 96, 96, 3), np.uint8)
    painter.decode(painter.begin(execute, 7, painter.encode(execute)), canvas)
    painter.keeper.switch(mode)
    painter.decode(painter.begin(execute, 7, painter.encode(execute)), again)
    assert again.std() > 10
    painter.keeper.switch("full")
    painter.decode(painter.begin(execute, 7, painter.encode(execute)), again)
    assert np.array_equal(canvas, again)


def test_weights_that_a_mode_spoilt_are_restored_from_their_files(
    painter: GenericPainter, folder: Path
) -> None:
    before = {name: t.clone() for name, t in painter.pipe.transformer.state_dict().items()}
    for parameter in painter.pipe.transformer.parameters():
        parameter.data = parameter.data + 1
    generic._restore_denoiser(painter.pipe, folder, torch.float32)
    after = painter.pipe.transformer.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_adapters_are_refused_in_words(painter: GenericPainter) -> None:
    with pytest.raises(Unsupported, match="adapter style: this family takes none"):
        painter.shelf.load("style", Path("style.safetensors"))


def test_changed_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(folder, tmp_path / "any")
    (changed / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"other")
    with pytest.raises(RepositoryError, match="has changed"):
        load_painter(repository.scan(tmp_path).variant("any"), CPU, torch.float32)


def test_its_costs_are_measured_with_real_pictures(painter: GenericPainter, folder: Path) -> None:
    manifest = repository.scan(folder.parent).variant("any").manifest
    bare, guided = [5.0, 1.0, 1.0, 2.0], [9.0, 3.0, 3.0, 4.0]  # the first step encodes, the last decodes
    seconds = iter(bare + guided)
    units = measure(painter, manifest, lambda act: (act(), next(seconds)), steps=3, max_rows=8)
    for _ in bare[1:] + guided[1:]:
        assert next(units) is None
    (measured,) = units
    steps = (RowCost(1, 1.0), RowCost(2, 3.0))
    assert measured == Measured(Costs(64 * 64, 6.0, steps, 4.0, 0.0), 0.0)


def test_a_measuring_that_nobody_waits_for_leaves_no_thread(
    painter: GenericPainter, folder: Path
) -> None:
    manifest = repository.scan(folder.parent).variant("any").manifest
    units = measure(painter, manifest, lambda act: (act(), 1.0), steps=3, max_rows=8)
    next(units)
    assert "generic-call" in {thread.name for thread in threading.enumerate()}
    units.close()
    assert "generic-call" not in {thread.name for thread in threading.enumerate()}
