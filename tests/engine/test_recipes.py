"""model_repo.recipes: a training that is killed goes on where it stood; latents are normalised."""

import contextlib
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model_repo.recipes import autoencoder, denoiser, export
from model_repo.recipes.loop import Run, Schedule, schedule
from model_repo.recipes.material import dice_of, settings

pytestmark = pytest.mark.torch


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1))


def train(folder: Path, updates: int, until: int) -> tuple[nn.Module, Run]:
    """Train the model in `folder` on noise; stop at update `until` as a kill would."""
    net = model()
    run = Run(folder, {"net": net}, Schedule(updates=updates, rate=1e-2, batch=16))

    def loss_of(update: int) -> Tensor:
        if update == until:
            run.keep()
            raise KeyboardInterrupt
        _, generator = dice_of(1, update)
        x = torch.randn(16, 4, generator=generator)
        return torch.nn.functional.mse_loss(net(x), x.sum(1, keepdim=True))

    with contextlib.suppress(KeyboardInterrupt):
        run.train(loss_of)
    return net, run


def test_a_stopped_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, _ = train(tmp_path / "whole", 120, -1)
    train(tmp_path / "parts", 120, 47)
    parts, run = train(tmp_path / "parts", 120, -1)
    assert run.done == 120
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)
    lines = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == [50, 100, 120]
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    first, _ = train(tmp_path / "run", 60, -1)
    second, run = train(tmp_path / "run", 60, 0)
    assert run.done == 60
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_the_rate_rises_stays_and_falls() -> None:
    plan = Schedule(updates=1000, rate=1.0, batch=1, hold=0.5, warm_up=10)
    assert plan.rate_at(0) == pytest.approx(0.1)
    assert plan.rate_at(10) == plan.rate_at(499) == 1.0
    assert plan.rate_at(750) == pytest.approx(0.5)
    assert plan.rate_at(999) < 0.001


def test_every_schedule_of_the_settings_is_valid() -> None:
    known = settings()
    for name in ("autoencoder", "first_base", "base", "small", "xl"):
        assert schedule(known[name]).updates > 0
    for adapter in known["adapters"].values():
        assert schedule({k: v for k, v in adapter.items() if k not in ("rank", "target", "timesteps")})


def test_v_is_what_the_sampler_takes_it_for() -> None:
    x, noise = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    a = torch.tensor([0.9, 0.5, 0.01])
    noised, v = denoiser.noised(x, noise, a)
    root, rest = a.sqrt()[:, None, None, None], (1 - a).sqrt()[:, None, None, None]
    assert torch.allclose(root * noised - rest * v, x, atol=1e-5)
    assert torch.allclose(rest * noised + root * v, noise, atol=1e-5)


def test_normalised_latents_decode_to_the_same_picture() -> None:
    from diffusers import AutoencoderKL

    torch.manual_seed(3)
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        mid_block_add_attention=False,
    ).eval()
    pictures = torch.rand(6, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        before = vae.encode(pictures).latent_dist
        wanted = vae.decode(before.mean).sample
        autoencoder._normalise(vae, pictures)
        after = vae.encode(pictures).latent_dist
        assert torch.allclose(vae.decode(after.mean).sample, wanted, atol=1e-4)
        assert torch.allclose(after.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
        assert torch.allclose(after.mean.std((0, 2, 3)), torch.ones(4), atol=1e-3)
        grown = after.std / before.std
        assert torch.allclose(grown, grown.mean((0, 2, 3), keepdim=True).expand_as(grown), rtol=1e-3)
        deviation = before.mean.std((0, 2, 3))
        assert torch.allclose(grown.mean((0, 2, 3)), 1 / deviation, rtol=1e-3), "the noise goes along"


def test_export_pins_what_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "REPOSITORY", tmp_path)
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "variant.toml").write_text(
        'name = "x"\n\n[digests]\n"old" = "sha256:0"\n\n[quality]\n'
    )
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        layers_per_block=1,
        cross_attention_dim=8,
    )
    export.part(unet, "small", "unet")
    text = (tmp_path / "small" / "variant.toml").read_text()
    assert '"old"' not in text
    assert text.count("sha256:") == 1
    assert "[quality]" in text
    assert unet.dtype is torch.float32, "the caller's weights stay as they were"
