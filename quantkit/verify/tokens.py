"""The tokenizer inside the GGUF file against the one the model was trained with."""

from __future__ import annotations

import json
from pathlib import Path

from quantkit.errors import VocabularyError
from quantkit.run.session import ChatModel
from quantkit.verify.report import Check

PROBES: tuple[str, ...] = (
    "Hello, world! I'm sure they've said it's OK, we'd know.",
    "  two  spaces, three   spaces and a trailing one ",
    "你好，世界！你是一个乐于助人的助手。『引号』——破折号……",
    "日本語のテキスト 한국어 텍스트 Русский текст عربي עברית ไทย",
    "🙂🚀 👨‍👩‍👧‍👦 🇨🇳 \u200b|\ufeff|\u00a0|",
    "line\r\nline\r\n\r\nline\n\n\n\tindented\r",
    "def f(x: int) -> float:\n    return x ** 2  # 平方\n\n\nif __name__ == '__main__':\n\tprint(f(3))\n",
    "1 12 123 1234 12345 1234567890 3.14159 1e-10 0x1F 50% $1,000.00 2026-11-22",
    '{"a": [1, null, true], "b": "\\u4f60\\n"} <html lang="zh">&amp;</html>',
    "ÀÉÎÕÜ straße ﬁ ² ½ Ⅷ １２３",
    "a" * 200 + " " * 50 + "!" * 50,
    "\x00\x01\x7f",
)
"""Texts that pre-tokenizers disagree about."""

# Some tokenizers (Qwen's) compose such characters first. llama.cpp composes nothing and no GGUF file can make it, so
# a difference here is said and is not held against the file.
_DECOMPOSED = "cafe\u0301 u\u0308ber か\u3099"


def compare_tokens(gguf_model: ChatModel, tokenizer_json: Path) -> Check:
    """Compare llama.cpp's ids with those of ``tokenizer.json``, special tokens parsed, over :data:`PROBES`.

    Every added token is probed too, between words.

    Raises:
        VocabularyError: the tokenizer file cannot be read.
    """
    from tokenizers import Tokenizer

    # Checked by hand first: tokenizers raises bare Exception objects, for a missing file too.
    try:
        text = tokenizer_json.read_text(encoding="utf-8")
        readable = isinstance(json.loads(text), dict)
    except (OSError, ValueError) as error:
        raise VocabularyError(f"{tokenizer_json}: cannot be read: {error}") from None
    if not readable:
        raise VocabularyError(f"{tokenizer_json}: not a tokenizer: it is not a JSON object")
    tokenizer = Tokenizer.from_str(text)
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    probes = [*PROBES, *(f"one {text} two{text}" for text in added)]
    threshold = "ids equal in every text"
    total = 0
    if tokenizer.normalizer is not None:
        # llama.cpp does not normalize (NFC): texts that are normalized already must give the same ids.
        probes = [tokenizer.normalizer.normalize_str(probe) for probe in probes]
    for probe in probes:
        expected = tokenizer.encode(probe, add_special_tokens=False).ids
        got = gguf_model.tokenize(probe)
        total += len(expected)
        if got != expected:
            at = next((i for i, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b), len(got))
            evidence = f"{probe!r}, token {at}: llama.cpp {got[at : at + 6]}, tokenizer.json {expected[at : at + 6]}"
            return Check("token ids", False, "differ", threshold, evidence)
    evidence = f"{len(probes)} texts, {len(added)} added tokens"
    if gguf_model.tokenize(_DECOMPOSED) != tokenizer.encode(_DECOMPOSED, add_special_tokens=False).ids:
        evidence += "; decomposed characters (e + combining accent) differ, llama.cpp does not compose them"
    return Check("token ids", True, f"{total} equal", threshold, evidence)
