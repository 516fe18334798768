"""Broken config.json and generation_config.json, and settings that are not supported."""

from __future__ import annotations

from tests.faults.case import Case
from tests.faults.defect import QWEN2, defect


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


@defect("config.json", "no architecture", hint="LlamaForCausalLM, Qwen2ForCausalLM")
def no_architecture(case: Case) -> None:
    case.config(architectures=None)


@defect("config.json", "BertModel", "not supported", hint="LlamaForCausalLM, Qwen2ForCausalLM")
def unsupported_architecture(case: Case) -> None:
    case.config(architectures=["BertModel"])


@defect("config.json", hint="LlamaForCausalLM, Qwen2ForCausalLM")
def architecture_of_another_type(case: Case) -> None:
    case.config(architectures=[["LlamaForCausalLM"]])


@defect("config.json", "rope", "dynamic", hint="llama3, linear and yarn")
def unknown_rope_scaling(case: Case) -> None:
    case.config(rope_scaling={"type": "dynamic", "factor": 2.0})


@defect("config.json", "rope_scaling")
def rope_scaling_of_another_type(case: Case) -> None:
    case.config(rope_scaling="linear")


@defect("config.json", "factor")
def rope_scaling_without_factor(case: Case) -> None:
    case.config(rope_scaling={"type": "linear"})


@defect("config.json", "low_freq_factor")
def llama3_rope_scaling_without_frequencies(case: Case) -> None:
    case.config(rope_scaling={"rope_type": "llama3", "factor": 8.0})


@defect("config.json", "hidden_size")
def hidden_size_missing(case: Case) -> None:
    case.config(hidden_size=None)


@defect("config.json", "rms_norm_eps")
def norm_epsilon_missing(case: Case) -> None:
    case.config(rms_norm_eps=None)


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
