"""difs.terminal: what people read of a result, of the variants, and of the service's state."""

from collections.abc import Iterator
from typing import Any, cast

import pytest
from rich.progress import Progress as Bar

from difs import terminal
from difs.client import Client, Result
from difs.messages import (
    Accepted,
    AdapterInfo,
    Preview,
    Progress,
    QualityPoint,
    Timings,
)
from tests import builders

READ = Timings(0.0, 0.01, 0.2, 0.02, 0.0, 0.23)


def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, **facts: Any) -> str:
    """Return what `show_result` prints."""
    monkeypatch.setattr(terminal.output, "_file", None)
    known = {"paths": ["a.png"], "plan": builders.plan(), "timings": READ, "notes": ()}
    terminal.show_result(known | {"seed_contract": "bitwise", "seed_bound": 0.0} | facts)
    return capsys.readouterr().out


# ---- a result -----------------------------------------------------------------------------------


def test_what_was_made_alone_needs_no_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = shown(capsys, monkeypatch)
    assert "a.png" in said
    assert "shared" not in said
    assert "bitwise" not in said


def test_the_closing_line_tells_of_sharing_and_what_it_means_for_the_seed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    timings = Timings(0.0, 0.01, 0.2, 0.02, 0.0, 0.23, shared_by=3.25)
    said = shown(capsys, monkeypatch, timings=timings, seed_contract="same-noise", seed_bound=4.12e-6)
    assert said.splitlines()[-1] == (
        "steps shared by 3.2 images on average;"
        " same-noise: no value (0..1) moved by more than 4e-06 when that was measured"
    )


def test_a_seed_that_is_not_bitwise_is_told_without_sharing_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = ("out of memory at decode: decoded in tiles",)
    said = shown(capsys, monkeypatch, seed_contract="same-noise", notes=notes)
    assert notes[0] in said
    assert said.splitlines()[-1] == "same-noise: close to a run alone, not equal"


class Scripted:
    """A client whose requests go as the test says."""

    def __init__(self, *events: Accepted | Progress | Result) -> None:
        self._events = events
        self.asked: dict[str, Any] = {}

    def stream(self, prompt: str, **wishes: Any) -> Iterator[Accepted | Progress | Result]:
        self.asked = wishes
        yield from self._events


def ending() -> Result:
    """Return an end of a stream."""
    return object.__new__(Result)


@pytest.mark.parametrize("show", [True, False])
def test_every_step_reaches_who_wants_to_hear_of_it(show: bool) -> None:
    steps = [Progress("r1", i, k, 2, Preview(1, 1, b"rgb")) for k in (1, 2) for i in (0, 1)]
    end = ending()
    client = Scripted(Accepted("r1", 7, 0), Accepted("r1", 7, 1, builders.plan()), *steps, end)
    heard: list[Progress] = []
    found = terminal.generate(cast(Client, client), "x", {"n": 2}, show=show, on_progress=heard.append)
    assert found is end
    assert heard == steps
    assert client.asked == {"progress": True, "n": 2}


@pytest.mark.parametrize("show", [True, False])
def test_steps_are_asked_for_where_somebody_looks(show: bool) -> None:
    client = Scripted(ending())
    terminal.generate(cast(Client, client), "x", {}, show=show)
    assert client.asked == {"progress": show}


def test_the_bar_counts_the_steps_of_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, float | None]] = []
    update = Bar.update

    def watch(self: Any, task: Any, **changes: Any) -> None:
        update(self, task, **changes)
        seen.append((self.tasks[0].completed, self.tasks[0].total))

    monkeypatch.setattr(Bar, "update", watch)
    plan = builders.plan(steps=2)
    steps = [Progress("r1", 1, 1, 2), Progress("r1", 0, 1, 2), Progress("r1", 1, 2, 2)]
    again = (Accepted("r1", 7, 2, plan), Progress("r1", 0, 1, 2))
    client = Scripted(Accepted("r1", 7, 1, plan), *steps, *again, ending())
    terminal.generate(cast(Client, client), "x", {"n": 2}, show=True)
    assert [done for done, _ in seen] == [0, 1, 2, 3, 3, 1], "another dispatch begins anew"
    assert {total for _, total in seen} == {4}


# ---- tables -------------------------------------------------------------------------------------


def test_variants_and_adapters_are_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal.output, "_file", None)
    ink = AdapterInfo("ink", "sd15", "CC0-1.0", "ink drawings", 1_250_000)
    oil = AdapterInfo("oil", "sdxl", "CC0-1.0", "oil paintings", 1000, ("tiny",))
    terminal.show_variants([builders.variant()], [ink, oil], [])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert any(line.startswith("tiny sd15 64x64") for line in lines)
    assert "ink sd15 all of sd15 1.2 ink drawings" in lines
    assert "oil sdxl tiny 0.0 oil paintings" in lines


def test_without_adapters_no_table_of_them_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal.output, "_file", None)
    terminal.show_variants([builders.variant()], [], [])
    assert "adapter" not in capsys.readouterr().out


# ---- quality --------------------------------------------------------------------------------------


def quality_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, **facts: Any) -> str:
    """Return what `show_quality` prints of a variant."""
    monkeypatch.setattr(terminal.output, "_file", None)
    terminal.show_quality(builders.variant(**facts))
    return capsys.readouterr().out


def test_a_quality_is_shown_with_where_it_comes_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = (QualityPoint(64, 4, 1.0, 0.5), QualityPoint(64, 4, 2.5, 0.75), QualityPoint(64, 8, 2.5, 0.8))
    facts = {"quality": curve, "quality_source": "CLIPScore by x", "quality_kind": "clip"}
    said = quality_of(capsys, monkeypatch, **facts)
    assert "quality of tiny (clip): CLIPScore by x" in said
    assert [line.split() for line in said.splitlines()[-2:]] == [
        ["64", "4", "0.500", "0.750"],
        ["64", "8", "-", "0.800"],
    ]


def test_agreement_is_not_sold_as_quality(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = (QualityPoint(64, 4, 1.0, 0.5),)
    said = quality_of(capsys, monkeypatch, quality=curve, quality_kind="agreement")
    assert "not how good the pictures are" in said


def test_a_quality_that_is_not_known_is_not_invented(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = quality_of(capsys, monkeypatch)
    assert "not known" in said
    assert "difs profile tiny" in said
