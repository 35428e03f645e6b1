"""Decoding in bands: the picture of the whole, with less memory, and no trace on the autoencoder."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from difs.actors import bands
from difs.actors.bands import lean

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def autoencoder(**changes: Any) -> Any:
    torch.manual_seed(0)
    facts: dict[str, Any] = {
        "block_out_channels": (16, 32),
        "norm_num_groups": 8,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "sample_size": 16,
    }
    return AutoencoderKL(**facts | changes).eval()


def largest_input(vae: Any, z: torch.Tensor) -> int:
    """Decode, and return the number of values of the last block's largest input."""
    sizes: list[int] = []
    layers = [*vae.decoder.up_blocks[-1].modules(), vae.decoder.conv_out]
    convolutions = [layer for layer in layers if isinstance(layer, torch.nn.Conv2d)]
    handles = [
        c.register_forward_pre_hook(lambda _, args: sizes.append(args[0].numel())) for c in convolutions
    ]
    vae.decode(z)
    for handle in handles:
        handle.remove()
    return max(sizes)


@pytest.mark.parametrize(
    "shape", [(1, 4, 8, 8), (1, 4, 16, 40), (2, 4, 33, 24), (1, 4, 65, 16), (1, 4, 1, 1)]
)
def test_the_picture_is_that_of_the_whole(shape: tuple[int, ...]) -> None:
    vae, z = autoencoder(), torch.randn(shape)
    whole = vae.decode(z).sample
    with lean(vae, is_sliced=False, is_tiled=True):
        banded = vae.decode(z).sample
        (as_tuple,) = vae.decode(z, return_dict=False)
    assert banded.shape == whole.shape
    assert (banded - whole).abs().max() <= 2e-5 * whole.abs().max()
    assert torch.equal(banded, as_tuple)


def test_a_decoder_without_quantisation_layer_and_attention_is_decoded_as_well() -> None:
    vae = autoencoder(use_post_quant_conv=False, mid_block_add_attention=False, layers_per_block=2)
    z = torch.randn(1, 4, 32, 32)
    whole = vae.decode(z).sample
    with lean(vae, is_sliced=False, is_tiled=True):
        assert torch.allclose(vae.decode(z).sample, whole, atol=1e-5)


def test_group_norms_see_the_whole_picture_where_tiles_see_only_themselves() -> None:
    vae, z = autoencoder(), torch.randn(1, 4, 32, 32)
    z[:, :, :16] = 0
    whole = vae.decode(z).sample
    vae.enable_tiling()
    tiled = vae.decode(z).sample
    vae.disable_tiling()
    with lean(vae, is_sliced=False, is_tiled=True):
        banded = vae.decode(z).sample
    assert (tiled - whole).abs().max() > 1000 * (banded - whole).abs().max()


def test_small_pictures_are_really_decoded_in_bands() -> None:
    vae, z = autoencoder(), torch.randn(1, 4, 64, 64)
    whole = largest_input(vae, z)
    with lean(vae, is_sliced=False, is_tiled=True):
        assert largest_input(vae, z) < whole / 5


@pytest.mark.parametrize("is_tiled", [False, True])
def test_the_autoencoder_is_left_as_it_was_even_when_a_decoding_breaks(is_tiled: bool) -> None:
    vae = autoencoder()
    vae.enable_tiling()
    before = dict(vars(vae))
    with pytest.raises(RuntimeError), lean(vae, is_sliced=True, is_tiled=is_tiled):
        assert vae.use_slicing
        assert vae.use_tiling
        vae.decode(torch.randn(1, 5, 8, 8))
    assert vars(vae) == before


def test_another_kind_of_autoencoder_is_tiled_as_diffusers_does_it() -> None:
    vae = AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
                          num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)).eval()  # fmt: skip
    assert not bands.has_bands(vae)
    with lean(vae, is_sliced=False, is_tiled=True):
        assert vae.use_tiling
    assert not vae.use_tiling


def test_no_autoencoder_is_no_trouble() -> None:
    with lean(None, is_sliced=True, is_tiled=True):
        pass
