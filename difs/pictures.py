"""Image files: PNG, JPEG and WebP from pixels, with the metadata that other tools read.

PNG carries A1111's `parameters` text and our own `difs` key (JSON: plan and goal); JPEG and WebP
carry the `parameters` in EXIF's UserComment. Nothing of the machine goes in: no paths, no names.
"""

import io
from typing import TYPE_CHECKING

from msgspec import Struct
from PIL import Image as PilImage
from PIL.ExifTags import IFD, Base
from PIL.PngImagePlugin import PngInfo

from difs.messages import Adapter
from difs.samplers import SAMPLERS
from difs.version import __version__

JPEG_QUALITY = 92
WEBP_QUALITY = 90

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Facts(Struct, frozen=True):
    """How a picture came to be."""

    prompt: str
    negative_prompt: str
    steps: int
    sampler: str
    guidance_scale: float
    seed: int
    variant: str
    plan_json: str
    """JSON for our own key."""
    adapters: tuple[Adapter, ...] = ()


def parameters_text(facts: Facts, height: int, width: int) -> str:
    """Return the text in A1111's form, which Civitai and others parse: adapters follow the prompt."""
    sampler = SAMPLERS[facts.sampler]
    pairs = [
        ("Steps", facts.steps),
        ("Sampler", sampler.label),
        *([("Schedule type", sampler.schedule)] if sampler.schedule else []),
        ("CFG scale", f"{facts.guidance_scale:g}"),
        ("Seed", facts.seed),
        ("Size", f"{width}x{height}"),
        ("Model", facts.variant),
        ("Version", f"difs {__version__}"),
    ]
    used = [f"<lora:{adapter.name}:{adapter.weight:g}>" for adapter in facts.adapters]
    lines = [" ".join(filter(None, (facts.prompt, *used)))]
    if facts.negative_prompt:
        lines.append(f"Negative prompt: {facts.negative_prompt}")
    return "\n".join([*lines, ", ".join(f"{key}: {value}" for key, value in pairs)])


def encode(
    pixels: bytes | memoryview,
    size: tuple[int, int],
    form: str,
    facts: Facts | None,
    *,
    quality: int | None = None,
) -> bytes:
    """Return a file of `form` with RGB `pixels`, row by row; `size` is (height, width).

    `facts` None leaves no trace of how the picture came to be; `quality` 0..100 is that of a lossy form.
    """
    height, width = size
    image = PilImage.frombytes("RGB", (width, height), bytes(pixels))
    file = io.BytesIO()
    text = parameters_text(facts, height, width) if facts is not None else ""
    if form == "png":
        info = PngInfo()
        if facts is not None:
            info.add_itxt("parameters", text)
            info.add_itxt("difs", facts.plan_json)
        image.save(file, "png", pnginfo=info, compress_level=4)
        return file.getvalue()
    if quality is None:
        quality = JPEG_QUALITY if form == "jpeg" else WEBP_QUALITY
    exif = PilImage.Exif()
    if facts is not None:
        exif.get_ifd(IFD.Exif)[Base.UserComment] = b"UNICODE\0" + text.encode("utf-16-be")
    image.save(file, form, quality=quality, **({"exif": exif} if facts is not None else {}))
    return file.getvalue()


def decode(data: bytes | memoryview) -> "NDArray[np.uint8]":
    """Return the pixels of an image file, of shape (height, width, 3)."""
    import numpy as np  # noqa: PLC0415 -- a program that only saves files needs no numpy

    with PilImage.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def texts(data: bytes) -> dict[str, str]:
    """Return the texts in a PNG file, such as `parameters`; no pixels are read. Raises ValueError."""
    try:
        with PilImage.open(io.BytesIO(data), formats=["PNG"]) as image:
            return {str(name): str(text) for name, text in image.info.items() if isinstance(text, str)}
    except (OSError, SyntaxError, PilImage.DecompressionBombError) as error:
        raise ValueError(f"not a PNG file: {error}") from None
