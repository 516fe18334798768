"""The vision families: what they refuse, and what config.json may leave out."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest

from quantkit.arch.class_defaults import with_defaults
from quantkit.arch.vision.base import Sight
from quantkit.arch.vision.families import TOWERS, find_tower
from quantkit.arch.vision.gemma4_audio import DEFAULTS
from quantkit.errors import ArchitectureError
from tests.support.checkpoints import KINDS, SIGHTS

SEEING: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    kind: (
        {**family.around, family.inside: family.config, "architectures": family.config["architectures"]},
        family.pictures,
    )
    for kind, family in {**KINDS, **SIGHTS}.items()
    if family.pictures
}
"""By name config.json, and preprocessor_config.json."""
# transformers' class for the settings, by kind; InternVL's own code is no part of transformers.
CLASSES = {
    "gemma3-sees": "siglip_vision_model",
    "gemma4-sees": "gemma4_vision",
    "gemma4-unified": "gemma4_unified_vision",
    "mistral3": "pixtral",
    "pixtral": "pixtral",
    "smolvlm": "smolvlm_vision",
    "idefics3": "idefics3_vision",
    "internvl-hf": "internvl_vision",
    "qwen2-vl": "qwen2_vl_vision",
    "qwen2.5-vl": "qwen2_5_vl_vision",
    "qwen3-vl": "qwen3_vl_vision",
    "qwen3-vl-moe": "qwen3_vl_moe_vision",
    "qwen3.5-sees": "qwen3_5_vision",
}


def sight(kind: str, **changes: Any) -> Sight:
    """What describes a kind; keys of *changes* are paths such as ``vision_config__hidden_act``."""
    config, pictures = (copy.deepcopy(dict(settings)) for settings in SEEING[kind])
    for path, value in changes.items():
        *outer, key = path.split("__")
        place = pictures if outer[:1] == ["pictures"] else config
        for name in outer:
            place = place if name == "pictures" else place[name]
        place[key] = value
        if value is None:
            del place[key]
    vision = with_defaults(config["vision_config"], find_tower(config, "config.json").defaults)
    return Sight(config, vision, 256, 2000, pictures, {"[IMG_BREAK]": 1998}.get)


def refusal(kind: str, **changes: Any) -> str:
    tower = find_tower(SEEING[kind][0], "config.json")
    described = sight(kind, **changes)
    with pytest.raises(ArchitectureError) as caught:
        (tower.metadata(described), tower.rules(described))
    return str(caught.value)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("gemma3-sees", {"vision_config__hidden_act": "gelu"}, "vision_config: hidden_act 'gelu' is not supported"),
    ("gemma3-sees", {"vision_config__num_channels": 1}, "vision_config: num_channels 1 is not supported"),
    (
        "gemma3-sees",
        {"vision_config__image_size": 57},
        "vision_config.image_size 57 is not a multiple of patch_size 14",
    ),
    ("gemma3-sees", {"vision_config__num_attention_heads": 3}, "hidden_size 32 is not a multiple of 3 attention heads"),
    ("gemma3-sees", {"vision_config__patch_size": "14"}, "vision_config.patch_size is '14'"),
    (
        "gemma3-sees",
        {"mm_tokens_per_image": 9, "pictures__image_seq_length": 9},
        "mm_tokens_per_image 9 is not supported",
    ),
    ("gemma3-sees", {"pictures__image_seq_length": 16}, "preprocessor_config.json: image_seq_length 16"),
    ("gemma3-sees", {"pictures__size": {"height": 64, "width": 56}}, "preprocessor_config.json: size"),
    ("gemma3-sees", {"pictures__do_pan_and_scan": True}, "do_pan_and_scan True is not supported"),
    ("gemma3-sees", {"pictures__do_normalize": False}, "do_normalize False is not supported"),
    ("gemma3-sees", {"pictures__rescale_factor": 1.0}, "rescale_factor 1.0 is not supported: llama.cpp divides by 255"),
    ("gemma3-sees", {"pictures__image_mean": None}, "preprocessor_config.json: image_mean is None"),
    ("gemma3-sees", {"pictures__image_std": [0.5, 0.5, 0]}, "image_std is 0; expected a number above 0"),
    ("gemma4-hears", {"audio_config__hidden_act": "gelu"}, "audio_config: hidden_act 'gelu' is not supported"),
    ("gemma4-hears", {"audio_config__attention_chunk_size": 16}, "attention_chunk_size 16 is not supported"),
    ("gemma4-hears", {"audio_config__num_attention_heads": 3}, "audio_config.hidden_size 32 is not a multiple of 3"),
    ("gemma4-hears", {"audio_config__input_feat_size": 80}, "input_feat_size 80 is not supported"),
    ("gemma4-hears", {"audio_config__subsampling_conv_channels": [64, 32]}, "[64, 32] is not supported"),
    ("gemma4-hears", {"audio_config__subsampling_conv_channels": 128}, "is 128; expected two numbers"),
    ("gemma4-sees", {"text_config__use_bidirectional_attention": False}, "use_bidirectional_attention False"),
    ("gemma4-sees", {"text_config__use_bidirectional_attention": None}, "use_bidirectional_attention False"),
    ("gemma4-unified", {"text_config__use_bidirectional_attention": False}, "use_bidirectional_attention False"),
    ("gemma4-unified", {"audio_config": None}, "audio_config is missing"),
    ("gemma4-unified", {"audio_config__audio_embed_dim": 320}, "audio_embed_dim 320 is not supported"),
    ("gemma4-unified", {"audio_config__rms_norm_eps": 1e-5}, "audio_config: rms_norm_eps 1e-05 is not supported"),
    ("gemma4-unified", {"vision_config__rms_norm_eps": 1e-5}, "vision_config: rms_norm_eps 1e-05 is not supported"),
    ("gemma4-unified", {"vision_config__pooling_kernel_size": 2}, "pooling_kernel_size 2 is not supported"),
    ("gemma4-unified", {"vision_config__model_patch_size": 16}, "model_patch_size 16 is not supported"),
    ("gemma4-unified", {"vision_config__output_proj_dims": 64}, "output_proj_dims 64 is not supported"),
    ("gemma4-unified", {"pictures__patch_size": 16}, "preprocessor_config.json: patch_size 16 is not supported"),
    ("gemma4-sees", {"vision_config__hidden_activation": "gelu"}, "hidden_activation 'gelu' is not supported"),
    ("gemma4-sees", {"vision_config__num_key_value_heads": 1}, "num_key_value_heads 1 is not supported"),
    ("gemma4-sees", {"vision_config__pooling_kernel_size": 2}, "pooling_kernel_size 2 is not supported"),
    ("gemma4-sees", {"vision_config__rope_parameters": {"rope_theta": 1e4}}, "rope_theta 10000.0 is not supported"),
    ("gemma4-sees", {"vision_config__rms_norm_eps": 1e-5}, "rms_norm_eps 1e-05 is not supported"),
    ("gemma4-sees", {"pictures__image_mean": [0.5, 0.5, 0.5]}, "image_mean [0.5, 0.5, 0.5] is not supported"),
    ("mistral3", {"vision_config__model_type": "clip_vision_model"}, "model_type 'clip_vision_model' is not supported"),
    ("mistral3", {"vision_config__head_dim": 8}, "head_dim 8 is not supported"),
    ("mistral3", {"vision_config__rope_theta": 1e6}, "rope_theta 1e+06, which is not supported"),
    ("mistral3", {"vision_feature_layer": -2}, "vision_feature_layer -2 is not supported"),
    ("mistral3", {"projector_hidden_act": "relu"}, "projector_hidden_act 'relu' is not supported"),
    ("pixtral", {"vision_feature_select_strategy": "default"}, "vision_feature_select_strategy 'default'"),
    ("pixtral", {"vision_feature_select_strategy": None}, "vision_feature_select_strategy 'default'"),
    ("smolvlm", {"scale_factor": 3}, "scale_factor 3 is not supported"),
    ("smolvlm", {"pictures__max_image_size": {"longest_edge": 112}}, "max_image_size 112 is not supported"),
    ("smolvlm", {"pictures__do_image_splitting": False}, "do_image_splitting False is not supported"),
    ("internvl", {"vision_config__norm_type": "rms_norm"}, "norm_type 'rms_norm' is not supported"),
    ("internvl", {"downsample_ratio": 0.4}, "downsample_ratio 0.4 is not supported"),
    ("internvl", {"ps_version": "v1"}, "ps_version 'v1' is not supported"),
    ("internvl-hf", {"vision_config__norm_type": "rms_norm"}, "norm_type 'rms_norm' is not supported"),
    ("internvl-hf", {"vision_config__image_size": [56, 28]}, "vision_config.image_size is [56, 28]"),
    ("internvl-hf", {"vision_config__use_absolute_position_embeddings": False}, "use_absolute_position_embeddings"),
    ("internvl-hf", {"downsample_ratio": 0.4}, "downsample_ratio 0.4 is not supported"),
    ("internvl-hf", {"projector_hidden_act": "relu"}, "projector_hidden_act 'relu' is not supported"),
    ("internvl-hf", {"vision_feature_layer": -2}, "vision_feature_layer -2 is not supported"),
    ("internvl-hf", {"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy 'full'"),
    ("internvl-hf", {"pictures__max_patches": 6}, "preprocessor_config.json: max_patches 6 is not supported"),
    ("qwen2-vl", {"vision_config__temporal_patch_size": 3}, "temporal_patch_size 3 is not supported"),
    ("qwen2-vl", {"vision_config__spatial_merge_size": 3}, "spatial_merge_size 3 is not supported"),
    ("qwen2-vl", {"vision_config__hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
    ("qwen2-vl", {"vision_config__hidden_size": 65}, "hidden_size is 65, but the language model's hidden_size is 256"),
    ("qwen2-vl", {"pictures__patch_size": 16}, "preprocessor_config.json: patch_size 16"),
    ("qwen2.5-vl", {"vision_config__fullatt_block_indexes": [0, 3]}, "fullatt_block_indexes [0, 3] is not supported"),
    ("qwen2.5-vl", {"vision_config__fullatt_block_indexes": []}, "fullatt_block_indexes [] is not supported"),
    ("qwen2.5-vl", {"vision_config__window_size": 56}, "window_size 56 is not supported"),
    ("qwen3-vl", {"vision_config__deepstack_visual_indexes": [3, 1]}, "deepstack_visual_indexes is [3, 1]"),
    ("qwen3-vl", {"vision_config__deepstack_visual_indexes": [4]}, "deepstack_visual_indexes is [4]"),
    ("qwen3-vl", {"text_config__rms_norm_eps": 1e-5}, "rms_norm_eps 1e-05 is not supported"),
    ("qwen3-vl", {"text_config__num_hidden_layers": 2}, "2 deepstack_visual_indexes are not supported"),
    ("qwen3.5-sees", {"vision_config__in_channels": 4}, "in_channels 4 is not supported"),
    ("internvl", {"select_layer": -4}, "select_layer -4 is not supported"),
]


@pytest.mark.parametrize(("kind", "changes", "said"), REFUSED, ids=[f"{k}-{'-'.join(c)}" for k, c, _ in REFUSED])
def test_what_libmtmd_does_not_compute_is_refused(kind: str, changes: dict[str, Any], said: str) -> None:
    assert said in refusal(kind, **changes)


def test_the_defaults_of_the_encoder_of_audio() -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model("gemma4_audio")
    assert {key: getattr(config, key) for key in DEFAULTS} == DEFAULTS


def test_a_picture_without_its_end_of_row() -> None:
    tower = find_tower(SEEING["mistral3"][0], "x")
    described = sight("mistral3")
    with pytest.raises(ArchitectureError, match=r"the token \[IMG_BREAK\]"):
        tower.rules(Sight(described.config, described.vision, 256, 2000, described.pictures))


def test_a_model_that_does_not_see() -> None:
    with pytest.raises(ArchitectureError, match="has no vision_config: the model does not see") as caught:
        find_tower({"architectures": ["LlamaForCausalLM"]}, "config.json")
    assert caught.value.hint == "leave out --mmproj"
    with pytest.raises(ArchitectureError, match="the vision part of LlavaNextForConditionalGeneration") as caught:
        find_tower({"architectures": ["LlavaNextForConditionalGeneration"], "vision_config": {}}, "config.json")
    assert ", ".join(sorted(TOWERS)) in caught.value.hint


@pytest.mark.parametrize("kind", CLASSES)
def test_the_defaults_are_those_of_the_class(kind: str) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(CLASSES[kind])
    tower = find_tower(SEEING[kind][0], "config.json")
    said = {key: getattr(config, key) for key in tower.defaults if hasattr(config, key)}
    own = (
        {} if said.keys() == tower.defaults.keys() else {"image_size": 560}
    )  # the converter's, where the class has none
    assert dict(tower.defaults) == {
        **{key: list(value) if isinstance(value, tuple) else value for key, value in said.items()},
        **own,
    }
