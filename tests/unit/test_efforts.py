"""difs.efforts: what a pipeline's parts take, counted from their configurations."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs import efforts, repository
from difs.messages import Efforts

SHIPPED = repository.scan(repository.locate("model_repo")).variants


def configs(name: str) -> dict[str, bytes]:
    """Return the configurations of an offline pipeline's parts."""
    return {
        path.parent.name: path.read_bytes() for path in repository.PIPELINES.glob(f"{name}/*/config.json")
    }


def changed(part: str, **changes: Any) -> dict[str, bytes]:
    """Return those of Stable Diffusion 1.5 with something else in one of them."""
    found = configs("sd15")
    facts = json.loads(found[part]) | changes
    return found | {part: json.dumps(facts).encode()}


@pytest.mark.parametrize(
    ("name", "parameters"), [("sd15", 859_520_964), ("sd2", 865_910_724), ("sdxl", 2_567_463_684)]
)
def test_the_weights_are_the_published_numbers_but_for_biases_and_norms(
    name: str, parameters: int
) -> None:
    found = efforts.of_parts(configs(name))
    assert found is not None
    assert 0.999 * parameters < found.step.weights < parameters


def test_every_shipped_variant_is_counted_and_the_fused_one_as_its_base() -> None:
    found = {name: variant.info().efforts for name, variant in SHIPPED.items()}
    assert None not in found.values()
    assert found["emoji-turbo"] == found["emoji-base"]


def test_a_second_text_encoder_is_counted_too() -> None:
    base, xl = SHIPPED["emoji-base"].efforts, SHIPPED["emoji-xl"].efforts
    assert base is not None and xl is not None
    assert xl.encode.layers > base.encode.layers
    assert xl.encode.weights > base.encode.weights


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("unet", {"_class_name": "SD3Transformer2DModel"}),
        ("unet", {"down_block_types": ["DownBlock2D"]}),
        ("unet", {"up_block_types": ["AttnUpBlock2D"] * 4}),
        ("unet", {"block_out_channels": []}),
        ("unet", {"layers_per_block": 10**9}),
        ("unet", {"transformer_layers_per_block": [1, 2]}),
        ("unet", {"mid_block_type": "UNetMidBlock2D"}),
        ("vae", {"_class_name": "AutoencoderTiny"}),
        ("text_encoder", {"model_type": "t5"}),
    ],
)
def test_what_is_not_known_in_full_is_not_counted(part: str, changes: dict[str, Any]) -> None:
    assert efforts.of_parts(changed(part)) is not None
    assert efforts.of_parts(changed(part, **changes)) is None


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_pipeline_without_a_part_is_not_counted(part: str) -> None:
    assert (
        efforts.of_parts({name: text for name, text in configs("sd15").items() if name != part}) is None
    )


@settings(max_examples=50)
@given(st.sampled_from(efforts.PARTS), st.binary(max_size=64) | st.just(b"[" * 60_000))
def test_a_broken_configuration_is_no_error(part: str, content: bytes) -> None:
    assert efforts.of_parts(configs("sdxl") | {part: content}) is None


def test_the_largest_that_is_counted_can_still_be_told() -> None:
    levels = 16
    huge = changed(
        "unet",
        block_out_channels=[1 << 16] * levels,
        down_block_types=["CrossAttnDownBlock2D"] * levels,
        up_block_types=["CrossAttnUpBlock2D"] * levels,
        layers_per_block=256,
        transformer_layers_per_block=256,
        cross_attention_dim=1 << 16,
    )
    found = efforts.of_parts(huge)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=Efforts) == found


@settings(max_examples=50)
@given(st.integers(1, 8), st.integers(1, 8))
def test_wider_and_deeper_take_more(wide: int, deep: int) -> None:
    widths = [64 * wide, 128 * wide, 256 * wide, 256 * wide]
    small = efforts.of_parts(changed("unet", block_out_channels=widths, layers_per_block=deep))
    wider = efforts.of_parts(
        changed("unet", block_out_channels=[2 * w for w in widths], layers_per_block=deep)
    )
    deeper = efforts.of_parts(changed("unet", block_out_channels=widths, layers_per_block=deep + 1))
    assert small is not None and wider is not None and deeper is not None
    assert small.step.linear < min(wider.step.linear, deeper.step.linear)
    assert small.step.layers < deeper.step.layers
    assert small.step.layers == wider.step.layers
