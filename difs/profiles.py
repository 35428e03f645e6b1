"""The cost model: predicted seconds of an operating point from measured costs.

`cost = encode + n x (evaluations x step + decode)`, each part linear in pixels. Pure arithmetic over
what an actor measured; measuring stands in `difs.actors.warmup`.
"""

from msgspec import Struct

from difs.actor_messages import Costs
from difs.messages import Prediction
from difs.samplers import evaluations

ASSUMED = Costs(pixels=512 * 512, encode_s=0.1, step_s=1.0, bare_step_s=0.5, decode_s=1.0, load_s=15.0)
"""Stands in for a variant that was never measured here; a plan made with it says `assumed`."""


class Work(Struct, frozen=True):
    """What is to be computed."""

    pixels: int
    steps: int
    sampler: str
    guidance_scale: float
    n: int


def is_guided(guidance_scale: float) -> bool:
    """Whether classifier-free guidance doubles the UNet's batch (Ho & Salimans 2022, as diffusers)."""
    return guidance_scale > 1.0


def step_seconds(costs: Costs, pixels: int, guidance_scale: float) -> float:
    """Return the predicted seconds of one UNet evaluation and its scheduler step."""
    at_native = costs.step_s if is_guided(guidance_scale) else costs.bare_step_s
    return at_native * pixels / costs.pixels


def predict(
    work: Work, costs: Costs | None, *, queue_s: float = 0.0, is_resident: bool = True
) -> Prediction:
    """Return the predicted seconds of each part of `work` after `queue_s` seconds of waiting."""
    known = costs if costs is not None else ASSUMED
    scale = work.pixels / known.pixels
    step_s = step_seconds(known, work.pixels, work.guidance_scale)
    steps_s = work.n * evaluations(work.sampler, work.steps) * step_s
    decode_s = work.n * known.decode_s * scale
    load_s = 0.0 if is_resident else known.load_s
    return Prediction(
        queue_s=queue_s,
        load_s=load_s,
        encode_s=known.encode_s,
        steps_s=steps_s,
        decode_s=decode_s,
        total_s=queue_s + load_s + known.encode_s + steps_s + decode_s,
        source="measured" if costs is not None else "assumed",
    )


def learn(costs: Costs, work: Work, encode_s: float, steps_s: float, decode_s: float) -> Costs:
    """Return `costs` moved a fifth of the way towards what one finished request showed."""
    scale = work.pixels / costs.pixels
    seen_step = steps_s / (work.n * evaluations(work.sampler, work.steps) * scale)
    seen_decode = decode_s / (work.n * scale)
    guided = is_guided(work.guidance_scale)
    return Costs(
        pixels=costs.pixels,
        encode_s=_towards(costs.encode_s, encode_s),
        step_s=_towards(costs.step_s, seen_step) if guided else costs.step_s,
        bare_step_s=costs.bare_step_s if guided else _towards(costs.bare_step_s, seen_step),
        decode_s=_towards(costs.decode_s, seen_decode),
        load_s=costs.load_s,
    )


LEARNING_RATE = 0.2


def _towards(old: float, seen: float) -> float:
    return old + LEARNING_RATE * (seen - old)
