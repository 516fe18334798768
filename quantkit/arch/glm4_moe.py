"""GLM-4.5, 4.6 and 4.7: routed and shared experts behind dense layers, and a layer that predicts one more token."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, layers, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import decoder_metadata, decoder_rules, gated_mlp, head_norms, sizes, vector
from quantkit.arch.deepseek_moe import choice_metadata, dense_layers, mixture_metadata, mixture_rules
from quantkit.arch.glm import glm_attention
from quantkit.arch.mtp import GLM
from quantkit.arch.next_tokens import next_token_layers, next_token_metadata, next_token_rules
from quantkit.arch.rope import rope_metadata
from quantkit.gguf.kv import KV
from quantkit.vocab.families import VocabularyRules

# bos opens a conversation, and only an end of turn that is not <|endoftext|> stops the model.
VOCABULARY = VocabularyRules(
    named={"bos": "[gMASK]", "eot": "<|user|>", "unk": "<|endoftext|>", "eom": "<|observation|>"}
)


def metadata(config: Config) -> list[KV]:
    require(config, "hidden_act", "silu")
    require(config, "tie_word_embeddings", False)
    return [
        *decoder_metadata("glm4moe", {**config, "num_hidden_layers": layers(config) + next_token_layers(config)}),
        *rope_metadata("glm4moe", config, ("linear", "yarn"), partial=True),
        *mixture_metadata("glm4moe", config),
        *choice_metadata("glm4moe", config, gating="sigmoid"),
        *next_token_metadata("glm4moe", config),
    ]


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    attention = [
        vector("input_layernorm", "attn_norm", size.hidden),
        *glm_attention(config),
        *(head_norms(size.head) if config.get("use_qk_norm") else ()),
        vector("post_attention_layernorm", "post_attention_norm", size.hidden),
    ]
    dense = [*attention, *gated_mlp(size.hidden, size.inner)]
    sparse = [*attention, *mixture_rules(config, size.hidden)]
    found = decoder_rules(config, lambda i: dense if i < dense_layers(config) else sparse)
    return [*found, *next_token_rules(config, sparse)]


ARCHITECTURE = Architecture(
    "glm4moe", metadata, rules, vocabulary=VOCABULARY, defaults=CLASS_DEFAULTS["glm4_moe"], mtp=GLM
)
