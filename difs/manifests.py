"""What a model repository's files say: `variant.toml`, `adapter.toml`, `captions.json`, `quality.json`.

Parsing only: no paths are opened here, and nothing is looked up.
"""

import tomllib
from functools import lru_cache
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from difs import samplers
from difs.errors import RepositoryError
from difs.messages import MAX_STEPS, MemoryMode, Name, QualityKind, QualityPoint, Side

Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]


class StepRange(Struct, frozen=True, forbid_unknown_fields=True):
    """The steps that make sense for a variant."""

    min: Annotated[int, Meta(ge=1, le=MAX_STEPS)]
    default: Annotated[int, Meta(ge=1, le=MAX_STEPS)]
    max: Annotated[int, Meta(ge=1, le=MAX_STEPS)]


class Runtime(Struct, frozen=True, forbid_unknown_fields=True):
    """How a variant is computed where the device can: options that change its speed, not its pictures."""

    channels_last: bool = False
    compilation: Literal["none", "regional", "full"] = "none"
    attention: Literal["auto", "flash", "efficient", "math"] = "auto"
    cuda_graphs: bool = False


class Seen(Struct, frozen=True, forbid_unknown_fields=True):
    """A file as it was when it was registered: enough to notice most changes without reading it."""

    bytes: Annotated[int, Meta(ge=0)]
    mtime_ns: int


Kind = Literal["base", "turbo", "lcm", "lightning"]
"""How a checkpoint was distilled; of an adapter: what a base becomes with it."""
Prediction = Literal["epsilon", "v_prediction"]


class QualityRow(QualityPoint, frozen=True, forbid_unknown_fields=True):
    """A row of a quality table."""


class Quality(Struct, frozen=True, forbid_unknown_fields=True):
    """A variant's quality, and where the numbers come from."""

    source: Annotated[str, Meta(min_length=1)]
    curve: Annotated[tuple[QualityRow, ...], Meta(min_length=1, max_length=256)]
    kind: QualityKind = "declared"
    judge: str = ""
    """Who found the numbers; those of two variants are comparable where kind and judge are the same."""


class MeasuredCurve(Struct, frozen=True):
    """A quality curve that `difs profile` measured on this machine."""

    kind: QualityKind
    judge: str
    source: str
    """For people: how, with how many pictures."""
    points: Annotated[tuple[QualityPoint, ...], Meta(max_length=256)] = ()
    is_whole: bool = False
    """Every point was measured; a part is only kept to go on from."""


class MeasuredQuality(Struct, frozen=True):
    """What `quality.json` says."""

    fingerprint: str
    """Of the weights that painted; see `Variant.fingerprint`."""
    curves: Annotated[tuple[MeasuredCurve, ...], Meta(max_length=16)] = ()

    @property
    def best(self) -> MeasuredCurve | None:
        """Return the curve that says most: likeness to drawings, then CLIP, then to itself."""
        whole = [curve for curve in self.curves if curve.is_whole and curve.points]
        return min(whole, key=lambda curve: TRUST.index(curve.kind), default=None)


TRUST: tuple[QualityKind, ...] = ("declared", "reference", "clip", "agreement")
"""Of several curves of a variant the first of these is the one that is used."""


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """What `variant.toml` says."""

    name: Name
    task: Literal["text-to-image"]
    family: Name
    path: str
    precision: Literal["fp32", "fp16", "bf16"]
    sampler: str
    steps: StepRange
    guidance_scale: Annotated[float, Meta(ge=0, le=50)]
    native_sizes: Annotated[tuple[tuple[Side, Side], ...], Meta(min_length=1, max_length=64)]
    licence: Annotated[str, Meta(min_length=1)]
    digests: dict[str, Digest]
    description: str = ""
    kind: Kind = "base"
    """How it was distilled, which decides its timesteps."""
    default_mode: MemoryMode = "full"
    runtime: Runtime = Runtime()
    parts: dict[str, str] = {}
    """Parts of the pipeline that stand in another variant's folder: part -> "variant", or "variant/part"
    where it has another name there."""
    fused: Annotated[dict[Name, float], Meta(max_length=8)] = {}
    """Adapters that belong to the variant: added to its denoiser when it is loaded, with this weight."""
    captions: Name | None = None
    """The variant (it may be this one) whose `captions.json` lists all that this one can paint."""
    quality: Quality | None = None
    pipeline: Name | None = None
    """Folder of `configs/pipelines` with the configuration of all parts, where the variant has none."""
    single_file: str | None = None
    """The file with the weights of all parts, in the layout of Stability's own code."""
    prediction: Prediction | None = None
    """What the denoiser predicts, where the pipeline's scheduler says something else."""
    zero_snr: bool = False
    """Trained with a noise schedule that ends in pure noise (Lin et al. 2023)."""
    contents: dict[str, Digest] = {}
    """Parts of the single file -> digest of their tensors: equal parts of two files are one in memory."""
    linked: dict[str, str] = {}
    """Weight files that are links out of the model repository -> the absolute path that they lead to."""
    seen: dict[str, Seen] = {}


class AdapterManifest(Struct, frozen=True, forbid_unknown_fields=True):
    """What `adapter.toml` says."""

    name: Name
    family: Name
    file: str
    digest: Digest
    licence: Annotated[str, Meta(min_length=1)]
    description: str = ""
    variants: tuple[Name, ...] = ()
    """The variants that it was made for; empty: all of its family."""
    kind: Kind = "base"
    """Not `base`: it makes a base need few steps only."""
    text_width: Annotated[int, Meta(ge=1)] | None = None
    """Numbers a token of the encoded text that its base's denoiser reads, where its tensors tell."""
    linked: dict[str, str] = {}
    seen: dict[str, Seen] = {}


class Caption(Struct, frozen=True):
    """One entry of `captions.json`: what is asked for, and other words for the same thing."""

    caption: Annotated[str, Meta(min_length=1, max_length=100)]
    also: tuple[Annotated[str, Meta(min_length=1, max_length=100)], ...] = ()


T = TypeVar("T")


def parse(text: bytes, kind: type[T], name: str) -> T:
    """Return what a TOML file called `name` says; raises RepositoryError."""
    try:
        return msgspec.convert(tomllib.loads(text.decode()), kind)
    except msgspec.ValidationError as error:
        raise RepositoryError(f"{name}: {error}") from None
    except (ValueError, RecursionError) as error:  # bad TOML, bad UTF-8, endless digits
        raise RepositoryError(f"{name} is not TOML: {error}") from None


@lru_cache(maxsize=64)  # variants with the same list have one: a policy asks for it once
def parse_captions(text: bytes, name: str) -> tuple[tuple[str, ...], ...]:
    """Return each caption with other words for the same thing; raises RepositoryError."""
    try:
        entries = msgspec.json.decode(text, type=dict[str, Caption])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RepositoryError(f"{name}: {error}") from None
    return tuple((entry.caption, *entry.also) for entry in entries.values())


def parse_quality(data: bytes, fingerprint: str) -> MeasuredQuality | None:
    """Return what a `quality.json` says of a variant; None: nothing, or of other weights."""
    try:
        found = msgspec.json.decode(data, type=MeasuredQuality)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if found.fingerprint == fingerprint else None


def checked(parsed: Manifest) -> Manifest:
    """Return a manifest whose values agree; raises RepositoryError."""
    steps = parsed.steps
    if not steps.min <= steps.default <= steps.max:
        raise RepositoryError(f"steps: min <= default <= max does not hold: {steps}")
    if samplers.canonical(parsed.sampler) != parsed.sampler:
        known = ", ".join(samplers.SAMPLERS)
        raise RepositoryError(f"sampler {parsed.sampler!r} is not one of {known}")
    single = parsed.single_file
    if single is not None and (parsed.pipeline is None or set(parsed.digests) != {single}):
        raise RepositoryError("single_file: needs a pipeline, and a digest of just that file")
    return parsed
