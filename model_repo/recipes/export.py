"""Writes finished parts into model_repo/: fp16 weights, and the digests in the manifests.

The manifests themselves are written by hand; only their digests change here.
"""

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

from model_repo.recipes.material import REPOSITORY


def part(module: Any, variant: str, name: str) -> None:
    """Write one part of a variant: its configuration and its weights, in fp16."""
    folder = REPOSITORY / variant / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    module.half().save_pretrained(folder)
    config = folder / "config.json"
    text = config.read_text("utf-8")
    # transformers loads a part in the precision that its configuration names, diffusers does not
    text = text.replace('"dtype": "float16"', '"dtype": "float32"')
    text = re.sub(r'"_name_or_path": ".*"', f'"_name_or_path": "{variant}"', text)
    config.write_text(text, "utf-8")
    module.float()
    pin(variant)


def adapter(source: Path, name: str) -> None:
    """Copy an adapter's file to its folder."""
    folder = REPOSITORY / name
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / "lora.safetensors")
    pin(name)


def pin(name: str) -> None:
    """Put the digests of a folder's weights into its manifest."""
    folder = REPOSITORY / name
    digests = {
        path.relative_to(folder).as_posix(): "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.safetensors"))
    }
    for manifest in (folder / "variant.toml", folder / "adapter.toml"):
        if not manifest.is_file():
            continue
        text = manifest.read_text("utf-8")
        if manifest.name == "adapter.toml":
            text = re.sub(
                r'^digest = ".*"', f'digest = "{next(iter(digests.values()))}"', text, flags=re.M
            )
        else:
            lines = "\n".join(f'"{file}" = "{digest}"' for file, digest in digests.items())
            text = re.sub(r"^\[digests\]\n(?:\".*\n)*", f"[digests]\n{lines}\n", text, flags=re.M)
        manifest.write_text(text, "utf-8")
