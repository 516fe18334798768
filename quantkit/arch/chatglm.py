"""ChatGLM 2 and 3, and GLM-4-9B with its first class: GLM-4 under other names; no class in transformers."""

from __future__ import annotations

from quantkit.arch import glm
from quantkit.arch.base import Architecture, Config, Rule, layers, number, require
from quantkit.arch.decoder import in_layer, linear, require_plain_heads, sizes, vector
from quantkit.arch.rope import DEFAULT_ROPE_THETA
from quantkit.gguf.header import EMBEDDING, OUTPUT
from quantkit.gguf.kv import KV
from quantkit.vocab.families import VocabularyRules

_END = "<|endoftext|>"
_NAMES = {
    "num_layers": "num_hidden_layers",
    "padded_vocab_size": "vocab_size",
    "ffn_hidden_size": "intermediate_size",
    "kv_channels": "head_dim",
    "multi_query_group_num": "num_key_value_heads",
    "seq_length": "max_position_embeddings",
    "layernorm_epsilon": "rms_norm_eps",
    "add_qkv_bias": "attention_bias",
}
# Of the model's own class.
_DEFAULTS = {"rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "rope_ratio": 1.0}
_COMPUTED = {
    **dict.fromkeys(("rmsnorm", "post_layer_norm", "multi_query_attention", "original_rope"), True),
    **dict.fromkeys(("add_bias_linear", "apply_residual_connection_post_layernorm", "interleaved_qkv"), False),
    "tie_word_embeddings": False,
    "quantization_bit": 0,
}


def metadata(config: Config) -> list[KV]:
    for key, value in _COMPUTED.items():
        require(config, key, value)
    require(config, "pre_seq_len")
    require_plain_heads(config)
    base = DEFAULT_ROPE_THETA * number(config, "rope_ratio", above=0)
    return glm.metadata({**config, "rope_theta": base, "partial_rotary_factor": 0.5})


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    shape = size.vocabulary, size.hidden
    # llama.cpp splits q, k and v itself, which follow each other as here.
    rows, bias = size.queries + 2 * size.keys, bool(config.get("attention_bias", False))
    layer = [
        vector("input_layernorm", "attn_norm", size.hidden),
        *linear("self_attention.query_key_value", "attn_qkv", rows, size.hidden, bias=bias),
        *linear("self_attention.dense", "attn_output", size.hidden, size.queries),
        vector("post_attention_layernorm", "ffn_norm", size.hidden),
        *linear("mlp.dense_h_to_4h", "ffn_up", 2 * size.inner, size.hidden),
        *linear("mlp.dense_4h_to_h", "ffn_down", size.hidden, size.inner),
    ]
    return [
        Rule("transformer.embedding.word_embeddings.weight", EMBEDDING, shape),
        *(in_layer(rule, i, f"transformer.encoder.layers.{i}.") for i in range(layers(config)) for rule in layer),
        vector("transformer.encoder.final_layernorm", "output_norm", size.hidden),
        Rule("transformer.output_layer.weight", OUTPUT, shape),
    ]


ARCHITECTURE = Architecture(
    "chatglm",
    metadata,
    rules,
    tokenizers=("bpe", "chatglm"),
    vocabulary=VocabularyRules(adds_bos=False, named_if_present={"eos": _END, "eot": "<|user|>", "unk": _END}),
    defaults=_DEFAULTS,
    older_names=_NAMES,
)
