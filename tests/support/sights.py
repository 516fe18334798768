"""The vision part of tiny checkpoints: its tensors, and the files that say how a picture is prepared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from quantkit.checkpoint.name_tables import VISION

# As in the published repositories: mean and deviation of the colors, on a scale from 0 to 1.
PLAIN_COLORS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
CLIP_COLORS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
IMAGENET_COLORS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
# What libmtmd puts around and between the parts of a picture, and what stands for them in transformers, by vocabulary.
PICTURE_TOKENS: Mapping[str, tuple[str, ...]] = {
    "tekken": ("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
    "gemma-spm": ("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
    "gemma-4": (),
    "llama-bpe": ("<fake_token_around_image>", "<global-img>", "<image>", "<row_1_col_1>"),
    "qwen35": ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>"),
    "qwen2": ("<img>", "</img>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<IMG_CONTEXT>"),
}
SCALED = {"do_normalize": True, "do_rescale": True, "do_resize": True, "rescale_factor": 1 / 255}


def vision_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors beside the language model, as the published checkpoints have them.

    Args:
        config: config.json.
    """
    from transformers import CONFIG_MAPPING, AutoModelForImageTextToText
    from transformers.core_model_loading import revert_weight_conversion

    read = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(read)
    tensors = revert_weight_conversion(model, model.state_dict())
    return {
        published_name(name, config): tuple(tensor.shape)
        for name, tensor in tensors.items()
        if name.removeprefix("model.").startswith(VISION) and "vision_tower.head." not in name
    }


def internvl_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Those of InternVL's own code, which transformers does not have."""
    sight, hidden = config["vision_config"], config["llm_config"]["hidden_size"]
    width, inner, patch = sight["hidden_size"], sight["intermediate_size"], sight["patch_size"]
    merged = width * round(1 / config["downsample_ratio"]) ** 2
    shapes: dict[str, tuple[int, ...]] = {
        "vision_model.embeddings.class_embedding": (1, 1, width),
        "vision_model.embeddings.patch_embedding.bias": (width,),
        "vision_model.embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "vision_model.embeddings.position_embedding": (1, (sight["image_size"] // patch) ** 2 + 1, width),
        **{f"mlp1.0.{leaf}": (merged,) for leaf in ("weight", "bias")},
        "mlp1.1.weight": (hidden, merged),
        "mlp1.1.bias": (hidden,),
        "mlp1.3.weight": (hidden, hidden),
        "mlp1.3.bias": (hidden,),
    }
    for i in range(sight["num_hidden_layers"]):
        layer = {
            **{f"norm{n}.{leaf}": (width,) for n in (1, 2) for leaf in ("weight", "bias")},
            "attn.qkv.weight": (3 * width, width),
            "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
            "mlp.fc1.weight": (inner, width),
            "mlp.fc1.bias": (inner,),
            "mlp.fc2.weight": (width, inner),
            "mlp.fc2.bias": (width,),
            "ls1": (width,),
            "ls2": (width,),
        }
        shapes |= {f"vision_model.encoder.layers.{i}.{name}": shape for name, shape in layer.items()}
    return shapes


def published_name(name: str, config: Mapping[str, Any]) -> str:
    """The name that releases of transformers before 5 gave a tensor, which llama.cpp's converter knows."""
    if config["vision_config"]["model_type"] == "siglip_vision_model":
        return name.replace("vision_tower.", "vision_tower.vision_model.")
    return name
