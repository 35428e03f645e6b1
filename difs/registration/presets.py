"""Where a variant starts: sampler, steps, guidance and sizes that suit its family and kind. Pure.

From the models' own cards: guidance 5 to 8 for a base, none for what was distilled; SD 2's v models at
768; SDXL's sizes around a megapixel (Podell et al. 2023, appendix I); turbo kinds at 512, 1 to 4 steps.
"""

from typing import NamedTuple

from difs.manifests import Kind, Prediction, StepRange

Sizes = tuple[tuple[int, int], ...]


class Preset(NamedTuple):
    """The values of a manifest that can be told from family and kind."""

    sampler: str
    steps: StepRange
    guidance_scale: float
    native_sizes: Sizes


AT_512: Sizes = ((512, 512), (512, 768), (768, 512))
AT_768: Sizes = ((768, 768), (640, 960), (960, 640))
AT_1024: Sizes = (
    (1024, 1024), (896, 1152), (1152, 896), (832, 1216), (1216, 832), (768, 1344), (1344, 768),
)  # fmt: skip

SIZES: dict[str, Sizes] = {"sd15": AT_512, "sd2": AT_512, "sdxl": AT_1024}
GUIDANCE = {"sd15": 7.0, "sd2": 7.0, "sdxl": 6.0}
BASE = StepRange(8, 25, 50)

FEW: dict[Kind, tuple[str, StepRange, float]] = {
    "turbo": ("euler_a", StepRange(1, 2, 4), 0.0),
    "lightning": ("euler", StepRange(2, 4, 8), 0.0),
    "lcm": ("lcm", StepRange(2, 4, 8), 1.0),
}
"""Sampler, steps and guidance of what was distilled; a guidance up to 1 is none."""


def preset(family: str, kind: Kind, prediction: Prediction = "epsilon") -> Preset:
    """Return where a variant of one of the families of `SIZES` starts."""
    if kind != "base":
        sampler, steps, guidance = FEW[kind]
        return Preset(sampler, steps, guidance, ((512, 512),) if kind == "turbo" else SIZES[family])
    sizes = AT_768 if family == "sd2" and prediction == "v_prediction" else SIZES[family]
    return Preset("dpmpp_2m_karras", BASE, GUIDANCE[family], sizes)
