"""What is told of a trial: each figure by hand, and what makes it doubtful."""

import io
from typing import Any

import pytest
from rich.console import Console

from difs.simulation.scenario import Wish
from difs.trials import display, figures
from difs.trials.records import UNFINISHED, End
from difs.trials.runner import Tally
from tests.trials import delivered, lost, trial

REQUESTS = [
    delivered(-1, 9.0),
    delivered(0, 0.4),
    delivered(1, 0.8, kind=1, promised=True, quality=0.6),
    delivered(2, 1.2, kind=1, promised=True, predicted_s=0.9),
    delivered(3, 0.4, kind=1, promised=False, variant="light", quality=None),
    lost(4, "overloaded", kind=2),
    lost(5, "actor_lost", kind=2, accepted=True, promised=True),
    lost(6, "broker_lost"),
    lost(7, UNFINISHED, accepted=True),
]


@pytest.fixture
def told() -> dict[str, Any]:
    return figures.of_trial(trial(REQUESTS))


def test_warm_up_and_what_was_cut_off_do_not_count(told: dict[str, Any]) -> None:
    assert (told["requests"], told["delivered"], told["unfinished"]) == (7, 4, 1)


def test_attainment_counts_what_was_refused_and_promises_what_was_promised(told: dict[str, Any]) -> None:
    assert told["attainment"] == pytest.approx(2 / 5, abs=1e-4)
    assert told["promises_kept"] == pytest.approx(1 / 3, abs=1e-4)


def test_rates_are_of_the_whole_trial(told: dict[str, Any]) -> None:
    assert told["span_s"] == 20.0
    assert told["offered_hz"] == pytest.approx(7 / 20)
    assert told["throughput_hz"] == pytest.approx(4 / 20)
    assert told["goodput_hz"] == pytest.approx(3 / 20)


def test_what_is_worked_off_afterwards_is_no_throughput() -> None:
    made = [delivered(i, 5.0 + i) for i in range(60)]  # twelve seconds of requests, answered in 76
    told = figures.of_trial(trial(made))
    assert told["throughput_hz"] == pytest.approx(sum(i / 5 + 5 + i <= 20 for i in range(60)) / 20)
    assert told["goodput_hz"] == told["throughput_hz"]


def test_an_interrupted_trial_is_as_long_as_it_was() -> None:
    cut = trial(REQUESTS[:3], end=End(1.5, 0.1, interrupted=True))
    told = figures.of_trial(cut)
    assert told["offered_hz"] == pytest.approx(2 / 1.5, abs=1e-4)


def test_quality_that_came_too_late_or_not_counts_nothing(told: dict[str, Any]) -> None:
    assert told["quality_attainment"] == pytest.approx((0.8 + 0.6) / 7, abs=1e-4)
    assert told["mean_quality"] == pytest.approx((0.8 + 0.6 + 0.8) / 3, abs=1e-4)


def test_a_percentile_of_too_few_is_not_told(told: dict[str, Any]) -> None:
    assert (told["p50_s"], told["p95_s"], told["p99_s"]) == (0.4, None, None)
    many = figures.of_trial(trial([delivered(i, 0.01 * (i + 1)) for i in range(100)]))
    assert (many["p95_s"], many["p99_s"]) == (0.95, 0.99)


def test_phases_variants_and_kinds(told: dict[str, Any]) -> None:
    assert told["phases"]["steps"]["mean_s"] == pytest.approx(0.5 * told["mean_s"])
    assert told["variants"]["base"]["share"] == 0.75
    assert told["variants"]["light"]["mean_quality"] is None
    kinds = told["kinds"]
    assert [kind["requests"] for kind in kinds] == [2, 3, 2]
    assert kinds[0]["attainment"] is None
    assert kinds[2]["attainment"] == 0.0
    assert kinds[2]["what"] == "within 0.5 s or refused"


def test_reasons_are_told_apart(told: dict[str, Any]) -> None:
    assert told["refused"] == {"overloaded": 1}
    assert told["failed"] == {"actor_lost": 1, "broker_lost": 1}


def test_the_error_of_a_prediction_is_a_share_of_it() -> None:
    made = [delivered(i, 1.0, sent_s=i / 5, predicted_s=p) for i, p in enumerate((0.5, 1.0, 1.25))]
    error = figures.of_trial(trial(made))["prediction"]
    assert error == {"median": 0.0, "size_p50": 0.2, "size_p90": 1.0}


def test_nothing_delivered_is_told_without_a_figure() -> None:
    told = figures.of_trial(trial([lost(0, "broker_lost")]))
    assert (told["p50_s"], told["mean_quality"], told["variants"]) == (None, None, {})
    assert told["prediction"]["median"] is None


@pytest.mark.parametrize(
    ("requests", "end", "words"),
    [
        ([delivered(i, 0.1, sent_s=i / 5 + 0.05) for i in range(30)], None, "generator itself sent late"),
        ([delivered(i, 0.1) for i in range(30)], End(20.0, 24.0), "most of a core"),
        ([delivered(i, 0.1 * (i + 1)) for i in range(60)], None, "grew to the end"),
        ([delivered(i, 0.1) for i in range(3)], None, "tell little"),
        ([delivered(i, 0.1) for i in range(30)], End(9.0, 0.1, interrupted=True), "interrupted"),
        ([delivered(i, 0.1) for i in range(30)], End(9.0, 0.1, missed_looks=3), "its state 3 times"),
    ],
)
def test_doubts_are_said(requests: Any, end: End | None, words: str) -> None:
    assert any(words in doubt for doubt in figures.of_trial(trial(requests, end=end))["doubts"])


def test_a_good_trial_leaves_no_doubt() -> None:
    assert figures.of_trial(trial([delivered(i, 0.1) for i in range(60)]))["doubts"] == []


# ---- for people ----------------------------------------------------------------------------------


def text_of(facts: dict[str, Any]) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    for part in display.tables(facts):
        console.print(part, markup=False)
    return console.export_text()


def test_people_see_every_figure(told: dict[str, Any]) -> None:
    text = text_of(told)
    for words in (
        *("4 of 7 requests delivered", "latencies kept 40.0%", "hand-over", "within 0.5 s or refused"),
        *("light", "refused: overloaded 1", "failed: actor_lost 1, broker_lost 1", "doubt: "),
        "open when it was interrupted, and not told of: 1",
    ):
        assert words in text


def test_an_empty_trial_can_be_shown() -> None:
    assert "0 of 1 requests delivered" in text_of(figures.of_trial(trial([lost(0, "broker_lost")])))


def test_a_line_of_progress_counts_what_came() -> None:
    tally = Tally(sent=4)
    tally.ended(delivered(0, 0.4), goal_s=0.5)
    tally.ended(delivered(1, 0.8), goal_s=0.5)
    tally.ended(lost(2, "overloaded"), goal_s=None)
    assert display.progress_of(tally) == "1 open, 2 delivered, 1 refused, 50% in time, last 0.80 s"


def test_what_will_be_asked_is_said_first() -> None:
    made = trial([]).header.workload
    said = display.opening(made, 20.0, {0: 60, 2: 40}, "out/x.jsonl")
    assert "100 requests in 20 s (poisson, 5 a second)" in said[0]
    assert said[1:] == [
        "      60 nothing stated",
        "       0 within 1 s",
        "      40 within 0.5 s or refused",
    ]


def test_a_wish_in_words_says_all_of_it() -> None:
    from difs.trials.workload import in_words

    wish = Wish(quality="high", variant="base", steps=4, n=2, size=(64, 128), best_effort=True)
    assert in_words(wish) == "quality high base 4 steps 2 images 64x128 best effort"
