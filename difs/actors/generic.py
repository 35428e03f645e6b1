"""Any other pipeline of diffusers: painted by its own `__call__`, suspended between its steps.

For families without a recipe: correct, progress and cancel included, but nothing is shared between
images. A checkpoint brings weights and configuration, never code.
"""

import importlib.util
import inspect
import json
import statistics
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Semaphore, Thread
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from numpy.typing import NDArray

from difs.actor_messages import Costs, Execute, RowCost
from difs.actors.loading import LIBRARIES, refuse_code
from difs.actors.memory_modes import DENOISERS, ModeKeeper
from difs.actors.warmup import Measured, Timed, orders
from difs.errors import EngineFailed, Unsupported
from difs.manifests import Manifest
from difs.messages import Preview
from difs.profiles import rows_of
from difs.variants import Variant

CALLBACK, OLD_CALLBACK = "callback_on_step_end", "callback"
"""What a pipeline calls after a step; PixArt, DeepFloyd IF and others know only the older one."""


class _Abandoned(BaseException):
    """Unwinds a call that nobody waits for; no `except Exception` of a pipeline shall catch it."""


class Work:
    """One picture: a pipeline's call in a thread of its own, which runs only while `advance` waits.

    Exactly one of the two sides runs at a time. Whoever gives it up before its end must `cancel` it.
    """

    def __init__(self, pipe: Any, execute: Execute, seed: int) -> None:
        """Prepare the call; `pipe` itself is left alone, so that two calls may take turns on it."""
        self._pipe, self._execute, self._seed = pipe, execute, seed
        self._accepted = inspect.signature(type(pipe).__call__).parameters
        self.restart()

    def restart(self) -> None:
        """Begin anew from the noise."""
        self.done = 0
        self.total = self._execute.steps if self.has_steps else 1
        self.pixels: NDArray[np.uint8] | None = None
        """The picture, of shape (height, width, 3), once the call has returned."""
        self.is_spoilt = False
        """An error unwound the call: it must begin anew."""
        self._error: BaseException | None = None
        self._is_over = self._is_abandoned = False
        self._thread: Thread | None = None
        self._resumed, self._paused = Semaphore(0), Semaphore(0)

    @property
    def has_steps(self) -> bool:
        """Whether the pipeline can be suspended; if not, its call is one unit."""
        return CALLBACK in self._accepted or OLD_CALLBACK in self._accepted

    # ---- the engine's side ------------------------------------------------------------------------

    def advance(self) -> bool:
        """Run until the next step's end: True; or, after the last, until the call returns: False.

        Raises what the call raised.
        """
        if self._is_over:
            return False
        if self._thread is None:
            self._start()
        else:
            self._resumed.release()
        self._paused.acquire()
        if not self._is_over:
            return True
        self._join()
        if self._error is not None:
            error, self._error = self._error, None
            self.is_spoilt = True
            raise error
        self.done = self.total
        return False

    def cancel(self) -> None:
        """Unwind the call; its thread is gone when this returns."""
        if self._thread is not None:
            self._is_abandoned = True
            self._resumed.release()
            self._join()
        self._is_over = True

    def _start(self) -> None:
        device = self._pipe._execution_device
        stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        pipe = _with_own_scheduler(self._pipe)
        self._thread = Thread(target=self._run, args=(pipe, stream), name="generic-call", daemon=True)
        self._thread.start()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    # ---- the call's side --------------------------------------------------------------------------

    def _run(self, pipe: Any, stream: Any) -> None:
        try:
            with torch.inference_mode(), torch.cuda.stream(stream):
                self.pixels = _pixels(pipe(**self._arguments()))
        except _Abandoned:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._is_over = True
            self._paused.release()

    def _arguments(self) -> dict[str, Any]:
        """Return what the pipeline's call takes of the request; the rest keeps its defaults."""
        execute = self._execute
        known: dict[str, Any] = {
            "prompt": execute.prompt,
            "width": execute.width,
            "height": execute.height,
            "num_inference_steps": execute.steps,
            "guidance_scale": execute.guidance_scale,
            "generator": torch.Generator("cpu").manual_seed(self._seed),
            "output_type": "np",
        }
        if execute.negative_prompt:
            known["negative_prompt"] = execute.negative_prompt
        if CALLBACK in self._accepted:
            known[CALLBACK] = self._step_ended
        elif OLD_CALLBACK in self._accepted:
            known[OLD_CALLBACK] = lambda step, timestep, latents: self._pause()
        return {name: value for name, value in known.items() if name in self._accepted}

    def _step_ended(self, pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        self.total = getattr(pipe, "num_timesteps", self.total)  # second-order methods evaluate twice
        self._pause()
        return tensors

    def _pause(self) -> None:
        self.done += 1
        self.total = max(self.total, self.done)
        self._paused.release()
        self._resumed.acquire()
        if self._is_abandoned:
            raise _Abandoned


def _with_own_scheduler(pipe: Any) -> Any:
    """Return a copy that shares the weights: a call keeps its state in its pipeline and scheduler."""
    own = copy(pipe)
    for name, part in pipe.components.items():
        if isinstance(part, SchedulerMixin):
            setattr(own, name, deepcopy(part))
    return own


def _pixels(result: Any) -> NDArray[np.uint8]:
    """Return the first picture of a pipeline's output, as bytes rounded as diffusers rounds them."""
    images = getattr(result, "images", None)
    image = np.asarray(images[0] if images is not None and len(images) else ())
    if image.ndim != 3 or image.shape[2] != 3:
        raise EngineFailed(f"the pipeline returned no RGB picture, but shape {image.shape}")
    return image if image.dtype == np.uint8 else (image * 255).round().astype(np.uint8)


# ---- loading ------------------------------------------------------------------------------------


def load_generic(folder: Path, dtype: torch.dtype) -> Any:
    """Return the text-to-image pipeline of a diffusers folder, on the CPU; raises EngineFailed."""
    absent = _absent_parts(folder)
    try:
        pipe = DiffusionPipeline.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, **dict.fromkeys(absent)
        )
    except Exception as error:  # what a broken checkpoint raises has no common class
        raise EngineFailed(f"{folder.name} does not load: {str(error).strip()[:200]}") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _absent_parts(folder: Path) -> list[str]:
    """Return the parts that model_index.json says are not there; refuses what is not diffusers' own."""
    refuse_code(folder)
    try:
        index = json.loads((folder / "model_index.json").read_text("utf-8"))
        parts = {name: tuple(value) for name, value in index.items() if isinstance(value, list)}
        _check_pipeline(index["_class_name"])
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise EngineFailed(f"model_index.json: {type(error).__name__}: {error}") from error
    for name, named in parts.items():
        if named != (None, None) and not _is_known(named):
            raise EngineFailed(f"{name} is of {named}: only classes of {', '.join(LIBRARIES)} are run")
    return [name for name, named in parts.items() if named == (None, None)]


def _check_pipeline(name: Any) -> None:
    """Refuse what is not a pipeline of diffusers that makes a picture of a text and nothing else."""
    cls = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (isinstance(cls, type) and issubclass(cls, DiffusionPipeline)):
        raise EngineFailed(f"{name} is no pipeline of diffusers {diffusers.__version__}")
    parameters = list(inspect.signature(cls.__call__).parameters.values())[1:]
    if "prompt" not in {p.name for p in parameters}:
        raise EngineFailed(f"{name} makes no picture of a text: its call takes no prompt")
    for p in parameters:
        named = p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        if named and p.default is p.empty and p.name != "prompt":
            raise EngineFailed(f"{name} needs more than a text: its call takes {p.name}")


def _is_known(named: tuple[Any, ...]) -> bool:
    """Whether a part's class is of transformers, diffusers or the package of one of its pipelines."""
    match named:
        case (str(library), str()):
            home = f"diffusers.pipelines.{library}"
            return library in LIBRARIES or (
                library.isidentifier() and importlib.util.find_spec(home) is not None
            )
    return False


# ---- painting -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompt:
    """Stands for an encoded prompt: the pipeline encodes by itself, and tells nobody what it cuts."""

    truncated_tokens: int = 0
    is_cached: bool = True
    """Nothing can be learnt from the time it took."""


class NoAdapters:
    """The shelf of a pipeline that takes no adapters from requests."""

    def has(self, name: str, digest: str) -> bool:
        """There is none."""
        return False

    def load(self, name: str, path: Path, digest: str = "") -> None:
        """Refuse: only families with a recipe have adapters."""
        raise Unsupported(f"adapter {name}: this family takes none", field="overrides.adapters")

    def to_host(self) -> None:
        """There is nothing to move."""


class GenericPainter:
    """Paints with any pipeline, one image at a time; see `difs.actors.painter.Painter`."""

    is_solo = True

    def __init__(self, pipe: Any, keeper: ModeKeeper) -> None:
        """`keeper` puts the pipeline where it computes."""
        self.pipe = pipe
        self.keeper = keeper
        self.shelf = NoAdapters()

    def is_exact(self, execute: Execute) -> bool:
        """Whether what is computed now has the bits of the pipeline's own call."""
        return self.keeper.is_exact

    def rows(self, execute: Execute) -> int:
        """Return the rows of its calls, as the cost model counts them."""
        return rows_of(execute.guidance_scale)

    def encode(self, execute: Execute) -> Prompt:
        """Do nothing: the call's first step includes it."""
        return Prompt()

    def begin(self, execute: Execute, seed: int, conditioning: Prompt) -> Work:
        """Prepare one image's call."""
        return Work(self.pipe, execute, seed)

    def step(self, works: Sequence[Work]) -> None:
        """Run the call of the only one of `works` to its next step's end."""
        (work,) = works
        with _refusals_in_words():
            work.advance()

    def decode(self, work: Work, canvas: NDArray[np.uint8], *, is_tiled: bool = False) -> None:
        """Let the call return, and write the pixels into `canvas`, of shape (height, width, 3).

        What broke a decoding took the latents along: then the whole call is made once more.
        """
        if work.is_spoilt:
            work.restart()
        with self.keeper.decoding(is_tiled=is_tiled), _refusals_in_words():
            while work.advance():
                pass
        assert work.pixels is not None
        if work.pixels.shape != canvas.shape:
            raise EngineFailed(f"the pipeline painted {work.pixels.shape} instead of {canvas.shape}")
        canvas[:] = work.pixels

    def preview(self, work: Work) -> Preview | None:
        """Return nothing: what a latent means is the pipeline's own business."""
        return None


@contextmanager
def _refusals_in_words() -> Iterator[None]:
    """Pass on what a pipeline says of arguments that it does not take, such as an odd size."""
    try:
        yield
    except ValueError as error:
        raise EngineFailed(f"the pipeline refuses: {str(error).strip()[:200]}") from error


def load_painter(variant: Variant, device: torch.device, dtype: torch.dtype) -> GenericPainter:
    """Load a variant, its digests checked first; raises EngineFailed or RepositoryError."""
    if variant.borrowed or variant.fused:
        family = variant.manifest.family
        raise EngineFailed(f"{variant.name}: parts and fused are not for family {family!r}")
    before = variant.stamp()
    variant.verify()
    pipe = load_generic(variant.folder, dtype)
    if variant.stamp() != before:
        raise EngineFailed(f"{variant.name}: a weight file changed while it was loaded; load it again")
    keeper = ModeKeeper(pipe, device, partial(_restore_denoiser, pipe, variant.folder))
    keeper.switch(variant.manifest.default_mode)
    return GenericPainter(pipe, keeper)


def _restore_denoiser(pipe: Any, folder: Path, dtype: torch.dtype) -> None:
    """Load the denoiser's exact weights from its files again, into host memory."""
    for name in DENOISERS:
        part = pipe.components.get(name)
        if part is None:
            continue
        exact = type(part).from_pretrained(
            folder / name, dtype=dtype, use_safetensors=True, local_files_only=True
        )
        own = dict(part.named_parameters()) | dict(part.named_buffers())
        for key, tensor in exact.state_dict().items():
            own[key].data = tensor


def measure(
    painter: GenericPainter,
    manifest: Manifest,
    timed: Timed,
    *,
    steps: int,
    max_rows: int,
) -> Generator[Measured | None, None, None]:
    """Paint one picture with guidance and one without; `timed` returns a call's value and its seconds.

    One unit between two yields, as `difs.actors.warmup.measure`; there are no batches to try.
    """
    guided, bare = orders(manifest, steps)
    rows, encode_s, decode_s = [], 0.0, 0.0
    for execute in (bare, guided):
        work = painter.begin(execute, 0, painter.encode(execute))
        taken = yield from _time(work, timed)
        *step_s, decode_s = taken if work.has_steps else [taken[0] / steps, 0.0]
        median = statistics.median(step_s[1:] or step_s)
        encode_s = max(0.0, step_s[0] - median)
        rows.append(RowCost(painter.rows(execute), median))
    yield Measured(Costs(bare.width * bare.height, encode_s, tuple(rows), decode_s, 0.0), 0.0)


def _time(work: Work, timed: Timed) -> Generator[None, None, list[float]]:
    """Return the seconds of each unit of a call; it is unwound when nobody waits for the rest."""
    taken = []
    try:
        while True:
            goes_on, seconds = timed(work.advance)
            taken.append(seconds)
            if not goes_on:
                return taken
            yield
    finally:
        work.cancel()
