"""The torch engine: reports, loading, caches, out of memory at each phase, failures that stay alone."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from difs import config
from difs.actor_messages import Ended, Evicted, Finished, Loaded, LoadFailed, Stepped, Switched
from difs.actors import loading
from difs.actors.delivery import Easel
from difs.actors.painter import Painter
from difs.actors.previews import Projection
from difs.actors.recipes import StableDiffusion
from difs.actors.torch_engine import TorchEngine
from difs.actors.units import DeviceBroken
from difs.clock import MonotonicClock
from difs.errors import ConfigError
from difs.profiles import step_seconds
from tests.engine.conftest import Bench

pytestmark = pytest.mark.torch


def finished(reports: list[Any]) -> list[Finished]:
    return [r for r in reports if isinstance(r, Finished)]


# ---- reports --------------------------------------------------------------------------------------


def test_every_step_is_reported_and_counts_up(bench: Bench) -> None:
    *steps, last = bench.run(bench.execute(seeds=(1, 2)))
    assert [(s.image, s.step, s.steps) for s in steps if isinstance(s, Stepped)] == [
        (image, step, 4) for step in (1, 2, 3, 4) for image in (0, 1)
    ]
    assert isinstance(last, Finished)
    assert len(last.images) == 2
    assert min(last.encode_s, last.steps_s, last.decode_s, last.deliver_s) > 0


def read_drawings(bench: Bench) -> None:
    """Have pictures judged until one is: the drawings are read beside the work."""
    end = MonotonicClock().now() + 30
    while MonotonicClock().now() < end:
        (first,) = finished(bench.run(bench.execute("red apple", steps=1, is_judged=True)))
        if first.score is not None:
            return
        assert first.notes[-1] == "not judged: the reference drawings are not read yet"
    pytest.fail("the drawings are not read")


def test_pictures_are_judged_by_their_drawings_where_that_is_asked_for(bench: Bench) -> None:
    read_drawings(bench)
    asked = [bench.execute("red apple", steps=12, is_judged=judged) for judged in (True, False)]
    strange = bench.execute("nothing that it knows", is_judged=True)
    reports = {r.attempt: r for r in finished(bench.run(*asked, strange))}
    good, unjudged, unknown = (reports[order.attempt] for order in (*asked, strange))
    assert good.score is not None
    assert 0.5 < good.score < 1.0
    assert unjudged.score is None
    assert unknown.score is None
    assert unknown.notes[-1].startswith("not judged: the prompt names 0 things")


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmpp_2m_karras"])
def test_what_falls_behind_is_cut_short_and_still_a_good_picture(bench: Bench, sampler: str) -> None:
    read_drawings(bench)
    asked = {"steps": 30, "sampler": sampler, "is_judged": True, "floor_steps": 8}
    late = bench.execute("red apple", latest=MonotonicClock().now() - 1, **asked)
    reports = bench.run(late)
    (done,) = finished(reports)
    (note,) = done.notes
    assert "steps instead of 30: it fell behind" in note
    taken = max(r.step for r in reports if isinstance(r, Stepped))
    assert 8 <= taken <= 10, "to its floor, or a little above where DDIM has no longer stride"
    assert done.score is not None
    assert done.score > 0.6


def test_nothing_is_computed_after_the_deadline(bench: Bench) -> None:
    execute = bench.execute(deadline=MonotonicClock().now() - 1)
    assert bench.run(execute) == [Ended(execute.attempt, "expired", "the deadline passed")]


def test_a_prompt_that_is_too_long_is_painted_with_the_count_of_what_was_cut(bench: Bench) -> None:
    short, long = finished(bench.run(bench.execute("apple " * 5), bench.execute("apple " * 40)))
    room = bench.engine._painters["emoji-base"].pipe.tokenizer.model_max_length
    cut = 40 + 2 - room
    assert long.notes == (f"the prompt's last {cut} tokens were not used: it is too long",)
    assert short.notes == ()


def test_previews_look_like_the_picture_and_better_with_each_that_was_painted(bench: Bench) -> None:
    def error() -> float:
        execute = bench.execute("red apple", steps=12, preview_every=4)
        shown = [r for r in bench.run(execute) if isinstance(r, Stepped) and r.preview is not None]
        assert [r.step for r in shown] == [4, 8]
        final = bench.pixels(execute).reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
        preview = shown[-1].preview
        assert preview is not None
        pixels = np.frombuffer(preview.pixels, np.uint8).reshape(preview.height, preview.width, 3)
        return float(np.abs(pixels - final).mean())

    painter = bench.engine._painters["emoji-base"]
    painter._projection = Projection(4, torch.device("cpu"))  # as if nothing had been painted
    first = error()
    for prompt in ("green frog", "strawberry", "banana", "house", "dog", "cherries"):
        bench.paint(bench.execute(prompt, steps=8))
    assert error() < first
    assert error() < 30


# ---- loading --------------------------------------------------------------------------------------


def test_load_measures_real_costs_for_growing_batches(bench: Bench) -> None:
    (resident,) = bench.engine.residents
    costs = resident.costs
    assert (resident.precision, resident.memory_mode, costs.pixels) == ("fp32", "full", 64 * 64)
    assert resident.weight_bytes > 50_000_000  # 14.6 M parameters in fp32
    assert min(costs.encode_s, costs.decode_s, costs.load_s) > 0
    assert [cost.rows for cost in costs.steps][:3] == [1, 2, 4]
    assert min(cost.seconds for cost in costs.steps) > 0
    for cost in costs.steps:
        assert step_seconds(costs, 64 * 64, cost.rows) == cost.seconds, "as it was measured"


def test_a_variant_that_is_not_loaded_is_refused(bench: Bench) -> None:
    (report,) = bench.run(bench.execute(variant="nobody"))
    assert isinstance(report, Ended)
    assert report.code == "engine_failed"
    bench.engine.load("nobody")
    (failed,) = bench.work()
    assert isinstance(failed, LoadFailed)
    assert "no variant 'nobody'" in failed.message


def test_a_changed_file_is_not_loaded(tiny_repo: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(tiny_repo / "sd15", tmp_path / "repo" / "sd15")
    made = Bench(tmp_path, tmp_path / "repo")
    weights = next((tmp_path / "repo" / "sd15" / "unet").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    made.engine.load("sd15")
    (failed,) = made.work()
    made.close()
    assert isinstance(failed, LoadFailed)
    assert "has changed since it was registered" in failed.message


@pytest.mark.parametrize("how", ["written", "replaced", "removed"])
def test_a_file_that_changes_while_it_is_loaded_is_noticed(
    tiny_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    import shutil

    from difs.variants import Variant

    shutil.copytree(tiny_repo / "sd15", tmp_path / "repo" / "sd15")
    made = Bench(tmp_path, tmp_path / "repo")
    weights = next((tmp_path / "repo" / "sd15" / "vae").glob("*.safetensors"))
    verify = Variant.verify

    def verify_then_change(variant: Variant) -> None:
        verify(variant)
        data = weights.read_bytes()
        if how != "written":
            weights.unlink()
        if how != "removed":
            weights.write_bytes(data[:-4] + b"evil")

    monkeypatch.setattr(Variant, "verify", verify_then_change)
    made.engine.load("sd15")
    (failed,) = made.work()
    made.close()
    assert isinstance(failed, LoadFailed)
    assert not made.engine.residents
    if how != "removed":
        assert "changed while it was loaded" in failed.message


def test_others_keep_stepping_while_a_variant_loads(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    load = loading.load_pipeline

    def slowly(*args: Any) -> Any:
        assert gate.wait(60)
        return load(*args)

    monkeypatch.setattr(loading, "load_pipeline", slowly)
    bench.engine.evict("emoji-base")
    (evicted,) = bench.work()
    assert isinstance(evicted, Evicted)
    bench.engine._parking.take("emoji-base")  # gone for good: it must come from the disk
    bench.engine.load("emoji-base")
    execute = bench.execute("dog", steps=3)
    bench.engine.submit(execute)
    for _ in range(5):
        assert bench.engine.turn() == []
    assert bench.engine.is_moving
    assert not bench.engine.is_busy
    gate.set()
    reports = bench.work()
    assert isinstance(reports[0], Loaded)
    assert len(finished(reports)) == 1


@pytest.fixture
def gate(tiny: Bench, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return what holds up all loads from disk; `sd2-v` can only come from there."""
    opened = threading.Event()
    variant = type(tiny.repository.variant("sd15"))
    verify = variant.verify

    def slowly(self: Any) -> None:
        assert opened.wait(60)
        verify(self)

    monkeypatch.setattr(variant, "verify", slowly)
    tiny.engine.evict("sd2-v")
    tiny.work()
    tiny.engine._parking.take("sd2-v")
    return opened


def test_a_load_that_nobody_waits_for_is_cancelled(tiny: Bench, gate: threading.Event) -> None:
    tiny.engine.load("sd2-v")
    tiny.engine.cancel_load("sd2-v")
    gate.set()
    assert tiny.work() == [LoadFailed("sd2-v", "cancelled")]


def test_a_load_that_is_wanted_again_after_its_cancel_has_an_answer_of_its_own(
    tiny: Bench, gate: threading.Event
) -> None:
    tiny.engine.load("sd2-v")
    tiny.engine.cancel_load("sd2-v")
    tiny.engine.load("sd2-v")
    tiny.engine.submit(tiny.execute("red", variant="sd2-v", steps=1))
    gate.set()
    reports = [r for r in tiny.work() if not isinstance(r, Stepped)]
    assert [type(r) for r in reports] == [LoadFailed, Loaded, Finished]


def test_a_load_that_waits_goes_into_the_mode_that_is_asked_for_then(tiny: Bench, gate: Any) -> None:
    """As our own preload, which asks for none, when the broker's load comes."""
    tiny.engine.evict("sd15", is_final=True)
    tiny.work()
    tiny.engine.load("sd2-v")  # the loader is busy with it
    tiny.engine.load("sd15")
    tiny.engine.load("sd15", "tiled")
    gate.set()
    modes = {r.resident.variant: r.resident.memory_mode for r in tiny.work() if isinstance(r, Loaded)}
    assert modes == {"sd2-v": "full", "sd15": "tiled"}
    for name in modes:
        tiny.engine.evict(name, is_final=True)
    tiny.work()
    tiny.load("sd15")


def test_a_variant_is_loaded_into_the_mode_that_is_asked_for(bench: Bench) -> None:
    bench.load("emoji-base")
    whole = bench.paint(bench.execute())
    bench.engine.evict("emoji-base")
    bench.work()
    bench.engine.load("emoji-small", "tiled")
    (loaded,) = bench.work()
    assert isinstance(loaded, Loaded)
    assert loaded.resident.memory_mode == "tiled"
    for mode in ("tiled", "full"):  # what is parked does not insist on the mode that it had
        bench.engine.load("emoji-base", mode)
        (returned,) = bench.work()
        assert isinstance(returned, Loaded)
        assert returned.resident.memory_mode == mode
        if mode == "tiled":
            bench.engine.evict("emoji-base")
            bench.work()
    assert np.array_equal(bench.paint(bench.execute()), whole)
    bench.engine.evict("emoji-small")
    bench.work()


def test_what_was_parked_returns_without_the_disk_and_bit_for_bit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bench.paint(bench.execute("red apple"))[0]
    bench.engine.evict("emoji-base")
    (evicted,) = bench.work()
    assert isinstance(evicted, Evicted)
    assert evicted.parked is not None

    def no_disk(*args: Any) -> Any:
        raise AssertionError("it was loaded from disk")

    monkeypatch.setattr(loading, "load_pipeline", no_disk)
    bench.load("emoji-base")
    assert np.array_equal(bench.paint(bench.execute("red apple"))[0], before)


def test_variants_of_one_base_share_all_weights(tiny_repo: Path, tmp_path: Path) -> None:
    import shutil

    for name in ("first", "second"):
        folder = tmp_path / "repo" / name
        shutil.copytree(tiny_repo / "sd15", folder)
        manifest = folder / "variant.toml"
        manifest.write_text(manifest.read_text().replace('name = "sd15"', f'name = "{name}"'))
    made = Bench(tmp_path, tmp_path / "repo")
    made.load("first")
    made.load("second")
    first, second = (made.engine._painters[name].pipe for name in ("first", "second"))
    assert first.text_encoder is second.text_encoder
    assert first.vae is second.vae
    assert first.unet is second.unet
    made.paint(made.execute("a shared prompt", variant="first"))
    misses = made.engine._prompts.misses
    made.paint(made.execute("a shared prompt", variant="second"))
    assert made.engine._prompts.misses == misses, "a prompt is encoded once for both"
    made.close()


# ---- the cache of encoded prompts -----------------------------------------------------------------


def test_a_prompt_is_encoded_once_and_paints_the_same_bits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    encode = StableDiffusion.encode

    def count(self: StableDiffusion, pipe: Any, text: str, device: torch.device) -> Any:
        calls.append(text)
        return encode(self, pipe, text, device)

    monkeypatch.setattr(StableDiffusion, "encode", count)
    first = bench.paint(bench.execute("an uncommon prompt", negative_prompt="an uncommon one too"))[0]
    again = bench.paint(bench.execute("an uncommon prompt", negative_prompt="an uncommon one too"))[0]
    assert calls == ["an uncommon prompt", "an uncommon one too"]
    assert np.array_equal(first, again)


# ---- failures -------------------------------------------------------------------------------------


def fail(times: int, error: Exception, method: Any) -> Any:
    """Return a method of Painter that raises `error` for its first `times` calls."""
    left = [times]

    def failing(self: Painter, *args: Any, **kwargs: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
            raise error
        return method(self, *args, **kwargs)

    return failing


NO_MEMORY = torch.OutOfMemoryError("no memory\nwith details")


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("encode", "out of memory at encode: memory mode sliced"),
        ("_predict", "out of memory at step: memory mode sliced"),
        ("image", "out of memory at decode: decoded in tiles"),
    ],
)
def test_memory_that_fails_once_costs_a_rung_and_no_request(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, method: str, words: str
) -> None:
    alone = bench.paint(bench.execute("cat"))[0]
    monkeypatch.setattr(Painter, method, fail(1, NO_MEMORY, getattr(Painter, method)))
    execute = bench.execute("cat")
    (done,) = finished(bench.run(execute))
    assert done.notes == (words,)
    assert np.abs(bench.pixels(execute).astype(int) - alone).max() <= 12, "tiles differ at their seams"
    bench.engine.switch_mode("emoji-base", "full")
    (switched,) = bench.work()
    assert isinstance(switched, Switched)
    assert np.array_equal(bench.paint(bench.execute("cat"))[0], alone)


@pytest.mark.parametrize("method", ["encode", "_predict", "image"])
def test_memory_that_never_suffices_is_a_typed_failure_and_the_engine_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Painter, method, fail(99, NO_MEMORY, getattr(Painter, method)))
        reports = bench.run(bench.execute("a prompt of its own"))
    ended = reports[-1]
    assert isinstance(ended, Ended)
    assert (ended.code, ended.message) == ("out_of_memory", "no memory")
    bench.engine.switch_mode("emoji-base", "full")
    bench.work()
    assert len(finished(bench.run(bench.execute()))) == 1


@pytest.mark.usefixtures("sharing")
def test_a_batch_that_is_too_large_is_halved_and_loses_no_step(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = Painter._predict

    def small_only(self: Painter, works: Any) -> Any:
        if len(works) > 2:
            raise NO_MEMORY
        return predict(self, works)

    monkeypatch.setattr(Painter, "_predict", small_only)
    executes = [bench.execute("cat", seeds=(i,)) for i in range(4)]
    reports = bench.run(*executes)
    assert len(finished(reports)) == 4
    assert all("rows share a step" in r.notes[0] for r in finished(reports))
    steps = sorted((r.attempt, r.step) for r in reports if isinstance(r, Stepped))
    assert steps == sorted((e.attempt, s) for e in executes for s in (1, 2, 3, 4))


def test_a_scheduler_that_breaks_off_begins_its_image_anew(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its state may be spoilt: the image restarts from its noise, and is the same in the end."""
    from diffusers import DDIMScheduler

    alone = bench.paint(bench.execute("dog", steps=5))[0]
    step, calls = DDIMScheduler.step, [0]

    def breaking(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise NO_MEMORY
        return step(self, *args, **kwargs)

    monkeypatch.setattr(DDIMScheduler, "step", breaking)
    execute = bench.execute("dog", steps=5)
    assert len(finished(bench.run(execute))) == 1
    assert calls[0] == 3 + 5
    bench.engine.switch_mode("emoji-base", "full")
    bench.work()
    monkeypatch.undo()
    assert np.abs(bench.pixels(execute).astype(int) - alone).max() <= 1


def test_a_sticky_device_error_reaches_the_actor(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    monkeypatch.setattr(Painter, "_predict", fail(1, error, Painter._predict))
    bench.engine.submit(bench.execute())
    with pytest.raises(DeviceBroken, match="illegal memory access"):
        bench.work()
    bench.engine.clear()


def test_what_breaks_in_torch_is_told_without_internals(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = RuntimeError("/home/somebody/model has a bug")
    monkeypatch.setattr(Painter, "_predict", fail(1, secret, Painter._predict))
    (ended,) = bench.run(bench.execute())
    assert isinstance(ended, Ended)
    assert (ended.code, ended.message) == ("engine_failed", "the engine failed: RuntimeError")


# ---- what a folder may hold -----------------------------------------------------------------------


def copy_of(tiny_repo: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(tiny_repo / "sd15", tmp_path / "repo" / "sd15"))


def load_from(tmp_path: Path) -> Any:
    made = Bench(tmp_path, tmp_path / "repo")
    made.engine.load("sd15")
    reports = made.work()
    made.close()
    return reports[-1]


def test_a_folder_that_brings_code_is_refused(tiny_repo: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_repo, tmp_path)
    (folder / "unet" / "diffusers.py").write_text("raise SystemExit('code of a checkpoint ran')")
    failed = load_from(tmp_path)
    assert isinstance(failed, LoadFailed)
    assert "brings code (diffusers.py)" in failed.message


def test_a_class_of_another_library_is_refused(tiny_repo: Path, tmp_path: Path) -> None:
    index = copy_of(tiny_repo, tmp_path) / "model_index.json"
    index.write_text(index.read_text().replace('"diffusers",\n    "UNet2D', '"evil",\n    "UNet2D'))
    failed = load_from(tmp_path)
    assert isinstance(failed, LoadFailed)
    assert "unet is a class of 'evil'" in failed.message


def test_a_safety_checker_in_the_index_is_left_out(tiny_repo: Path, tmp_path: Path) -> None:
    """As every released SD 1.5 has one, of a library that is a package of diffusers' pipelines."""
    import json

    path = copy_of(tiny_repo, tmp_path) / "model_index.json"
    index = json.loads(path.read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    path.write_text(json.dumps(index))
    assert isinstance(load_from(tmp_path), Loaded)


def test_any_other_pipeline_is_painted_unbatched_with_progress(tiny: Bench) -> None:
    tiny.ensure("other")
    first, second = (tiny.execute("red", variant="other", seeds=(i,), steps=3) for i in (1, 2))
    reports = tiny.run(first, second)
    steps = sorted((r.attempt, r.step, r.steps) for r in reports if isinstance(r, Stepped))
    assert steps == [(e.attempt, s, 3) for e in (first, second) for s in (1, 2, 3)]
    assert all((r.seed_contract, r.shared_by) == ("bitwise", 1.0) for r in finished(reports))
    assert not np.array_equal(tiny.pixels(first), tiny.pixels(second))
    gone = tiny.execute("red", variant="other", steps=5)
    tiny.engine.submit(gone)
    seen: list[Any] = []
    while Stepped(gone.attempt, 0, 2, 5) not in seen:
        seen += tiny.engine.turn()
    tiny.engine.abort(gone.attempt)
    assert [type(r) for r in tiny.work()] == [Ended]
    assert "generic-call" not in {thread.name for thread in threading.enumerate()}


def test_a_gpu_is_refused_in_words_where_torch_was_built_without(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    with pytest.raises(ConfigError, match="computes on CPUs only: install one for GPUs"):
        TorchEngine(
            "cuda-0", bench.repository, Easel(bench.writer), MonotonicClock(), config.Actors(), threads=1
        )
