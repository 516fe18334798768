"""Identifies llama.cpp's name for a pre-tokenizer from the structure of tokenizer.json.

llama.cpp splits text with regexes that are built into its binary, selected by the name in ``tokenizer.ggml.pre``. Its
converter finds the name by hashing the token ids of one text, so it does not recognize a vocabulary with one added
token. The name depends only on the steps before BPE, so these are compared here: the splits and the byte-level step, in
a normalized form. A pre-tokenizer that is not in the table is refused; a guess would tokenize almost correctly, which
nobody would notice.

If llama.cpp has several names for the same splits and options, the table has one of them. Equal token ids prove its
entries, see ``tests/parity/test_tokens.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantkit.errors import VocabularyError
from quantkit.vocab import regexes

Step = tuple[str, str]
"""The kind of a step, and its regex or option: ``("split", r"\\p{N}")``, ``("bytes", "")``."""

_BYTES: Step = ("bytes", "")
# Llama 3's first tokenizer.json had no ignore_merges; its authors corrected this later. This token identifies it, and
# Llama 4's, whose splits are those of GPT-4o.
_LLAMA_BOS = "<|begin_of_text|>"
# GLM's tokenizers have Llama 3's steps, but no BOS, which llama.cpp knows by another name of the steps.
_GLM_MASK = "[gMASK]"


@dataclass(frozen=True)
class PreTokenizer:
    """A pre-tokenizer of llama.cpp.

    Attributes:
        name: value of ``tokenizer.ggml.pre``.
        steps: the tokenizer's steps before BPE, see :data:`Step`.
        whole_words: llama.cpp looks up whole words before it merges (``ignore_merges``).
        tells_words: the same steps have another name for tokenizers that differ in *whole_words*.
        token: the tokenizer has this added token; without it, the name does not fit.
        cleans: llama.cpp removes spaces before punctuation from the text that it returns, like Hugging Face's
            ``clean_up_tokenization_spaces``; None if this does not distinguish names.
    """

    name: str
    steps: tuple[Step, ...]
    whole_words: bool = False
    tells_words: bool = False
    cleans: bool | None = None
    token: str | None = None


def _byte_level(*splits: str) -> tuple[Step, ...]:
    return (*(("split", regex) for regex in splits), _BYTES)


PRE_TOKENIZERS = (
    PreTokenizer("llama-bpe", _byte_level(regexes.CL100K), whole_words=True, tells_words=True),
    PreTokenizer("dbrx", _byte_level(regexes.CL100K), tells_words=True),
    PreTokenizer("qwen2", _byte_level(regexes.QWEN2)),
    PreTokenizer("qwen35", _byte_level(regexes.QWEN35)),
    PreTokenizer("gpt-2", _byte_level(regexes.GPT2)),
    PreTokenizer("refact", _byte_level(regexes.DIGIT, regexes.GPT2), cleans=True),
    PreTokenizer("smollm", _byte_level(regexes.DIGIT, regexes.GPT2), cleans=False),
    PreTokenizer("tekken", _byte_level(regexes.TEKKEN), whole_words=True),
    PreTokenizer("gpt-4o", _byte_level(regexes.O200K)),
    PreTokenizer("llama4", _byte_level(regexes.O200K), token=_LLAMA_BOS),
    PreTokenizer("deepseek-llm", _byte_level(*regexes.DEEPSEEK_LLM)),
    PreTokenizer("deepseek-coder", _byte_level(*regexes.DEEPSEEK_CODER)),
    PreTokenizer("deepseek-v3", _byte_level(*regexes.DEEPSEEK_V3)),
    PreTokenizer("seed-coder", _byte_level(regexes.SEED_CODER)),
    PreTokenizer("minicpm5", _byte_level(*regexes.MINICPM5), whole_words=True),
    PreTokenizer(
        "falcon",
        (
            ("punctuation", "Contiguous"),
            ("split", regexes.GPT2),
            _BYTES,
            ("digits", ""),
            ("split", "[0-9][0-9][0-9]"),
        ),
    ),
    PreTokenizer("glm4", _byte_level(regexes.CL100K), whole_words=True, tells_words=True, token=_GLM_MASK),
    PreTokenizer("chatglm-bpe", _byte_level(regexes.CL100K), tells_words=True, token=_GLM_MASK),
)


def recognise(tokenizer: Mapping[str, Any], tokenizer_config: Mapping[str, Any], where: str) -> PreTokenizer:
    """The pre-tokenizer of a parsed tokenizer.json.

    Args:
        tokenizer: tokenizer.json.
        tokenizer_config: tokenizer_config.json.
        where: path of tokenizer.json, for messages.

    Raises:
        VocabularyError: the pre-tokenizer is unknown; the message quotes it.
    """
    steps = _steps(tokenizer.get("pre_tokenizer"))
    added = {token.get("content") for token in tokenizer.get("added_tokens") or ()}
    fitting = [known for known in PRE_TOKENIZERS if known.steps == steps and known.token in (None, *added)]
    fitting.sort(key=lambda known: known.token is None)  # a name for this tokenizer's own tokens comes first
    if not fitting or not _leaves_text(tokenizer.get("normalizer")):
        found = json.dumps({key: tokenizer.get(key) for key in ("normalizer", "pre_tokenizer")})
        raise VocabularyError(
            f"{where}: unknown pre-tokenizer: {found[:400]}",
            hint="use the tokenizer that was saved with the model; supported are "
            f"{', '.join(known.name for known in PRE_TOKENIZERS)}",
        )
    whole_words = looks_up_words(tokenizer) or _LLAMA_BOS in added
    cleans = tokenizer_config.get("clean_up_tokenization_spaces") is not False
    return next(
        known
        for known in fitting
        if (not known.tells_words or known.whole_words == whole_words) and known.cleans in (None, cleans)
    )


def looks_up_words(tokenizer: Mapping[str, Any]) -> bool:
    """Whether the tokenizer uses a whole word that is a token, before it merges."""
    return bool(tokenizer["model"].get("ignore_merges"))


def _leaves_text(normalizer: Mapping[str, Any] | None) -> bool:
    """Whether there is no normalizer, or one that does not change composed text, which nearly all text is."""
    return all(step.get("type") == "NFC" for step in _flat(normalizer, "normalizers"))


def _flat(step: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    """The steps of a pipeline, with sequences flattened."""
    if not step:
        return []
    if step.get("type") != "Sequence":
        return [step]
    return [inner for part in step.get(key, ()) for inner in _flat(part, key)]


def _steps(pre_tokenizer: Mapping[str, Any] | None) -> tuple[Step, ...] | None:
    """The steps in normalized form; None if one of them is unknown."""
    found: list[Step] = []
    for step in _flat(pre_tokenizer, "pretokenizers"):
        known = _READ.get(str(step.get("type")), _unknown)(step)
        if known is None:
            return None
        found += known
    return tuple(found)


def _unknown(step: Mapping[str, Any]) -> Sequence[Step] | None:
    return None


def _split(step: Mapping[str, Any]) -> Sequence[Step] | None:
    regex = step.get("pattern", {}).get("Regex")
    if not isinstance(regex, str):
        return None
    regex = regexes.spelled(regex)
    isolated = step.get("behavior") == "Isolated"
    # "Remove all but the matches" is equivalent if the regex leaves nothing between its matches.
    outside = step.get("behavior") == "Removed" and step.get("invert") and regex in regexes.COVERING
    return [("split", regex)] if isolated or outside else None


def _digits(step: Mapping[str, Any]) -> Sequence[Step]:
    return [("split", regexes.DIGIT) if step.get("individual_digits") else ("digits", "")]


def _bytes(step: Mapping[str, Any]) -> Sequence[Step] | None:
    if step.get("add_prefix_space", True):
        return None
    return [("split", regexes.GPT2), _BYTES] if step.get("use_regex", True) else [_BYTES]


_READ: dict[str, Callable[[Mapping[str, Any]], Sequence[Step] | None]] = {
    "Split": _split,
    "Digits": _digits,
    "ByteLevel": _bytes,
    "Punctuation": lambda step: [("punctuation", str(step.get("behavior", "Isolated")))],
}
