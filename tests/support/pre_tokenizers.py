"""The steps before BPE of the models whose tokenizers the tests rebuild, as their own tokenizer.json has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CAMEL = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_CAMEL_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

CL100K = rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}{{1,3}}|{_REST}"
O200K = rf"{_CAMEL[0]}{_CONTRACTIONS}?|{_CAMEL[1]}{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_CAMEL_REST}"
QWEN2 = rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}|{_REST}"
QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SEED_CODER = rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
MINICPM_5 = rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}+|{_REST}"
TEKKEN = rf"{_CAMEL[0]}|{_CAMEL[1]}|\p{{N}}|{_CAMEL_REST}"
_HAN = "[一-龥ࠀ-一가-\ud7ff]+"
_DEEPSEEK_LETTERS = (
    r"\s?[A-Za-z"
    "\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    "\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
    "]+"
)
_DEEPSEEK_PUNCTUATION = "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+"
_DEEPSEEK_3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^"""
    "\r\n"
    r"""\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+["""
    "\r\n"
    r"""]*|\s*["""
    "\r\n"
    r"""]+|\s+(?!\S)|\s+"""
)


def split(regex: str, *, outside: bool = False) -> dict[str, Any]:
    """A split that isolates its matches; *outside* is the other way to write it, for regexes that match any text."""
    behavior = "Removed" if outside else "Isolated"
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": outside}


def byte_level(**options: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False, **options}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


DIGITS = {"type": "Digits", "individual_digits": True}
GPT2 = byte_level(use_regex=True)
NFC = {"type": "NFC"}
NOTHING = {"type": "Sequence", "normalizers": []}


@dataclass(frozen=True)
class Structure:
    """What stands before BPE.

    Attributes:
        name: what llama.cpp calls it.
        pre_tokenizer: as in tokenizer.json.
        normalizer: as in tokenizer.json.
        whole_words: ``ignore_merges``.
    """

    name: str
    pre_tokenizer: dict[str, Any]
    normalizer: dict[str, Any] | None = None
    whole_words: bool = False


STRUCTURES = {
    "llama-bpe": Structure("llama-bpe", sequence(split(CL100K), byte_level()), whole_words=True),
    "qwen2": Structure("qwen2", sequence(split(QWEN2), byte_level(trim_offsets=False)), NFC),
    "qwen35": Structure("qwen35", sequence(split(QWEN35), byte_level(trim_offsets=False)), NFC),
    "gpt-2": Structure("gpt-2", GPT2),
    "mpt": Structure("gpt-2", GPT2, NFC),
    "starcoder": Structure("refact", sequence(DIGITS, GPT2)),
    "refact": Structure("refact", sequence(DIGITS, GPT2)),
    "granite": Structure("refact", sequence(DIGITS, GPT2)),
    "smollm": Structure("smollm", sequence(DIGITS, GPT2)),
    "command-r": Structure("smollm", sequence(DIGITS, GPT2), NFC),
    "falcon": Structure(
        "falcon",
        sequence(
            {"type": "Punctuation", "behavior": "Contiguous"},
            GPT2,
            {"type": "Digits", "individual_digits": False},
            split("[0-9][0-9][0-9]"),
        ),
    ),
    "deepseek-llm": Structure(
        "deepseek-llm",
        sequence(
            split("[\r\n]"),
            split(_DEEPSEEK_LETTERS),
            split(_DEEPSEEK_PUNCTUATION),
            split(r"\s+$"),
            split(_HAN),
            DIGITS,
            byte_level(),
        ),
        NOTHING,
    ),
    "deepseek-coder": Structure(
        "deepseek-coder",
        sequence(split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(_HAN), DIGITS, byte_level()),
        NOTHING,
    ),
    "deepseek-v3": Structure(
        "deepseek-v3",
        sequence(split(r"\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"), split(_DEEPSEEK_3), byte_level()),
        NOTHING,
    ),
    "seed-coder": Structure("seed-coder", sequence(split(SEED_CODER), byte_level())),
    "minicpm5": Structure("minicpm5", sequence(split(r"\p{N}{1,3}"), split(MINICPM_5), byte_level()), whole_words=True),
    "tekken": Structure("tekken", sequence(split(TEKKEN), byte_level()), whole_words=True),
    "gpt-4o": Structure("gpt-4o", sequence(split(O200K, outside=True), byte_level())),
    "harmony": Structure("gpt-4o", sequence(split(O200K, outside=True), byte_level())),
    "llama4": Structure("llama4", sequence(split(O200K, outside=True), byte_level())),
    "olmo2": Structure("dbrx", sequence(split(CL100K, outside=True), byte_level())),
    "phi-4": Structure("dbrx", sequence(split(CL100K, outside=True), byte_level())),
    "glm4": Structure("glm4", sequence(split(CL100K), byte_level()), whole_words=True),
    "chatglm": Structure("chatglm-bpe", sequence(split(CL100K), byte_level())),
}
"""By the name of the vocabulary."""
