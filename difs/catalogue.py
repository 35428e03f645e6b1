"""The model repository as it is now: read again when a manifest came, went or changed.

Looking costs a `stat` for each manifest; only what looks different is worth a new scan.
"""

from pathlib import Path
from typing import Protocol

from difs import config, repository
from difs.repository import Repository
from difs.variants import Adapter, Variant

Signature = tuple[tuple[str, int, int], ...]


class Library(Protocol):
    """Who knows variants and adapters by name: a Repository, or a Catalogue that follows it."""

    def variant(self, name: str) -> Variant:
        """Return the variant called `name`; raises UnknownName."""
        ...

    def adapter(self, name: str) -> Adapter:
        """Return the adapter called `name`; raises UnknownName."""
        ...


class Catalogue:
    """A repository that follows its folders."""

    def __init__(self, root: Path, user: Path) -> None:
        """Scan both roots; raises RepositoryError when `root` is no folder."""
        self._root, self._user = root, user
        self._signature = signature(root, user)
        self.found = repository.scan(root, user)

    def refresh(self) -> bool:
        """Scan again if the manifests look different than before; returns whether they did.

        A root that is gone for a moment changes nothing.
        """
        seen = signature(self._root, self._user)
        if seen == self._signature or not self._root.is_dir():
            return False
        self._signature, self.found = seen, repository.scan(self._root, self._user)
        return True

    def variant(self, name: str) -> Variant:
        """Return a variant as it is now; raises UnknownName."""
        self.refresh()
        return self.found.variant(name)

    def adapter(self, name: str) -> Adapter:
        """Return an adapter as it is now; raises UnknownName."""
        self.refresh()
        return self.found.adapter(name)


def open_for(settings: config.Config) -> Catalogue:
    """Return the catalogue that a configuration means; raises RepositoryError."""
    return Catalogue(repository.locate(settings.service.model_repo), config.user_repo(settings))


def signature(*roots: Path) -> Signature:
    """Return what tells whether any manifest is another than before: names, times and sizes."""
    found = []
    for root in roots:
        for name in (repository.MANIFEST, repository.ADAPTER_MANIFEST):
            for path in repository.manifests_in(root, name):
                try:
                    info = path.stat()
                except OSError:  # it went while we looked
                    continue
                found.append((str(path), info.st_mtime_ns, info.st_size))
    return tuple(found)


def outdated(before: Repository, now: Repository) -> frozenset[str]:
    """Return the variants whose residents are not what a load would bring now."""
    return frozenset(
        name
        for name, variant in before.variants.items()
        if name not in now.variants or now.variants[name].build != variant.build
    )
