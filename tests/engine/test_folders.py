"""Diffusers folders: registered by linking, loaded, and what of them stays behind."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from difs import repository
from difs.errors import RepositoryError
from difs.registration.orders import Order, Outcome
from difs.registration.register import register
from tests.engine.conftest import Bench
from tests.engine.test_bitwise import diffusers_pipeline, reference

pytestmark = pytest.mark.torch

WIDTHS = {"sd15": 768, "sd2-v": 1024, "sdxl": 2048, "lcm": 768, "sdxl-turbo": 2048}
"""What the configurations of the tiny models are made to say, since families are told apart by it."""


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    (tmp_path / "shipped").mkdir()
    return tmp_path / "shipped"


def put(source: Path, shipped: Path, **wishes: Any) -> Outcome:
    """Register a folder into the user's root beside `shipped`."""
    user = shipped.with_name("user")
    order = Order(shipped, user, repository.scan(shipped, user), **wishes)
    (outcome,) = register(source, order, lambda outcome: None)
    return outcome


def folder_of(tiny_repo: Path, name: str, target: Path) -> Path:
    """Copy a tiny model as it would come from elsewhere: no manifest, a text of its family's width."""
    shutil.copytree(tiny_repo / name, target)
    (target / "variant.toml").unlink()
    if name in WIDTHS:
        file = target / "unet" / "config.json"
        config = json.loads(file.read_text())
        file.write_text(json.dumps(config | {"cross_attention_dim": WIDTHS[name]}))
    return target


@pytest.mark.parametrize(
    ("name", "family", "kind", "guidance"),
    [
        ("sd15", "sd15", "base", 7.0),
        ("sd2-v", "sd2", "base", 7.0),
        ("sdxl", "sdxl", "base", 6.0),
        ("lcm", "sd15", "lcm", 8.0),
        ("sdxl-turbo", "sdxl", "turbo", 0.0),
        ("other", "sd3", "base", 5.0),
    ],
)
def test_a_folder_is_recognised(
    tiny_repo: Path, tmp_path: Path, shipped: Path, name: str, family: str, kind: str, guidance: float
) -> None:
    outcome = put(folder_of(tiny_repo, name, tmp_path / name), shipped)
    found = repository.scan(shipped, tmp_path / "user")
    assert not found.problems
    m = found.variant(outcome.name).manifest
    assert (m.family, m.kind, m.guidance_scale) == (family, kind, guidance)
    assert bool(outcome.notes) == (kind != "base")
    assert m.linked.keys() == m.digests.keys() == m.seen.keys()
    if kind == "base" and family != "sd3":
        assert m.native_sizes == ((64, 64),), "as its UNet's configuration says"


def test_a_registered_folder_paints_what_its_pipeline_paints(
    tiny_repo: Path, tmp_path: Path, shipped: Path
) -> None:
    source = tmp_path / "mine"
    shutil.copytree(tiny_repo / "sd15", source)
    config = json.loads((source / "unet" / "config.json").read_text())
    (source / "variant.toml").unlink()
    (source / "unet" / "config.json").write_text(json.dumps(config | {"cross_attention_dim": 768}))
    put(source, shipped)
    own = tmp_path / "user" / "mine" / "unet" / "config.json"
    own.write_text(json.dumps(config))  # back to what fits the weights
    (tmp_path / "segments").mkdir()
    bench = Bench(tmp_path / "segments", shipped, tmp_path / "user")
    try:
        bench.load("mine")
        (painted,) = bench.paint(bench.execute("a red apple", seeds=(11,)))
    finally:
        bench.close()
    expected = reference(
        diffusers_pipeline(tiny_repo / "sd15"), "ddim", "a red apple", 11,
        num_inference_steps=4, guidance_scale=2.5, height=64, width=64,
    )  # fmt: skip
    assert np.array_equal(painted, expected)


def test_code_pickles_and_checkers_stay_behind(tiny_repo: Path, tmp_path: Path, shipped: Path) -> None:
    source = folder_of(tiny_repo, "sd15", tmp_path / "full")
    (source / "unet" / "evil.py").write_text("raise SystemExit")
    (source / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80")
    (source / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"not read")
    (source / "unet" / "diffusion_pytorch_model.non_ema.safetensors").write_bytes(b"not read")
    (source / "safety_checker").mkdir()
    (source / "safety_checker" / "model.safetensors").write_bytes(b"not read")
    index = json.loads((source / "model_index.json").read_text())
    checker = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    (source / "model_index.json").write_text(json.dumps(index | checker))
    put(source, shipped)
    made = tmp_path / "user" / "full"
    left = {p.relative_to(made).as_posix() for p in made.rglob("*") if p.is_file()}
    assert "unet/diffusion_pytorch_model.safetensors" in left
    assert not [name for name in left if name.endswith((".py", ".bin")) or "non_ema" in name]
    assert not [name for name in left if "fp16" in name or "safety" in name]
    assert json.loads((made / "model_index.json").read_text())["safety_checker"] == [None, None]


def test_half_precision_alone_gets_the_plain_name(tiny_repo: Path, tmp_path: Path, shipped: Path) -> None:
    source = folder_of(tiny_repo, "sd15", tmp_path / "half")
    plain = source / "unet" / "diffusion_pytorch_model.safetensors"
    plain.rename(plain.with_name("diffusion_pytorch_model.fp16.safetensors"))
    put(source, shipped)
    link = tmp_path / "user" / "half" / "unet" / "diffusion_pytorch_model.safetensors"
    assert os.readlink(link).endswith("diffusion_pytorch_model.fp16.safetensors")


def test_the_cache_of_a_hub_is_linked_by_its_names(
    tiny_repo: Path, tmp_path: Path, shipped: Path
) -> None:
    """Its files are links to blobs without a suffix."""
    source = folder_of(tiny_repo, "sd15", tmp_path / "snapshot")
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(p for p in source.rglob("*") if p.is_file())):
        file.rename(blobs / str(number))
        file.symlink_to(blobs / str(number))
    outcome = put(source, shipped)
    found = repository.scan(shipped, tmp_path / "user")
    assert not found.problems
    found.variant(outcome.name).verify()


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lambda source: (source / "model_index.json").write_text("{"), "model_index.json"),
        (lambda source: (source / "model_index.json").write_text("[" * 9999), "model_index.json"),
        (
            lambda source: (source / "model_index.json").write_text('{"_class_name": "AudioPipeline"}'),
            "no pipeline that DIFS knows",
        ),
        (lambda source: shutil.rmtree(source / "vae"), "names 'vae', which is not there"),
        (lambda source: _set(source, "unet", in_channels=9), "takes 9 channels"),
        (lambda source: _set(source, "unet", cross_attention_dim=5), "no family"),
        (lambda source: _set(source, "unet", cross_attention_dim=[768, 768]), "no family"),
        (lambda source: _set(source, "unet", sample_size={"a": 1}), "unet/config.json"),
        (lambda source: _only_pickles(source / "unet"), "can run code"),
        (
            lambda source: (source / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"x"),
            "no safetensors file",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_leaves_nothing(
    tiny_repo: Path, tmp_path: Path, shipped: Path, harm: Any, complaint: str
) -> None:
    source = folder_of(tiny_repo, "sd15", tmp_path / "bad")
    harm(source)
    with pytest.raises(RepositoryError, match=complaint):
        put(source, shipped)
    user = tmp_path / "user"
    assert not user.exists() or not list(user.iterdir())


def _set(source: Path, part: str, **changes: Any) -> None:
    file = source / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _only_pickles(part: Path) -> None:
    file = part / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))


def test_a_folder_that_is_registered_already_is_not_registered_twice(
    tiny_repo: Path, tmp_path: Path, shipped: Path
) -> None:
    source = folder_of(tiny_repo, "sd15", tmp_path / "once")
    put(source, shipped)
    again = put(source, shipped, name="twice")
    assert (again.name, again.is_new, again.path) == ("once", False, str(source))
