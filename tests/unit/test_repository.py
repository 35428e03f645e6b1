"""difs.repository: only what a manifest names and a digest pins becomes a variant or an adapter."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from difs import manifests, repository, variants
from difs.errors import RepositoryError, UnknownName

MODEL_REPO = Path(__file__).parents[2] / "model_repo"
WEIGHTS = b"not really weights"
SHA = "sha256:" + hashlib.sha256(WEIGHTS).hexdigest()

GOOD: dict[str, str] = {
    "name": '"tiny"',
    "task": '"text-to-image"',
    "family": '"sd15"',
    "path": '"."',
    "precision": '"fp16"',
    "sampler": '"ddim"',
    "guidance_scale": "2.5",
    "native_sizes": "[[64, 96], [128, 128]]",
    "licence": '"Apache-2.0"',
    "steps": "{ min = 4, default = 20, max = 50 }",
    "digests": f'{{ "unet/model.safetensors" = "{SHA}" }}',
}


def add(root: Path, folder: str = "tiny", /, **changes: Any) -> Path:
    """Write a variant of `GOOD` with changed values (TOML; None leaves a key out); return its folder."""
    home = root / folder
    (home / "unet").mkdir(parents=True)
    (home / "unet" / "model.safetensors").write_bytes(WEIGHTS)
    (home / "model_index.json").write_text("{}")
    values = GOOD | changes
    lines = [f"{key} = {value}" for key, value in values.items() if value is not None]
    (home / "variant.toml").write_text("\n".join(lines))
    return home


def problem(root: Path) -> str:
    """Return the one problem of a repository without a good variant."""
    found = repository.scan(root)
    assert not found.variants
    (only,) = found.problems
    return only


# ---- good ---------------------------------------------------------------------------------------


def test_a_good_manifest_becomes_a_variant(tmp_path: Path) -> None:
    home = add(tmp_path, description='"small"')
    found = repository.scan(tmp_path)
    assert found.problems == ()
    variant = found.variant("tiny")
    assert (variant.name, variant.folder, variant.weight_bytes) == ("tiny", home, len(WEIGHTS))
    info = variant.info()
    assert (info.steps_min, info.steps_default, info.steps_max) == (4, 20, 50)
    assert (info.native_sizes, info.guidance_scale) == (((64, 96), (128, 128)), 2.5)
    assert (info.bytes, info.description, info.resident_on) == (len(WEIGHTS), "small", ())
    variant.verify()


def test_what_a_manifest_leaves_out_has_a_default(tmp_path: Path) -> None:
    add(tmp_path)
    manifest = repository.scan(tmp_path).variant("tiny").manifest
    assert (manifest.kind, manifest.default_mode) == ("base", "full")
    assert manifest.runtime == manifests.Runtime(
        channels_last=False, compilation="none", attention="auto", cuda_graphs=False
    )


def test_a_manifest_may_say_how_a_variant_was_distilled_and_how_it_is_computed(tmp_path: Path) -> None:
    runtime = (
        '{ channels_last = true, compilation = "regional", attention = "flash", cuda_graphs = true }'
    )
    add(tmp_path, kind='"turbo"', default_mode='"sliced"', runtime=runtime)
    manifest = repository.scan(tmp_path).variant("tiny").manifest
    assert (manifest.kind, manifest.default_mode) == ("turbo", "sliced")
    assert manifest.runtime == manifests.Runtime(True, "regional", "flash", True)


def test_what_a_client_sees_of_a_variant_holds_no_path(tmp_path: Path) -> None:
    add(tmp_path)
    assert str(tmp_path) not in repr(repository.scan(tmp_path).variant("tiny").info())


def test_the_weights_may_lie_in_another_folder_of_the_repository(tmp_path: Path) -> None:
    home = add(tmp_path, "weights")
    (home / "variant.toml").rename(tmp_path / "moved.toml")
    (tmp_path / "tiny").mkdir()
    text = (tmp_path / "moved.toml").read_text().replace('path = "."', 'path = "../weights"')
    (tmp_path / "tiny" / "variant.toml").write_text(text)
    assert repository.scan(tmp_path).variant("tiny").folder == home


def test_the_shipped_variants_have_no_problem_and_are_unchanged() -> None:
    found = repository.scan(MODEL_REPO)
    assert found.problems == ()
    assert "emoji-base" in found.variants
    for variant in found.variants.values():
        variant.verify()
        assert variant.weight_bytes > 1_000_000


def test_a_folder_without_a_manifest_is_no_variant(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    assert repository.scan(tmp_path) == repository.Repository({})


def test_an_unknown_name_is_refused_with_those_there_are(tmp_path: Path) -> None:
    add(tmp_path)
    with pytest.raises(UnknownName, match="registered: tiny"):
        repository.scan(tmp_path).variant("../tiny")


# ---- bad manifests ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("name", '"Tiny"', "name"),
        ("name", '"../tiny"', "name"),
        ("name", '""', "name"),
        ("name", '"' + "a" * 65 + '"', "name"),
        ("name", None, "name"),
        ("family", '"a/b"', "family"),
        ("task", '"image-to-image"', "task"),
        ("precision", '"int4"', "precision"),
        ("sampler", '"unheard-of"', "sampler 'unheard-of'"),
        ("sampler", '"Euler a"', "sampler 'Euler a'"),
        ("guidance_scale", "51", "guidance_scale"),
        ("guidance_scale", "nan", "guidance_scale"),
        ("native_sizes", "[]", "native_sizes"),
        ("native_sizes", "[[60, 64]]", "native_sizes"),
        ("native_sizes", "[[64, 64, 64]]", "native_sizes"),
        ("licence", '""', "licence"),
        ("steps", "{ min = 0, default = 20, max = 50 }", "steps"),
        ("steps", "{ min = 4, default = 20, max = 151 }", "steps"),
        ("steps", "{ min = 21, default = 20, max = 50 }", "min <= default <= max"),
        ("steps", "{ min = 4, default = 20, max = 19 }", "min <= default <= max"),
        ("steps", "{ min = 4, default = 20, max = 50, more = 1 }", "more"),
        ("surprise", "1", "surprise"),
        ("digests", '{ "unet/model.safetensors" = "md5:00" }', "digests"),
        ("kind", '"hyper"', "kind"),
        ("default_mode", '"fast"', "default_mode"),
        ("runtime", "{ compilation = true }", "runtime.compilation"),
        ("runtime", '{ attention = "xformers" }', "runtime.attention"),
        ("runtime", "{ compiled = true }", "compiled"),
    ],
)
def test_a_bad_value_is_a_problem_that_names_its_key(
    key: str, value: str | None, words: str, tmp_path: Path
) -> None:
    add(tmp_path, **{key: value})
    assert problem(tmp_path).startswith("tiny: ")
    assert words in problem(tmp_path)


NOT_TOML = {
    "no value": b"name = ",
    "not UTF-8": b"\xff\xfe\x00",
    "deep": b"a = " + b"[" * 10_000,
    "5000 digits": b"a = " + b"9" * 5000,
}


@pytest.mark.parametrize("data", NOT_TOML.values(), ids=NOT_TOML)
def test_a_manifest_that_is_not_toml_is_a_problem(data: bytes, tmp_path: Path) -> None:
    (add(tmp_path) / "variant.toml").write_bytes(data)
    assert "is not TOML" in problem(tmp_path)


def test_a_huge_manifest_is_a_problem_and_is_not_read(tmp_path: Path) -> None:
    manifest = add(tmp_path) / "variant.toml"
    text = manifest.read_bytes()
    manifest.write_bytes(text + b"\n" + b"#" * (repository.MAX_MANIFEST_BYTES - len(text) - 1))
    assert repository.scan(tmp_path).problems == ()
    manifest.write_bytes(manifest.read_bytes() + b"#")
    assert "larger than" in problem(tmp_path)


def test_a_manifest_that_is_a_folder_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "tiny" / "variant.toml").mkdir(parents=True)
    assert problem(tmp_path).startswith("tiny: ")


def test_a_bad_variant_does_not_hide_the_good_ones(tmp_path: Path) -> None:
    add(tmp_path, "a-bad", name='"BAD"')
    add(tmp_path, "b-good")
    found = repository.scan(tmp_path)
    assert set(found.variants) == {"tiny"}
    assert len(found.problems) == 1


def test_a_name_that_is_taken_is_a_problem(tmp_path: Path) -> None:
    first = add(tmp_path, "a")
    add(tmp_path, "b")
    found = repository.scan(tmp_path)
    assert found.variant("tiny").folder == first
    assert "b: the name 'tiny' is taken already, by a" in found.problems


# ---- paths --------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["../../outside", "{outside}", "../..", "missing", "a\\u0000b"])
def test_a_path_that_leads_out_or_nowhere_is_a_problem(where: str, tmp_path: Path) -> None:
    root, outside = tmp_path / "repo", add(tmp_path, "outside")
    add(root, path=f'"{where.format(outside=outside)}"')
    assert problem(root).startswith("tiny: ")


@pytest.mark.parametrize("what", ["weights", "folder", "manifest", "any file"])
def test_a_link_that_leads_out_is_a_problem(what: str, tmp_path: Path) -> None:
    root, outside = tmp_path / "repo", add(tmp_path, "outside")
    home = add(root)
    link, target = {
        "weights": (home / "unet" / "model.safetensors", outside / "unet" / "model.safetensors"),
        "folder": (home / "unet", outside / "unet"),
        "manifest": (home / "variant.toml", outside / "variant.toml"),
        "any file": (home / "model_index.json", outside / "model_index.json"),
    }[what]
    shutil.rmtree(link) if link.is_dir() else link.unlink()
    link.symlink_to(target)
    assert "leads out" in problem(root)


def test_a_variant_folder_that_is_a_link_out_is_a_problem(tmp_path: Path) -> None:
    root, outside = tmp_path / "repo", add(tmp_path, "outside")
    root.mkdir()
    (root / "tiny").symlink_to(outside)
    assert "leads out" in problem(root)


def test_a_link_in_a_circle_is_a_problem(tmp_path: Path) -> None:
    home = add(tmp_path)
    (home / "round").symlink_to(home / "round")
    assert problem(tmp_path).startswith("tiny: ")


def test_a_link_within_the_variant_is_no_problem(tmp_path: Path) -> None:
    home = add(tmp_path)
    (home / "copy.json").symlink_to(home / "model_index.json")
    assert repository.scan(tmp_path).problems == ()


def test_a_folder_that_is_no_diffusers_model_is_a_problem(tmp_path: Path) -> None:
    (add(tmp_path) / "model_index.json").unlink()
    assert "model_index.json" in problem(tmp_path)


def test_a_repository_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError):
        repository.scan(tmp_path / "missing")


# ---- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle", ".CKPT"])
def test_pickled_weights_are_refused(suffix: str, tmp_path: Path) -> None:
    (add(tmp_path) / "unet" / f"model{suffix}").write_bytes(b"")
    assert "never opened" in problem(tmp_path)


def test_weights_that_no_digest_pins_are_a_problem(tmp_path: Path) -> None:
    (add(tmp_path) / "vae.safetensors").write_bytes(b"")
    assert "not listed: vae.safetensors" in problem(tmp_path)


@pytest.mark.parametrize("name", ["vae.safetensors", "../other/unet/model.safetensors", "/etc/passwd"])
def test_a_digest_of_a_file_that_is_not_there_is_a_problem(name: str, tmp_path: Path) -> None:
    add(tmp_path, "other")
    add(tmp_path, digests=f'{{ "unet/model.safetensors" = "{SHA}", "{name}" = "{SHA}" }}')
    (found,) = repository.scan(tmp_path).problems
    assert f"missing: {name}" in found


def test_changed_weights_are_noticed(tmp_path: Path) -> None:
    home = add(tmp_path)
    variant = repository.scan(tmp_path).variant("tiny")
    (home / "unet" / "model.safetensors").write_bytes(WEIGHTS[::-1])
    with pytest.raises(RepositoryError, match=r"tiny: unet/model.safetensors has changed"):
        variant.verify()


@pytest.mark.parametrize("as_folder", [True, False])
def test_weights_that_cannot_be_read_are_an_error(as_folder: bool, tmp_path: Path) -> None:
    weights = add(tmp_path) / "unet" / "model.safetensors"
    variant = repository.scan(tmp_path).variant("tiny")
    weights.unlink()
    if as_folder:
        weights.mkdir()
    with pytest.raises(RepositoryError, match=r"unet/model.safetensors cannot be read"):
        variant.verify()


# ---- where it is --------------------------------------------------------------------------------


def test_the_repository_is_looked_for_here_and_then_beside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert repository.locate("model_repo") == MODEL_REPO
    (tmp_path / "model_repo").mkdir()
    assert repository.locate("model_repo") == tmp_path / "model_repo"
    assert repository.locate(str(tmp_path)) == tmp_path
    with pytest.raises(RepositoryError, match="missing is not a folder"):
        repository.locate("missing")


def test_a_repository_cannot_be_changed(tmp_path: Path) -> None:
    add(tmp_path)
    found: Any = repository.scan(tmp_path)
    with pytest.raises(TypeError):
        found.variants["other"] = found.variants["tiny"]
    assert os.listdir(tmp_path) == ["tiny"]


# ---- adapters -----------------------------------------------------------------------------------

INK: dict[str, str] = {
    "name": '"ink"',
    "family": '"sd15"',
    "file": '"ink.safetensors"',
    "digest": f'"{SHA}"',
    "licence": '"Apache-2.0"',
}


def add_adapter(root: Path, folder: str = "ink", /, **changes: Any) -> Path:
    """Write an adapter of `INK` with changed values (TOML; None leaves a key out); return its folder."""
    home = root / folder
    home.mkdir(parents=True)
    (home / "ink.safetensors").write_bytes(WEIGHTS)
    values = INK | changes
    lines = [f"{key} = {value}" for key, value in values.items() if value is not None]
    (home / "adapter.toml").write_text("\n".join(lines))
    return home


def adapter_problem(root: Path) -> str:
    """Return the one problem of a repository without a good adapter."""
    found = repository.scan(root)
    assert not found.adapters
    (only,) = found.problems
    return only


def test_a_good_manifest_becomes_an_adapter(tmp_path: Path) -> None:
    home = add_adapter(tmp_path, description='"as drawn"', variants='["tiny", "other"]')
    found = repository.scan(tmp_path)
    assert (found.problems, dict(found.variants)) == ((), {})
    adapter = found.adapter("ink")
    assert (adapter.name, adapter.path, adapter.nbytes) == (
        "ink",
        home / "ink.safetensors",
        len(WEIGHTS),
    )
    info = adapter.info()
    assert (info.name, info.family, info.licence) == ("ink", "sd15", "Apache-2.0")
    assert (info.bytes, info.description, info.variants) == (len(WEIGHTS), "as drawn", ("tiny", "other"))
    assert str(tmp_path) not in repr(info), "a client sees no path"
    adapter.verify()


def test_what_an_adapters_manifest_leaves_out_has_a_default(tmp_path: Path) -> None:
    add_adapter(tmp_path)
    info = repository.scan(tmp_path).adapter("ink").info()
    assert (info.variants, info.description) == ((), "")


def test_adapters_and_variants_stand_beside_each_other_and_may_share_a_name(tmp_path: Path) -> None:
    add(tmp_path)
    add_adapter(tmp_path, name='"tiny"')
    found = repository.scan(tmp_path)
    assert found.problems == ()
    assert (set(found.variants), set(found.adapters)) == ({"tiny"}, {"tiny"})


def test_an_unknown_adapter_is_refused_with_those_there_are(tmp_path: Path) -> None:
    add_adapter(tmp_path)
    with pytest.raises(UnknownName, match=r"no adapter '\.\./ink'; registered: ink") as caught:
        repository.scan(tmp_path).adapter("../ink")
    assert caught.value.field == "adapter"
    with pytest.raises(UnknownName, match="registered: none"):
        repository.Repository({}).adapter("ink")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("name", '"Ink"', "name"),
        ("name", None, "name"),
        ("family", '"a/b"', "family"),
        ("file", None, "file"),
        ("file", '""', "'' is no .safetensors file"),
        ("file", '"adapter.toml"', "'adapter.toml' is no .safetensors file"),
        ("file", '"missing.safetensors"', "missing.safetensors"),
        ("file", '"a\\u0000b"', "ValueError"),
        ("digest", '"md5:00"', "digest"),
        ("digest", None, "digest"),
        ("licence", '""', "licence"),
        ("variants", '["No"]', "variants"),
        ("default_weight", "0.5", "default_weight"),
    ],
)
def test_a_bad_value_of_an_adapter_is_a_problem_that_names_its_key(
    key: str, value: str | None, words: str, tmp_path: Path
) -> None:
    add_adapter(tmp_path, **{key: value})
    assert adapter_problem(tmp_path).startswith("ink: ")
    assert words in adapter_problem(tmp_path)


@pytest.mark.parametrize("data", NOT_TOML.values(), ids=NOT_TOML)
def test_an_adapters_manifest_that_is_not_toml_is_a_problem(data: bytes, tmp_path: Path) -> None:
    (add_adapter(tmp_path) / "adapter.toml").write_bytes(data)
    assert "adapter.toml is not TOML" in adapter_problem(tmp_path)


def test_a_huge_adapters_manifest_is_a_problem_and_is_not_read(tmp_path: Path) -> None:
    manifest = add_adapter(tmp_path) / "adapter.toml"
    manifest.write_bytes(manifest.read_bytes() + b"\n#" + b"#" * repository.MAX_MANIFEST_BYTES)
    assert "adapter.toml is larger than" in adapter_problem(tmp_path)


def test_an_adapters_manifest_that_is_a_folder_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "ink" / "adapter.toml").mkdir(parents=True)
    assert adapter_problem(tmp_path).startswith("ink: adapter.toml: ")


def test_a_bad_adapter_hides_neither_adapters_nor_variants(tmp_path: Path) -> None:
    add(tmp_path)
    add_adapter(tmp_path, "a-bad", name='"BAD"')
    first = add_adapter(tmp_path, "b-good")
    add_adapter(tmp_path, "c-again")
    found = repository.scan(tmp_path)
    assert (set(found.variants), set(found.adapters)) == ({"tiny"}, {"ink"})
    assert found.adapter("ink").path.parent == first
    assert [words.partition(":")[0] for words in found.problems] == ["a-bad", "c-again"]
    assert "the name 'ink' is taken already" in found.problems[1]


@pytest.mark.parametrize("where", ["../outside/ink.safetensors", "{outside}/ink.safetensors"])
def test_a_file_that_lies_outside_is_a_problem(where: str, tmp_path: Path) -> None:
    outside = add_adapter(tmp_path, "outside", name='"other"')
    add_adapter(tmp_path, file=f'"{where.format(outside=outside)}"')
    found = repository.scan(tmp_path)
    assert set(found.adapters) == {"other"}, "an adapter keeps its file in its own folder"
    assert "leads out" in found.problems[0]


@pytest.mark.parametrize("what", ["weights", "manifest", "any file", "folder"])
def test_a_link_of_an_adapter_that_leads_out_is_a_problem(what: str, tmp_path: Path) -> None:
    root, outside = tmp_path / "repo", add_adapter(tmp_path, "outside")
    home = add_adapter(root)
    if what == "folder":
        shutil.rmtree(home)
        home.symlink_to(outside)
    else:
        names = {"weights": "ink.safetensors", "manifest": "adapter.toml", "any file": "notes"}
        (home / names[what]).unlink(missing_ok=True)
        (home / names[what]).symlink_to(outside / "ink.safetensors")
    assert "leads out" in adapter_problem(root)


def test_a_folder_is_no_adapters_file(tmp_path: Path) -> None:
    weights = add_adapter(tmp_path) / "ink.safetensors"
    weights.unlink()
    weights.mkdir()
    assert "is no .safetensors file" in adapter_problem(tmp_path)


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pt"])
@pytest.mark.parametrize("is_named", [True, False])
def test_pickled_adapters_are_refused(suffix: str, is_named: bool, tmp_path: Path) -> None:
    changes = {"file": f'"ink{suffix}"'} if is_named else {}
    (add_adapter(tmp_path, **changes) / f"ink{suffix}").write_bytes(b"")
    assert "never opened" in adapter_problem(tmp_path)


def test_a_changed_adapter_is_noticed(tmp_path: Path) -> None:
    home = add_adapter(tmp_path)
    adapter = repository.scan(tmp_path).adapter("ink")
    (home / "ink.safetensors").write_bytes(WEIGHTS[::-1])
    with pytest.raises(RepositoryError, match=r"ink: ink.safetensors has changed"):
        adapter.verify()
    (home / "ink.safetensors").unlink()
    with pytest.raises(RepositoryError, match=r"ink: ink.safetensors cannot be read"):
        adapter.verify()


# ---- parts of others, fused adapters --------------------------------------------------------------


def add_fast(root: Path, family: str = "sd15") -> Path:
    """Write the adapter `fast`."""
    return add_adapter(root, "fast", name='"fast"', family=f'"{family}"')


def lender(root: Path) -> Path:
    """Write the variant `tiny`, which has a text encoder of its own."""
    own = ("unet/model.safetensors", "text_encoder/m.safetensors")
    home = add(root, digests="{ " + ", ".join(f'"{file}" = "{SHA}"' for file in own) + " }")
    (home / "text_encoder").mkdir()
    (home / "text_encoder" / "m.safetensors").write_bytes(WEIGHTS)
    return home


def test_a_part_of_another_variant_is_used_in_place(tmp_path: Path) -> None:
    home = lender(tmp_path)
    add(tmp_path, "small", name='"small"', parts='{ text_encoder = "tiny" }')
    found = repository.scan(tmp_path)
    assert found.problems == ()
    small = found.variant("small")
    assert small.part("text_encoder").folder == home / "text_encoder"
    assert small.part("text_encoder") == variants.Borrowed(
        found.variant("tiny").part("text_encoder").folder, {"m.safetensors": SHA}
    )
    assert small.part("unet").folder == tmp_path / "small" / "unet"
    assert small.weight_bytes == 2 * len(WEIGHTS), "what it takes, whoever has it"
    small.verify()


def test_a_borrowed_part_may_have_another_name_there(tmp_path: Path) -> None:
    home = lender(tmp_path)
    add(tmp_path, "large", name='"large"', parts='{ text_encoder_2 = "tiny/text_encoder" }')
    found = repository.scan(tmp_path)
    assert found.problems == ()
    assert found.variant("large").part("text_encoder_2").folder == home / "text_encoder"


def test_a_borrowed_part_that_changed_is_noticed(tmp_path: Path) -> None:
    home = lender(tmp_path)
    add(tmp_path, "small", name='"small"', parts='{ text_encoder = "tiny" }')
    small = repository.scan(tmp_path).variant("small")
    (home / "text_encoder" / "m.safetensors").write_bytes(b"other weights")
    with pytest.raises(RepositoryError, match=r"text_encoder/m\.safetensors has changed"):
        small.verify()


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        ('{ text_encoder = "nobody" }', "no other variant"),
        ('{ text_encoder = "small" }', "no other variant"),
        ('{ vae = "tiny" }', "tiny has no part 'vae'"),
        ('{ "../secrets" = "tiny" }', "no part"),
        ('{ ".." = "tiny" }', "no part"),
        ('{ unet = "tiny" }', "stands in its own folder too"),
        ('{ text_encoder_2 = "tiny/../../secrets" }', "no part"),
        ('{ text_encoder_2 = "tiny/vae" }', "tiny has no part 'vae'"),
    ],
)
def test_a_part_that_nobody_lends_is_a_problem(tmp_path: Path, parts: str, complaint: str) -> None:
    lender(tmp_path)
    add(tmp_path, "small", name='"small"', parts=parts)
    found = repository.scan(tmp_path)
    assert list(found.variants) == ["tiny"]
    assert complaint in found.problems[0]


def test_what_is_borrowed_is_not_lent_on(tmp_path: Path) -> None:
    lender(tmp_path)
    add(tmp_path, "one", name='"one"', parts='{ text_encoder = "tiny" }')
    add(tmp_path, "two", name='"two"', parts='{ text_encoder = "one" }')
    found = repository.scan(tmp_path)
    assert "name the variant that has it" in found.problems[0]
    assert list(found.variants) == ["one", "tiny"]


def test_a_variant_may_bring_adapters_of_its_own(tmp_path: Path) -> None:
    home = add_fast(tmp_path)
    add(tmp_path, fused="{ fast = 0.5 }")
    variant = repository.scan(tmp_path).variant("tiny")
    assert [(adapter.name, weight) for adapter, weight in variant.fused] == [("fast", 0.5)]
    assert variant.weight_bytes == 2 * len(WEIGHTS)
    (home / "ink.safetensors").write_bytes(b"other weights")
    with pytest.raises(RepositoryError, match=r"fast: ink\.safetensors has changed"):
        variant.verify()


@pytest.mark.parametrize(
    ("family", "complaint"), [("sdxl", "is of family 'sdxl'"), (None, "no adapter 'fast'")]
)
def test_an_adapter_that_does_not_fit_cannot_be_fused(
    tmp_path: Path, family: str | None, complaint: str
) -> None:
    if family is not None:
        add_fast(tmp_path, family)
    add(tmp_path, fused="{ fast = 0.5 }")
    assert complaint in problem(tmp_path)


# ---- captions -------------------------------------------------------------------------------------


def test_captions_may_be_those_of_another_variant(tmp_path: Path) -> None:
    home = add(tmp_path, captions='"tiny"')
    (home / "captions.json").write_text(
        '{"a": {"caption": "cat", "also": ["kitty"]}, "b": {"caption": "dog"}}'
    )
    add(tmp_path, "small", name='"small"', captions='"tiny"')
    found = repository.scan(tmp_path)
    assert found.problems == ()
    for name in ("tiny", "small"):
        assert found.variant(name).info().captions == (("cat", "kitty"), ("dog",))


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"a": {}}', '{"a": {"caption": ""}}', '{"a": {"caption": 1}}']
)
def test_bad_captions_are_a_problem(tmp_path: Path, text: str) -> None:
    home = add(tmp_path, captions='"tiny"')
    (home / "captions.json").write_text(text)
    assert "captions.json" in problem(tmp_path)


def test_captions_that_are_not_there_are_a_problem(tmp_path: Path) -> None:
    add(tmp_path, captions='"nobody"')
    assert "captions: no variant 'nobody'" in problem(tmp_path)
    shutil.rmtree(tmp_path / "tiny")
    add(tmp_path, captions='"tiny"')
    assert "captions.json" in problem(tmp_path)
