"""Trains a UNet (and, for the base, its text encoder) on latents of drawings: v-prediction.

The loss is that of Salimans & Ho 2022 ("Progressive Distillation for Fast Sampling of Diffusion Models",
appendix D): squared error of v = sqrt(a) e - sqrt(1-a) x.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from model_repo.recipes.loop import Run, schedule
from model_repo.recipes.material import BASE, Material, compute, dice_of

Batch = tuple[Tensor, list[str]]
"""Latents and their captions."""


def alphas(device: torch.device) -> Tensor:
    """Return the cumulative products of the base's noise schedule, for the 1000 training timesteps."""
    from diffusers import DDIMScheduler

    made: Tensor = DDIMScheduler.from_pretrained(BASE / "scheduler").alphas_cumprod
    return made.to(device)


def noised(x: Tensor, noise: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """Return the noised latents and the v that a UNet should say; `a` of shape (batch,)."""
    a = a[:, None, None, None]
    return a.sqrt() * x + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * x


def base_unet() -> Any:
    """Return the base's UNet in fp32, as it stands in the repository."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(BASE / "unet", dtype=torch.float32)


def base_text_encoder() -> Any:
    """Return the family's text encoder in fp32."""
    from transformers import CLIPTextModel

    return CLIPTextModel.from_pretrained(BASE / "text_encoder", dtype=torch.float32)


def single_names(
    material: Material, latents: Tensor, size: int, often: Sequence[str] = ()
) -> Callable[[int], Batch]:
    """Return what draws a batch of single drawings with their captions; one in ten without words.

    The names in `often` fill a quarter of each batch.
    """
    favourites = torch.tensor([material.names.index(name) for name in often], dtype=torch.long)

    def draw(update: int) -> Batch:
        dice, generator = dice_of(material.seed, update)
        chosen = torch.randint(len(material.names), (size,), generator=generator)
        if often:
            picked = torch.randint(len(often), (size // 4,), generator=generator)
            chosen[: size // 4] = favourites[picked]
        words = [material.caption(material.names[int(i)], dice) for i in chosen]
        return latents[chosen], ["" if dice.random() < 0.1 else said for said in words]

    return draw


def train_base(material: Material, *, fresh: bool = False) -> Any:
    """Train the base's UNet together with the text encoder; returns both.

    `fresh` begins with random weights, else with those in the repository.
    """
    unet, encoder = base_unet().to(material.device), base_text_encoder().to(material.device)
    if fresh:
        torch.manual_seed(material.seed)
        unet = type(unet).from_config(unet.config).to(material.device)
        encoder = type(encoder)(encoder.config).to(material.device)
    together(material, "first_base" if fresh else "base", unet, encoder)
    return unet, encoder


def together(material: Material, stage: str, unet: Any, encoder: Any) -> None:
    """Train a UNet and its text encoder, as a stage of the settings says."""
    known = dict(material.settings[stage])
    often = known.pop("often", ())
    run = Run(material.out / stage, {"unet": unet, "text_encoder": encoder}, schedule(known))
    fit(run, material, unet, encoder, material.latents("noto", 64), often=often)


def train_small(material: Material, encoder: Any) -> Any:
    """Train the small UNet beside a finished text encoder; returns it."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(material.seed)
    shape = {**base_unet().config, **material.settings["small_shape"]}
    unet = UNet2DConditionModel.from_config(shape).to(material.device)
    run = Run(material.out / "small", {"unet": unet}, schedule(material.settings["small"]))
    fit(run, material, unet, encoder.requires_grad_(False), material.latents("noto", 64))
    return unet


def v_loss(
    x: Tensor,
    cumulative: Tensor,
    timesteps: Tensor,
    generator: torch.Generator,
    say: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Return the error of what `say(noised, t)` says of latents at timesteps drawn from `timesteps`."""
    noise = torch.randn(x.shape, generator=generator).to(x)
    t = timesteps[torch.randint(len(timesteps), (len(x),), generator=generator)].to(x.device)
    inputs, wanted = noised(x, noise, cumulative[t])
    with compute(x.device):
        said = say(inputs, t)
    return torch.nn.functional.mse_loss(said.float(), wanted)


def learn_drawings(
    run: Run,
    material: Material,
    parts: tuple[Any, Any],
    latents: Tensor,
    timesteps: Sequence[int] | None = None,
    *,
    stream: int = 1,
    often: Sequence[str] = (),
) -> None:
    """Let a run's (UNet, text encoder) learn the latents' drawings.

    `timesteps`: the only ones that it will meet, or None for all; `stream`: whose noise it sees; `often`:
    names that it had better see more often.
    """
    unet, encoder = parts
    cumulative = alphas(material.device)
    steps = torch.tensor(timesteps if timesteps is not None else range(len(cumulative)))
    draw = single_names(material, latents, run.schedule.batch, often)

    def loss_of(update: int) -> Tensor:
        x, captions = draw(update)
        _, generator = dice_of(material.seed + stream, update)

        def say(inputs: Tensor, t: Tensor) -> Tensor:
            words = encoder(material.tokens(captions)).last_hidden_state
            said: Tensor = unet(inputs, t, words, return_dict=False)[0]
            return said

        return v_loss(x, cumulative, steps, generator, say)

    run.train(loss_of)


def fit(
    run: Run, material: Material, unet: Any, encoder: Any, latents: Tensor, *, often: Sequence[str] = ()
) -> None:
    """Let a UNet of its own learn the latents' drawings."""
    unet.to(memory_format=torch.channels_last).train()
    learn_drawings(run, material, (unet, encoder), latents, often=often)
    unet.to(memory_format=torch.contiguous_format).eval()
