"""Safetensors files without torch: any names and shapes, and headers that lie."""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from difs.registration import headers
from difs.registration.headers import Header, Tensor

Shapes = Mapping[str, tuple[int, ...]]
UNET, CONTEXT = "model.diffusion_model.", ".attn2.to_k.weight"

SD15: dict[str, tuple[int, ...]] = {
    f"{UNET}input_blocks.0.0.weight": (4, 4, 3, 3),
    f"{UNET}input_blocks.1.1.transformer_blocks.0{CONTEXT}": (4, 768),
    "first_stage_model.decoder.conv_in.weight": (4, 4, 3, 3),
    "cond_stage_model.transformer.text_model.final_layer_norm.weight": (8,),
}
"""What tells an SD 1.x checkpoint; its UNet of two tensors needs `STRUCTURES` that say so."""
LORA: dict[str, tuple[int, ...]] = {
    f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_{side}.weight": shape
    for side, shape in (("down", (2, 768)), ("up", (4, 2)))
}


def header_text(shapes: Shapes, metadata: Mapping[str, str] | None = None, dtype: str = "F16") -> bytes:
    """Return the header that describes tensors of these shapes, one after the other."""
    entries: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for key, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * headers.SIZES[dtype]
        entries[key] = {"dtype": dtype, "shape": shape, "data_offsets": (begin, end)}
    return json.dumps(entries).encode()


def write(
    path: Path,
    shapes: Shapes,
    metadata: Mapping[str, str] | None = None,
    *,
    dtype: str = "F16",
    fill: bytes = b"\0",
) -> Path:
    """Write a file whose every byte of data is `fill`."""
    text = header_text(shapes, metadata, dtype)
    nbytes = sum(math.prod(shape) for shape in shapes.values()) * headers.SIZES[dtype]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + fill * nbytes)
    return path


def header(shapes: Shapes, metadata: Mapping[str, str] | None = None, dtype: str = "F16") -> Header:
    """Return a header without a file."""
    end = 0
    tensors = {}
    for key, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * headers.SIZES[dtype]
        tensors[key] = Tensor(dtype, tuple(shape), (begin, end))
    return Header(tensors, metadata or {}, 8, 8 + end)
