"""A checkpoint in the layout of InternVL's own code, as the model that transformers has for it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

# By patterns: names in InternVL's code, and in transformers' class.
_NAMES = (
    (r"language_model\.model\.", "model.language_model."),
    (r"language_model\.lm_head\.", "lm_head."),
    (r"vision_model\.embeddings\.class_embedding", "model.vision_tower.embeddings.cls_token"),
    (r"vision_model\.embeddings\.patch_embedding\.", "model.vision_tower.embeddings.patch_embeddings.projection."),
    (r"vision_model\.embeddings\.position_embedding", "model.vision_tower.embeddings.position_embeddings"),
    (r"vision_model\.encoder\.layers\.", "model.vision_tower.encoder.layer."),
    (r"\.attn\.proj\.", ".attention.projection_layer."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.ls([12])", r".lambda_\1"),
    (r"mlp1\.0\.", "model.multi_modal_projector.layer_norm."),
    (r"mlp1\.1\.", "model.multi_modal_projector.linear_1."),
    (r"mlp1\.3\.", "model.multi_modal_projector.linear_2."),
)


def intern_model(folder: Path) -> torch.nn.Module:
    """The model with the weights of a folder, in float32."""
    from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

    config = json.loads((folder / "config.json").read_text())
    sight = config["vision_config"]
    sides = {key: [sight[key]] * 2 for key in ("image_size", "patch_size")}
    vision = {**sight, **sides, "model_type": "internvl_vision", "attention_bias": True, "use_mean_pooling": True}
    settings = {"text_config": config["llm_config"], "vision_config": vision, "downsample_ratio": 0.5}
    read = CONFIG_MAPPING["internvl"].from_dict({**settings, "tie_word_embeddings": False})
    model = AutoModelForImageTextToText.from_config(read).float().eval()
    tensors = load_file(folder / "model.safetensors")
    own = {new: value.float() for name, tensor in tensors.items() for new, value in _renamed(name, tensor)}
    position = "model.vision_tower.embeddings.position_embeddings"
    own[position] = own[position].roll(1, dims=1)  # as llama.cpp's graph adds them, which has the class token last
    model.load_state_dict(own, strict=True)
    return model


def _renamed(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    for pattern, new in _NAMES:
        name = re.sub(pattern, new, name)
    if ".attn.qkv." not in name:
        yield name, tensor
        return
    for kind, third in zip("qkv", tensor.chunk(3), strict=True):
        yield name.replace(".attn.qkv.", f".attention.{kind}_proj."), third
