"""InternLM 2 and 2.5: Llama with q, k and v in one matrix, group by group; no class in transformers."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, layers, require
from quantkit.arch.decoder import Sizes, decoder_metadata, interleave_halves, linear, require_plain_heads, sizes, vector
from quantkit.arch.internlm3 import notes, within_context
from quantkit.arch.rope import rope_metadata
from quantkit.gguf.header import EMBEDDING, OUTPUT
from quantkit.gguf.kv import KV
from quantkit.vocab.families import VocabularyRules

_ARCH = "internlm2"
# Of the model's own class.
_VOCABULARY = VocabularyRules(
    unused="[UNUSED",
    null="\N{DRAGON}",
    tells_prefix=True,
    trust_special_flag=True,
    named_if_present={"eos": "<|im_end|>"},
)
_DEFAULTS = {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048}


def metadata(config: Config) -> list[KV]:
    require(config, "hidden_act", "silu")
    require(config, "bias", False)
    require(config, "tie_word_embeddings", False)
    require_plain_heads(config)
    return [
        *decoder_metadata(_ARCH, {**config, "head_dim": None}),
        *rope_metadata(_ARCH, within_context(config), ("linear", "yarn")),
    ]


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    shape, found = (size.vocabulary, size.hidden), []
    for i in range(layers(config)):
        layer, block = f"model.layers.{i}", f"blk.{i}"
        found += [
            vector(f"{layer}.attention_norm", f"{block}.attn_norm", size.hidden),
            *_attention(size, layer, block),
            *linear(f"{layer}.attention.wo", f"{block}.attn_output", size.hidden, size.queries),
            vector(f"{layer}.ffn_norm", f"{block}.ffn_norm", size.hidden),
            *linear(f"{layer}.feed_forward.w1", f"{block}.ffn_gate", size.inner, size.hidden),
            *linear(f"{layer}.feed_forward.w3", f"{block}.ffn_up", size.inner, size.hidden),
            *linear(f"{layer}.feed_forward.w2", f"{block}.ffn_down", size.hidden, size.inner),
        ]
    return [
        Rule("model.tok_embeddings.weight", EMBEDDING, shape),
        *found,
        vector("model.norm", "output_norm", size.hidden),
        Rule("output.weight", OUTPUT, shape),
    ]


def _attention(size: Sizes, layer: str, block: str) -> list[Rule]:
    """q, k and v: of each group the heads of q, then one of k, then one of v."""
    groups, each = size.keys // size.head, size.queries // size.keys
    width = (each + 2) * size.head
    stored = (groups * width, size.hidden)
    places = {"q": (0, each), "k": (each, each + 1), "v": (each + 1, each + 2)}
    return [
        Rule(
            f"{layer}.attention.wqkv.weight",
            f"{block}.attn_{name}.weight",
            ((last - first) * groups * size.head, size.hidden),
            None if name == "v" else lambda rows: interleave_halves(rows, size.head),
            size.head,
            source_shape=stored,
            row_order=tuple(
                range(group * width + first * size.head, group * width + last * size.head) for group in range(groups)
            ),
        )
        for name, (first, last) in places.items()
    ]


ARCHITECTURE = Architecture(
    _ARCH, metadata, rules, tokenizers=("sentencepiece",), vocabulary=_VOCABULARY, defaults=_DEFAULTS, notes=notes
)
