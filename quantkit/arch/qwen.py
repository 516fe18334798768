"""Qwen, the first generation (Qwen-7B-Chat): its own config and tensor names, and no class in transformers."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, layers, number, positive, require
from quantkit.arch.decoder import linear, vector
from quantkit.errors import ArchitectureError
from quantkit.gguf.header import EMBEDDING, OUTPUT
from quantkit.gguf.kv import KV, f32, u32


def metadata(config: Config) -> list[KV]:
    require(config, "no_bias", True)
    require(config, "rotary_pct", 1.0)
    require(config, "scale_attn_weights", True)
    require(config, "tie_word_embeddings", False)
    epsilon = number(config, "layer_norm_epsilon")
    return [
        u32("qwen.block_count", layers(config)),
        u32("qwen.context_length", positive(config, "max_position_embeddings")),
        u32("qwen.embedding_length", positive(config, "hidden_size")),
        # twice the width of the MLP, as in the config, and as llama.cpp expects
        u32("qwen.feed_forward_length", positive(config, "intermediate_size")),
        u32("qwen.attention.head_count", positive(config, "num_attention_heads")),
        f32("qwen.rope.freq_base", number(config, "rotary_emb_base", above=0)),
        f32("qwen.attention.layer_norm_epsilon", epsilon),
        # llama.cpp's converter omits it, and llama.cpp then rejects the file.
        f32("qwen.attention.layer_norm_rms_epsilon", epsilon),
    ]


def rules(config: Config) -> list[Rule]:
    hidden, vocabulary, heads = (positive(config, key) for key in ("hidden_size", "vocab_size", "num_attention_heads"))
    inner, odd = divmod(positive(config, "intermediate_size"), 2)
    if odd:
        raise ArchitectureError(
            f"config.json: intermediate_size is {2 * inner + 1}; expected an even number, because two matrices share it"
        )
    size = config.get("kv_channels") or hidden // heads
    if size * heads != hidden:
        raise ArchitectureError(
            f"config.json: {heads} attention heads of size {size} (kv_channels) do not match hidden_size {hidden}"
        )
    found = [Rule("transformer.wte.weight", EMBEDDING, (vocabulary, hidden))]
    for i in range(layers(config)):
        layer, block = f"transformer.h.{i}", f"blk.{i}"
        found += [
            vector(f"{layer}.ln_1", f"{block}.attn_norm", hidden),
            *linear(f"{layer}.attn.c_attn", f"{block}.attn_qkv", 3 * hidden, hidden, bias=True),
            *linear(f"{layer}.attn.c_proj", f"{block}.attn_output", hidden, hidden),
            vector(f"{layer}.ln_2", f"{block}.ffn_norm", hidden),
            *linear(f"{layer}.mlp.w2", f"{block}.ffn_gate", inner, hidden),
            *linear(f"{layer}.mlp.w1", f"{block}.ffn_up", inner, hidden),
            *linear(f"{layer}.mlp.c_proj", f"{block}.ffn_down", hidden, inner),
        ]
    return [
        *found,
        vector("transformer.ln_f", "output_norm", hidden),
        Rule("lm_head.weight", OUTPUT, (vocabulary, hidden)),
    ]


def notes(config: Config) -> list[str]:
    """A note about methods that extend the context (dynamic NTK, log-n attention) and that llama.cpp does not have."""
    trained, context = config.get("seq_length"), positive(config, "max_position_embeddings")
    stretched = config.get("use_dynamic_ntk") or config.get("use_logn_attn")
    if not stretched or not isinstance(trained, int) or trained >= context:
        return []
    return [
        f"the model extends its attention beyond {trained} tokens, llama.cpp does not: beyond {trained} of the "
        f"{context} tokens of context, the results differ from the original model"
    ]


ARCHITECTURE = Architecture("qwen", metadata, rules, tokenizers=("tiktoken",), notes=notes)
