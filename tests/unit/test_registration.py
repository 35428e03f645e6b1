"""difs.registration: users' files become entries of the repository, linked and pinned, or nothing."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from difs import repository
from difs.errors import RepositoryError, UnknownName
from difs.registration import derive, digests, files, keys, register, report, shelf
from difs.registration.orders import Order, Outcome, slug
from tests.safetensors_files import LORA, SD15, UNET, write

MODEL_REPO = Path(__file__).parents[2] / "model_repo"


class Home:
    """A user's files and the repository beside them."""

    def __init__(self, root: Path) -> None:
        self.files, self.shipped, self.user = root / "files", root / "shipped", root / "user"
        self.files.mkdir()
        self.shipped.mkdir()

    def scan(self) -> repository.Repository:
        return repository.scan(self.shipped, self.user)

    def register(self, path: Path, **wishes: Any) -> list[Outcome]:
        """Register what stands at a path."""
        told: list[Outcome] = []
        order = Order(self.shipped, self.user, self.scan(), **wishes)
        outcomes = register.register(path, order, told.append)
        assert told == outcomes
        return outcomes

    def checkpoint(self, name: str = "My Model.safetensors", **facts: Any) -> Path:
        return write(self.files / name, SD15, **facts)

    def lora(self, name: str = "oil.safetensors", **facts: Any) -> Path:
        return write(self.files / name, LORA, **facts)

    def left(self) -> list[str]:
        """Return what stands in the user's root."""
        return sorted(path.name for path in self.user.iterdir()) if self.user.is_dir() else []


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Return a home where two tensors are a UNet."""
    small = tuple(s._replace(unet_tensors=2) for s in keys.STRUCTURES)
    monkeypatch.setattr(keys, "STRUCTURES", small)
    return Home(tmp_path)


# ---- one file -----------------------------------------------------------------------------------


def test_a_checkpoint_becomes_a_variant_that_links_to_it(home: Home) -> None:
    path = home.checkpoint(metadata={"modelspec.title": "Fine  pictures", "modelspec.license": "MIT"})
    (outcome,) = home.register(path)
    assert (outcome.name, outcome.what, outcome.problem) == ("my-model", "variant of sd15", None)
    found = home.scan()
    assert found.problems == ()
    variant = found.variant("my-model")
    variant.verify()
    m = variant.manifest
    assert (m.family, m.kind, m.precision, m.licence) == ("sd15", "base", "fp16", "MIT")
    assert (m.description, m.native_sizes[0]) == ("Fine pictures", (512, 512))
    assert m.linked == {files.WEIGHTS: str(path)}
    link = home.user / "my-model" / files.WEIGHTS
    assert link.is_symlink()
    assert (variant.weight_bytes, variant.is_users) == (path.stat().st_size, True)
    assert variant.part("unet").file == link
    assert variant.part("tokenizer").weights() == {}
    assert sum(p.lstat().st_size for p in (home.user / "my-model").iterdir()) < derive.MANIFEST_BYTES


def test_a_lora_becomes_an_adapter(home: Home) -> None:
    (outcome,) = home.register(home.lora("My LCM.safetensors"))
    adapter = home.scan().adapter("my-lcm")
    adapter.verify()
    assert outcome.what == "adapter for sd15"
    assert (adapter.manifest.family, adapter.manifest.kind) == ("sd15", "lcm")
    assert adapter.path.is_symlink()


def test_a_copy_does_not_need_the_original(home: Home) -> None:
    path = home.checkpoint()
    home.register(path, copy=True, name="mine", licence="CC0")
    path.unlink()
    variant = home.scan().variant("mine")
    variant.verify()
    assert (variant.manifest.linked, variant.manifest.licence) == ({}, "CC0")


def test_a_file_that_is_registered_already_is_not_registered_twice(home: Home) -> None:
    path = home.checkpoint()
    home.register(path)
    (again,) = home.register(path, name="other")
    assert (again.name, again.is_new) == ("my-model", False)
    assert home.left() == ["my-model"]


def test_progress_counts_every_byte_of_a_file(home: Home) -> None:
    started: list[tuple[str, int]] = []
    chunks: list[int] = []

    def watch(name: str, nbytes: int) -> Callable[[int], None]:
        started.append((name, nbytes))
        return chunks.append

    path = home.checkpoint()
    home.register(path, watch=watch)
    assert started == [(path.name, path.stat().st_size)]
    assert sum(chunks) == path.stat().st_size


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin", ".CKPT"])
def test_pickles_are_refused_with_the_way_to_convert(home: Home, suffix: str) -> None:
    path = home.files / f"model{suffix}"
    path.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(RepositoryError, match=r"can run code.*Get the .safetensors"):
        home.register(path)
    assert home.left() == []


@pytest.mark.parametrize(
    ("change", "wishes", "complaint"),
    [
        (lambda shapes: {}, {}, "holds 0 tensors"),
        (lambda shapes: {**shapes, "edm_mean": (1,)}, {}, "EDM"),
        (lambda shapes: shapes, {"name": "Not A Name"}, "cannot be a name"),
        (lambda shapes: shapes, {"name": "../up"}, "cannot be a name"),
        (lambda shapes: shapes, {"name": ""}, "cannot be a name"),
    ],
)
def test_what_is_refused_leaves_nothing(
    home: Home, change: Callable[[Any], Any], wishes: dict[str, Any], complaint: str
) -> None:
    path = write(home.files / "x.safetensors", change(SD15))
    with pytest.raises(RepositoryError, match=complaint):
        home.register(path, **wishes)
    assert home.left() == []


def test_a_failure_in_the_middle_leaves_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr(digests, "of_parts", fail)
    with pytest.raises(OSError, match="No space"):
        home.register(home.checkpoint())
    assert home.left() == []


def test_a_name_that_is_taken_is_refused(home: Home) -> None:
    home.register(home.checkpoint())
    with pytest.raises(RepositoryError, match="'my-model' is taken"):
        home.register(home.lora(), name="my-model")


def test_a_file_that_changes_while_it_is_read_is_refused(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home.checkpoint()
    read = digests._chunks

    def touch(*args: Any) -> Any:
        os.utime(path, ns=(1, 1))
        return read(*args)

    monkeypatch.setattr(digests, "_chunks", touch)
    with pytest.raises(RepositoryError, match="changed while it was read"):
        home.register(path)
    assert home.left() == []


def test_equal_parts_of_two_files_have_equal_digests(home: Home) -> None:
    home.register(home.checkpoint("a.safetensors"))
    shuffled = dict(reversed(SD15.items())) | {f"{UNET}input_blocks.0.0.weight": (8, 4, 3, 3)}
    home.register(write(home.files / "b.safetensors", shuffled))
    first, second = (home.scan().variant(name).manifest for name in "ab")
    assert first.digests != second.digests
    assert first.contents == second.contents
    assert first.contents.keys() == {"vae", "text_encoder"}


def test_other_numbers_have_other_digests(home: Home) -> None:
    home.register(home.checkpoint("a.safetensors"))
    home.register(home.checkpoint("b.safetensors", fill=b"\1"))
    first, second = (home.scan().variant(name).manifest for name in "ab")
    assert not set(first.contents.values()) & set(second.contents.values())


# ---- changed files ------------------------------------------------------------------------------


def test_a_changed_file_is_noticed_by_a_look_and_by_its_digest(home: Home) -> None:
    path = home.checkpoint()
    home.register(path)
    variant = home.scan().variant("my-model")
    assert [f["state"] for f in report.files_of(variant, verify=False)] == ["unchanged"]
    assert [f["state"] for f in report.files_of(variant, verify=True)] == ["verified"]
    home.checkpoint(fill=b"\1")
    os.utime(path, ns=(1, 1))
    (state,) = [f["state"] for f in report.files_of(variant, verify=False)]
    assert state == "changed since it was registered"
    (state,) = [f["state"] for f in report.files_of(variant, verify=True)]
    assert "has changed since it was registered" in state


def test_a_file_that_is_gone_is_a_problem_that_says_what_to_do(home: Home) -> None:
    path = home.checkpoint()
    home.register(path)
    path.unlink()
    (problem,) = home.scan().problems
    assert str(path) in problem
    assert "unregister" in problem
    assert register.unregister("my-model", home.scan(), home.user) == "variant"


# ---- links --------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["elsewhere", "no link", "folder", "fifo", "suffix", "relative"])
def test_a_link_that_is_not_just_what_its_manifest_states_is_refused(home: Home, harm: str) -> None:
    path = home.checkpoint()
    home.register(path)
    link, manifest = home.user / "my-model" / files.WEIGHTS, home.user / "my-model" / "variant.toml"
    text = manifest.read_text()
    if harm == "elsewhere":
        link.unlink()
        link.symlink_to(shutil.copy(path, home.files / "other.safetensors"))
    elif harm == "no link":
        link.unlink()
        shutil.copy(path, link)
    elif harm in ("folder", "fifo"):
        path.unlink()
        path.mkdir() if harm == "folder" else os.mkfifo(path)
    else:
        stated = "passwd" if harm == "suffix" else "../../files/My Model.safetensors"
        link.unlink()
        link.symlink_to(stated if harm == "relative" else f"/etc/{stated}")
        target = stated if harm == "relative" else f"/etc/{stated}"
        manifest.write_text(text.replace(str(path), target))
    found = home.scan()
    assert not found.variants
    assert len(found.problems) == 1


def test_links_are_for_the_users_root_only(home: Home) -> None:
    home.register(home.checkpoint())
    found = repository.scan(home.user)
    assert not found.variants
    assert "only what a user registered" in found.problems[0]


def test_an_entry_that_is_being_made_is_not_seen(home: Home) -> None:
    home.register(home.checkpoint())
    (home.user / "my-model").rename(home.user / ".my-model.x")
    assert home.scan() == repository.Repository({}, (), {})


# ---- unregister ---------------------------------------------------------------------------------


def test_unregistering_keeps_the_original(home: Home) -> None:
    checkpoint, lora = home.checkpoint(), home.lora()
    before = checkpoint.read_bytes(), lora.read_bytes()
    for path in (checkpoint, lora):
        home.register(path)
    assert register.unregister("my-model", home.scan(), home.user) == "variant"
    assert register.unregister("oil", home.scan(), home.user) == "adapter"
    assert home.left() == [] or all(name.startswith(".gone.") for name in home.left())
    assert (checkpoint.read_bytes(), lora.read_bytes()) == before


def test_what_others_are_made_of_stays(home: Home) -> None:
    home.register(home.checkpoint())
    home.register(home.lora())
    known = home.scan()
    base = known.variant("my-model")
    derive.make(derive.fused(base, known.adapter("oil")), base, home.user, "both")
    for name in ("my-model", "oil"):
        with pytest.raises(RepositoryError, match="is used by both"):
            register.unregister(name, home.scan(), home.user)
    register.unregister("both", home.scan(), home.user)
    register.unregister("oil", home.scan(), home.user)


def test_what_is_shipped_or_unknown_cannot_be_unregistered(home: Home) -> None:
    known = repository.scan(MODEL_REPO, home.user)
    with pytest.raises(RepositoryError, match="shipped"):
        register.unregister("emoji-base", known, home.user)
    for name in ("nothing", "..", ".", ".hidden", "/etc"):
        with pytest.raises(UnknownName):
            register.unregister(name, known, home.user)


def test_a_folder_of_another_name_is_not_removed(home: Home) -> None:
    home.register(home.checkpoint())
    home.register(home.lora())
    (home.user / "my-model").rename(home.user / "elsewhere")
    (home.user / "oil").rename(home.user / "my-model")
    with pytest.raises(RepositoryError, match="by hand"):
        register.unregister("my-model", home.scan(), home.user)
    assert home.left() == ["elsewhere", "my-model"]


# ---- a whole models folder ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checkpoints", "loras"), [("Stable-diffusion", "Lora"), ("checkpoints", "loras")]
)
@pytest.mark.parametrize("root", ["", "models"])
def test_a_models_folder_is_registered_at_once(
    home: Home, checkpoints: str, loras: str, root: str
) -> None:
    place = f"{root}/{checkpoints}" if root else checkpoints
    beside = f"{root}/{loras}" if root else loras
    home.checkpoint(f"{place}/one.safetensors")
    home.checkpoint(f"{place}/sub/two.safetensors")
    home.checkpoint(f"{place}/sub/one.safetensors")
    home.lora(f"{beside}/oil.safetensors")
    write(home.files / place / "flux.safetensors", {"double_blocks.0.x": (4,)})
    (home.files / place / "old.ckpt").write_bytes(b"\x80")
    (home.files / place / "notes.txt").write_text("x")
    write(home.files / root / "VAE" / "vae.safetensors", {"decoder.conv_in.weight": (4,)})
    outcomes = {
        Path(o.path).relative_to(home.files / root).as_posix(): o for o in home.register(home.files)
    }
    names = {path: o.name for path, o in outcomes.items() if o.problem is None}
    assert names == {
        f"{checkpoints}/one.safetensors": "one",
        f"{checkpoints}/sub/one.safetensors": "sub-one",
        f"{checkpoints}/sub/two.safetensors": "two",
        f"{loras}/oil.safetensors": "oil",
    }
    problems = {path: o.problem or "" for path, o in outcomes.items() if o.problem is not None}
    assert "Flux" in problems.pop(f"{checkpoints}/flux.safetensors")
    assert "can run code" in problems.pop(f"{checkpoints}/old.ckpt")
    assert problems == {}
    assert home.left() == ["oil", "one", "sub-one", "two"]
    again = home.register(home.files)
    assert not any(o.is_new and o.problem is None for o in again), "a second time changes nothing"
    assert home.left() == ["oil", "one", "sub-one", "two"]


def test_folders_that_are_linked_are_looked_into_once(home: Home) -> None:
    home.checkpoint("far/one.safetensors")
    place = home.files / "models" / "checkpoints"
    place.mkdir(parents=True)
    (place / "far").symlink_to(home.files / "far")
    (home.files / "far" / "circle").symlink_to(place)
    outcomes = home.register(home.files / "models")
    assert [o.name for o in outcomes] == ["one"]


def test_other_folders_are_refused(home: Home) -> None:
    with pytest.raises(RepositoryError, match="neither a diffusers folder"):
        home.register(home.files)
    with pytest.raises(RepositoryError, match="is not there"):
        home.register(home.files / "nowhere")
    home.checkpoint("models/checkpoints/one.safetensors")
    with pytest.raises(RepositoryError, match="--name is for one"):
        home.register(home.files, name="all")


# ---- names and manifests ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("Realistic_Vision V5.1 (VAE)", "realistic_vision-v5.1-vae"),
        ("__x__", "x"),
        ("ÄÖ", ""),
        ("a" * 80, "a" * 64),
    ],
)
def test_a_name_is_made_of_a_files_name(stem: str, name: str) -> None:
    assert slug(stem) == name


@pytest.mark.parametrize("text", ['"\\\n\t', "ünï ☃ \U0001f600", "\x7f\x01", "a = 1\n[b]"])
def test_any_text_comes_back_from_a_manifest(home: Home, text: str) -> None:
    home.register(home.checkpoint(), licence=text)
    assert home.scan().variant("my-model").manifest.licence == text


def test_a_manifest_says_only_what_is_not_a_default(home: Home) -> None:
    home.register(home.checkpoint())
    text = (home.user / "my-model" / "variant.toml").read_text()
    assert "kind" not in text
    assert "runtime" not in text
    assert shelf.toml({"a b": {"c": (1, 2.5)}}) == '\n\n["a b"]\nc = [1, 2.5]\n'


# ---- derived variants ---------------------------------------------------------------------------


@pytest.fixture
def shipped(tmp_path: Path) -> tuple[repository.Repository, Path]:
    """Return the shipped repository, and the root of a user who adds to it."""
    return repository.scan(MODEL_REPO, tmp_path / "user"), tmp_path / "user"


def test_every_proposal_can_be_made_and_shares_all_weights(
    shipped: tuple[repository.Repository, Path],
) -> None:
    known, user = shipped
    base = known.variant("emoji-base")
    proposals = derive.proposals(base, known)
    wanted = {"fused-turbo", "fp32", "bf16", "fp8", "unipc", "dpmpp-2m-karras", "euler-a", "compiled"}
    assert wanted <= {p.key for p in proposals}
    for proposal in proposals:
        derive.make(proposal, base, user)
    after = repository.scan(MODEL_REPO, user)
    assert after.problems == ()
    for proposal in proposals:
        made = after.variant(proposal.name)
        assert made.weight_bytes == base.weight_bytes + proposal.adapter_bytes
        assert base.weight_bytes == proposal.shared_bytes
        on_disk = sum(p.stat().st_size for p in (user / made.name).rglob("*"))
        assert on_disk <= 2 * derive.MANIFEST_BYTES
        assert made.captions == base.captions
        assert made.manifest.quality is None, "it was measured for the base, not for this"
    assert derive.proposals(after.variant("emoji-base"), after) == ()


def test_what_is_derived_of_what_is_derived_borrows_from_the_first(
    shipped: tuple[repository.Repository, Path],
) -> None:
    known, user = shipped
    base = known.variant("emoji-base")
    derive.make(derive.choose(base, known, "unipc"), base, user)
    between = repository.scan(MODEL_REPO, user)
    second = between.variant("emoji-base-unipc")
    derive.make(derive.choose(second, between, "bf16"), second, user, "third")
    third = repository.scan(MODEL_REPO, user).variant("third")
    assert set(third.manifest.parts.values()) == {"emoji-base"}
    assert (third.manifest.sampler, third.manifest.precision) == ("unipc", "bf16")


def test_an_adapter_for_few_steps_changes_sampler_and_steps(home: Home) -> None:
    home.register(home.checkpoint())
    home.register(home.lora("my-lcm.safetensors"))
    home.register(home.lora("oil.safetensors", fill=b"\1"))
    known = home.scan()
    base = known.variant("my-model")
    keys_ = [p.key for p in derive.proposals(base, known) if p.key.startswith("fused")]
    assert keys_ == ["fused-my-lcm"], "a style is no way to compute the same"
    name = derive.make(derive.choose(base, known, "fused-my-lcm"), base, home.user)
    m = home.scan().variant(name).manifest
    assert (m.kind, m.sampler, m.guidance_scale, m.steps.max) == ("lcm", "lcm", 1.0, 8)
    styled = derive.fused(base, known.adapter("oil")).manifest
    assert (styled.kind, styled.sampler) == (base.manifest.kind, base.manifest.sampler)


def test_an_adapter_for_another_base_cannot_be_fused(home: Home) -> None:
    home.register(home.checkpoint())
    wide = {key: (2, 2048) if "down" in key else shape for key, shape in LORA.items()}
    home.register(write(home.files / "xl.safetensors", wide))
    known = home.scan()
    with pytest.raises(RepositoryError, match="xl is for sdxl, my-model is of sd15"):
        derive.fused(known.variant("my-model"), known.adapter("xl"))


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "", "A"])
def test_a_derived_variant_has_a_name_that_is_one(
    shipped: tuple[repository.Repository, Path], name: str
) -> None:
    known, user = shipped
    base = known.variant("emoji-base")
    with pytest.raises(RepositoryError, match="cannot be a name"):
        derive.make(derive.choose(base, known, "unipc"), base, user, name)
    assert not user.exists()


def test_an_unknown_proposal_is_refused_with_those_there_are(
    shipped: tuple[repository.Repository, Path],
) -> None:
    known, _ = shipped
    with pytest.raises(UnknownName, match=r"there is: .*unipc"):
        derive.choose(known.variant("emoji-base"), known, "magic")


def test_families_that_share_no_parts_have_no_derived_variants(
    shipped: tuple[repository.Repository, Path],
) -> None:
    known, _ = shipped
    base = known.variant("emoji-base")
    other = msgspec.structs.replace(base, manifest=msgspec.structs.replace(base.manifest, family="sd3"))
    with pytest.raises(RepositoryError, match="variants are derived of"):
        derive.proposals(other, known)


def test_an_adapter_is_offered_to_those_only_that_read_as_wide_a_text(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.register(home.checkpoint())
    home.register(home.lora())
    known = repository.scan(MODEL_REPO, home.user)
    assert known.adapter("oil").info().variants == ("my-model",)
    assert known.variant("emoji-base").manifest.family == known.adapter("oil").manifest.family
    with pytest.raises(RepositoryError, match="oil is for my-model, not for emoji-base"):
        derive.fused(known.variant("emoji-base"), known.adapter("oil"))
