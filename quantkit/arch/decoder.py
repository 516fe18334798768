"""What dense decoders have in common: their metadata and the names of their tensors."""

from __future__ import annotations

from quantkit.arch.base import Arrange, Config, Rule, head_dim, kv_heads, layers, number, positive, rope
from quantkit.errors import ArchitectureError
from quantkit.gguf_header import KV, f32, string, u32

# What transformers takes where a config has no rope_theta (Llama 2's first configs).
DEFAULT_ROPE_THETA = 10000.0


def decoder_metadata(arch: str, config: Config, *, explicit_head_dim: bool = False) -> list[KV]:
    """The entries every dense decoder has, in the order of llama.cpp's converter.

    Args:
        arch: the GGUF architecture.
        config: config.json.
        explicit_head_dim: write the size of a head also where the config leaves it to be derived.

    Raises:
        ArchitectureError: a setting that llama.cpp's graph for these models does not have.
    """
    if config.get("hidden_act", "silu") != "silu":
        raise ArchitectureError(f"config.json: hidden_act {config['hidden_act']!r} is not supported; expected silu")
    entries = [
        u32(f"{arch}.block_count", layers(config)),
        u32(f"{arch}.context_length", positive(config, "max_position_embeddings")),
        u32(f"{arch}.embedding_length", positive(config, "hidden_size")),
        u32(f"{arch}.feed_forward_length", positive(config, "intermediate_size")),
        u32(f"{arch}.attention.head_count", positive(config, "num_attention_heads")),
    ]
    if config.get("num_key_value_heads") is not None:
        entries.append(u32(f"{arch}.attention.head_count_kv", kv_heads(config)))
    entries += rope_metadata(arch, config)
    entries.append(f32(f"{arch}.attention.layer_norm_rms_epsilon", number(config, "rms_norm_eps")))
    if explicit_head_dim or config.get("head_dim") is not None:
        entries += [
            u32(f"{arch}.attention.key_length", head_dim(config)),
            u32(f"{arch}.attention.value_length", head_dim(config)),
        ]
    return entries


_SCALING = "config.json: rope_scaling"


def rope_metadata(arch: str, config: Config) -> list[KV]:
    """Rotary base and scaling.

    Raises:
        ArchitectureError: a scaling that would be lost on the way.
    """
    settings = rope(config)
    entries: list[KV] = []
    match settings.get("rope_type"):
        case None | "default" | "llama3":  # llama3 becomes the tensor rope_freqs.weight
            pass
        case "linear":
            entries = [
                string(f"{arch}.rope.scaling.type", "linear"),
                f32(f"{arch}.rope.scaling.factor", number(settings, "factor", _SCALING, above=0)),
            ]
        case "yarn":
            entries = [
                string(f"{arch}.rope.scaling.type", "yarn"),
                f32(f"{arch}.rope.scaling.factor", number(settings, "factor", _SCALING, above=0)),
                u32(
                    f"{arch}.rope.scaling.original_context_length",
                    positive(settings, "original_max_position_embeddings"),
                ),
            ]
            optional = {
                "extrapolation_factor": "yarn_ext_factor",
                "attention_factor": "yarn_attn_factor",
                "beta_fast": "yarn_beta_fast",
                "beta_slow": "yarn_beta_slow",
            }
            entries += [
                f32(f"{arch}.rope.scaling.{target}", number(settings, key, _SCALING))
                for key, target in optional.items()
                if settings.get(key) is not None
            ]
        case other:
            raise ArchitectureError(
                f"config.json: rope scaling {other!r} is not supported",
                hint="supported are llama3, linear and yarn",
            )
    if settings.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise ArchitectureError("config.json: partial_rotary_factor is not supported for this architecture")
    theta = number({"rope_theta": DEFAULT_ROPE_THETA} | settings, "rope_theta", above=0)
    entries.append(f32(f"{arch}.rope.freq_base", theta))
    return entries


def decoder_rules(
    config: Config,
    *,
    arrange_heads: Arrange | None = None,
    qkv_bias: bool = False,
    output_bias: bool = False,
    mlp_bias: bool = False,
) -> list[Rule]:
    """The tensors of a dense decoder with gated MLP, named as transformers and llama.cpp name them.

    Args:
        config: config.json.
        arrange_heads: layout of the rows of one q or k head.
        qkv_bias: q, k and v have biases.
        output_bias: o has one.
        mlp_bias: gate, up and down have them.
    """
    hidden, inner = positive(config, "hidden_size"), positive(config, "intermediate_size")
    vocabulary, size = positive(config, "vocab_size"), head_dim(config)
    heads, kv = positive(config, "num_attention_heads"), kv_heads(config)
    if heads % kv:
        raise ArchitectureError(f"config.json: {heads} attention heads are not a multiple of {kv} key/value heads")
    tied = bool(config.get("tie_word_embeddings", False))

    def linear(
        source: str, target: str, rows: int, columns: int, bias: bool, heads_arranged: bool = False
    ) -> list[Rule]:
        arrange, unit = (arrange_heads, size) if heads_arranged and arrange_heads else (None, 1)
        rules = [Rule(f"{source}.weight", f"{target}.weight", (rows, columns), arrange, unit)]
        if bias:
            rules.append(Rule(f"{source}.bias", f"{target}.bias", (rows,), arrange, unit))
        return rules

    rules = [Rule("model.embed_tokens.weight", "token_embd.weight", (vocabulary, hidden))]
    for i in range(layers(config)):
        layer, block = f"model.layers.{i}", f"blk.{i}"
        rules += [
            Rule(f"{layer}.input_layernorm.weight", f"{block}.attn_norm.weight", (hidden,)),
            *linear(f"{layer}.self_attn.q_proj", f"{block}.attn_q", heads * size, hidden, qkv_bias, True),
            *linear(f"{layer}.self_attn.k_proj", f"{block}.attn_k", kv * size, hidden, qkv_bias, True),
            *linear(f"{layer}.self_attn.v_proj", f"{block}.attn_v", kv * size, hidden, qkv_bias),
            *linear(f"{layer}.self_attn.o_proj", f"{block}.attn_output", hidden, heads * size, output_bias),
            Rule(f"{layer}.post_attention_layernorm.weight", f"{block}.ffn_norm.weight", (hidden,)),
            *linear(f"{layer}.mlp.gate_proj", f"{block}.ffn_gate", inner, hidden, mlp_bias),
            *linear(f"{layer}.mlp.up_proj", f"{block}.ffn_up", inner, hidden, mlp_bias),
            *linear(f"{layer}.mlp.down_proj", f"{block}.ffn_down", hidden, inner, mlp_bias),
        ]
    rules.append(Rule("model.norm.weight", "output_norm.weight", (hidden,)))
    rules.append(Rule("lm_head.weight", "output.weight", (vocabulary, hidden), optional=tied))
    return rules
