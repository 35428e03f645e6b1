"""Which pictures a variant is judged by: prompts, seeds, steps and guidances. Pure."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from difs.manifests import Manifest
from difs.messages import QualityKind
from difs.profiling.grid import Effort

STEPS = (1, 2, 3, 4, 6, 8, 12, 20, 30)
"""Of those in a variant's range; quality rises quickly at first and slowly then."""
PROMPTS: dict[Effort, int] = {"quick": 8, "default": 24, "full": 96}
"""Prompts, as far as there are so many."""


class Point(Struct, frozen=True):
    """One way to use a variant."""

    steps: int
    guidance: float


class Asked(Struct, frozen=True):
    """One picture to paint: what is written, which drawing is meant ("" if none), and the seed."""

    text: str
    name: str
    seed: int


def points(manifest: Manifest, kind: QualityKind, effort: Effort = "default") -> list[Point]:
    """Return the points of a curve: steps in the variant's range, guidances around its own.

    Agreement is measured at the variant's own guidance only: another one is meant to give other pictures.
    """
    low, high = manifest.steps.min, manifest.steps.max
    steps = [n for n in STEPS if low <= n <= high]
    if effort == "quick":
        steps = steps[::2]
    own = manifest.guidance_scale
    scales = [own] if kind == "agreement" else sorted({1.0, own, 2 * own - 1.0} if own > 1.0 else {own})
    return [Point(n, scale) for scale in scales for n in steps or [low]]


def spread(named: Mapping[str, str], count: int, seed: int) -> list[Asked]:
    """Return `count` of the captions (name -> what is written), evenly spread, each with its own seed."""
    names = list(named)
    count = min(count, len(names))
    chosen = [names[i * len(names) // count] for i in range(count)]
    return [Asked(named[name], name, seed * 1000 + i) for i, name in enumerate(chosen)]


def by_seed(named: Mapping[str, str], count: int, seeds: int) -> list[list[Asked]]:
    """Return what is asked, once with each of so many seeds."""
    return [spread(named, count, seed) for seed in range(seeds)]


def plain(prompts: Sequence[str]) -> dict[str, str]:
    """Return prompts by themselves."""
    return {prompt: prompt for prompt in prompts}
