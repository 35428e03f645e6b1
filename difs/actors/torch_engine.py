"""The engine on torch: the units of work on residents. What is resident is `difs.actors.residency`'s."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from difs.actor_messages import Execute
from difs.actors import generic
from difs.actors.jobs import Job, Painting
from difs.actors.residency import Residency
from difs.messages import Preview


class TorchEngine(Residency):
    """See `difs.actors.engine.Engine`."""

    def rows(self, execute: Execute) -> int:
        """See Engine.rows."""
        return int(self._painters[execute.variant].rows(execute))

    def timed(self, act: Callable[[], None], then: Callable[[float], None]) -> None:
        """See Engine.timed."""
        with torch.inference_mode(), self.typed_errors():
            self._stopwatch.measure(act, then)

    def encode(self, job: Job) -> None:
        """See Engine.encode."""
        execute = job.execute
        painter = self._painters[execute.variant]
        if execute.adapters:
            self._fetch_adapters(painter, execute)
        job.conditioning = painter.encode(execute)
        job.is_cached = job.conditioning.is_cached
        truncated = job.conditioning.truncated_tokens
        if truncated:
            job.note(f"the prompt's last {truncated} tokens were not used: it is too long")
        if painter.is_solo:
            for painting in job.paintings:
                painting.is_alone = True

    def _fetch_adapters(self, painter: Any, execute: Execute) -> None:
        """Load the adapters that an attempt names, and drop others if they take too much room."""
        for adapter in execute.adapters:
            found = self._library.adapter(adapter.name)
            if not painter.shelf.has(adapter.name, found.manifest.digest):
                found.verify()
                painter.shelf.load(adapter.name, found.path, found.manifest.digest)
        used = {
            a.name
            for job in self._book
            if job.execute.variant == execute.variant and job.ending is None
            for a in job.execute.adapters
        }
        painter.shelf.trim(used)

    def begin(self, painting: Painting) -> None:
        """See Engine.begin."""
        job = painting.job
        painter = self._painters[job.execute.variant]
        with torch.inference_mode(), self.typed_errors():
            painting.work = painter.begin(job.execute, painting.seed, job.conditioning)
        painting.total = painting.work.total

    def step(self, paintings: list[Painting]) -> None:
        """See Engine.step."""
        job = paintings[0].job
        painter = self._painters[job.execute.variant]
        try:
            with self._in_mode(painter, job):
                painter.step([p.work for p in paintings])
        finally:
            for painting in paintings:
                painting.done, painting.total = painting.work.done, painting.work.total
                if painting.work.is_spoilt:
                    painting.restart()

    def shorten(self, painting: Painting, left: int) -> bool:
        """See Engine.shorten."""
        painter = self._painters[painting.job.execute.variant]
        if painter.is_solo:
            return False
        before = painting.total
        painter.shorten(painting.work, left)
        painting.total = painting.work.total
        return painting.total < before

    def decode(self, painting: Painting, canvas: NDArray[np.uint8]) -> None:
        """See Engine.decode."""
        painter = self._painters[painting.job.execute.variant]
        with self._in_mode(painter, painting.job):
            painter.decode(painting.work, canvas, is_tiled=painting.is_tiled)

    @contextmanager
    def _in_mode(self, painter: Any, job: Job) -> Iterator[None]:
        """Surround a unit of a job: one that must be exact saves no memory by other arithmetic."""
        with painter.keeper.exact() if job.execute.is_alone else nullcontext():
            job.is_exact = job.is_exact and painter.is_exact(job.execute)
            yield

    def judge(self, painting: Painting, canvas: NDArray[np.uint8]) -> float | None:
        """See Engine.judge."""
        verdict = self._judge.judge(painting.job.execute, canvas)
        if isinstance(verdict, str):
            painting.job.note(verdict)
            return None
        return verdict

    def preview(self, painting: Painting) -> Preview | None:
        """See Engine.preview."""
        with torch.inference_mode(), self.typed_errors():
            found: Preview | None = self._painters[painting.job.execute.variant].preview(painting.work)
        return found

    def drop(self, painting: Painting) -> None:
        """See Engine.drop."""
        if isinstance(painting.work, generic.Work):
            painting.work.cancel()
        painting.work = None
        self._rest(painting.job.execute.variant)

    def _rest(self, variant: str) -> None:
        """Put away what visits the device, once nobody paints with it."""
        painter = self._painters.get(variant)
        in_use = (p for job in self._book if job.execute.variant == variant for p in job.paintings)
        if painter is not None and not any(p.work is not None for p in in_use):
            painter.keeper.rest()
