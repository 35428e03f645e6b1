"""Variants of variants: the same weights computed in another way. What is possible is decided purely.

A derived variant borrows all parts of its base: on disk it is a manifest, and in memory it shares with
its base what is computed in the same precision (`difs.actors.loading`).
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from difs.errors import RepositoryError, UnknownName
from difs.manifests import Kind, Manifest, StepRange
from difs.registration import keys, shelf
from difs.registration.presets import FEW, SIZES
from difs.repository import Repository
from difs.variants import MODEL_INDEX, Adapter, Variant

MANIFEST_BYTES = 4096
"""What a manifest takes on disk, about: one block."""

PRECISIONS = {
    "fp32": "exact numbers, twice the memory of fp16",
    "fp16": "half of fp32's memory",
    "bf16": "half of fp32's memory; never overflows, less exact than fp16",
}
SAMPLERS: dict[str, tuple[StepRange, str]] = {
    "unipc": (StepRange(5, 12, 25), "good pictures from few steps"),
    "dpmpp_2m_karras": (StepRange(8, 20, 40), "settles early; the usual choice"),
    "euler_a": (StepRange(10, 25, 50), "other pictures with each number of steps"),
    "dpmpp_2m_sde_karras": (StepRange(12, 28, 50), "more detail, more steps"),
    "ddim": (StepRange(10, 30, 100), "the classic; slow and steady"),
}
"""For bases that were not distilled: samplers, the steps that suit them, and why."""


class Proposal(Struct, frozen=True):
    """A variant that could be made."""

    key: str
    manifest: Manifest
    gain: str
    shared_bytes: int
    """Of weights that it shares with its base on disk."""
    adapter_bytes: int = 0
    """Of adapters that it adds when it is loaded."""
    new_bytes: int = MANIFEST_BYTES

    @property
    def name(self) -> str:
        """Return the name that the variant gets."""
        return self.manifest.name


def proposals(base: Variant, known: Repository) -> tuple[Proposal, ...]:
    """Return all that can be made of a variant and is not there yet; raises RepositoryError."""
    if base.manifest.family not in SIZES:
        raise RepositoryError(
            f"{base.name} is of family {base.manifest.family}; variants are derived of {', '.join(SIZES)}"
        )
    found = [*_precisions(base), *_modes(base), *_samplers(base), *_few_steps(base, known)]
    found += _runtimes(base)
    there = {_same(v.manifest) for v in known.variants.values()}
    return tuple(p for p in found if _same(p.manifest) not in there)


def choose(base: Variant, known: Repository, key: str) -> Proposal:
    """Return the proposal called `key`; raises UnknownName."""
    found = {p.key: p for p in proposals(base, known)}
    if key not in found:
        raise UnknownName(
            f"no proposal {key!r} for {base.name}; there is: {', '.join(found) or 'none'}", field="make"
        )
    return found[key]


def fused(base: Variant, adapter: Adapter, weight: float = 1.0) -> Proposal:
    """Return a variant that is `base` with an adapter in it; raises RepositoryError if it cannot be."""
    if adapter.manifest.family != base.manifest.family:
        raise RepositoryError(
            f"{adapter.name} is for {adapter.manifest.family}, {base.name} is of {base.manifest.family}"
        )
    if not _fits(adapter, base):
        made_for = ", ".join(adapter.variants) or f"a wider or narrower text than {base.name} reads"
        raise RepositoryError(f"{adapter.name} is for {made_for}, not for {base.name}")
    changes: dict[str, object] = {"fused": {**base.manifest.fused, adapter.name: weight}}
    gain = f"{adapter.name} in it, at no cost for a step"
    kind = few_step_kind(adapter)
    if kind != "base":
        sampler, steps, guidance = FEW[kind]
        changes |= {"kind": kind, "sampler": sampler, "steps": steps, "guidance_scale": guidance}
        gain = f"pictures from {steps.min} to {steps.max} steps, without guidance"
    return _proposal(base, f"fused-{adapter.name}", gain, adapter_bytes=adapter.nbytes, **changes)


def _fits(adapter: Adapter, base: Variant) -> bool:
    """Whether an adapter of the base's family is for this base."""
    is_known = adapter.manifest.variants or adapter.fits is not None
    return not is_known or base.name in adapter.variants


def few_step_kind(adapter: Adapter) -> Kind:
    """Return what a base becomes with an adapter: as its manifest says, else as its name does."""
    stated = adapter.manifest.kind
    return stated if stated != "base" else keys.kind_of({}, adapter.name)[0]


def make(proposal: Proposal, base: Variant, root: Path, name: str | None = None) -> str:
    """Put a proposal into the user's root; returns its name. Raises RepositoryError, OSError."""
    manifest = proposal.manifest if name is None else replace(proposal.manifest, name=name)
    with shelf.building(root, manifest.name) as folder:
        if base.index == base.folder:
            shutil.copyfile(base.folder / MODEL_INDEX, folder / MODEL_INDEX)
        shelf.write(folder, manifest)
    return manifest.name


# ---- what can be made ---------------------------------------------------------------------------


def _precisions(base: Variant) -> list[Proposal]:
    own = base.manifest.precision
    return [
        _proposal(base, name, f"on a GPU: {why}", precision=name)
        for name, why in PRECISIONS.items()
        if name != own
    ]


def _modes(base: Variant) -> list[Proposal]:
    if base.manifest.default_mode == "fp8":
        return []
    gain = "on a GPU: half of fp16's memory for the denoiser; pictures differ a little"
    return [_proposal(base, "fp8", gain, default_mode="fp8")]


def _samplers(base: Variant) -> list[Proposal]:
    if base.manifest.kind != "base":
        return []
    return [
        _proposal(base, name.replace("_", "-"), f"{why}; {steps.min} to {steps.max} steps",
                  sampler=name, steps=steps)
        for name, (steps, why) in SAMPLERS.items()
        if name != base.manifest.sampler
    ]  # fmt: skip


def _few_steps(base: Variant, known: Repository) -> list[Proposal]:
    if base.manifest.kind != "base":
        return []
    fitting = [
        adapter
        for adapter in known.adapters.values()
        if adapter.manifest.family == base.manifest.family
        and _fits(adapter, base)
        and few_step_kind(adapter) != "base"
        and adapter.name not in base.manifest.fused
    ]
    return [fused(base, adapter) for adapter in fitting]


def _runtimes(base: Variant) -> list[Proposal]:
    if base.manifest.runtime.compilation != "none":
        return []
    runtime = replace(base.manifest.runtime, compilation="regional")
    gain = "on a GPU: faster steps after a first slow picture of each size"
    return [_proposal(base, "compiled", gain, runtime=runtime)]


def _proposal(base: Variant, key: str, gain: str, adapter_bytes: int = 0, **changes: object) -> Proposal:
    manifest = replace(
        base.manifest,
        name=f"{base.name}-{key}"[:64],
        path=".",
        digests={},
        parts=_parts(base),
        single_file=None,
        contents={},
        linked={},
        seen={},
        quality=None,
        description=f"{base.name}: {gain}",
        **changes,
    )
    return Proposal(key, manifest, gain, base.weight_bytes, adapter_bytes)


def _parts(base: Variant) -> Mapping[str, str]:
    """Return from where a variant of `base` has its parts: from whoever has them."""
    own = {path.name for path in base.folder.iterdir() if path.is_dir()}
    if base.manifest.single_file is not None and base.pipeline is not None:
        own = {path.parent.name for path in base.pipeline.glob("*/config.json")}
    return dict.fromkeys(sorted(own), base.name) | base.manifest.parts


def _same(manifest: Manifest) -> tuple[object, ...]:
    """Return what makes two derived variants the same, whatever they are called."""
    m = manifest
    made_of = (tuple(sorted(m.parts.items())), tuple(sorted(m.fused.items())), tuple(sorted(m.digests)))
    how = (m.precision, m.default_mode, m.runtime, m.sampler, m.steps, m.kind, m.guidance_scale)
    return (m.family, m.prediction, *made_of, *how)
