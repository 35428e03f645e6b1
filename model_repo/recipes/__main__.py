"""Makes the embedded family.

    python -m model_repo.recipes [STAGE ...] [--out DIR] [--device cpu|cuda] [--threads N]

Without stages: all of the family, in order, from the weights in model_repo/ on. A stage that was stopped
goes on where it stood, one that is done only writes its part into model_repo/ again. `autoencoder` and
`first-base` begin from nothing and write nothing into model_repo/. Progress, losses and checkpoints
stand below --out. Needs `pip install -e '.[recipes]'` and npm.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model_repo.recipes.material import Material

FAMILY = (
    "base",
    "small",
    "turbo",
    "style-fluent",
    "style-mono",
    "xl",
    "xl-again",
    "decoder",
    "references",
)
FIRST = ("autoencoder", "first-base")


def stages(material: "Material") -> dict[str, Callable[[], object]]:
    """Return what each stage does."""
    from model_repo.recipes import (
        autoencoder,
        decoder,
        denoiser,
        export,
        lora,
        references,
        samples,
        words,
        xl,
    )
    from model_repo.recipes.material import BASE, REPOSITORY

    def base() -> None:
        unet, encoder = denoiser.train_base(material)
        words.train(material, encoder.requires_grad_(True))
        denoiser.together(material, "base_again", unet, encoder)
        denoiser.together(material, "base_confused", unet, encoder)
        export.part(unet, "emoji-base", "unet")
        export.part(encoder, "emoji-base", "text_encoder")

    def small() -> None:
        export.part(denoiser.train_small(material, denoiser.base_text_encoder()), "emoji-small", "unet")

    def adapter(name: str) -> Callable[[], None]:
        def make() -> None:
            file = lora.train(material, name, denoiser.base_unet(), denoiser.base_text_encoder())
            export.adapter(file, name)

        return make

    def large(train: Callable[["Material"], tuple[Any, Any]]) -> None:
        unet, second = train(material)
        export.part(unet, "emoji-xl", "unet")
        export.part(second, "emoji-xl", "text_encoder_2")

    def write_references() -> None:
        references.write(material, "noto", 128, BASE)
        references.write(material, "fluent", 64, REPOSITORY / "style-fluent")

    return {
        "autoencoder": lambda: autoencoder.train(material),
        "first-base": lambda: denoiser.train_base(material, fresh=True),
        "base": base,
        "small": small,
        "turbo": adapter("turbo"),
        "style-fluent": adapter("style-fluent"),
        "style-mono": adapter("style-mono"),
        "xl": lambda: large(xl.train),
        "xl-again": lambda: large(xl.train_again),
        "decoder": lambda: export.part(
            decoder.train(material, samples.pairs(material)), "emoji-base", "vae"
        ),
        "references": write_references,
    }


def main() -> None:
    """Run the stages that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("stage", nargs="*", default=FAMILY, metavar="STAGE")
    parser.add_argument("--out", type=Path, default=Path("out/recipes"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = all")
    asked = parser.parse_args()
    if strangers := set(asked.stage) - {*FIRST, *FAMILY}:
        parser.error(f"no stage {', '.join(strangers)}; there are {', '.join((*FIRST, *FAMILY))}")
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    if asked.threads:
        torch.set_num_threads(asked.threads)
    from model_repo.recipes.material import Material

    asked.out.mkdir(parents=True, exist_ok=True)
    known = stages(Material(asked.out, asked.device))
    for stage in asked.stage:
        print(f"---- {stage}", flush=True)
        known[stage]()


if __name__ == "__main__":
    main()
