"""What llama.cpp's converter writes for the vocabulary of a model family beyond what the tokenizer's files say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from quantkit.gguf.header import KV, boolean
from quantkit.vocab.files import TokenizerFiles

_LLAMA = frozenset(
    [
        "LlamaForCausalLM",
        "LLaMAForCausalLM",
        "MistralForCausalLM",
        "Mistral3ForConditionalGeneration",
        "MixtralForCausalLM",
        "SmolLM3ForCausalLM",
        "GraniteForCausalLM",
    ]
)
_GEMMA = frozenset(["GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"])
# Code Llama, told by its size, ends what it fills in with a token of its own; Gemma's turns end with this one.
_CODE_LLAMA_ROWS, _CODE_LLAMA = 32016, {"eot": 32010}
_GEMMA_1 = {"eot": 107}
# Small Granite and SmolLM models, which are not trained with BOS.
_WITHOUT_BOS_ROWS = 49152


@dataclass(frozen=True)
class FamilyRules:
    """What a family adds.

    Attributes:
        entries: metadata that takes the place of what the tokenizer's files say.
        further: ids of special tokens by kind, where the files name none.
    """

    entries: tuple[KV, ...] = ()
    further: Mapping[str, int] = field(default_factory=dict)


def family_rules(files: TokenizerFiles, *, sentencepiece: bool) -> FamilyRules:
    """The rules for a model.

    Args:
        files: the tokenizer's files.
        sentencepiece: the vocabulary was read from tokenizer.model.
    """
    name, rows = files.architecture, files.config.get("vocab_size")
    if name in _LLAMA:
        entries = []
        prefix = files.tokenizer_config.get("add_prefix_space")
        if isinstance(prefix, bool):
            entries.append(boolean("tokenizer.ggml.add_space_prefix", prefix))
        if rows == _WITHOUT_BOS_ROWS:
            entries.append(boolean("tokenizer.ggml.add_bos_token", False))
        return FamilyRules(tuple(entries), _CODE_LLAMA if rows == _CODE_LLAMA_ROWS else {})
    if name in _GEMMA and sentencepiece:
        entries = [boolean("tokenizer.ggml.add_space_prefix", False)]
        return FamilyRules(tuple(entries), _GEMMA_1 if name == "GemmaForCausalLM" else {})
    return FamilyRules()
