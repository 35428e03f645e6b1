"""difs.actors.ladder: what follows an out-of-memory error, as pure functions."""

import pytest

from difs.actors import ladder
from difs.actors.ladder import Incidents, Lighten, Phase, Rung, Shrink, Tile, next_rung


def climb(phase: Phase, images: int, kind: str) -> list[Rung]:
    """Return all rungs that are taken while memory never suffices."""
    taken: list[Rung] = []
    is_tiled, rows, mode = False, 2 * images, "full"
    while True:
        rung = next_rung(phase, images=images, rows=rows, is_tiled=is_tiled, mode=mode, kind=kind)  # type: ignore[arg-type]
        if rung is None:
            return taken
        taken.append(rung)
        match rung:
            case Tile():
                is_tiled = True
            case Shrink(rows):
                images = max(1, rows // 2)
                rows = 2 * images
            case Lighten(mode):
                pass


def test_a_decoding_is_tiled_before_the_mode_is_changed() -> None:
    assert climb("decode", 1, "cpu") == [Tile(), Lighten("sliced"), Lighten("tiled")]


def test_a_batch_is_halved_before_the_mode_is_changed() -> None:
    assert climb("step", 8, "cpu") == [
        Shrink(8),
        Shrink(4),
        Shrink(2),
        Lighten("sliced"),
        Lighten("tiled"),
    ]


def test_an_encoding_can_only_be_given_a_lighter_mode() -> None:
    assert climb("encode", 1, "cpu") == [Lighten("sliced"), Lighten("tiled")]


def test_a_gpu_has_more_rungs_and_they_end() -> None:
    modes = [rung.memory_mode for rung in climb("encode", 1, "cuda") if isinstance(rung, Lighten)]
    assert modes == ["sliced", "tiled", "fp8", "model_offload", "group_offload", "sequential_offload"]


@pytest.mark.parametrize(
    ("rung", "words"),
    [
        (Tile(), "out of memory at decode: decoded in tiles"),
        (Shrink(4), "out of memory at decode: at most 4 rows share a step"),
        (Lighten("tiled"), "out of memory at decode: memory mode tiled"),
    ],
)
def test_every_rung_is_told_in_words(rung: Rung, words: str) -> None:
    assert ladder.describe(rung, "decode") == words


# ---- when to give up ------------------------------------------------------------------------------


def test_two_incidents_within_a_minute_are_too_many() -> None:
    incidents = Incidents()
    incidents.happened("tiny", "step", 0.0)
    assert not incidents.are_too_many(0.0)
    incidents.over("tiny", "step")
    incidents.happened("tiny", "step", 59.0)
    assert incidents.are_too_many(59.0)


def test_incidents_more_than_a_minute_apart_are_not() -> None:
    incidents = Incidents()
    for now in (0.0, 61.0):
        incidents.happened("tiny", "step", now)
        incidents.over("tiny", "step")
    assert not incidents.are_too_many(61.0)
    incidents.happened("tiny", "decode", 62.0)
    assert incidents.are_too_many(62.0)


def test_the_errors_of_one_climb_are_one_incident() -> None:
    incidents = Incidents()
    for now in range(5):
        incidents.happened("tiny", "decode", float(now))
    assert not incidents.are_too_many(5.0)
    incidents.happened("wide", "decode", 6.0)
    assert incidents.are_too_many(6.0)
