"""Previews of unfinished images in the caller's hands: arrays and files, made of `Progress`.

Nothing here but the making: when previews come is `Wishes.preview_every`'s.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from difs.errors import RemoteProtocolError
from difs.messages import Preview, Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHANNELS = 3


def pixels(event: Progress) -> "NDArray[np.uint8] | None":
    """Return a read-only array of shape (height, width, 3), or None where the step has no preview.

    Raises RemoteProtocolError when the preview has not as many bytes as it says.
    """
    if event.preview is None:
        return None
    import numpy as np  # noqa: PLC0415 -- `import difs` must stay light

    preview = _checked(event.preview)
    flat = np.frombuffer(preview.pixels, np.uint8)
    return flat.reshape(preview.height, preview.width, CHANNELS)


def save(event: Progress, folder: str | Path) -> Path | None:
    """Write `preview-<image>-<step>.png` and return its path, or None where there is no preview.

    Raises as `pixels` does, and OSError.
    """
    from difs import pictures  # noqa: PLC0415 -- Pillow is for those who save

    if event.preview is None:
        return None
    preview = _checked(event.preview)
    data = pictures.encode(preview.pixels, (preview.height, preview.width), "png", None)
    path = Path(folder) / f"preview-{event.image}-{event.step:03}.png"
    path.write_bytes(data)
    return path


def _checked(preview: Preview) -> Preview:
    height, width, nbytes = preview.height, preview.width, len(preview.pixels)
    if min(height, width) < 1 or nbytes != height * width * CHANNELS:
        raise RemoteProtocolError(f"a preview of {height} x {width} pixels has {nbytes} bytes")
    return preview
