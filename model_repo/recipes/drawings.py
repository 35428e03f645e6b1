"""The drawings and the words of the family, from pinned npm packages; rasterised offline with resvg.

A drawing is an RGB picture on white, uint8 (side, side, 3). No training here.
"""

import json
import re
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Drawings = NDArray[np.uint8]
"""Of shape (names, side, side, 3), in the order of the names."""

STYLES: Mapping[str, str] = {
    "noto": "@iconify-json/noto",
    "fluent": "@iconify-json/fluent-emoji-flat",
}
WORDS = "emojibase-data"
FILLERS = Path(__file__).parent / "fillers.txt"
"""Words that say nothing about a picture; "one" is no other word for a camel."""


def fetch(package: str, version: str, folder: Path) -> Path:
    """Return the package's archive, fetched by `npm pack` (which checks its integrity) if need be."""
    archive = folder / f"{package.removeprefix('@').replace('/', '-')}-{version}.tgz"
    if not archive.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", f"{package}@{version}"], cwd=folder, check=True)
    return archive


def member(archive: Path, name: str) -> Any:
    """Return a JSON file of a package."""
    with tarfile.open(archive) as files:
        file = files.extractfile(f"package/{name}")
        assert file is not None, f"{archive.name} has no {name}"
        return json.load(file)


def rasterise(archive: Path, names: Sequence[str], side: int, margin: float) -> Drawings:
    """Draw the icons called `names`, each in the middle of a white square."""
    icons = member(archive, "icons.json")
    return np.stack([_draw(_body(icons, name), icons, side, margin) for name in names])


def _body(icons: Any, name: str) -> Any:
    if name in icons["aliases"]:
        return _body(icons, icons["aliases"][name]["parent"])
    return icons["icons"][name]


def _draw(icon: Any, icons: Any, side: int, margin: float) -> NDArray[np.uint8]:
    import io

    import resvg_py
    from PIL import Image

    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    edge = max(width, height) / (1 - 2 * margin)
    box = f"{(width - edge) / 2} {(height - edge) / 2} {edge} {edge}"
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{icon["body"]}</svg>'
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, background="white"))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def smaller(drawings: Drawings, side: int) -> Drawings:
    """Return drawings averaged down to `side` pixels, which divides theirs."""
    n, high, wide, channels = drawings.shape
    k = high // side
    cells = drawings.reshape(n, side, k, wide // k, k, channels).astype(np.float32)
    return np.asarray(np.round(cells.mean(axis=(2, 4))), np.uint8)


def keywords(archive: Path, captions: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the other words for each name: those that stand for no other name of the family."""
    by_caption = {caption: name for name, caption in captions.items()}
    found: dict[str, set[str]] = {name: set() for name in captions}
    for entry in member(archive, "en/data.json"):
        label = str(entry["label"]).lower()
        for caption in (label, label.removesuffix(" face")):
            if caption in by_caption:
                found[by_caption[caption]] |= {tag.lower() for tag in entry.get("tags", ())}
                break
    said = [word for words in found.values() for word in words]
    taken = set(captions.values()) | {word for caption in captions.values() for word in caption.split()}
    taken |= set(FILLERS.read_text("utf-8").split())
    joined = {caption.replace(" ", ""): name for name, caption in captions.items()}
    return {
        name: sorted(
            w
            for w in words
            if said.count(w) == 1 and w not in taken and joined.get(w, name) == name and w.isascii()
        )
        for name, words in found.items()
    }


def vocabulary(archive: Path) -> list[str]:
    """Return all words that labels and keywords of emoji are made of."""
    entries = member(archive, "en/data.json")
    texts = [text for entry in entries for text in (entry["label"], *entry.get("tags", ()))]
    words = {word for text in texts for word in re.findall(r"[a-z]+", text.lower())}
    return sorted(word for word in words if len(word) > 1)
