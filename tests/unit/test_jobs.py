"""difs.actors.jobs: what of an attempt can be done now, and what it still needs."""

from typing import Any

import pytest

from difs.actor_messages import Costs, RowCost, Slot
from difs.actors.jobs import Job, candidates_of
from difs.shm import layout
from tests import builders

COSTS = Costs(4096, 0.5, (RowCost(1, 1.0), RowCost(2, 1.5), RowCost(4, 2.5)), 0.25, 0.0)


def job_of(images: int, **changes: Any) -> Job:
    """Return an attempt whose prompt is encoded."""
    slots = tuple(Slot(i, layout.PAGE_BYTES, 64 * builders.KIB, 1) for i in range(images))
    job = Job(builders.execute(seeds=tuple(range(images)), slots=slots, **changes))
    job.conditioning = True
    return job


def test_an_image_is_done_when_all_that_were_asked_for_with_it_are_decoded() -> None:
    found = candidates_of(0, job_of(4), COSTS, 1, 3)
    assert [c.remaining_s for c in found] == pytest.approx([3 * 1.0 + 4 * 0.25] * 4)
    assert [(c.unit_s, c.evaluations, c.phase) for c in found] == [(1.0, 3, "step")] * 4


def test_what_is_decoded_is_waited_for_no_more() -> None:
    job = job_of(3)
    for painting in job.paintings:
        painting.done = painting.total = 3
    job.sealed[1] = builders.finished(job.execute).images[1]
    found = candidates_of(0, job, COSTS, 1, 3)
    assert [(c.key, c.phase, c.remaining_s) for c in found] == [(0, "decode", 0.5), (2, "decode", 0.5)]


def test_before_its_prompt_is_encoded_its_images_are_taken_to_share_all_calls() -> None:
    job = job_of(4)
    job.conditioning = None
    (found,) = candidates_of(0, job, COSTS, 1, 3)
    assert found.phase == "encode"
    assert found.remaining_s == pytest.approx(0.5 + 3 * 2.5 + 4 * 0.25)
