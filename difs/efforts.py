"""What a call of a pipeline's parts takes, counted from their `config.json`: no weights are read.

Multiply-adds as a polynomial of the picture's pixels, and layers, each of which costs some overhead
however small it is. Only structures that are known in full are counted: a denoiser of ResNet blocks and
transformers (UNet2DConditionModel; Rombach et al. 2022, Podell et al. 2023), CLIP's text encoder and the
decoder of AutoencoderKL. Here nothing is opened, and nothing is said of seconds: those are
`difs.estimates`'.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Struct

from difs.messages import Effort, Efforts

Count = Annotated[int, Meta(ge=1, le=1 << 16)]
"""Wider than any layer is; all weights of the largest network of such layers are a 64-bit number."""
Few = Annotated[int, Meta(ge=1, le=256)]
Blocks = Annotated[tuple[Count, ...], Meta(min_length=1, max_length=16)]
PARTS = ("text_encoder", "text_encoder_2", "unet", "vae")
"""Those that are counted; of them only the second text encoder may be missing."""


class _Denoiser(Struct, frozen=True):
    """What matters of a UNet2DConditionModel's configuration; the defaults are diffusers'."""

    kind: Literal["UNet2DConditionModel"] = msgspec.field(name="_class_name")
    cross_attention_dim: Count
    block_out_channels: Blocks
    down_block_types: tuple[Literal["DownBlock2D", "CrossAttnDownBlock2D"], ...]
    up_block_types: tuple[Literal["UpBlock2D", "CrossAttnUpBlock2D"], ...]
    mid_block_type: Literal["UNetMidBlock2DCrossAttn"] = "UNetMidBlock2DCrossAttn"
    in_channels: Count = 4
    out_channels: Count = 4
    layers_per_block: Few = 2
    transformer_layers_per_block: Few | Annotated[tuple[Few, ...], Meta(max_length=16)] = 1
    projection_class_embeddings_input_dim: Count | None = None
    dual_cross_attention: Literal[False] = False
    only_cross_attention: Literal[False] = False


class _Decoder(Struct, frozen=True):
    """What matters of an AutoencoderKL's configuration."""

    kind: Literal["AutoencoderKL"] = msgspec.field(name="_class_name")
    block_out_channels: Blocks
    latent_channels: Count = 4
    out_channels: Count = 3
    layers_per_block: Few = 1
    mid_block_add_attention: bool = True


class _Encoder(Struct, frozen=True):
    """What matters of a CLIPTextModel's configuration."""

    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Few
    max_position_embeddings: Count = 77
    model_type: Literal["clip_text_model"] = "clip_text_model"


def of_parts(configs: Mapping[str, bytes]) -> Efforts | None:
    """Return what the parts take whose `config.json` are given by name; None: they cannot be counted."""
    try:
        names = [name for name in PARTS if name != "text_encoder_2" or name in configs]
        texts = [_parse(configs[name], _Encoder) for name in names if name.startswith("text")]
        denoiser, decoder = _parse(configs["unet"], _Denoiser), _parse(configs["vae"], _Decoder)
        depths = _depths(denoiser)
    except (KeyError, ValueError, RecursionError):
        return None
    scale = 4.0 ** (len(decoder.block_out_channels) - 1)
    tokens = texts[0].max_position_embeddings
    return Efforts(
        encode=_sum([_encoder(text) for text in texts]),
        step=_denoiser(denoiser, depths, tokens, 1.0 / scale),
        decode=_decoder(decoder, 1.0 / scale),
    )


T = TypeVar("T")


def _parse(config: bytes, kind: type[T]) -> T:
    """Return what a configuration says; raises ValueError where it is of another kind."""
    return msgspec.json.decode(config, type=kind)


def _depths(denoiser: _Denoiser) -> tuple[int, ...]:
    """Return the transformer layers of each level; raises ValueError where lists do not go together."""
    levels = len(denoiser.block_out_channels)
    stated = denoiser.transformer_layers_per_block
    depths = (stated,) * levels if isinstance(stated, int) else stated
    if {len(depths), len(denoiser.down_block_types), len(denoiser.up_block_types)} != {levels}:
        raise ValueError("not as many blocks as levels")
    return depths


# ---- layers ---------------------------------------------------------------------------------------


class _Layers(NamedTuple):
    """Layers that work on a grid of `share` times the picture's pixels."""

    number: int
    share: float
    fixed: float
    """Multiply-adds of a row, whatever its size;"""
    a_place: float
    """for each place of the grid;"""
    weights: int
    """All but biases and norms."""
    a_pair: float = 0.0
    """Multiply-adds for each pair of places: attention's."""


def _sum(parts: Sequence[_Layers]) -> Effort:
    return Effort(
        layers=sum(part.number for part in parts),
        weights=sum(part.weights for part in parts),
        fixed=float(sum(part.fixed for part in parts)),
        linear=float(sum(part.a_place * part.share for part in parts)),
        square=float(sum(part.a_pair * part.share**2 for part in parts)),
    )


def _conv(share: float, reads: int, gives: int, side: int = 3) -> _Layers:
    weights = side * side * reads * gives
    return _Layers(1, share, 0.0, weights, weights)


def _resnet(share: float, reads: int, gives: int, times: int = 0) -> _Layers:
    """Return two convolutions with their norms, a shortcut, and the projection of `times` numbers."""
    shortcut = reads * gives if reads != gives else 0
    number = 4 + bool(shortcut) + bool(times)
    weights = 9 * gives * (reads + gives) + shortcut
    return _Layers(number, share, times * gives, weights, weights + times * gives)


def _transformer(share: float, width: int, depth: int, text: int, tokens: int) -> _Layers:
    """Return `depth` layers of attention to the grid and to the text, and a gated feed-forward one."""
    one = 4 + 2 + 12  # own attention's four projections, two of the text's, the feed-forward
    weights, of_text = (2 + one * depth) * width * width, 2 * depth * text * width
    a_place = weights + 2 * depth * tokens * width
    return _Layers(3 + 15 * depth, share, tokens * of_text, a_place, weights + of_text, 2 * depth * width)


def _linear(*widths: int) -> _Layers:
    """Return layers that see each row once."""
    weights = sum(reads * gives for reads, gives in pairwise(widths))
    return _Layers(len(widths) - 1, 0.0, weights, 0.0, weights)


# ---- parts ----------------------------------------------------------------------------------------


def _encoder(text: _Encoder) -> _Layers:
    """Return a text encoder: it reads all of its tokens, however long a prompt is."""
    tokens, width, depth = text.max_position_embeddings, text.hidden_size, text.num_hidden_layers
    weights = depth * (4 * width * width + 2 * width * text.intermediate_size)
    return _Layers(9 * depth + 1, 0.0, tokens * weights + 2 * depth * tokens**2 * width, 0.0, weights)


def _denoiser(unet: _Denoiser, depths: Sequence[int], tokens: int, scale: float) -> Effort:
    """Return one row of a denoiser whose grid has `scale` times the picture's pixels."""
    widths = unet.block_out_channels
    times, text, last = 4 * widths[0], unet.cross_attention_dim, len(widths) - 1

    def attend(level: int) -> _Layers:
        return _transformer(scale / 4**level, widths[level], depths[level], text, tokens)

    parts = [_linear(widths[0], times, times)]
    added = unet.projection_class_embeddings_input_dim
    if added is not None:
        parts.append(_linear(added, times, times))
    parts.append(_conv(scale, unet.in_channels, widths[0]))
    skips, now = [widths[0]], widths[0]
    for level, width in enumerate(widths):
        for _ in range(unet.layers_per_block):
            parts.append(_resnet(scale / 4**level, now, width, times))
            if unet.down_block_types[level].startswith("Cross"):
                parts.append(attend(level))
            now = width
            skips.append(width)
        if level < last:
            parts.append(_conv(scale / 4 ** (level + 1), width, width))
            skips.append(width)
    middle = _resnet(scale / 4**last, now, now, times)
    parts += [middle, attend(last), middle]
    for level in reversed(range(last + 1)):
        for _ in range(unet.layers_per_block + 1):
            parts.append(_resnet(scale / 4**level, now + skips.pop(), widths[level], times))
            if unet.up_block_types[last - level].startswith("Cross"):
                parts.append(attend(level))
            now = widths[level]
        if level:
            parts.append(_conv(scale / 4 ** (level - 1), now, now))
    parts.append(_conv(scale, now, unet.out_channels)._replace(number=2))
    return _sum(parts)


def _decoder(vae: _Decoder, scale: float) -> Effort:
    """Return the decoding of one picture from a grid of `scale` times its pixels."""
    now = vae.block_out_channels[-1]
    middle = _resnet(scale, now, now)
    parts = [
        _conv(scale, vae.latent_channels, vae.latent_channels, 1),
        _conv(scale, vae.latent_channels, now),
        middle,
        middle,
    ]
    if vae.mid_block_add_attention:
        parts.append(_Layers(7, scale, 0.0, 4 * now * now, 4 * now * now, 2 * now))
    for level, width in enumerate(reversed(vae.block_out_channels)):
        share = scale * 4**level
        for _ in range(vae.layers_per_block + 1):
            parts.append(_resnet(share, now, width))
            now = width
        if level < len(vae.block_out_channels) - 1:
            parts.append(_conv(4 * share, now, now))
    parts.append(_conv(1.0, now, vae.out_channels)._replace(number=2))
    return _sum(parts)
