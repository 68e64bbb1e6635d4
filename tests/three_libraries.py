"""One set of weights, of timm's ViT, as Hugging Face and torchvision name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

HUGGING_FACE = {  # as in published files
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "norm": "vit.layernorm",
    "head": "classifier",
    "blocks": "vit.encoder.layer",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
TORCHVISION = {
    "cls_token": "class_token",
    "pos_embed": "encoder.pos_embedding",
    "patch_embed.proj": "conv_proj",
    "norm": "encoder.ln",
    "head": "heads.head",
    "blocks": "encoder.layers.encoder_layer",
    "norm1": "ln_1",
    "norm2": "ln_2",
    "attn.proj": "self_attention.out_proj",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.3",
}


def _renamed(name: str, names: Mapping[str, str], block: Callable[[str, str], str]) -> str:
    """Rename a tensor, blocks.NUMBER.PART.weight or PART.weight."""
    if name in names:
        return names[name]
    part, _, kind = name.rpartition(".")
    if not part.startswith("blocks."):
        return f"{names[part]}.{kind}"
    _, number, part = part.split(".", 2)
    return f"{block(names['blocks'], number)}.{names[part]}.{kind}"


def to_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a ViT of timm with the names of `ViTForImageClassification`: three tensors for qkv."""
    found = {}
    for name, value in state.items():
        if ".attn.qkv." not in name:
            found[_renamed(name, HUGGING_FACE, lambda blocks, number: f"{blocks}.{number}")] = value
            continue
        _, number, _, _, kind = name.split(".")
        for part, values in zip(("query", "key", "value"), value.chunk(3), strict=True):
            found[f"vit.encoder.layer.{number}.attention.attention.{part}.{kind}"] = values.contiguous()
    return found


def to_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a ViT of timm with the names of torchvision's `VisionTransformer`."""
    names = {**TORCHVISION, "attn.qkv": "self_attention.in_proj"}
    found = {_renamed(name, names, lambda blocks, number: f"{blocks}_{number}"): value for name, value in state.items()}
    return {name.replace("in_proj.", "in_proj_"): value for name, value in found.items()}


def patches_to_map(tokens: Tensor) -> Tensor:
    """Turn tokens (N, 1 + 14 * 14, C) into a map (N, C, 14, 14)."""
    assert tokens.shape[1] == 197
    return torch.unflatten(tokens[:, 1:].transpose(1, 2), 2, (14, 14))
