"""difs.profiling.quality, agreement, asking: what pictures are worth, measured and kept."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from difs import repository
from difs.errors import EngineFailed, Unsupported
from difs.manifests import StepRange
from difs.messages import QualityKind, QualityPoint
from difs.profiling import asking, quality, reference
from difs.profiling.agreement import Agreement
from difs.profiling.asking import Asked, Point
from difs.profiling.grid import Effort
from difs.profiling.reports import Broken, Doing, Judged, Report
from difs.scorer import Pixels
from difs.variants import Variant
from tests.studio import MANIFEST
from tests.unit.test_repository import MODEL_REPO, add

POINTS = [Point(4, 2.5), Point(8, 2.5), Point(20, 2.5)]
ASKED = asking.by_seed(asking.plain(["a cat", "a dog", "a pear"]), 3, 2)
MANY = Point(50, 2.5)


def noise(*numbers: int) -> Pixels:
    return np.random.default_rng(numbers).integers(0, 256, (64, 64, 3)).astype(np.uint8)


class FakeArtist:
    """Paints the same for a prompt and seed, with less noise the more steps there are."""

    def __init__(self) -> None:
        self.opened = 0
        self.painted: list[Point] = []

    def open(self) -> "FakeArtist":
        self.opened += 1
        return self

    def paint(self, asked: Sequence[Asked], point: Point) -> list[Pixels]:
        self.painted.append(point)
        share = 1.0 / point.steps if point.steps < MANY.steps else 0.0
        return [
            (noise(len(a.text), a.seed, i) * (1 - share) + noise(i, point.steps) * share).astype(np.uint8)
            for i, a in enumerate(asked)
        ]

    def close(self) -> None:
        pass


class FakeJudge:
    """Says that more steps are better."""

    judge = "nobody"
    source = "made up"

    def __init__(self, kind: QualityKind = "clip") -> None:
        self.kind: QualityKind = kind
        self.breaks_at = 0

    def prepare(self, paint: object, asked: object) -> None:
        pass

    def rows(self, point: Point, painted: object, asked: object) -> list[QualityPoint]:
        if point.steps == self.breaks_at:
            raise EngineFailed("it fell asleep")
        return [QualityPoint(64, point.steps, point.guidance, point.steps / 100)]


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "user data"))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    add(tmp_path / "models")
    return tmp_path / "models"


def read(models: Path) -> Variant:
    return repository.scan(models).variant("tiny")


def run(models: Path, artist: FakeArtist, judge: quality.Judge, *, fresh: bool = False) -> list[Report]:
    return list(quality.run(read(models), artist.open, judge, POINTS, ASKED, is_fresh=fresh))


# ---- going through --------------------------------------------------------------------------------


def test_a_measured_curve_is_what_the_service_knows_and_says_where_it_comes_from(models: Path) -> None:
    assert read(models).info().quality_kind is None
    report = run(models, FakeArtist(), FakeJudge())[-1]
    assert isinstance(report, Judged)
    assert report.is_used
    assert Path(report.path) == models / "tiny" / "quality.json"
    info = read(models).info()
    assert [(p.steps, p.score) for p in info.quality] == [(4, 0.04), (8, 0.08), (20, 0.2)]
    assert (info.quality_kind, info.quality_judge) == ("clip", "nobody")
    assert info.quality_source == "made up; 3 prompts x 2 seeds"


def test_a_curve_that_is_whole_is_not_measured_again(models: Path) -> None:
    run(models, FakeArtist(), FakeJudge())
    artist = FakeArtist()
    assert isinstance(run(models, artist, FakeJudge())[-1], Judged)
    assert artist.opened == 0
    run(models, artist, FakeJudge(), fresh=True)
    assert artist.painted == [point for point in POINTS for _ in ASKED]


def test_a_part_of_a_curve_is_no_quality_and_is_gone_on_from(models: Path) -> None:
    judge = FakeJudge()
    judge.breaks_at = 20
    assert run(models, FakeArtist(), judge)[-1] == Broken("tiny", "it fell asleep")
    assert read(models).info().quality == ()
    artist = FakeArtist()
    assert isinstance(run(models, artist, FakeJudge())[-1], Judged)
    assert {point.steps for point in artist.painted} == {20}
    assert len(read(models).info().quality) == len(POINTS)


def test_what_the_manifest_states_goes_before_what_was_measured(models: Path) -> None:
    run(models, FakeArtist(), FakeJudge())
    manifest = models / "tiny" / "variant.toml"
    stated = (
        '[quality]\nsource = "its maker"\ncurve = [{ side = 64, steps = 4, guidance = 1, score = 1 }]'
    )
    manifest.write_text(f"{manifest.read_text()}\n{stated}")
    info = read(models).info()
    assert (info.quality_kind, info.quality_source) == ("declared", "its maker")
    report = run(models, FakeArtist(), FakeJudge())[-1]
    assert isinstance(report, Judged)
    assert not report.is_used


@pytest.mark.parametrize("order", [("agreement", "clip"), ("clip", "agreement")])
def test_of_several_curves_all_are_kept_and_the_one_that_says_most_is_used(
    models: Path, order: tuple[QualityKind, ...]
) -> None:
    reports = [run(models, FakeArtist(), FakeJudge(kind))[-1] for kind in order]
    assert [r.is_used for r in reports if isinstance(r, Judged) and r.kind == "clip"] == [True]
    assert read(models).info().quality_kind == "clip"
    kept = json.loads((models / "tiny" / "quality.json").read_text())
    assert sorted(curve["kind"] for curve in kept["curves"]) == ["agreement", "clip"]


def test_a_curve_of_other_weights_is_no_curve(models: Path) -> None:
    run(models, FakeArtist(), FakeJudge())
    manifest = models / "tiny" / "variant.toml"
    manifest.write_text(manifest.read_text().replace('"ddim"', '"euler"'))
    assert read(models).info().quality == ()


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"\xff", b'{"fingerprint": "x", "curves": [{"kind": "magic"}]}', b"[" * 100_000],
)
def test_a_damaged_file_is_no_quality_and_no_problem(models: Path, data: bytes) -> None:
    (models / "tiny" / "quality.json").write_bytes(data)
    found = repository.scan(models)
    assert found.problems == ()
    assert found.variant("tiny").info().quality == ()


def test_a_score_that_is_none_is_not_believed(models: Path) -> None:
    run(models, FakeArtist(), FakeJudge())
    path = models / "tiny" / "quality.json"
    path.write_text(path.read_text().replace("0.08", "8.0"))
    assert read(models).info().quality == ()


def test_progress_counts_up_and_the_time_left_falls(models: Path) -> None:
    doing = [r for r in run(models, FakeArtist(), FakeJudge()) if isinstance(r, Doing)]
    assert [r.done for r in doing] == [0, 1, 2, 3, 4]
    assert {r.total for r in doing} == {4}
    assert doing[1].left_s is None, "nothing is known yet"
    assert doing[-1].left_s == 0.0


# ---- agreement ------------------------------------------------------------------------------------


def agreement() -> Agreement:
    judge = Agreement("tiny", "f" * 32, MANY, 64)
    judge.prepare(FakeArtist().paint, ASKED)
    return judge


def score(judge: Agreement, point: Point) -> QualityPoint:
    (row,) = judge.rows(point, [FakeArtist().paint(asked, point) for asked in ASKED], ASKED)
    return row


def test_the_many_steps_agree_with_themselves_and_fewer_agree_less() -> None:
    judge = agreement()
    assert score(judge, MANY).score == 1.0
    scores = [score(judge, point).score for point in POINTS]
    assert 0.0 < scores[0] < scores[1] < scores[2] < 1.0


def test_results_of_other_prompts_agree_not_at_all() -> None:
    judge = agreement()
    painted = [FakeArtist().paint(asked, MANY) for asked in ASKED]
    (row,) = judge.rows(MANY, [[*pictures[1:], pictures[0]] for pictures in painted], ASKED)
    assert row.score < 0.05


def test_pictures_that_are_all_alike_say_nothing() -> None:
    judge = Agreement("tiny", "f" * 32, MANY, 64)
    with pytest.raises(EngineFailed, match="all alike"):
        judge.prepare(lambda asked, point: [np.zeros((64, 64, 3), np.uint8) for _ in asked], ASKED)


def test_agreement_is_a_variants_own_affair() -> None:
    """No two variants have a judge in common: their numbers are not comparable."""
    judges = {Agreement(n, f * 32, MANY, 64).judge for n, f in (("a", "1"), ("b", "1"), ("a", "2"))}
    assert len(judges) == 3


def test_large_pictures_are_compared_reduced() -> None:
    def paint(asked: Sequence[Asked], point: Point) -> list[Pixels]:
        small = FakeArtist().paint(asked, point)
        return [np.repeat(np.repeat(p, 8, axis=0), 6, axis=1) for p in small]

    judge = Agreement("tiny", "f" * 32, MANY, 64)
    judge.prepare(paint, ASKED)
    (row,) = judge.rows(POINTS[0], [paint(asked, POINTS[0]) for asked in ASKED], ASKED)
    assert 0.0 < row.score < 1.0


# ---- what is asked --------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5))
def test_every_picture_is_asked_for_with_a_seed_of_its_own_and_prompts_are_spread(
    there_are: int, wanted: int, seeds: int
) -> None:
    named = {f"n{i}": f"thing {i}" for i in range(there_are)}
    found = asking.by_seed(named, wanted, seeds)
    assert len(found) == seeds
    every = [one for asked in found for one in asked]
    assert len({one.seed for one in every}) == len(every) == seeds * min(there_are, wanted)
    assert all(len({one.name for one in asked}) == len(asked) for asked in found)
    assert found == asking.by_seed(named, wanted, seeds), "the same again"


@pytest.mark.parametrize(
    ("kind", "own", "scales"),
    [
        ("clip", 2.5, {1.0, 2.5, 4.0}),
        ("agreement", 2.5, {2.5}),
        ("clip", 1.0, {1.0}),
        ("clip", 0.0, {0.0}),
    ],
)
def test_guidances_are_around_the_variants_own(kind: QualityKind, own: float, scales: set[float]) -> None:
    manifest = replace(MANIFEST, guidance_scale=own)
    assert {point.guidance for point in asking.points(manifest, kind)} == scales


@pytest.mark.parametrize(("low", "high"), [(1, 4), (4, 50), (35, 45), (1, 1)])
@pytest.mark.parametrize("effort", asking.PROMPTS)
def test_steps_are_in_the_variants_range(low: int, high: int, effort: Effort) -> None:
    manifest = replace(MANIFEST, steps=StepRange(low, low, high))
    found = {point.steps for point in asking.points(manifest, "clip", effort)}
    assert found
    assert all(low <= steps <= high for steps in found)


def test_the_shipped_prompts_are_many_and_no_two_alike() -> None:
    path = Path(quality.__file__).with_name("prompts.txt")
    prompts = path.read_text("utf-8").splitlines()
    assert len(set(prompts)) == len(prompts) >= asking.PROMPTS["default"]
    assert all(prompt == prompt.strip() and prompt for prompt in prompts)


# ---- reference ------------------------------------------------------------------------------------


def test_the_drawings_themselves_are_perfect_at_every_size() -> None:
    found = repository.scan(MODEL_REPO)
    judge = reference.of_variant(found.variant("emoji-base"), found)
    names = judge.scorer.names[:3]
    asked = [[Asked("", name, 0) for name in names]]
    painted = [[judge.scorer.reference(name, 128) for name in names]]
    rows = judge.rows(Point(4, 1.0), painted, asked)
    assert [(row.side, row.recall_1) for row in rows] == [(64, 1.0), (128, 1.0)]
    assert all(row.score == pytest.approx(1.0) for row in rows)


def test_a_variant_without_drawings_is_told_what_else_there_is(models: Path) -> None:
    with pytest.raises(Unsupported, match="agreement or clip"):
        reference.of_variant(read(models), repository.scan(models))


def test_the_shipped_curve_says_that_drawings_were_the_measure() -> None:
    info = repository.scan(MODEL_REPO).variant("emoji-base").info()
    assert (info.quality_kind, info.quality_judge) == ("reference", "emoji-base")
