"""Broken config.json and generation_config.json, and settings that are not supported."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from tests.checkpoints.case import Case, edit_tensors
from tests.checkpoints.defect import BUILD_ADAPTER, GEMMA2, QWEN2, QWEN3, defect


@defect("{model}", "config.json is missing", hint="Hugging Face")
def config_missing(case: Case) -> None:
    (case.model / "config.json").unlink()


@defect("config.json", "not valid JSON", hint="download")
def config_is_not_json(case: Case) -> None:
    (case.model / "config.json").write_text("{'hidden_size': 64}", encoding="utf-8")


@defect("config.json", "not valid JSON", hint="download")
def config_is_not_utf8(case: Case) -> None:
    (case.model / "config.json").write_bytes(b'{"hidden_size": "\xff"}')


@defect("config.json", "list")
def config_is_a_list(case: Case) -> None:
    (case.model / "config.json").write_text("[]", encoding="utf-8")


@defect("config.json", "architectures is missing", hint="LlamaForCausalLM")
def no_architecture(case: Case) -> None:
    case.config(architectures=None, model_type="new")


@defect("config.json", "BertModel", "not supported", hint="LlamaForCausalLM")
def unsupported_architecture(case: Case) -> None:
    case.config(architectures=["BertModel"])


@defect("config.json", hint="LlamaForCausalLM")
def architecture_of_another_type(case: Case) -> None:
    case.config(architectures=[["LlamaForCausalLM"]])


@defect("config.json", "rope", "dynamic", hint="llama3, linear, yarn")
def unknown_rope_scaling(case: Case) -> None:
    case.config(rope_scaling={"type": "dynamic", "factor": 2.0})


@defect("config.json", "rope_scaling", "factor", "rope_type", hint="llama3, linear, yarn")
def rope_scaling_of_a_kind_that_is_not_named(case: Case) -> None:
    case.config(rope_scaling={"factor": 8.0})


@defect("config.json", "is_causal", hint="text generation")
def model_that_embeds_texts(case: Case) -> None:
    case.config(is_causal=False)


@defect("config.json", "rope_scaling")
def rope_scaling_of_another_type(case: Case) -> None:
    case.config(rope_scaling="linear")


@defect("config.json", "factor")
def rope_scaling_without_factor(case: Case) -> None:
    case.config(rope_scaling={"type": "linear"})


@defect("config.json", "low_freq_factor")
def llama3_rope_scaling_without_frequencies(case: Case) -> None:
    case.config(rope_scaling={"rope_type": "llama3", "factor": 8.0})


@defect("model.safetensors", "config.json leaves out hidden_size 4096", hint="add what is left out")
def hidden_size_missing(case: Case) -> None:
    case.config(hidden_size=None)


@defect("config.json", "rms_norm_eps", "'tiny'")
def norm_epsilon_is_a_text(case: Case) -> None:
    case.config(rms_norm_eps="tiny")


@defect("config.json", "not a multiple")
def heads_do_not_divide_the_hidden_size(case: Case) -> None:
    case.config(num_attention_heads=6)


@defect("config.json", "not a multiple")
def key_value_heads_do_not_divide_the_heads(case: Case) -> None:
    case.config(num_key_value_heads=3)


@defect("config.json", "hidden_act", "gelu")
def unsupported_activation(case: Case) -> None:
    case.config(hidden_act="gelu")


@defect("config.json", "partial_rotary_factor")
def partial_rotary_factor(case: Case) -> None:
    case.config(partial_rotary_factor=0.5)


@defect("config.json", "max_position_embeddings")
def context_too_long_for_gguf(case: Case) -> None:
    case.config(max_position_embeddings=2**40)


@defect("config.json", "use_sliding_window", hint="use_sliding_window", base=QWEN2)
def sliding_window(case: Case) -> None:
    case.config(use_sliding_window=True)


@defect("generation_config.json", "not valid JSON", hint="download")
def generation_config_is_not_json(case: Case) -> None:
    (case.model / "generation_config.json").write_text("{", encoding="utf-8")


@defect("config.json", "attention_factor", "1.5")
def yarn_with_a_factor_of_its_own(case: Case) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "attention_factor": 1.5}
    case.config(rope_scaling=scaling)


@defect("config.json", "original_max_position_embeddings", "64", "128")
def two_trained_contexts(case: Case) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    case.config(rope_scaling=scaling, original_max_position_embeddings=128)


@defect("config.json", "long_factor", "expected a list")
def longrope_without_its_factors(case: Case) -> None:
    case.config(rope_scaling={"rope_type": "longrope", "original_max_position_embeddings": 128})


@defect("config.json", "rope_parameters", "all layers")
def rope_settings_for_each_kind_of_layer(case: Case) -> None:
    case.config(rope_parameters={"full_attention": {"rope_type": "default"}})


@defect("config.json", "query_pre_attn_scalar", "32", base=GEMMA2)
def gemma_that_scales_attention_otherwise(case: Case) -> None:
    case.config(query_pre_attn_scalar=32)


@defect("config.json", "layer_types", base=GEMMA2)
def gemma_without_its_pattern_of_layers(case: Case) -> None:
    case.config(layer_types=["full_attention", "full_attention"])


@defect("unexpected tensor 'vision_tower.x'", base=GEMMA2)
def vision_in_a_model_without(case: Case) -> None:
    edit_tensors(case.weights, lambda tensors: tensors.update({"vision_tower.x": torch.ones(4)}))


@defect("config.json", "attention_bias", base=QWEN3)
def biases_that_the_graph_does_not_have(case: Case) -> None:
    case.config(attention_bias=True)


@defect("{model}", "one tensor for both", hint="ensure_weight_tying", base=GEMMA2, command=BUILD_ADAPTER)
def a_head_apart_that_the_graph_does_not_have(case: Case) -> None:
    rows = load_file(case.weights)["model.embed_tokens.weight"]
    key = "base_model.model.model.embed_tokens.weight"
    edit_tensors(case.adapter_weights, lambda tensors: tensors.update({key: rows.float() + 0.5}))
    case.adapter_config(modules_to_save=["embed_tokens"])
