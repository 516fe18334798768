"""GLM-4-0414 and GLM-Z1: GLM-4 with norms after attention and MLP too."""

from __future__ import annotations

from quantkit.arch.base import Architecture, Config, Rule, require
from quantkit.arch.class_defaults import CLASS_DEFAULTS
from quantkit.arch.decoder import decoder_metadata, decoder_rules, sizes, vector
from quantkit.arch.glm import fused_mlp, glm_attention
from quantkit.arch.rope import rope_metadata
from quantkit.gguf.kv import KV
from quantkit.vocab.families import VocabularyRules

_END = "<|endoftext|>"


def metadata(config: Config) -> list[KV]:
    require(config, "hidden_act", "silu")
    return [*decoder_metadata("glm4", config), *rope_metadata("glm4", config, ("linear", "yarn"), partial=True)]


def rules(config: Config) -> list[Rule]:
    size = sizes(config)
    layer = [
        vector("input_layernorm", "attn_norm", size.hidden),
        *glm_attention(config),
        vector("post_self_attn_layernorm", "post_attention_norm", size.hidden),
        vector("post_attention_layernorm", "ffn_norm", size.hidden),
        *fused_mlp(size.hidden, size.inner),
        vector("post_mlp_layernorm", "post_ffw_norm", size.hidden),
    ]
    return decoder_rules(config, layer)


ARCHITECTURE = Architecture(
    "glm4",
    metadata,
    rules,
    vocabulary=VocabularyRules(named={"eos": _END, "eot": "<|user|>", "unk": _END, "bos": _END}),
    defaults=CLASS_DEFAULTS["glm4"],
)
