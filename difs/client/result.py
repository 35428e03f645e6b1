"""A result in the caller's hands: pixels without a copy, given back when nobody looks any more."""

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from difs.errors import InvalidRequest, LeaseLost, RemoteProtocolError
from difs.messages import Generate, Image, Plan, SeedContract, Timings
from difs.messages import Result as ResultMessage
from difs.shm.reader import SegmentReader, matches

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image as PilImage

    from difs import pictures

SUFFIXES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


def form_of(path: Path) -> str:
    """Return the file format that a path's suffix means; raises InvalidRequest for an unknown one."""
    form = SUFFIXES.get(path.suffix.lower())
    if form is None:
        raise InvalidRequest(f"cannot save as {path.suffix!r}; use {', '.join(SUFFIXES)}")
    return form


class _Pixels:
    """What a leased array rests on: while any view of it lives, the slot stays ours."""

    def __init__(self, reader: SegmentReader, image: Image, give_back: Callable[[], None]) -> None:
        assert isinstance(image.offset, int)
        assert isinstance(image.generation, int)
        self._reader, self._offset, self._generation = reader, image.offset, image.generation
        self.data = reader.image(image.offset, image.nbytes, image.generation)
        self.finalizer = weakref.finalize(self, give_back)
        self.finalizer.atexit = False

    def check(self) -> None:
        """Raise LeaseLost unless the slot still holds this image."""
        self._reader.check(self._offset, self._generation)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """Let numpy make views that keep this object alive (numpy's array interface, version 3)."""
        import numpy as np  # noqa: PLC0415 -- `import difs` must stay light

        address = np.frombuffer(self.data, np.uint8).ctypes.data
        shape = (self.data.nbytes,)
        return {"version": 3, "typestr": "|u1", "shape": shape, "data": (address, True)}


def _bytes_of(source: _Pixels | bytes) -> memoryview:
    return source.data if isinstance(source, _Pixels) else memoryview(source)


class Result:
    """The images of one request, and how they came to be.

    Each image is compared with its checksum when it is first looked at.

    Images that lie in shared memory are views without a copy. They are given back to the service when
    the last view is gone, on `release()`, or at the end of a `with` block; copy what is to stay.
    """

    def __init__(
        self,
        request: Generate,
        message: ResultMessage,
        frames: Sequence[bytes],
        reader: Callable[[str], SegmentReader],
        release: Callable[[int], None],
    ) -> None:
        """Take a `result` message, the payload frames behind it, and what opens and frees slots."""
        self._request = request
        self._message = message
        self._reader = reader
        self._unchecked = set(range(len(message.images)))
        self._sources: list[_Pixels | bytes | None] = []
        for image in message.images:
            if isinstance(image.segment, str) and isinstance(image.lease, int):
                pixels = _Pixels(reader(image.segment), image, partial(release, image.lease))
                self._sources.append(pixels)
            elif isinstance(image.frame, int) and image.frame < len(frames):
                self._sources.append(frames[image.frame])
            else:
                raise RemoteProtocolError("an image of the result is nowhere to be found")

    # ---- facts ----------------------------------------------------------------------------------

    @property
    def request_id(self) -> str:
        """Return the id that the request was sent under."""
        return self._message.request_id

    @property
    def plan(self) -> Plan:
        """Return the operating point that was used, its prediction and the reason."""
        return self._message.plan

    @property
    def timings(self) -> Timings:
        """Return the measured seconds."""
        return self._message.timings

    @property
    def seeds(self) -> list[int]:
        """Return each image's own seed."""
        return [image.seed for image in self._message.images]

    @property
    def seed_contract(self) -> SeedContract:
        """Return how exactly the same seed gives the same image again: "bitwise" or "same-noise"."""
        return self._message.seed_contract

    @property
    def seed_bound(self) -> float:
        """Return the largest difference of a value in 0..1 to an image computed alone, as measured."""
        return self._message.seed_bound

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what the service did otherwise than asked, in words."""
        return self._message.notes

    @property
    def attempts(self) -> int:
        """Return how many dispatches it took."""
        return self._message.attempt

    # ---- images ---------------------------------------------------------------------------------

    @property
    def images(self) -> "list[NDArray[np.uint8]]":
        """Return read-only arrays of shape (height, width, 3); raises LeaseLost after release."""
        return [self._array(i) for i in range(len(self._message.images))]

    def _array(self, i: int) -> "NDArray[np.uint8]":
        import numpy as np  # noqa: PLC0415

        image, source = self._message.images[i], self._checked(i)
        if image.format != "raw":
            from difs import pictures  # noqa: PLC0415

            return pictures.decode(self._view(i))
        flat: NDArray[np.uint8] = (
            np.asarray(source) if isinstance(source, _Pixels) else np.frombuffer(source, np.uint8)
        )
        return flat.reshape(image.height, image.width, image.channels)

    def _living(self, i: int) -> _Pixels | bytes:
        source = self._sources[i]
        if source is None:
            raise LeaseLost("this result was released; copy images that are to stay")
        if isinstance(source, _Pixels):
            source.check()
        return source

    def _checked(self, i: int) -> _Pixels | bytes:
        """Return an image that was compared with its CRC-32 once: what was written over is no picture."""
        source = self._living(i)
        if i in self._unchecked:
            self._compare(i, source)
            self._unchecked.discard(i)
        return source

    def _compare(self, i: int, source: _Pixels | bytes) -> None:
        if not matches(_bytes_of(source), self._message.images[i].crc32):
            raise RemoteProtocolError(f"image {i} is not what its actor sealed")

    def _view(self, i: int) -> memoryview:
        return _bytes_of(self._checked(i))

    def data(self, i: int = 0) -> bytes:
        """Return a copy of image `i` as it was delivered: raw pixels or an image file."""
        return bytes(self._view(i))

    def verify(self) -> None:
        """Compare every image with its CRC-32 once more; raises RemoteProtocolError."""
        for i in range(len(self._message.images)):
            self._compare(i, self._living(i))

    def pil(self) -> "list[PilImage]":
        """Return the images as Pillow images (copies)."""
        from PIL import Image as Pil  # noqa: PLC0415

        return [Pil.fromarray(array) for array in self.images]

    def save(self, path: str | Path, *, metadata: bool = True) -> list[Path]:
        """Write the images as .png, .jpg or .webp and return the paths.

        Several images get their seeds into their names; missing folders are made.
        """
        target = Path(path)
        form = form_of(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        written = []
        for i, image in enumerate(self._message.images):
            several = len(self._message.images) > 1
            name = target.with_stem(f"{target.stem}-{image.seed}") if several else target
            name.write_bytes(self.file(i, form, metadata=metadata))
            written.append(name)
        return written

    def file(self, i: int, form: str, *, metadata: bool = True, quality: int | None = None) -> bytes:
        """Return image `i` as a file of `form` (png, jpeg, webp); `quality` 0..100 of a lossy one."""
        image = self._message.images[i]
        wrote_metadata = self._request.delivery.metadata
        if image.format == form and wrote_metadata == metadata and quality is None:
            return self.data(i)
        from difs import pictures  # noqa: PLC0415

        pixels = self._view(i) if image.format == "raw" else self._array(i).tobytes()
        facts = self._facts(image.seed) if metadata else None
        return pictures.encode(pixels, (image.height, image.width), form, facts, quality=quality)

    def parameters(self, i: int = 0) -> str:
        """Return how image `i` came to be, as A1111 writes it into its files."""
        from difs import pictures  # noqa: PLC0415

        image = self._message.images[i]
        return pictures.parameters_text(self._facts(image.seed), image.height, image.width)

    def _facts(self, seed: int) -> "pictures.Facts":
        from difs import pictures  # noqa: PLC0415

        request, plan = self._request, self.plan
        return pictures.Facts(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            steps=plan.steps,
            sampler=plan.sampler,
            guidance_scale=plan.guidance_scale,
            seed=seed,
            variant=plan.variant,
            plan_json=plan.describe(request.requirements),
            adapters=request.overrides.adapters,
        )

    # ---- the end --------------------------------------------------------------------------------

    def release(self) -> None:
        """Give the shared memory back; arrays taken from here must no longer be read."""
        for source in self._sources:
            if isinstance(source, _Pixels):
                source.finalizer()
        self._sources = [None] * len(self._sources)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        plan, n = self.plan, len(self._message.images)
        return (
            f"<Result {self.request_id}: {n} x {plan.width}x{plan.height} by {plan.variant},"
            f" {plan.steps} steps, {self.timings.total_s:.3f} s>"
        )
