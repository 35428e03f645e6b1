"""The model repository: manifests on disk to validated variants and adapters.

The only place that makes a path from a name: a name is looked up in what was scanned, never joined
to a path. No torch here, and no weights are read but to hash them.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from difs import beside, manifests
from difs.errors import RepositoryError, UnknownName
from difs.manifests import AdapterManifest, Digest, Manifest, MeasuredCurve, MeasuredQuality
from difs.messages import AdapterInfo, VariantInfo

MANIFEST, ADAPTER_MANIFEST = "variant.toml", "adapter.toml"
CAPTIONS, QUALITY = "captions.json", "quality.json"
MAX_MANIFEST_BYTES = 256 * 1024
PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth"})

PART_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Borrowed(Struct, frozen=True):
    """A part that a variant has from another one."""

    folder: Path
    digests: Mapping[str, Digest]
    """File below `folder` -> digest."""


class Variant(Struct, frozen=True):
    """A registered variant: its manifest and the validated folder of its weights."""

    manifest: Manifest
    folder: Path
    weight_bytes: int
    borrowed: Mapping[str, Borrowed] = MappingProxyType({})
    fused: tuple[tuple["Adapter", float], ...] = ()
    captions: tuple[tuple[str, ...], ...] = ()
    """Everything that it can paint, each with other words for it; empty: anything."""
    manifest_folder: Path | None = None
    """Where its manifest stands, if that is not `folder`."""
    quality: MeasuredCurve | None = None
    """What its pictures are worth: as its manifest says, else as it was measured on this machine."""

    @property
    def home(self) -> Path:
        """Return the folder of its manifest, beside which what is measured of it is kept."""
        return self.manifest_folder or self.folder

    @property
    def fingerprint(self) -> str:
        """Return what names its weights and how they are run; another one is another thing to measure."""
        m = self.manifest
        facts = (
            sorted(m.digests.items()),
            sorted((part, sorted(lent.digests.items())) for part, lent in self.borrowed.items()),
            [(adapter.manifest.digest, weight) for adapter, weight in self.fused],
            (m.name, m.family, m.precision, m.kind, m.sampler, m.runtime),
        )
        return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()[:32]

    def precision_on(self, kind: str) -> str:
        """Return the precision in which a kind of device ("cuda", "cpu") computes it."""
        return self.manifest.precision if kind == "cuda" else "fp32"

    @property
    def name(self) -> str:
        """Return the variant's name."""
        return self.manifest.name

    def info(self) -> VariantInfo:
        """Return what a client may see."""
        m, known = self.manifest, self.quality
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
            captions=self.captions,
            quality=known.points if known is not None else (),
            quality_source=known.source if known is not None else "",
            quality_kind=known.kind if known is not None else None,
            quality_judge=known.judge if known is not None else "",
        )

    def part(self, part: str) -> Borrowed:
        """Return where a part of the pipeline stands and what its weights are, whoever has it."""
        if part in self.borrowed:
            return self.borrowed[part]
        start = f"{part}/"
        own = {p.removeprefix(start): d for p, d in self.manifest.digests.items() if p.startswith(start)}
        return Borrowed(self.folder / part, own)

    def verify(self) -> None:
        """Compare every weight file with its pinned digest; raises RepositoryError."""
        for relative, pinned in self.manifest.digests.items():
            _verify(self.name, self.folder / relative, relative, pinned)
        for part, borrowed in self.borrowed.items():
            for relative, pinned in borrowed.digests.items():
                _verify(self.name, borrowed.folder / relative, f"{part}/{relative}", pinned)
        for adapter, _ in self.fused:
            adapter.verify()


class Adapter(Struct, frozen=True):
    """A registered LoRA adapter: its manifest and the validated path of its weights."""

    manifest: AdapterManifest
    path: Path
    nbytes: int

    @property
    def name(self) -> str:
        """Return the adapter's name."""
        return self.manifest.name

    def info(self) -> AdapterInfo:
        """Return what a client may see."""
        m = self.manifest
        return AdapterInfo(
            name=m.name,
            family=m.family,
            licence=m.licence,
            description=m.description,
            bytes=self.nbytes,
            variants=m.variants,
        )

    def verify(self) -> None:
        """Compare the weights with their pinned digest; raises RepositoryError."""
        _verify(self.name, self.path, self.manifest.file, self.manifest.digest)


def _verify(name: str, path: Path, relative: str, pinned: str) -> None:
    try:
        with path.open("rb") as file:
            found = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RepositoryError(f"{name}: {relative} cannot be read: {error.strerror}") from None
    if found != pinned:
        raise RepositoryError(
            f"{name}: {relative} has changed since it was registered"
            f" (digest {found[:19]}..., pinned {pinned[:19]}...);"
            " restore the file or register it anew"
        )


class Repository(Struct, frozen=True):
    """All variants and adapters under one folder, and what was wrong with the others."""

    variants: Mapping[str, Variant]
    problems: tuple[str, ...] = ()
    adapters: Mapping[str, Adapter] = MappingProxyType({})

    def variant(self, name: str) -> Variant:
        """Return the variant called `name`; raises UnknownName."""
        return _named("variant", name, self.variants)

    def adapter(self, name: str) -> Adapter:
        """Return the adapter called `name`; raises UnknownName."""
        return _named("adapter", name, self.adapters)


T = TypeVar("T")


def _named(what: str, name: str, known: Mapping[str, T]) -> T:
    try:
        return known[name]
    except KeyError:
        registered = ", ".join(sorted(known)) or "none"
        raise UnknownName(f"no {what} {name!r}; registered: {registered}", field=what) from None


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
    """Read every `<root>/<folder>/variant.toml` and `adapter.toml`; a bad one is a problem, not an end.

    Raises RepositoryError when `root` is no folder.
    """
    if not root.is_dir():
        raise RepositoryError(f"the model repository {root} is not a folder")
    problems: list[str] = []
    variants = _read_all(root, MANIFEST, read_variant, problems)
    adapters = _read_all(root, ADAPTER_MANIFEST, read_adapter, problems)
    furnished = {}
    for name, variant in variants.items():
        try:
            furnished[name] = _furnish(variant, variants, adapters)
        except RepositoryError as error:
            problems.append(f"{name}: {error}")
    return Repository(MappingProxyType(furnished), tuple(problems), adapters)


def _furnish(
    variant: Variant, variants: Mapping[str, Variant], adapters: Mapping[str, Adapter]
) -> Variant:
    """Return a variant with what its manifest names of others; raises RepositoryError."""
    wanted = variant.manifest
    borrowed = {part: _lend(part, lender, wanted.name, variants) for part, lender in wanted.parts.items()}
    both = sorted(part for part in borrowed if (variant.folder / part).exists())
    if both:
        raise RepositoryError(f"parts: {both[0]} stands in its own folder too; remove one")
    fused = []
    for name, weight in wanted.fused.items():
        if name not in adapters:
            raise RepositoryError(f"fused: no adapter {name!r}")
        if adapters[name].manifest.family != wanted.family:
            raise RepositoryError(f"fused: {name} is of family {adapters[name].manifest.family!r}")
        fused.append((adapters[name], weight))
    nbytes = variant.weight_bytes + sum(adapter.nbytes for adapter, _ in fused)
    for part in borrowed.values():
        nbytes += sum((part.folder / relative).stat().st_size for relative in part.digests)
    whole = replace(
        variant,
        borrowed=MappingProxyType(borrowed),
        fused=tuple(fused),
        weight_bytes=nbytes,
        captions=_captions(wanted.captions, variants) if wanted.captions is not None else (),
    )
    return replace(whole, quality=quality_of(whole))


def quality_of(variant: Variant) -> MeasuredCurve | None:
    """Return what a variant's pictures are worth: its manifest's word first, then what was measured."""
    stated = variant.manifest.quality
    if stated is not None:
        return MeasuredCurve(stated.kind, stated.judge, stated.source, stated.curve, is_whole=True)
    found = measured_quality(variant)
    return found.best if found is not None else None


def measured_quality(variant: Variant) -> MeasuredQuality | None:
    """Return what `difs profile` kept of a variant's quality; None: nothing, or of other weights."""
    for data in beside.read(variant.home, QUALITY):
        found = manifests.parse_quality(data, variant.fingerprint)
        if found is not None:
            return found
    return None


def _captions(owner: str, variants: Mapping[str, Variant]) -> tuple[tuple[str, ...], ...]:
    """Return what a variant's `captions.json` lists; raises RepositoryError."""
    if owner not in variants:
        raise RepositoryError(f"captions: no variant {owner!r}")
    path = _inside(variants[owner].folder / CAPTIONS, variants[owner].folder)
    return manifests.parse_captions(_read(path), CAPTIONS)


def _lend(part: str, named: str, borrower: str, variants: Mapping[str, Variant]) -> Borrowed:
    """Return the part that `named` ("variant" or "variant/its part") stands for."""
    lender, _, theirs = named.partition("/")
    theirs = theirs or part
    if lender not in variants or lender == borrower:
        raise RepositoryError(f"parts: {part} is to be that of {lender!r}, which is no other variant")
    if theirs in variants[lender].manifest.parts:
        raise RepositoryError(f"parts: {lender} borrowed its {theirs}; name the variant that has it")
    lent = variants[lender].part(theirs)
    if not (PART_NAME.fullmatch(part) and PART_NAME.fullmatch(theirs)) or not lent.folder.is_dir():
        raise RepositoryError(f"parts: {lender} has no part {theirs!r}")
    return lent


E = TypeVar("E", Variant, Adapter)


def _read_all(
    root: Path, name: str, read: Callable[[Path, Path], E], problems: list[str]
) -> Mapping[str, E]:
    """Return what the manifests called `name` stand for, by its own name; adds to `problems`."""
    found: dict[str, E] = {}
    for manifest in sorted(root.glob(f"*/{name}")):
        try:
            entry = read(manifest, root)
            if entry.name in found:
                raise RepositoryError(f"the name {entry.name!r} is taken already")
            found[entry.name] = entry
        except RepositoryError as error:
            problems.append(f"{manifest.parent.name}: {error}")
        except OSError as error:
            problems.append(f"{manifest.parent.name}: {name}: {error.strerror}")
    return MappingProxyType(dict(sorted(found.items())))


def read_variant(manifest: Path, root: Path) -> Variant:
    """Validate one manifest and the files that it names; raises RepositoryError."""
    root = root.resolve()
    parsed = manifests.checked(_parse(_inside(manifest, root), Manifest))
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
    home = manifest.resolve().parent
    return Variant(parsed, folder, size, manifest_folder=home if home != folder else None)


def read_adapter(manifest: Path, root: Path) -> Adapter:
    """Validate one adapter's manifest and the file that it names; raises RepositoryError."""
    root = root.resolve()
    parsed = _parse(_inside(manifest, root), AdapterManifest)
    folder = _inside(manifest.parent, root)
    weights = _weight_files(folder)
    path = _inside(folder / parsed.file, folder)
    if path.relative_to(folder).as_posix() not in weights or not path.is_file():
        raise RepositoryError(f"file: {parsed.file!r} is no .safetensors file")
    return Adapter(parsed, path, path.stat().st_size)


def _parse(path: Path, kind: type[T]) -> T:
    return manifests.parse(_read(path), kind, path.name)


def _read(path: Path) -> bytes:
    """Return a small file's content; raises RepositoryError for a large one."""
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise RepositoryError(f"{path.name} is larger than {MAX_MANIFEST_BYTES} bytes")
    return path.read_bytes()


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
