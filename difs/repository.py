"""The model repository: manifests on disk to validated variants.

The only place that makes a path from a name: a name is looked up in what was scanned, never joined
to a path. No torch here, and no weights are read but to hash them.
"""

import hashlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from difs import samplers
from difs.errors import RepositoryError, UnknownName
from difs.messages import MAX_STEPS, Name, Side, VariantInfo

MANIFEST = "variant.toml"
MAX_MANIFEST_BYTES = 256 * 1024
PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth"})

Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]


class StepRange(Struct, frozen=True, forbid_unknown_fields=True):
    """The steps that make sense for a variant."""

    min: Annotated[int, Meta(ge=1, le=MAX_STEPS)]
    default: Annotated[int, Meta(ge=1, le=MAX_STEPS)]
    max: Annotated[int, Meta(ge=1, le=MAX_STEPS)]


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


class Variant(Struct, frozen=True):
    """A registered variant: its manifest and the validated folder of its weights."""

    manifest: Manifest
    folder: Path
    weight_bytes: int

    @property
    def name(self) -> str:
        """Return the variant's name."""
        return self.manifest.name

    def info(self) -> VariantInfo:
        """Return what a client may see."""
        m = self.manifest
        return VariantInfo(
            name=m.name,
            task=m.task,
            family=m.family,
            precision=m.precision,
            sampler=m.sampler,
            steps_min=m.steps.min,
            steps_default=m.steps.default,
            steps_max=m.steps.max,
            guidance_scale=m.guidance_scale,
            native_sizes=m.native_sizes,
            licence=m.licence,
            description=m.description,
            bytes=self.weight_bytes,
        )

    def verify(self) -> None:
        """Compare every weight file with its pinned digest; raises RepositoryError."""
        for relative, pinned in self.manifest.digests.items():
            try:
                with (self.folder / relative).open("rb") as file:
                    found = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                words = f"{self.name}: {relative} cannot be read: {error.strerror}"
                raise RepositoryError(words) from None
            if found != pinned:
                raise RepositoryError(
                    f"{self.name}: {relative} has changed since it was registered"
                    f" (digest {found[:19]}..., pinned {pinned[:19]}...);"
                    " restore the file or register it anew"
                )


class Repository(Struct, frozen=True):
    """All variants under one folder, and what was wrong with the others."""

    variants: Mapping[str, Variant]
    problems: tuple[str, ...] = ()

    def variant(self, name: str) -> Variant:
        """Return the variant called `name`; raises UnknownName."""
        try:
            return self.variants[name]
        except KeyError:
            known = ", ".join(sorted(self.variants)) or "none"
            raise UnknownName(f"no variant {name!r}; registered: {known}", field="variant") from None


def locate(configured: str) -> Path:
    """Return the model repository's absolute path: as configured, else beside the package.

    Raises RepositoryError when there is no such folder.
    """
    beside_package = Path(__file__).resolve().parent.parent / configured
    for path in (Path(configured).expanduser().absolute(), beside_package):
        if path.is_dir():
            return path
    raise RepositoryError(f"service.model_repo: {configured} is not a folder; name one that is")


def scan(root: Path) -> Repository:
    """Read every `<root>/<folder>/variant.toml`; a bad variant is a problem, not an end.

    Raises RepositoryError when `root` is no folder.
    """
    if not root.is_dir():
        raise RepositoryError(f"the model repository {root} is not a folder")
    variants: dict[str, Variant] = {}
    problems: list[str] = []
    for manifest in sorted(root.glob(f"*/{MANIFEST}")):
        try:
            variant = read_variant(manifest, root)
            if variant.name in variants:
                raise RepositoryError(f"the name {variant.name!r} is taken already")
            variants[variant.name] = variant
        except RepositoryError as error:
            problems.append(f"{manifest.parent.name}: {error}")
        except OSError as error:
            problems.append(f"{manifest.parent.name}: {MANIFEST}: {error.strerror}")
    return Repository(MappingProxyType(dict(sorted(variants.items()))), tuple(problems))


def read_variant(manifest: Path, root: Path) -> Variant:
    """Validate one manifest and the files that it names; raises RepositoryError."""
    root = root.resolve()
    parsed = _parse(_inside(manifest, root))
    folder = _inside(manifest.parent / parsed.path, root)
    if not (folder / "model_index.json").is_file():
        raise RepositoryError(f"{parsed.path!r} is no diffusers folder: no model_index.json")
    on_disk = _weight_files(folder)
    if on_disk != set(parsed.digests):
        unlisted = ", ".join(sorted(on_disk - set(parsed.digests))) or "none"
        missing = ", ".join(sorted(set(parsed.digests) - on_disk)) or "none"
        raise RepositoryError(
            f"digests must name each weight file once; not listed: {unlisted}; missing: {missing}"
        )
    size = sum((folder / relative).stat().st_size for relative in on_disk)
    return Variant(parsed, folder, size)


def _parse(path: Path) -> Manifest:
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise RepositoryError(f"{MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        parsed = msgspec.convert(tomllib.loads(path.read_text("utf-8")), Manifest)
    except msgspec.ValidationError as error:
        raise RepositoryError(f"{MANIFEST}: {error}") from None
    except (ValueError, RecursionError) as error:  # bad TOML, bad UTF-8, endless digits
        raise RepositoryError(f"{MANIFEST} is not TOML: {error}") from None
    steps = parsed.steps
    if not steps.min <= steps.default <= steps.max:
        raise RepositoryError(f"steps: min <= default <= max does not hold: {steps}")
    if samplers.canonical(parsed.sampler) != parsed.sampler:
        known = ", ".join(samplers.SAMPLERS)
        raise RepositoryError(f"sampler {parsed.sampler!r} is not one of {known}")
    return parsed


def _weight_files(folder: Path) -> set[str]:
    """Return the weight files below `folder`, relative; refuses pickles and links that lead out."""
    found = set()
    for path in folder.rglob("*"):
        _inside(path, folder)
        if path.suffix.lower() in PICKLE_SUFFIXES:
            raise RepositoryError(
                f"{path.name}: pickled weights can run code and are never opened;"
                " convert them to .safetensors"
            )
        if path.suffix == ".safetensors":
            found.add(path.relative_to(folder).as_posix())
    return found


def _inside(path: Path, root: Path) -> Path:
    """Return `path` resolved; refuses one that leads out of `root`."""
    try:
        resolved = path.resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise RepositoryError(f"{path.name}: {type(error).__name__}") from None
    if not resolved.is_relative_to(root):
        raise RepositoryError(f"{path.name}: leads out of the model repository")
    return resolved
