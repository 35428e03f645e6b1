"""The denoising loop, taken apart: encode, begin, one step for a batch of images, decode.

Images at different timesteps, step counts, guidance scales, samplers and adapters share one UNet call;
each has a scheduler object of its own. Which images share a call is decided elsewhere.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray

from difs.actor_messages import Execute
from difs.actors import schedulers
from difs.actors.adapters import AdapterShelf
from difs.actors.memory_modes import ModeKeeper
from difs.actors.previews import Projection
from difs.actors.prompts import PromptCache
from difs.actors.recipes import StableDiffusion, Text
from difs.actors.runtime import Runtime
from difs.messages import Adapter, Preview
from difs.profiles import rows_of


@dataclass
class Conditioning:
    """An encoded prompt; `negative` is None without guidance."""

    positive: Text
    negative: Text | None
    truncated_tokens: int = 0
    is_cached: bool = False
    """Nothing had to be encoded."""


@dataclass
class Work:
    """One image between noise and latent."""

    execute: Execute
    conditioning: Conditioning
    scheduler: Any
    timesteps: torch.Tensor
    latents: torch.Tensor
    generator: torch.Generator
    extra: dict[str, Any]
    timestep_cond: torch.Tensor | None
    done: int = 0
    is_spoilt: bool = False
    """Its scheduler broke off within a step: it must begin anew."""
    clean: torch.Tensor | None = None
    """The last prediction of the finished latent, where the sampler makes one."""

    @property
    def total(self) -> int:
        """Return how many UNet calls there are."""
        return len(self.timesteps)

    @property
    def rows(self) -> int:
        """Return the UNet rows that it takes."""
        return 1 if self.conditioning.negative is None else 2


class Painter:
    """Paints with one loaded pipeline of a family that has a recipe."""

    is_solo = False
    """Whether images cannot share a call."""

    def __init__(
        self,
        pipe: Any,
        recipe: StableDiffusion,
        device: torch.device,
        *,
        kind: str,
        keeper: ModeKeeper,
        shelf: AdapterShelf,
        prompts: PromptCache,
        encoder_key: str,
        runtime: Runtime,
    ) -> None:
        """`kind` is the manifest's; `encoder_key` names the text encoders' weights."""
        self.pipe = pipe
        self.keeper = keeper
        self.shelf = shelf
        self._recipe = recipe
        self._device = device
        self._kind = kind
        self._prompts = prompts
        self._encoder_key = encoder_key
        self._runtime = runtime
        self._dtype: torch.dtype = pipe.unet.dtype
        self._projection = Projection(pipe.unet.config.in_channels, device)
        self.embeds_guidance = pipe.unet.config.time_cond_proj_dim is not None
        """A distilled UNet takes the guidance scale as an input (LCM, Luo et al. 2023)."""

    # ---- encode -----------------------------------------------------------------------------------

    def encode(self, execute: Execute) -> Conditioning:
        """Encode the prompts of an attempt; what was encoded lately is not encoded again."""
        misses = self._prompts.misses
        guided = self.rows(execute) == 2
        positive = self._encode_one(execute.prompt, execute)
        negative = None
        if guided:
            empty = not execute.negative_prompt
            negative = self._recipe.unconditional(self.pipe, positive) if empty else None
            negative = negative or self._encode_one(execute.negative_prompt, execute)
        is_cached = self._prompts.misses == misses
        return Conditioning(positive, negative, self._truncated(execute.prompt), is_cached)

    def rows(self, execute: Execute) -> int:
        """Return the UNet rows that one image takes."""
        return 1 if self.embeds_guidance else rows_of(execute.guidance_scale)

    def _encode_one(self, text: str, execute: Execute) -> Text:
        key = (self._encoder_key, text, execute.adapters, self.shelf.digests(execute.adapters))
        found: Text | None = self._prompts.get(key)
        if found is None:
            found = self.encode_text(text, execute.adapters)
            self._prompts.put(key, found, found.nbytes)
        return found

    def encode_text(self, text: str, adapters: tuple[Adapter, ...] = ()) -> Text:
        """Encode one text, whatever the cache holds."""
        with self.shelf.applied_to_text(adapters):
            return self._recipe.encode(self.pipe, text, self._device)

    def _truncated(self, prompt: str) -> int:
        tokenizer = self.pipe.tokenizer
        tokens = len(tokenizer(prompt, truncation=False).input_ids)
        return max(0, tokens - int(tokenizer.model_max_length))

    def is_exact(self, execute: Execute) -> bool:
        """Whether what is computed now has the bits that diffusers' pipeline would have."""
        return self.keeper.is_exact and self._runtime.is_exact(alone=execute.is_alone)

    # ---- denoise ----------------------------------------------------------------------------------

    def begin(self, execute: Execute, seed: int, conditioning: Conditioning) -> Work:
        """Draw one image's noise, on the CPU whatever the device, and prepare its own scheduler.

        The timesteps stay on the CPU: indexing with them must not wait for a GPU.
        """
        pipe = self.pipe
        factor = pipe.vae_scale_factor
        shape = (1, pipe.unet.config.in_channels, execute.height // factor, execute.width // factor)
        generator = torch.Generator("cpu").manual_seed(seed)
        scheduler = schedulers.build(execute.sampler, pipe.scheduler, self._kind)
        scheduler.set_timesteps(execute.steps, device="cpu")
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        noise = randn_tensor(shape, generator=generator, device=self._device, dtype=self._dtype)
        accepted = _accepted(type(scheduler).step)
        extra: dict[str, Any] = {"eta": 0.0} if "eta" in accepted else {}
        if "generator" in accepted:
            extra["generator"] = generator
        return Work(
            execute=execute,
            conditioning=conditioning,
            scheduler=scheduler,
            timesteps=scheduler.timesteps,
            latents=noise * scheduler.init_noise_sigma,
            generator=generator,
            extra=extra,
            timestep_cond=self._timestep_cond(execute.guidance_scale),
        )

    def _timestep_cond(self, guidance_scale: float) -> torch.Tensor | None:
        if not self.embeds_guidance:
            return None
        embedding: torch.Tensor = self.pipe.get_guidance_scale_embedding(
            torch.tensor(guidance_scale - 1).repeat(1),
            embedding_dim=self.pipe.unet.config.time_cond_proj_dim,
        )
        return embedding.to(device=self._device, dtype=self._dtype)

    def step(self, works: Sequence[Work]) -> None:
        """Evaluate the UNet once for all `works` and step each one's scheduler."""
        eps = self._predict(works)
        at = 0
        for work in works:
            self._advance(work, eps[at : at + work.rows])
            at += work.rows

    def _predict(self, works: Sequence[Work]) -> torch.Tensor:
        """Return the UNet's outputs, negative before positive for each guided image."""
        inputs, times, texts, sizes = [], [], [], []
        for work in works:
            t = work.timesteps[work.done]
            x = torch.cat([work.latents] * 2) if work.rows == 2 else work.latents
            inputs.append(work.scheduler.scale_model_input(x, t))
            times += [t] * work.rows
            negative = work.conditioning.negative
            texts += [*([negative] if negative is not None else []), work.conditioning.positive]
            sizes += [(work.execute.height, work.execute.width)] * work.rows
        conds = [w.timestep_cond for w in works if w.timestep_cond is not None]
        adapters = [w.execute.adapters for w in works for _ in range(w.rows)]
        alone = len(works) == 1
        t = times[0] if alone else torch.stack([time.float() for time in times])
        with self.shelf.applied(adapters), self._runtime.around(exact=works[0].execute.is_alone):
            eps: torch.Tensor = self._runtime.unet(
                inputs[0] if alone else torch.cat(inputs),
                t.to(self._device, non_blocking=True),
                encoder_hidden_states=torch.cat([text.embeds for text in texts]),
                timestep_cond=torch.cat(conds) if conds else None,
                added_cond_kwargs=self._recipe.conditions(self.pipe, texts, sizes, self._dtype),
                return_dict=False,
            )[0]
        return eps

    def _advance(self, work: Work, eps: torch.Tensor) -> None:
        """Step one image's scheduler; guidance as in Ho & Salimans 2022, eq. 6."""
        if work.rows == 2:
            negative, positive = eps.chunk(2)
            eps = negative + work.execute.guidance_scale * (positive - negative)
        t = work.timesteps[work.done]
        work.is_spoilt = True
        out = work.scheduler.step(eps, t, work.latents, **work.extra)
        work.latents = out.prev_sample
        work.clean = _clean(work.scheduler, out)
        work.done += 1
        work.is_spoilt = False

    def shorten(self, work: Work, left: int) -> None:
        """Let an image do `left` more steps (or fewer) from where it is, evenly spaced."""
        work.timesteps = schedulers.respace(work.scheduler, work.timesteps, work.done, left)

    def preview(self, work: Work) -> Preview:
        """Return a small picture of what an image is becoming."""
        return self._projection.show(work.latents if work.clean is None else work.clean)

    # ---- decode -----------------------------------------------------------------------------------

    def decode(self, work: Work, canvas: NDArray[np.uint8], *, is_tiled: bool = False) -> None:
        """Write the pixels into `canvas`, of shape (height, width, 3), in one conversion pass."""
        image = self.image(work, is_tiled=is_tiled)
        self.hand_over(image, canvas)

    def image(self, work: Work, *, is_tiled: bool = False) -> torch.Tensor:
        """Return the image (1, 3, height, width) in -1..1."""
        with self.keeper.decoding(is_tiled=is_tiled):
            image = self._recipe.decode(self.pipe, work.latents, work.generator)
        self._projection.learn(work.latents, image)
        return image

    def hand_over(self, image: torch.Tensor, canvas: NDArray[np.uint8]) -> None:
        """Convert to bytes on the device and copy them to where the client will read them."""
        image = (image * 0.5 + 0.5).clamp(0, 1)[0].permute(1, 2, 0).float()
        target = torch.from_numpy(canvas)
        if self._device.type == "cpu":
            target.copy_((image * 255).round_())
            return
        pixels = (image * 255).round_().to(torch.uint8)
        target.copy_(pixels, non_blocking=True)
        torch.cuda.current_stream(self._device).synchronize()


@cache
def _accepted(step: Callable[..., Any]) -> frozenset[str]:
    """Return the names of what a step takes."""
    return frozenset(inspect.signature(step).parameters)


def _clean(scheduler: Any, out: Any) -> torch.Tensor | None:
    """Return a step's prediction of the finished latent, where the sampler makes one."""
    found: torch.Tensor | None = getattr(out, "pred_original_sample", None)
    if found is None and getattr(scheduler.config, "algorithm_type", "").endswith("dpmsolver++"):
        found = scheduler.model_outputs[-1]
    return found
