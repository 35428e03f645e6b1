"""difs.beside: files beside a variant, whole or not at all, and apart where they cannot stand there."""

from pathlib import Path

import pytest

from difs import beside

NAME = "profiles/0123456789abcdef.json"


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that stands in, for this test only."""
    folder = tmp_path / "user data"
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "variant"
    folder.mkdir()
    return folder


def test_what_is_written_is_read(home: Path) -> None:
    path = beside.write(home, NAME, b"one")
    assert path == home / NAME == beside.place(home, NAME)
    assert list(beside.read(home, NAME)) == [b"one"]
    beside.write(home, NAME, b"two")
    assert list(beside.read(home, NAME)) == [b"two"]
    assert [p.name for p in path.parent.iterdir()] == [path.name], "nothing else is left"


def test_what_is_not_there_is_nothing(home: Path) -> None:
    assert list(beside.read(home, NAME)) == []
    assert beside.place(home, NAME) == home / NAME


def test_a_folder_that_cannot_be_written_has_its_file_apart(home: Path, apart: Path) -> None:
    (home / "profiles").write_text("in the way")  # root may write into a read-only folder
    path = beside.write(home, NAME, b"one")
    assert path.is_relative_to(apart)
    assert path == beside.place(home, NAME)
    assert list(beside.read(home, NAME)) == [b"one"]


def test_two_variants_have_two_places_apart(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for folder in (home, other):
        (folder / "profiles").write_text("in the way")
        beside.write(folder, NAME, folder.name.encode())
    assert list(beside.read(home, NAME)) == [b"variant"]
    assert list(beside.read(other, NAME)) == [b"other"]


def test_a_link_is_not_followed_out_of_the_variants_folder(
    home: Path, apart: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (home / "profiles").symlink_to(elsewhere)
    assert beside.write(home, NAME, b"one").is_relative_to(apart)
    assert list(elsewhere.iterdir()) == []


def test_nowhere_to_write_is_an_error(home: Path, apart: Path) -> None:
    apart.write_text("in the way")
    (home / "profiles").write_text("in the way")
    with pytest.raises(OSError, match=r"."):
        beside.write(home, NAME, b"one")


def test_a_file_that_is_too_large_is_not_ours(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside.write(home, NAME, b"four")
    monkeypatch.setattr(beside, "MAX_BYTES", 3)
    assert list(beside.read(home, NAME)) == []


def test_a_write_that_breaks_leaves_the_old_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside.write(home, NAME, b"old")

    def breaks(fd: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", breaks)
    with pytest.raises(KeyboardInterrupt):
        beside.write(home, NAME, b"new")
    assert list(beside.read(home, NAME)) == [b"old"]
    assert len(list((home / "profiles").iterdir())) == 1
