"""Compares the tokenizer in the GGUF file with the one the model was trained with."""

from __future__ import annotations

from quantkit.run.session import ChatModel
from quantkit.verify.encoders import Encoder
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
"""Texts that different pre-tokenizers split differently."""

# Some tokenizers (Qwen's) compose such characters first. llama.cpp does not, and no GGUF file can change that, so a
# difference here is mentioned but does not fail the check.
_DECOMPOSED = "cafe\u0301 u\u0308ber か\u3099"


def compare_tokens(gguf_model: ChatModel, encoder: Encoder, source: str) -> Check:
    """Compare llama.cpp's ids with those of the model's tokenizer for :data:`PROBES`, with special tokens parsed.

    Every added token is also tested, between words.

    Args:
        gguf_model: the model in llama.cpp.
        encoder: the model's tokenizer.
        source: the name of its file.
    """
    name, threshold = f"token ids match {source}", "the same ids in every text"
    total, otherwise = 0, 0
    # llama.cpp does not normalize (NFC): texts that are already normalized must have the same ids.
    probes = [encoder.prepare(probe) for probe in (*PROBES, *encoder.probes)]
    for probe in probes:
        expected, got = encoder.encode(probe), gguf_model.tokenize(probe)
        total += len(got)
        if got == expected:
            continue
        if encoder.own_blanks and encoder.plainly is not None and got == encoder.plainly(probe):
            otherwise += 1
            continue
        at = next((i for i, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b), len(got))
        evidence = f"{probe!r}, token {at}: llama.cpp {got[at : at + 6]}, {source} {expected[at : at + 6]}"
        return Check(name, False, "differ", threshold, evidence)
    evidence = f"{len(probes)} texts, {encoder.added} added tokens"
    if encoder.blank_once:
        evidence += "; the blank that llama.cpp adds before text after special tokens is not compared"
    if otherwise:
        evidence += f"; in {otherwise} of them llama.cpp adds a blank before one that is already there"
    if gguf_model.tokenize(_DECOMPOSED) != encoder.encode(_DECOMPOSED):
        evidence += "; decomposed characters (e + combining accent) differ, because llama.cpp does not compose them"
    return Check(name, True, f"{total} of {total} match", threshold, evidence)
