"""The model repository: manifests on disk to validated variants and adapters.

The only place that makes a path from a name: a name is looked up in what was scanned, never joined
to a path. No torch here, and no weights are read but to hash them.

There are two roots: the shipped one, and the user's, which `difs register` fills. No file may lead out
of its root, with one exception: weights that were registered where they lay. Such a file is a symbolic
link in the user's root whose manifest states, under [linked], the very path that it leads to; the path
is absolute, names a .safetensors and leads to a regular file. The manifest's digest pins its content, so
a link that is bent, or a file that is changed, is refused.
"""

import os
import re
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from difs import beside, efforts, manifests
from difs.errors import RepositoryError, UnknownName
from difs.manifests import AdapterManifest, Manifest, MeasuredCurve, MeasuredQuality
from difs.variants import MODEL_INDEX, Adapter, Borrowed, Variant

MANIFEST, ADAPTER_MANIFEST = "variant.toml", "adapter.toml"
CAPTIONS, QUALITY = "captions.json", "quality.json"
PIPELINES = Path(__file__).resolve().parent.parent / "configs" / "pipelines"
"""The configurations for single files, beside the package as the shipped repository."""
MAX_MANIFEST_BYTES = 256 * 1024
PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth"})

PART_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Repository(Struct, frozen=True):
    """All variants and adapters of both roots, and what was wrong with the others."""

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


def scan(root: Path, user: Path | None = None) -> Repository:
    """Read every `<root>/<folder>/variant.toml` and `adapter.toml`; a bad one is a problem, not an end.

    `user`: the user's root, which need not be there. Raises RepositoryError when `root` is no folder.
    """
    if not root.is_dir():
        raise RepositoryError(f"the model repository {root} is not a folder")
    problems: list[str] = []
    places = [Place(root, is_users=False)]
    if user is not None and user.is_dir() and not user.samefile(root):
        places.append(Place(user, is_users=True))
    variants = _read_all(places, MANIFEST, read_variant, problems)
    adapters = _read_all(places, ADAPTER_MANIFEST, read_adapter, problems)
    furnished = {}
    for name, variant in variants.items():
        try:
            furnished[name] = _furnish(variant, variants, adapters)
        except RepositoryError as error:
            problems.append(f"{name}: {error}")
    fitting = {name: _fit(adapter, furnished.values()) for name, adapter in adapters.items()}
    return Repository(MappingProxyType(furnished), tuple(problems), MappingProxyType(fitting))


class _Denoiser(Struct):
    """What is needed of a denoiser's configuration."""

    cross_attention_dim: int | tuple[int, ...] | None = None


def _fit(adapter: Adapter, variants: Collection[Variant]) -> Adapter:
    """Return an adapter with the variants that read as wide a text as it was made for."""
    wanted = adapter.manifest.text_width
    if wanted is None:
        return adapter
    family = [v for v in variants if v.manifest.family == adapter.manifest.family]
    return replace(adapter, fits=tuple(v.name for v in family if _text_width(v) == wanted))


def _text_width(variant: Variant) -> object:
    """Return how many numbers a token a variant's UNet reads; None if that cannot be told."""
    try:
        text = _read(variant.part("unet").folder / "config.json")
        return msgspec.json.decode(text, type=_Denoiser).cross_attention_dim
    except (OSError, RepositoryError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


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
    nbytes += sum(path.stat().st_size for path in {p for b in borrowed.values() for p in b.weights()})
    whole = replace(
        variant,
        borrowed=MappingProxyType(borrowed),
        fused=tuple(fused),
        weight_bytes=nbytes,
        captions=_captions(wanted.captions, variants) if wanted.captions is not None else (),
    )
    return replace(whole, quality=quality_of(whole), efforts=efforts.of_parts(_configs(whole)))


def _configs(variant: Variant) -> dict[str, bytes]:
    """Return the configurations of a variant's parts that can be read, by part."""
    found = {}
    for part in efforts.PARTS:
        with suppress(OSError, RepositoryError):
            found[part] = _read(variant.part(part).folder / "config.json")
    return found


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


class Place(NamedTuple):
    """A root of the model repository."""

    root: Path
    is_users: bool


def manifests_in(root: Path, name: str) -> list[Path]:
    """Return the manifests called `name`, in order; a folder with a dot is one that is being made."""
    return sorted(path for path in root.glob(f"*/{name}") if not path.parent.name.startswith("."))


def _read_all(
    places: Sequence[Place], name: str, read: Callable[[Path, Place], E], problems: list[str]
) -> Mapping[str, E]:
    """Return what the manifests called `name` stand for, by its own name; adds to `problems`."""
    found: dict[str, E] = {}
    taken: dict[str, Path] = {}
    for place in places:
        for manifest in manifests_in(place.root, name):
            try:
                entry = read(manifest, place)
                if entry.name in found:
                    other = taken[entry.name]
                    by = other.name if other.is_relative_to(place.root) else other
                    raise RepositoryError(f"the name {entry.name!r} is taken already, by {by}")
                found[entry.name], taken[entry.name] = entry, manifest.parent
            except RepositoryError as error:
                problems.append(f"{manifest.parent.name}: {error}")
            except OSError as error:
                problems.append(f"{manifest.parent.name}: {name}: {error.strerror}")
    return MappingProxyType(dict(sorted(found.items())))


def read_variant(manifest: Path, place: Place) -> Variant:
    """Validate one manifest and the files that it names; raises RepositoryError."""
    root = place.root.resolve()
    parsed = manifests.checked(_parse(_inside(manifest, root), Manifest))
    folder = _inside(manifest.parent / parsed.path, root)
    pipeline = _pipeline(parsed.pipeline) if parsed.pipeline is not None else None
    if pipeline is None and not (folder / MODEL_INDEX).is_file():
        raise RepositoryError(f"{parsed.path!r} is no diffusers folder: no {MODEL_INDEX}")
    on_disk = _weight_files(folder, _links(parsed.linked, place))
    if on_disk != set(parsed.digests):
        unlisted = ", ".join(sorted(on_disk - set(parsed.digests))) or "none"
        missing = ", ".join(sorted(set(parsed.digests) - on_disk)) or "none"
        raise RepositoryError(
            f"digests must name each weight file once; not listed: {unlisted}; missing: {missing}"
        )
    size = sum((folder / relative).stat().st_size for relative in on_disk)
    home = manifest.resolve().parent
    return Variant(
        parsed,
        folder,
        size,
        pipeline=pipeline,
        is_users=place.is_users,
        manifest_folder=home if home != folder else None,
    )


def read_adapter(manifest: Path, place: Place) -> Adapter:
    """Validate one adapter's manifest and the file that it names; raises RepositoryError."""
    root = place.root.resolve()
    parsed = _parse(_inside(manifest, root), AdapterManifest)
    folder = _inside(manifest.parent, root)
    weights = _weight_files(folder, _links(parsed.linked, place))
    path = folder / parsed.file
    if parsed.file not in parsed.linked:
        path = _inside(path, folder)
    if path.relative_to(folder).as_posix() not in weights or not path.is_file():
        raise RepositoryError(f"file: {parsed.file!r} is no .safetensors file")
    return Adapter(parsed, path, path.stat().st_size, is_users=place.is_users)


def _pipeline(name: str) -> Path:
    """Return the folder of an offline pipeline configuration, looked up among those there are."""
    known = {path.parent.name: path.parent for path in PIPELINES.glob(f"*/{MODEL_INDEX}")}
    if name not in known:
        raise RepositoryError(f"pipeline: no {name!r}; there is: {', '.join(sorted(known)) or 'none'}")
    return known[name]


def _parse(path: Path, kind: type[T]) -> T:
    return manifests.parse(_read(path), kind, path.name)


def _read(path: Path) -> bytes:
    """Return a small file's content; raises RepositoryError for a large one."""
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise RepositoryError(f"{path.name} is larger than {MAX_MANIFEST_BYTES} bytes")
    return path.read_bytes()


def _weight_files(folder: Path, links: Mapping[str, str]) -> set[str]:
    """Return the weight files below `folder`, relative; refuses pickles and links that lead out."""
    found = set()
    for path in folder.rglob("*"):
        relative = path.relative_to(folder).as_posix()
        if relative in links:
            _check_link(path, links[relative])
        else:
            _inside(path, folder)
        if path.suffix.lower() in PICKLE_SUFFIXES:
            raise RepositoryError(
                f"{path.name}: pickled weights can run code and are never opened;"
                " convert them to .safetensors"
            )
        if path.suffix == ".safetensors":
            found.add(relative)
    return found


def _links(linked: Mapping[str, str], place: Place) -> Mapping[str, str]:
    if linked and not place.is_users:
        raise RepositoryError("linked: only what a user registered may lead out of the repository")
    return linked


def _check_link(path: Path, stated: str) -> None:
    """Refuse a link out of the repository that is not just what its manifest states."""
    if not (os.path.isabs(stated) and path.suffix == Path(stated).suffix == ".safetensors"):
        raise RepositoryError(f"linked: {stated!r} must be the absolute path of a .safetensors file")
    if not path.is_symlink() or os.readlink(path) != stated:
        raise RepositoryError(f"{path.name}: is no link to {stated}, as its manifest says")
    try:
        is_regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise RepositoryError(
            f"{path.name}: {stated} cannot be found any more ({error.strerror});"
            " bring it back, or unregister this and register it anew"
        ) from None
    if not is_regular:
        raise RepositoryError(f"{path.name}: {stated} is no regular file")


def _inside(path: Path, root: Path) -> Path:
    """Return `path` resolved; refuses one that leads out of `root`."""
    try:
        resolved = path.resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise RepositoryError(f"{path.name}: {type(error).__name__}") from None
    if not resolved.is_relative_to(root):
        raise RepositoryError(f"{path.name}: leads out of the model repository")
    return resolved
