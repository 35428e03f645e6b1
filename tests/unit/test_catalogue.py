"""difs.catalogue: the repository is read again when its manifests look different, and only then."""

import os
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from difs import catalogue, config, repository
from difs.broker import watcher
from difs.catalogue import Catalogue
from difs.errors import UnknownName
from difs.variants import Variant
from tests.unit.test_repository import add


@pytest.fixture
def watched(tmp_path: Path) -> Catalogue:
    """Return the catalogue of a shipped root with `tiny`, and of a user's root that is not there."""
    add(tmp_path / "shipped")
    return Catalogue(tmp_path / "shipped", tmp_path / "user")


def test_nothing_changed_is_nothing_scanned(watched: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "scan", lambda *roots: pytest.fail("scanned"))
    assert not watched.refresh()
    assert watched.variant("tiny").name == "tiny"


def test_what_a_user_adds_is_found_when_it_is_asked_for(watched: Catalogue, tmp_path: Path) -> None:
    with pytest.raises(UnknownName):
        watched.variant("mine")
    add(tmp_path / "user", "mine", name='"mine"')
    assert watched.variant("mine").is_users
    shutil.rmtree(tmp_path / "user" / "mine")
    with pytest.raises(UnknownName):
        watched.variant("mine")


def test_a_changed_manifest_is_read_again(watched: Catalogue, tmp_path: Path) -> None:
    manifest = tmp_path / "shipped" / "tiny" / "variant.toml"
    manifest.write_text(manifest.read_text().replace("default = 20", "default = 30"))
    os.utime(manifest, ns=(1, 1))
    assert watched.refresh()
    assert watched.found.variant("tiny").manifest.steps.default == 30


def test_a_root_that_is_gone_for_a_moment_changes_nothing(watched: Catalogue, tmp_path: Path) -> None:
    (tmp_path / "shipped").rename(tmp_path / "away")
    assert not watched.refresh()
    assert watched.found.variant("tiny")


@pytest.mark.parametrize(
    ("change", "is_outdated"),
    [
        ({"description": '"new words"'}, False),
        ({"steps": "{ min = 1, default = 2, max = 3 }"}, False),
        ({"precision": '"bf16"'}, True),
        ({"default_mode": '"sliced"'}, True),
        ({"runtime": "{ channels_last = true }"}, True),
        ({"kind": '"turbo"'}, True),
    ],
)
def test_only_what_changes_a_resident_makes_it_outdated(
    tmp_path: Path, change: dict[str, str], is_outdated: bool
) -> None:
    add(tmp_path / "a")
    add(tmp_path / "b", "tiny", **change)
    shutil.rmtree(tmp_path / "b" / "tiny" / "unet")
    shutil.copytree(tmp_path / "a" / "tiny" / "unet", tmp_path / "b" / "tiny" / "unet")
    before, now = repository.scan(tmp_path / "a"), repository.scan(tmp_path / "b")
    aligned = {name: _as_in(before, v) for name, v in now.variants.items()}
    found = watcher.change(before, repository.Repository(aligned))
    assert (found.outdated == {"tiny"}) == is_outdated
    assert found.variants.keys() == {"tiny"}


def _as_in(before: repository.Repository, variant: Variant) -> Variant:
    """Return a variant that stands where another did."""
    return replace(variant, folder=before.variant(variant.name).folder)


def test_what_is_gone_is_outdated(tmp_path: Path) -> None:
    add(tmp_path)
    found = watcher.change(repository.scan(tmp_path), repository.Repository({}))
    assert found.outdated == {"tiny"}
    assert not found.variants


def test_a_watcher_tells_what_changed_and_ends(
    watched: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "LOOK_S", 0.005)
    looking = watcher.Watcher(watched)
    try:
        assert looking.news() == []
        add(tmp_path / "user", "mine", name='"mine"')
        for _ in range(1000):
            news = looking.news()
            if news:
                break
            looking._stop.wait(0.01)
        (event,) = news[-1:]
        assert event.variants.keys() == {"tiny", "mine"}
    finally:
        looking.close()
    assert not looking._thread.is_alive()


def test_the_users_root_is_in_the_users_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert config.user_repo(config.Config()) == Path("/data/difs/models")
    monkeypatch.setenv("HOME", "/home/me")
    for useless in ("", "relative"):
        monkeypatch.setenv("XDG_DATA_HOME", useless)
        assert config.user_repo(config.Config()) == Path("/home/me/.local/share/difs/models")
    stated = config.parse({"service": {"user_repo": "/mine"}})
    assert config.user_repo(stated) == Path("/mine")
    assert catalogue.signature(Path("/nowhere")) == ()
