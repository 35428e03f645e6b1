"""Decoding a latent with less memory, the picture unchanged: band by band, layer by layer.

diffusers' tiles are decoded each for itself, so that every tile has its own group statistics: of the
embedded model's 128 px pictures a value changes by 12 of 255 on average. Here each convolution runs
over bands of rows with a border of one row, and each group norm takes its statistics from the whole
picture. Autoencoders of another structure than AutoencoderKL's are tiled as diffusers does it.
Nothing here knows of modes or devices.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.unets.unet_2d_blocks import UpDecoderBlock2D
from torch import nn

MOST = 8
"""Bands at most."""
LEAST_ROWS = 16
"""Rows of a band at least: its border costs two."""

Layer = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def lean(vae: Any, *, is_sliced: bool, is_tiled: bool) -> Iterator[None]:
    """Let `vae.decode` save memory within: one picture at a time, and with `is_tiled` in bands.

    What is set on the autoencoder is set back: it may be another pipeline's too. None is no autoencoder.
    """
    in_bands = is_tiled and vae is not None and has_bands(vae)
    wanted = {"use_slicing": is_sliced or is_tiled, "use_tiling": is_tiled and not in_bands}
    before = {name: vars(vae)[name] for name in wanted if vae is not None and name in vars(vae)}
    try:
        for name, value in before.items():
            setattr(vae, name, value or wanted[name])
        if in_bands:
            vae._decode = partial(_decode, vae)
        yield
    finally:
        for name, value in before.items():
            setattr(vae, name, value)
        if in_bands:
            del vae._decode


def has_bands(vae: Any) -> bool:
    """Whether an autoencoder's decoder has the structure that can be decoded in bands."""
    return (
        type(vae) is AutoencoderKL
        and isinstance(vae.decoder.conv_norm_out, nn.GroupNorm)
        and all(type(block) is UpDecoderBlock2D for block in vae.decoder.up_blocks)
    )


def _decode(vae: Any, z: torch.Tensor, return_dict: bool = True) -> Any:
    """Stand in for AutoencoderKL._decode."""
    decoder = vae.decoder
    x = z if vae.post_quant_conv is None else vae.post_quant_conv(z)
    x = decoder.mid_block(decoder.conv_in(x))
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            x = _resnet(resnet, x)
        for upsampler in block.upsamplers or ():
            x = _upsample(upsampler, x)
    x = _head(decoder, x)
    return DecoderOutput(sample=x) if return_dict else (x,)


def _resnet(block: Any, x: torch.Tensor) -> torch.Tensor:
    """Stand in for ResnetBlock2D.forward without a time embedding; keeps two feature maps, not four."""
    y = _collect(_bands(block.conv1, x, _normed(block.norm1, block.nonlinearity, x)), x.shape[2])
    behind: tuple[int, int, torch.Tensor] | None = None
    for top, end, out in _bands(block.conv2, y, _normed(block.norm2, block.nonlinearity, y)):
        straight = x[:, :, top:end]
        if block.conv_shortcut is not None:
            straight = block.conv_shortcut(straight)
        # A band is written only after the next one, which needs its last row, was computed.
        _write(y, behind)
        behind = top, end, (straight + out) / block.output_scale_factor
    _write(y, behind)
    return y


def _upsample(upsampler: Any, x: torch.Tensor) -> torch.Tensor:
    return _collect(_bands(upsampler, x, scale=2), 2 * x.shape[2])


def _head(decoder: Any, x: torch.Tensor) -> torch.Tensor:
    before = _normed(decoder.conv_norm_out, decoder.conv_act, x)
    return _collect(_bands(decoder.conv_out, x, before), x.shape[2])


def _bands(
    conv: Layer, x: torch.Tensor, before: Layer = lambda band: band, *, scale: int = 1
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield a 3x3 convolution's output band by band, as (first row, row after the last, values).

    `before` is applied to a band of `x` before; `scale`: how many times as many rows come out.
    """
    height = x.shape[2]
    count = max(1, min(MOST, height // LEAST_ROWS))
    for i in range(count):
        top, end = i * height // count, (i + 1) * height // count
        first, last = max(0, top - 1), min(height, end + 1)
        out = conv(before(x[:, :, first:last]))
        yield scale * top, scale * end, out[:, :, scale * (top - first) : scale * (end - first)]


def _collect(bands: Iterator[tuple[int, int, torch.Tensor]], height: int) -> torch.Tensor:
    """Return the whole of what comes in bands."""
    whole: torch.Tensor | None = None
    for top, end, out in bands:
        if whole is None:
            whole = out.new_empty((*out.shape[:2], height, out.shape[3]))
        whole[:, :, top:end] = out
    assert whole is not None
    return whole


def _write(whole: torch.Tensor, band: tuple[int, int, torch.Tensor] | None) -> None:
    if band is not None:
        top, end, values = band
        whole[:, :, top:end] = values


def _normed(norm: nn.GroupNorm, activation: Layer, x: torch.Tensor) -> Layer:
    """Return what norms and activates a band of `x`, with the statistics of all of `x`."""
    mean, variance = _statistics(x, norm.num_groups)
    spread = torch.rsqrt(variance + norm.eps)
    weight = norm.weight.to(x.device, torch.float32).view(1, norm.num_groups, -1)
    bias = norm.bias.to(x.device, torch.float32).view(1, norm.num_groups, -1)
    factor = (weight * spread.unsqueeze(-1)).flatten(1)[:, :, None, None]
    term = (bias - weight * (mean * spread).unsqueeze(-1)).flatten(1)[:, :, None, None]

    def apply(band: torch.Tensor) -> torch.Tensor:
        return activation(torch.addcmul(term, band.float(), factor).to(band.dtype))

    return apply


def _statistics(x: torch.Tensor, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and variance of each group, of shape (batch, groups); no copy of `x` is made."""
    height = x.shape[2]
    count = max(1, min(MOST, height // LEAST_ROWS))
    shares, means, variances = [], [], []
    for i in range(count):
        band = x[:, :, i * height // count : (i + 1) * height // count]
        flat = band.reshape(x.shape[0], groups, -1).float()
        variance, mean = torch.var_mean(flat, dim=-1, correction=0)
        shares.append(band.shape[2] / height)
        means.append(mean.double())
        variances.append(variance.double())
    mean = sum((s * m for s, m in zip(shares, means, strict=True)), torch.zeros_like(means[0]))
    spread = [s * (v + (m - mean) ** 2) for s, v, m in zip(shares, variances, means, strict=True)]
    return mean.float(), torch.stack(spread).sum(0).float()
