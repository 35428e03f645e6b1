"""How fast a device is at what a call takes: usual for its kind, or fitted to what was measured.

A call's seconds are taken to be those of three amounts, added. Of a denoiser's call: its layers, its
weights (read once, whatever the rows) and its multiply-adds; a roofline's parts (Williams et al. 2009)
with an overhead. Of a load: what each takes anyhow, its bytes, and the picture that warms it up.
"""

import math
from collections.abc import Sequence

from difs.messages import Effort

Amounts = tuple[float, float, float]
Speed = tuple[float, float, float]
"""Seconds for one of each amount."""
Call = tuple[Amounts, float]
"""Something that was measured: how much of each, and the seconds."""

USUAL: dict[str, Speed] = {"cpu": (4e-5, 1.2e-9, 1 / 50e9), "cuda": (5e-5, 2.5e-12, 1 / 15e12)}
"""Of a layer, a weight and a multiply-add, by the kind of device: what a fit begins from, and all there
is of a device of which nothing is known. Of a CPU: one core of an AMD EPYC in fp32, measured (the figures
of `tests.unit.test_estimates`). Of a GPU, in fp16: so that a guided step of Stable Diffusion 1.5 at
512x512 takes 75 ms, as diffusers' guide "Speed up inference" says of a TITAN RTX and of an A100 (3.6 and
3.5 s for 50 steps), and that weights come at 800 GB/s. No GPU was measured for it."""

USUAL_LOAD: Speed = (0.04, 2.2e-9, 2.0)
"""Of a load, a byte of its files, and a second of a picture of one step: the first two as `bench/tables`
say of emoji-base and emoji-small, the last as many as a warm-up paints (`difs.actors.warmup`)."""

BELIEF = 0.05
"""How much a fit holds to the usual proportions: as much as so many measured calls would move it."""
ROUNDS = 100
"""Of the descent; each costs nine products."""


def usual(kind: str) -> Speed:
    """Return what is usual for a kind of device; a simulated one is taken for a CPU."""
    return USUAL.get(kind, USUAL["cpu"])


def amounts(effort: Effort, pixels: int, rows: int) -> Amounts:
    """Return layers, weights and multiply-adds of a call with `rows` rows of `pixels` pixels each."""
    multiply_adds = effort.fixed + effort.linear * pixels + effort.square * pixels * pixels
    return float(effort.layers), float(effort.weights), rows * multiply_adds


def seconds(speed: Speed, of: Amounts) -> float:
    """Return the seconds of something that takes so much of each."""
    return sum([each_s * amount for each_s, amount in zip(speed, of, strict=True)])


def fitted(calls: Sequence[Call], begin: Speed) -> Speed:
    """Return the speed of which the calls' relative errors are least squares, nothing negative.

    It holds to the proportions of `begin`, as fast as the device is on the whole, where the calls do not
    tell the amounts apart. Solved by coordinate descent: the problem is strictly convex.
    """
    shares = [[a * b / seconds for a, b in zip(of, begin, strict=True)] for of, seconds in calls]
    if not shares:
        return begin
    scale = math.exp(-sum([math.log(sum(row)) for row in shares]) / len(shares))
    belief = BELIEF / scale**2  # the same, however fast the device is
    targets = [sum([row[i] for row in shares]) + belief * scale for i in range(3)]
    matrix = [
        [sum([row[i] * row[j] for row in shares]) + belief * (i == j) for j in range(3)] for i in range(3)
    ]
    found = [scale] * 3
    for _ in range(ROUNDS):
        for i in range(3):
            others = sum([matrix[i][j] * found[j] for j in range(3) if j != i])
            found[i] = max(0.0, (targets[i] - others) / matrix[i][i])
    return found[0] * begin[0], found[1] * begin[1], found[2] * begin[2]
