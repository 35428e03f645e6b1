"""What a registered variant and a registered adapter are: a manifest, and where its files stand.

Made by `difs.repository`, which validates the paths; here nothing is opened but to compare a digest.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec
from msgspec import Struct

from difs.errors import RepositoryError
from difs.manifests import AdapterManifest, Digest, Manifest, MeasuredCurve
from difs.messages import AdapterInfo, Efforts, VariantInfo

MODEL_INDEX = "model_index.json"


class Borrowed(Struct, frozen=True):
    """Where a part of a pipeline stands; its owner may be another variant."""

    folder: Path
    """Of its configuration, and of its weights unless they are in a single file."""
    digests: Mapping[str, Digest]
    """File below `folder` -> digest."""
    file: Path | None = None
    """The single file that holds its weights beside those of other parts."""
    file_digest: Digest = ""
    contents: Digest | None = None
    """Of its tensors in the single file, where that is known."""

    def weights(self) -> dict[Path, Digest]:
        """Return its weight files and their digests."""
        if self.file is not None:
            return {self.file: self.file_digest}
        return {self.folder / relative: digest for relative, digest in self.digests.items()}


class Variant(Struct, frozen=True):
    """A registered variant: its manifest and the validated folder of its weights."""

    manifest: Manifest
    folder: Path
    weight_bytes: int
    borrowed: Mapping[str, Borrowed] = MappingProxyType({})
    fused: tuple[tuple["Adapter", float], ...] = ()
    captions: tuple[tuple[str, ...], ...] = ()
    """Everything that it can paint, each with other words for it; empty: anything."""
    pipeline: Path | None = None
    """The folder of an offline pipeline configuration: what the variant's own folder lacks."""
    is_users: bool = False
    """It stands in the user's root."""
    manifest_folder: Path | None = None
    """Where its manifest stands, if that is not `folder`."""
    quality: MeasuredCurve | None = None
    """What its pictures are worth: as its manifest says, else as it was measured on this machine."""
    efforts: Efforts | None = None
    """What it takes by count; None: its structure is not known in full."""

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
            sorted((part, sorted(lent.weights().values())) for part, lent in self.borrowed.items()),
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

    @property
    def index(self) -> Path:
        """Return the folder of the pipeline's model_index.json."""
        own = self.folder / MODEL_INDEX
        return self.folder if self.pipeline is None or own.is_file() else self.pipeline

    @property
    def build(self) -> tuple[object, ...]:
        """Return all that makes a resident of it what it is: if this changes, residents are outdated."""
        m = self.manifest
        made_of = (m.family, m.kind, m.precision, m.default_mode, m.runtime, m.prediction, m.zero_snr)
        weights = (m.digests, {part: b.weights() for part, b in self.borrowed.items()})
        adapters = tuple((adapter.manifest.digest, weight) for adapter, weight in self.fused)
        return (*made_of, self.index, *weights, adapters)

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
            efforts=self.efforts,
        )

    def part(self, part: str) -> Borrowed:
        """Return where a part of the pipeline stands and what its weights are, whoever has it."""
        if part in self.borrowed:
            return self.borrowed[part]
        if self.pipeline is not None and not (self.folder / part).is_dir():
            return self._in_single_file(part, self.pipeline / part)
        start = f"{part}/"
        own = {p.removeprefix(start): d for p, d in self.manifest.digests.items() if p.startswith(start)}
        return Borrowed(self.folder / part, own)

    def _in_single_file(self, part: str, folder: Path) -> Borrowed:
        single, digests = self.manifest.single_file, self.manifest.digests
        if single is None or not (folder / "config.json").is_file():  # a tokenizer has no weights
            return Borrowed(folder, {})
        file = self.folder / single
        return Borrowed(folder, {}, file, digests[single], self.manifest.contents.get(part))

    def _weights(self) -> dict[Path, Digest]:
        files = {self.folder / relative: digest for relative, digest in self.manifest.digests.items()}
        for borrowed in self.borrowed.values():
            files |= borrowed.weights()
        return files

    def stamp(self) -> tuple[object, ...]:
        """Return what tells whether a weight file was written or replaced; raises RepositoryError."""
        paths = [*self._weights(), *(adapter.path for adapter, _ in self.fused)]
        try:
            found = [path.stat() for path in paths]
        except OSError as error:
            raise RepositoryError(f"{self.name}: a weight file is gone: {error.strerror}") from None
        return tuple((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in found)

    def verify(self) -> None:
        """Compare every weight file with its pinned digest; raises RepositoryError."""
        for path, pinned in self._weights().items():
            _verify(self.name, path, _words(path, self.folder), pinned)
        for adapter, _ in self.fused:
            adapter.verify()


class Adapter(Struct, frozen=True):
    """A registered LoRA adapter: its manifest and the validated path of its weights."""

    manifest: AdapterManifest
    path: Path
    nbytes: int
    is_users: bool = False
    """It stands in the user's root."""
    fits: tuple[str, ...] | None = None
    """The variants of its family that read as wide a text as it was made for; None: it does not tell."""

    @property
    def variants(self) -> tuple[str, ...]:
        """Return the variants that it is for; empty: all of its family."""
        return self.manifest.variants or self.fits or ()

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
            variants=self.variants,
        )

    def verify(self) -> None:
        """Compare the weights with their pinned digest; raises RepositoryError."""
        _verify(self.name, self.path, self.manifest.file, self.manifest.digest)


def _words(path: Path, folder: Path) -> str:
    """Return how a weight file is called in an error: as its manifest calls it."""
    if path.is_relative_to(folder):
        return path.relative_to(folder).as_posix()
    return f"{path.parent.name}/{path.name}"


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
