"""What a long bench has found so far, in a file: a run that was cut short goes on where it was."""

import hashlib
import json
from pathlib import Path
from typing import Any

PLACE = Path("out") / "bench"
ROOT = Path(__file__).parents[1]


class Progress:
    """Finished cells by name; each is on disk before the next begins."""

    def __init__(self, path: Path, terms: dict[str, Any]) -> None:
        """Take up what `path` holds, if it was found on the same `terms` (options, versions) and code."""
        self._path = path
        self._terms = json.loads(json.dumps(terms | {"code": code()}))
        self._cells: dict[str, Any] = {}
        kept = _read(path)
        if kept.get("terms") == self._terms:
            self._cells = kept["cells"]

    def __contains__(self, name: str) -> bool:
        return name in self._cells

    def __len__(self) -> int:
        return len(self._cells)

    def __getitem__(self, name: str) -> Any:
        return self._cells[name]

    def get(self, name: str) -> Any:
        """Return a cell, or None."""
        return self._cells.get(name)

    def keep(self, name: str, found: Any) -> None:
        """Add a finished cell; the file is replaced whole: a kill leaves the old or the new one."""
        self._cells[name] = found
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps({"terms": self._terms, "cells": self._cells}), "utf-8")
        fresh.replace(self._path)

    def forget(self) -> None:
        """Begin anew, now or next time: all has been told."""
        self._cells = {}
        self._path.unlink(missing_ok=True)


def code(root: Path = ROOT) -> str:
    """Return a digest of what is measured and of what measures: figures of two states are not mixed."""
    digest = hashlib.sha256()
    found = (p for part in ("difs", "bench", "configs") for p in (root / part).rglob("*"))
    for path in sorted(p for p in found if p.suffix in {".py", ".toml"}):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) and isinstance(kept.get("cells"), dict) else {}
