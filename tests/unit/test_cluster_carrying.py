"""difs.cluster.carrying: a variant goes from one repository to another, whole or not at all."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from msgspec.structs import replace

from difs import repository
from difs.cluster import carrying
from difs.cluster.carrying import File, Offer
from difs.errors import RepositoryError
from difs.registration import digests, shelf
from difs.repository import Repository
from difs.variants import Variant
from tests.studio import MANIFEST

WEIGHTS = "unet/model.safetensors"


@pytest.fixture
def here(tmp_path: Path) -> Variant:
    """Return the variant `ink` of a node."""
    root = tmp_path / "here"
    with shelf.building(root, "ink") as folder:
        (folder / "unet").mkdir()
        (folder / WEIGHTS).write_bytes(b"weights" * 1000)
        (folder / "model_index.json").write_text("{}")
        (folder / "notes.toml").write_text("of nobody's interest")
        pinned = digests.of_file(folder / WEIGHTS, lambda _: None).digest
        shelf.write(folder, replace(MANIFEST, name="ink", digests={WEIGHTS: pinned}))
    return repository.scan(root).variant("ink")


def sender(variant: Variant, spoil: bytes | None = None) -> carrying.Send:
    async def send(relative: str) -> AsyncGenerator[bytes, None]:
        yield spoil if spoil is not None else carrying.path_of(variant, relative).read_bytes()

    return send


def take(offered: Offer, root: Path, send: carrying.Send, known: Repository | None = None) -> None:
    asyncio.run(carrying.take(offered, known or Repository({}), root, send))


def test_a_variant_arrives_as_it_was_and_can_be_used(here: Variant, tmp_path: Path) -> None:
    offered = carrying.decode(carrying.encode(carrying.offer(here)))
    assert {file.relative for file in offered.files} == {"model_index.json", WEIGHTS}
    root = tmp_path / "there"
    take(offered, root, sender(here))
    root_shipped = tmp_path / "empty"
    root_shipped.mkdir()
    found = repository.scan(root_shipped, root).variant("ink")
    found.verify()
    assert found.manifest == here.manifest
    assert [path.name for path in root.iterdir()] == ["ink"]


def test_what_the_manifest_pins_is_not_read_to_be_offered_and_does_not_arrive_changed(
    here: Variant, tmp_path: Path
) -> None:
    before = carrying.offer(here)
    (here.folder / WEIGHTS).write_bytes(b"changed" * 1000)
    offered = carrying.offer(here)
    assert offered == before
    with pytest.raises(RepositoryError, match="what came is not what was offered"):
        take(offered, tmp_path / "there", sender(here))


@pytest.mark.parametrize("spoil", [b"", b"other" * 1400, b"x" * 10**6])
def test_what_does_not_arrive_as_it_was_offered_leaves_nothing(
    here: Variant, tmp_path: Path, spoil: bytes
) -> None:
    root = tmp_path / "there"
    with pytest.raises(RepositoryError, match="what came is not what was offered"):
        take(carrying.offer(here), root, sender(here, spoil))
    assert not list(root.iterdir())


def test_weights_that_match_the_offer_but_not_the_manifest_are_refused(
    here: Variant, tmp_path: Path
) -> None:
    offered = carrying.offer(here)
    lied = replace(offered, manifest=replace(offered.manifest, digests={WEIGHTS: "sha256:" + "0" * 64}))
    with pytest.raises(RepositoryError, match="is not what the manifest pins"):
        take(lied, tmp_path / "there", sender(here))


@pytest.mark.parametrize(
    "relative",
    [
        "../out.json",
        "/etc/x.json",
        "a/../../b.json",
        "run.py",
        "variant.toml",
        ".hidden.json",
        "a//b.json",
    ],
)
def test_no_name_leads_out_of_the_folder(here: Variant, tmp_path: Path, relative: str) -> None:
    offered = replace(carrying.offer(here), files=(File(relative, 1, "0" * 64),))
    with pytest.raises(RepositoryError, match="a file cannot be called"):
        take(offered, tmp_path / "there", sender(here))
    with pytest.raises(RepositoryError, match="no file"):
        carrying.path_of(here, relative)


def test_what_is_there_or_lacks_its_parts_is_refused_before_a_byte_comes(
    here: Variant, tmp_path: Path
) -> None:
    offered = carrying.offer(here)
    with pytest.raises(RepositoryError, match="registered here already"):
        take(offered, tmp_path, sender(here), Repository({"ink": here}))
    with pytest.raises(RepositoryError, match="uses parts of base, which is not here"):
        take(replace(offered, needs=("base",)), tmp_path, sender(here))
    bad_name = replace(offered, manifest=replace(offered.manifest, name="../ink"))
    with pytest.raises(RepositoryError, match="cannot be a name"):
        take(bad_name, tmp_path, sender(here))
    with pytest.raises(RepositoryError, match="cannot be read"):
        carrying.decode(b"\xc1")
