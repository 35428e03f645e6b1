"""A file of prompts is checked whole, in words for people, before anything of it is kept."""

import json
import os
from pathlib import Path, PurePath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import fields

from difs.batches import lines, submission
from difs.batches.lines import FORMS, Line
from difs.batches.store import Store
from difs.batches.submission import Wanted
from difs.client.requests import Wishes
from difs.errors import IdConflict, InvalidRequest

EVERYTHING = {
    "prompt": "red apple",
    "id": "apple.1",
    "negative_prompt": "blue",
    "width": 512,
    "height": 256,
    "n": 2,
    "seed": 7,
    "latency_s": 2.5,
    "quality": "high",
    "on_infeasible": "reject",
    "variant": "emoji-base",
    "family": "sd15",
    "steps": 9,
    "guidance_scale": 5.0,
    "sampler": "ddim",
    "adapters": {"style-mono": 0.5},
    "deterministic": True,
}


def written(path: Path, *found: object) -> Path:
    """Write lines: texts as they are, others as JSON."""
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in found), "utf-8")
    return path


def refusal(path: Path, *found: object) -> str:
    """Return what is said of a file that is refused."""
    with pytest.raises(InvalidRequest) as caught:
        submission.read(written(path, *found))
    return caught.value.message


# ---- one line -----------------------------------------------------------------------------------


def test_a_line_takes_the_words_of_generate() -> None:
    assert {field.name for field in fields(Line)} == set(EVERYTHING)
    others = {"prompt", "id"}
    ours = {"priority", "best_effort", "timeout_s", "delivery", "format", "metadata", "preview_every"}
    theirs = set(Wishes.__annotations__) - ours - {"request_id", "retries"}
    assert set(EVERYTHING) - others == theirs


def test_everything_may_stand_in_a_line(tmp_path: Path) -> None:
    ((number, line),), _ = submission.read(written(tmp_path / "p.jsonl", EVERYTHING))
    assert number == 1
    assert lines.wishes_of(line) == {k: v for k, v in EVERYTHING.items() if k not in ("prompt", "id")}
    assert lines.decode(lines.encode(line)) == line


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not a JSON object"),
        ("[1]", "Expected `object`"),
        ('{"prompt": "\\ud800"}', "not a JSON object"),
        ({}, "missing required field `prompt`"),
        ({"prompt": "x", "step": 3}, "'step' is no field of a line; the nearest is steps"),
        ({"prompt": "x", "steps": 151}, "steps: Expected `int` <= 150"),
        ({"prompt": "x", "steps": "9"}, "steps: Expected `int | null`, got `str`"),
        ({"prompt": "x", "n": 9}, "n: Expected `int` <= 8"),
        ({"prompt": "x", "n": 0}, "n: Expected `int` >= 1"),
        ({"prompt": "x", "width": 512}, "height: width and height are given together"),
        ({"prompt": "x", "seed": -1}, "seed: Expected `int` >= 0"),
        ({"prompt": "x", "seed": 2**65}, "seed"),
        ({"prompt": "x", "quality": "superb"}, "quality: "),
        ({"prompt": "x" * 5000}, "prompt: 5000 bytes of UTF-8, the limit is 4096"),
        ({"prompt": "x\0"}, "prompt: must not hold a NUL"),
        ({"prompt": "x", "adapters": {"Not A Name": 1}}, "adapters"),
        ({"prompt": "x", "latency_s": 0}, "latency_s: Expected `float` > 0.0"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, line: object, words: str) -> None:
    said = refusal(tmp_path / "p.jsonl", {"prompt": "good"}, "", line)
    assert "line 3: " in said
    assert words in said
    assert "line 1" not in said


ESCAPES = [
    "../x",
    "/etc/x",
    "a/b",
    "..",
    ".",
    ".hidden",
    "",
    "a\\..\\b",
    "a\0",
    "a\n",
    "-x",
    "%2e%2e/x",
    "ä",
]


@pytest.mark.parametrize("name", [*ESCAPES, "x" * 65])
def test_no_id_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    said = refusal(tmp_path / "p.jsonl", {"prompt": "x", "id": name})
    assert "line 1: id: must be a file's name of at most 64 letters" in said


@settings(max_examples=300)
@given(st.one_of(st.text(max_size=70), st.from_regex(r"[A-Za-z0-9._\-/]{1,66}", fullmatch=True)))
def test_whatever_passes_is_one_plain_name(name: str) -> None:
    try:
        line = lines.decode(json.dumps({"prompt": "x", "id": name}).encode())
    except InvalidRequest:
        return
    for form in FORMS:
        (file,) = lines.files_of(line, 1, form)  # type: ignore[arg-type]
        assert PurePath(file).name == file
        assert PurePath("/a/b", file).parent == PurePath("/a/b")
        assert file[0] not in ".-"


def test_files_are_called_by_id_or_line(tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": "b", "id": "bee", "n": 2})
    found, _ = submission.read(path)
    assert [lines.files_of(line, number, "jpeg") for number, line in found] == [
        ("000001.jpg",),
        ("bee-0.jpg", "bee-1.jpg"),
    ]


# ---- the whole file -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pair", "name"),
    [
        (({"id": "a"}, {"id": "a"}), "a.png"),
        (({"id": "a"}, {"id": "A"}), "A.png"),
        (({"id": "a-1"}, {"id": "a", "n": 2}), "a-1.png"),
        (({"id": "000002"}, {}), "000002.png"),
    ],
)
def test_two_lines_cannot_mean_one_file(tmp_path: Path, pair: Any, name: str) -> None:
    said = refusal(tmp_path / "p.jsonl", *({"prompt": "x", **more} for more in pair))
    assert f"line 2: its file {name} would be that of line 1" in said


def test_all_problems_are_told_at_once_but_not_a_thousand(tmp_path: Path) -> None:
    said = refusal(tmp_path / "p.jsonl", *(["{"] * 9))
    assert [f"line {i}:" in said for i in range(1, 10)] == [True] * 5 + [False] * 4
    assert said.endswith("and 4 others")


def test_empty_long_and_endless_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no prompts in it" in refusal(tmp_path / "p.jsonl", "", "  ")
    assert "line 1: more than 65536 bytes" in refusal(tmp_path / "p.jsonl", " " * 70_000)
    monkeypatch.setattr(submission, "MAX_LINES", 3)
    assert "more than 3 lines" in refusal(tmp_path / "p.jsonl", *([{"prompt": "x"}] * 4))
    found, _ = submission.read(written(tmp_path / "p.jsonl", *([{"prompt": "x"}] * 3)))
    assert len(found) == 3


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    found, _ = submission.read(written(tmp_path / "p.jsonl", '\ufeff{"prompt": "x"}'))
    assert found[0][1].prompt == "x"


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_garbage_is_refused_and_nothing_else_happens(data: bytes) -> None:
    try:
        line = lines.decode(data)
    except InvalidRequest as error:
        assert error.message
    else:
        assert isinstance(line.prompt, str)


# ---- submitting ---------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store(tmp_path / "base" / "batches.sqlite") as opened:
        yield opened


def test_the_same_file_for_the_same_folder_joins(store: Store, tmp_path: Path) -> None:
    wanted = Wanted(written(tmp_path / "p.jsonl", {"prompt": "x"}), tmp_path / "out")
    first, is_new = submission.submit(store, wanted, tmp_path, 1.0)
    assert is_new
    again, is_new = submission.submit(store, wanted, tmp_path, 2.0)
    assert (again, is_new) == (first, False)
    elsewhere = Wanted(wanted.source, tmp_path / "other")
    assert submission.submit(store, elsewhere, tmp_path, 3.0)[0].batch.id != first.batch.id
    assert len(store.standings()) == 2


def test_a_folder_is_painted_into_by_one_batch_at_a_time(store: Store, tmp_path: Path) -> None:
    first = written(tmp_path / "p.jsonl", {"prompt": "x"})
    standing, _ = submission.submit(store, Wanted(first, tmp_path / "out"), tmp_path, 1.0)
    other = written(tmp_path / "q.jsonl", {"prompt": "y", "id": "why"})
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for folder in ("out", "link"):
        with pytest.raises(IdConflict, match=f"batch {standing.batch.id} still paints into"):
            submission.submit(store, Wanted(other, tmp_path / folder), tmp_path, 2.0)
    for entry in store.take(str(tmp_path), 9):
        store.painted(entry, 3.0)
    assert submission.submit(store, Wanted(other, tmp_path / "out"), tmp_path, 4.0)[1]


def test_a_batch_overwrites_nothing(store: Store, tmp_path: Path) -> None:
    (tmp_path / "000002.png").write_bytes(b"mine")
    path = written(tmp_path / "p.jsonl", {"prompt": "x"}, {"prompt": "y"})
    with pytest.raises(FileExistsError, match="there is such a file already"):
        submission.submit(store, Wanted(path, tmp_path), tmp_path, 1.0)
    assert store.standings() == []


def test_a_path_that_no_database_takes_is_refused_in_words(store: Store, tmp_path: Path) -> None:
    path = written(tmp_path / os.fsdecode(b"\xff.jsonl"), {"prompt": "x"})
    with pytest.raises(InvalidRequest, match="--out: the folder's path is not UTF-8"):
        submission.submit(store, Wanted(path, tmp_path / os.fsdecode(b"\xff")), tmp_path, 1.0)
    standing, _ = submission.submit(store, Wanted(path, tmp_path / "out"), tmp_path, 1.0)
    assert standing.batch.source == "a file"


def test_a_folder_that_is_a_circle_of_links_is_an_error_of_the_system(
    store: Store, tmp_path: Path
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    path = written(tmp_path / "p.jsonl", {"prompt": "x"})
    with pytest.raises(OSError, match="loop"):
        submission.submit(store, Wanted(path, tmp_path / "loop" / "out"), tmp_path, 1.0)


def test_seeds_are_drawn_when_it_is_submitted(store: Store, tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", {"prompt": "x"}, {"prompt": "y", "seed": 7})
    submission.submit(store, Wanted(path, tmp_path / "out"), tmp_path, 1.0)
    seeds = [[entry.line.seed for entry in store.take(str(tmp_path), 9)] for _ in range(2)]
    assert seeds[0] == seeds[1]
    assert seeds[0][1] == 7
    assert seeds[0][0] is not None
