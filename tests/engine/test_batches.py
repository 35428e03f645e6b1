"""Images that share UNet calls against the same images alone: numbers, joining, leaving, the contract."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from difs.actor_messages import Ended, Execute, Finished, Stepped
from difs.actors import batching
from tests.engine.conftest import Bench

pytestmark = pytest.mark.torch

LATENT_BOUND, IMAGE_BOUND = 1e-4, 1
"""Largest difference to a run alone: of a latent's value, and of a byte."""

MIXED: list[dict[str, Any]] = [
    {"prompt": "red apple", "sampler": "ddim", "steps": 8},
    {"prompt": "green frog", "sampler": "euler_a", "steps": 5, "guidance_scale": 7.5},
    {"prompt": "a cute cat icon", "sampler": "dpmpp_2m_karras", "steps": 6, "guidance_scale": 1.0},
    {"prompt": "snowman", "sampler": "heun", "steps": 4, "negative_prompt": "blue"},
    {"prompt": "", "sampler": "pndm", "steps": 7, "guidance_scale": 0.0},
    {"prompt": "dog", "sampler": "unipc", "steps": 1},
    {"prompt": "banana", "sampler": "dpmpp_2m_sde", "steps": 3},
]


@pytest.fixture(autouse=True)
def all_join(bench: Bench, tiny: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encode all before the first step: who shares a step must not depend on what that takes."""
    monkeypatch.setattr(batching, "_may_go_aside", lambda *what: True)
    for engine in (bench.engine, tiny.engine):
        engine._limits.clear()  # an earlier test may have run out of memory


def executes(bench: Bench, variant: str, **changes: Any) -> list[Execute]:
    return [
        bench.execute(variant=variant, seeds=(100 + i,), **facts | changes)
        for i, facts in enumerate(MIXED)
    ]


def largest(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.fixture
def latents(monkeypatch: pytest.MonkeyPatch) -> dict[int, torch.Tensor]:
    """Return the finished latent of each attempt that is decoded from now on."""
    from difs.actors.painter import Painter

    kept: dict[int, torch.Tensor] = {}
    image = Painter.image

    def keep(self: Painter, work: Any, **how: Any) -> torch.Tensor:
        kept[work.execute.attempt] = work.latents.clone()
        return image(self, work, **how)

    monkeypatch.setattr(Painter, "image", keep)
    return kept


@pytest.mark.parametrize("variant", ["sd15", "sd2-v", "sdxl", "lcm", "sdxl-turbo"])
def test_a_mixed_batch_differs_from_solo_runs_by_no_more_than_the_bounds(
    tiny: Bench, latents: dict[int, torch.Tensor], variant: str
) -> None:
    """Samplers, step counts, guidance scales and guidance on and off in the same calls."""
    tiny.ensure(variant)
    solo, shared = executes(tiny, variant), executes(tiny, variant)
    alone = [tiny.paint(execute)[0] for execute in solo]
    with tiny.sharing(variant):
        reports = tiny.run(*shared)
    done = {r.attempt: r for r in reports if isinstance(r, Finished)}
    for one, other, picture in zip(solo, shared, alone, strict=True):
        difference = (latents[one.attempt] - latents[other.attempt]).abs().max()
        assert float(difference) <= LATENT_BOUND
        assert largest(picture, tiny.pixels(other)) <= IMAGE_BOUND
        assert done[other.attempt].seed_contract == "same-noise"
    assert max(report.shared_by for report in done.values()) > 3


@pytest.mark.usefixtures("sharing")
def test_with_the_embedded_model_too(bench: Bench, latents: dict[int, torch.Tensor]) -> None:
    solo, shared = executes(bench, "emoji-base"), executes(bench, "emoji-base")
    alone = [bench.paint(execute)[0] for execute in solo]
    together = bench.paint(*shared)
    assert max(largest(a, b) for a, b in zip(alone, together, strict=True)) <= IMAGE_BOUND
    for one, other in zip(solo, shared, strict=True):
        assert float((latents[one.attempt] - latents[other.attempt]).abs().max()) <= LATENT_BOUND


@pytest.mark.usefixtures("sharing")
def test_the_bound_that_a_reply_states_was_measured_and_holds(bench: Bench) -> None:
    bound = bench.engine.residents[0].seed_bound
    assert 0 < bound < 1 / 255
    alone = bench.paint(bench.execute("dog", steps=6))[0]
    execute = bench.execute("dog", steps=6)
    reports = bench.run(execute, bench.execute("cat", steps=6))
    done = next(r for r in reports if isinstance(r, Finished) and r.attempt == execute.attempt)
    assert done.seed_bound == bound
    assert largest(alone, bench.pixels(execute)) <= 1


@pytest.mark.usefixtures("sharing")
def test_a_newcomer_joins_at_the_next_step_and_changes_nobody_s_picture(bench: Bench) -> None:
    first, second = bench.execute("red apple", steps=8), bench.execute("cat", steps=4)
    alone = [bench.paint(bench.execute(e.prompt, steps=e.steps))[0] for e in (first, second)]
    bench.engine.submit(first)
    seen: list[Any] = []
    while Stepped(first.attempt, 0, 3, 8) not in seen:
        seen += bench.engine.turn()
    bench.engine.submit(second)
    reports = bench.work()
    order = [(r.attempt, r.step) for r in reports if isinstance(r, Stepped)]
    a, b = first.attempt, second.attempt
    assert order[:4] == [(a, 4), (b, 1), (a, 5), (b, 2)]
    assert [r.attempt for r in reports if isinstance(r, Finished)] == [b, a]
    for execute, picture in zip((first, second), alone, strict=True):
        assert largest(picture, bench.pixels(execute)) <= IMAGE_BOUND


@pytest.mark.usefixtures("sharing")
def test_a_cancel_inside_a_batch_leaves_the_others_bits_unchanged(bench: Bench) -> None:
    """A third that is cancelled after its third step, against one that is finished there."""
    prompts = ("red apple", "cat")

    def paint(third_steps: int) -> list[NDArray[np.uint8]]:
        first, second = (bench.execute(prompt, steps=6) for prompt in prompts)
        third = bench.execute("dog", steps=third_steps)
        for execute in (first, second, third):
            bench.engine.submit(execute)
        seen: list[Any] = []
        while Stepped(third.attempt, 0, 3, third_steps) not in seen:
            seen += bench.engine.turn()
        before = [job.paintings[0].work.latents.clone() for job in bench.engine._book]
        if third_steps > 3:
            bench.engine.abort(third.attempt)
        after = [job.paintings[0].work.latents for job in list(bench.engine._book)[:2]]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=False))
        reports = seen + bench.work()
        steps = [(r.attempt, r.step) for r in reports if isinstance(r, Stepped)]
        in_turn = (first.attempt, second.attempt, third.attempt)
        assert steps[:9] == [(a, s) for s in (1, 2, 3) for a in in_turn], "they share their steps"
        return [bench.pixels(execute) for execute in (first, second)]

    assert all(np.array_equal(a, b) for a, b in zip(paint(3), paint(6), strict=True))


def test_a_cancel_after_shared_steps_keeps_the_others_within_the_bound(bench: Bench) -> None:
    alone = bench.paint(bench.execute("red apple", steps=6))[0]
    kept, gone = bench.execute("red apple", steps=6), bench.execute("dog", steps=6)
    bench.engine.submit(kept)
    bench.engine.submit(gone)
    seen: list[Any] = []
    while Stepped(gone.attempt, 0, 3, 6) not in seen:
        seen += bench.engine.turn()
    bench.engine.abort(gone.attempt)
    reports = bench.work()
    assert [type(r) for r in reports if r.attempt == gone.attempt] == [Ended]  # type: ignore[union-attr]
    assert largest(alone, bench.pixels(kept)) <= IMAGE_BOUND


def test_image_i_of_n_is_the_image_of_seed_plus_i(bench: Bench) -> None:
    seeds = (40, 41, 42)
    alone = [bench.paint(bench.execute(sampler="euler_a", seeds=(s,)))[0] for s in seeds]
    together = bench.paint(bench.execute(sampler="euler_a", seeds=seeds))
    exact = bench.paint(bench.execute(sampler="euler_a", seeds=seeds, is_alone=True))
    assert all(largest(a, b) <= IMAGE_BOUND for a, b in zip(together, alone, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(exact, alone, strict=True))
    assert largest(alone[0], alone[1]) > 50


def test_a_deterministic_request_keeps_its_bits_in_any_company(bench: Bench) -> None:
    alone = bench.paint(bench.execute("red apple", steps=5))[0]
    exact = bench.execute("red apple", steps=5, is_alone=True)
    reports = bench.run(exact, *(bench.execute("dog", steps=5, seeds=(i,)) for i in range(3)))
    done = next(r for r in reports if isinstance(r, Finished) and r.attempt == exact.attempt)
    assert (done.seed_contract, done.seed_bound, done.shared_by) == ("bitwise", 0.0, 1.0)
    assert np.array_equal(alone, bench.pixels(exact))


def test_sizes_do_not_share_a_call_and_both_are_painted(bench: Bench) -> None:
    wide = bench.execute("red apple", width=96, steps=4)
    square = bench.execute("red apple", steps=4)
    reports = bench.run(wide, square)
    assert all(r.seed_contract == "bitwise" for r in reports if isinstance(r, Finished))
    assert np.array_equal(
        bench.pixels(wide), bench.paint(bench.execute("red apple", width=96, steps=4))[0]
    )


@pytest.mark.parametrize("mode", ["full", "sliced", "tiled"])
def test_a_deterministic_request_keeps_its_bits_in_any_memory_mode(bench: Bench, mode: Any) -> None:
    """And others say that they are not bitwise where the mode computes otherwise."""
    bench.engine.switch_mode("emoji-base", "full")
    alone = bench.paint(bench.execute("red apple", width=128, height=128, steps=3))[0]
    bench.engine.switch_mode("emoji-base", mode)
    exact = bench.execute("red apple", width=128, height=128, steps=3, is_alone=True)
    other = bench.execute("red apple", width=128, height=128, steps=3)
    contracts = [r.seed_contract for e in (exact, other) for r in bench.run(e) if isinstance(r, Finished)]
    bench.engine.switch_mode("emoji-base", "full")
    bench.work()
    assert np.array_equal(bench.pixels(exact), alone)
    assert largest(bench.pixels(other), alone) <= IMAGE_BOUND
    assert contracts == ["bitwise", "bitwise" if mode == "full" else "same-noise"]
