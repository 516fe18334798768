"""Texts for tokenizers: probes that pre-tokenizers disagree about, and what small vocabularies are trained on."""

from __future__ import annotations

from functools import cache

from tests.support.reference import reference_folder

TEXTS = (
    "",
    " ",
    "你好,世界!这是一个测试。",
    "我想在apple工作1314151天~",
    "乐于助人的助手。\n\n  全角 空格\u3000与标点:“引号”——完。",
    "🦙🦙 👩‍👩‍👧‍👦 🏳️‍🌈 ✅ é \ufb01",
    "line one\r\nline two\r\n\r\n\tindented\r\n",
    "mixed \n\r\n \n\n  newlines \r\r end \t",
    "I'll we've I'M you'RE it's 'tis don''t",
    "numbers 1 12 123 1234 12345 3.14159 1,000,000 ٣٤٥ ½ ²",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi 你好<|eot_id|>",
    "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\n你好<|im_end|>\n",
    "<|im_end|><|im_end|> <|eot_id|> <|endoftext|>x<|end_of_text|>",
    "no token: <|not_a_token|> <| im_start |> <tool <tool>",
    "call <tool> now<tool>!乐于助人 的 there theres therefore",
    "def f(x):\n    return x  # ünïcödé \x00 \x7f\n",
    "Ω≈ç√∫ дом ไทย عربى हिन्दी 日本語 한국어",
    "a" * 300 + " " * 40 + "\n" * 9,
    "camelCase HTMLParser XMLHttpRequest snake_case SCREAMING_CASE McDonald's ÀÉÎ Straße",
    "$5 + 10% = x^2 <= `code` ~tilde~ |pipe| (a, b) [c]; {d}: \"e\" 'f' /path/to//file ... !!! ???",
)


@cache
def training_texts() -> tuple[str, ...]:
    """Code in English, and sentences in many scripts: files of llama.cpp that change with its version only."""
    root = reference_folder()
    code = [(root / "conversion" / name).read_text(encoding="utf-8") for name in ("llama.py", "base.py")]
    vectors = (root / "models" / "ggml-vocab-llama-bpe.gguf.inp").read_bytes().decode()
    lines = [line for text in (*code, vectors) for line in text.splitlines() if line.strip()]
    return (*lines, *(text for text in TEXTS if text.strip()))
