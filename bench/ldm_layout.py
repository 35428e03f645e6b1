"""diffusers' names of a pipeline's tensors -> those in Stability's own single files (the LDM layout).

The way back from what diffusers converts, written from the original code's modules; it works on tensors
of the `meta` device, too. For checkpoints with random weights, in tests and benches.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]

STARTS = {"sd15": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}
OPEN_STARTS = {"sd2": "cond_stage_model.model.", "sdxl": "conditioner.embedders.1.model."}

UNET_LONE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
}
OPEN_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def checkpoint(family: str, parts: Mapping[str, Any]) -> Tensors:
    """Return all tensors of a pipeline's modules as a single file of `family` names them."""
    found = {f"model.diffusion_model.{k}": t for k, t in unet(parts["unet"]).items()}
    found |= {f"first_stage_model.{k}": t for k, t in vae(parts["vae"]).items()}
    if family in STARTS:
        start = f"{STARTS[family]}text_model."
        encoder = parts["text_encoder"].state_dict()
        found |= {start + k.removeprefix("text_model."): t for k, t in encoder.items()}
    if family in OPEN_STARTS:
        encoder = parts["text_encoder_2" if family == "sdxl" else "text_encoder"].state_dict()
        found |= {OPEN_STARTS[family] + k: t for k, t in open_clip(encoder).items()}
    return found


def unet(module: Any) -> Tensors:
    """Return a UNet's tensors."""
    per_block = module.config.layers_per_block + 1
    attended = {i for i, block in enumerate(module.up_blocks) if hasattr(block, "attentions")}
    return {_unet_key(k, per_block, attended): t for k, t in module.state_dict().items()}


def _unet_key(key: str, per_block: int, attended: set[int]) -> str:
    name, _, end = key.rpartition(".")
    if name in UNET_LONE:
        return f"{UNET_LONE[name]}.{end}"
    middle = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name)
    if middle:
        place = 1 if middle[1] == "attentions" else 2 * int(middle[2])
        return f"middle_block.{place}.{RESNET.get(middle[3], middle[3])}.{end}"
    side = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name)
    assert side, key
    block, kind, index, rest = int(side[2]), side[3], int(side[4]), side[5]
    if side[1] == "down":
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * per_block}.0.op.{end}"
        start = f"input_blocks.{1 + block * per_block + index}"
    else:
        if kind == "upsamplers":
            place = 2 if block in attended else 1
            return f"output_blocks.{(block + 1) * per_block - 1}.{place}.conv.{end}"
        start = f"output_blocks.{block * per_block + index}"
    return f"{start}.{int(kind == 'attentions')}.{RESNET.get(rest, rest)}.{end}"


def vae(module: Any) -> Tensors:
    """Return an autoencoder's tensors; its attention is made of convolutions there."""
    levels = len(module.config.block_out_channels)
    found = {}
    for key, tensor in module.state_dict().items():
        name = _vae_key(key, levels)
        is_projection = ".mid.attn_1." in name and tensor.dim() == 2
        found[name] = tensor[:, :, None, None] if is_projection else tensor
    return found


def _vae_key(key: str, levels: int) -> str:
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    attention = re.fullmatch(r"(\w+)\.mid_block\.attentions\.0\.(.+)\.(\w+)", key)
    if attention:
        return f"{attention[1]}.mid.attn_1.{VAE_ATTENTION[attention[2]]}.{attention[3]}"
    key = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", key)
    key = re.sub(r"up_blocks\.(\d+)\.", lambda m: f"up.{levels - 1 - int(m[1])}.", key)
    return key.replace(".resnets.", ".block.").replace(".upsamplers.0.", ".upsample.")


def open_clip(encoder: Tensors) -> Tensors:
    """Return a text encoder's tensors as OpenCLIP names them: query, key and value are one."""
    plain = {key.removeprefix("text_model."): tensor for key, tensor in encoder.items()}
    found = {}
    for key, tensor in plain.items():
        layer = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", key)
        if layer is None:
            found[OPEN_CLIP[key]] = tensor.T if key.startswith("text_projection") else tensor
            continue
        start, inner, end = f"transformer.resblocks.{layer[1]}", layer[2], layer[3]
        if inner in OPEN_LAYER:
            found[f"{start}.{OPEN_LAYER[inner]}.{end}"] = tensor
        elif inner == "self_attn.q_proj":
            before = key.rpartition("q_proj")[0]
            three = [plain[f"{before}{p}_proj.{end}"] for p in "qkv"]
            found[f"{start}.attn.in_proj_{end}"] = torch.cat(three)
    return found
