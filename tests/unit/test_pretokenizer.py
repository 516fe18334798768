"""Pre-tokenizers: recognised by structure, however it is written; everything else refused."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from quantkit.errors import VocabularyError
from quantkit.vocab import regexes
from quantkit.vocab.pretokenizer import PRE_TOKENIZERS, recognise
from tests.support.pre_tokenizers import DIGITS, STRUCTURES, Structure, byte_level, sequence, split
from tests.support.texts import TEXTS
from tests.support.vocabulary_kinds import KINDS

Json = dict[str, Any]

# As the published tokenizer.json of Llama 3 and Qwen2 have them.
LLAMA_3_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2_REGEX = LLAMA_3_REGEX.replace(r"\p{N}{1,3}", r"\p{N}")
LLAMA: Json = {"normalizer": None, "pre_tokenizer": sequence(split(LLAMA_3_REGEX), byte_level()), "model": {}}
QWEN: Json = {
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": sequence(split(QWEN_2_REGEX), byte_level(trim_offsets=False)),
    "model": {},
}
GPT_2 = byte_level(use_regex=True)


def name(tokenizer: Json, **config: Any) -> str:
    return recognise(tokenizer, config, "x").name


def structure(found: Structure) -> Json:
    return {
        "normalizer": found.normalizer,
        "pre_tokenizer": found.pre_tokenizer,
        "model": {"ignore_merges": found.whole_words},
    }


@pytest.mark.parametrize("kind", STRUCTURES)
def test_published_structures_are_recognised(kind: str) -> None:
    added = [{"content": text} for text in (*KINDS[kind].first, *KINDS[kind].last)]
    tokenizer = {**structure(STRUCTURES[kind]), "added_tokens": added}
    found = recognise(tokenizer, KINDS[kind].tokenizer_config([]), "x")
    assert (found.name, found.whole_words) == (STRUCTURES[kind].name, STRUCTURES[kind].whole_words)


def test_the_regexes_are_the_published_ones() -> None:
    assert (regexes.CL100K, regexes.QWEN2) == (LLAMA_3_REGEX, QWEN_2_REGEX)


def test_every_entry_has_a_structure_in_these_tests() -> None:
    """So that each is held against llama.cpp, see tests/parity/test_tokens.py."""
    assert {known.name for known in PRE_TOKENIZERS} == {found.name for found in STRUCTURES.values()}


def test_one_structure_with_two_names() -> None:
    early = {"added_tokens": [{"content": "<|begin_of_text|>"}]}
    assert name({**LLAMA, "model": {"ignore_merges": True}}) == "llama-bpe"
    assert name(LLAMA) == "dbrx"
    assert name({**LLAMA, **early}) == "llama-bpe"  # as Llama 3 was first published
    glm = {"added_tokens": [{"content": "[gMASK]"}]}
    assert name({**LLAMA, **glm, "model": {"ignore_merges": True}}) == "glm4"
    assert name({**LLAMA, **glm}) == "chatglm-bpe"
    digits = {"pre_tokenizer": sequence(DIGITS, GPT_2), "model": {}}
    assert name(digits) == name(digits, clean_up_tokenization_spaces=True) == "refact"
    assert name(digits, clean_up_tokenization_spaces=False) == "smollm"


SAME: dict[str, tuple[Json, str]] = {
    "nested": ({**QWEN, "pre_tokenizer": sequence(sequence(split(QWEN_2_REGEX)), byte_level())}, "qwen2"),
    "all-but-the-rest": ({**QWEN, "pre_tokenizer": sequence(split(QWEN_2_REGEX, outside=True), byte_level())}, "qwen2"),
    "inverted": ({**QWEN, "pre_tokenizer": sequence({**split(QWEN_2_REGEX), "invert": True}, byte_level())}, "qwen2"),
    "regex-of-its-own": ({**QWEN, "pre_tokenizer": GPT_2}, "gpt-2"),
    "regex-by-default": ({**QWEN, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}}, "gpt-2"),
    "regex-as-a-split": ({**QWEN, "pre_tokenizer": sequence(split(regexes.GPT2), byte_level())}, "gpt-2"),
    "digits-as-a-split": ({**QWEN, "pre_tokenizer": sequence(split(r"\p{N}"), GPT_2)}, "refact"),
    "line-breaks-themselves": (
        {**QWEN, "pre_tokenizer": sequence(split(QWEN_2_REGEX.replace(r"\r\n", "\r\n")), byte_level())},
        "qwen2",
    ),
    "no-normalizer": ({**QWEN, "normalizer": None}, "qwen2"),
    "empty-normalizer": ({**QWEN, "normalizer": {"type": "Sequence", "normalizers": []}}, "qwen2"),
    "nested-normalizer": ({**QWEN, "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]}}, "qwen2"),
}


@pytest.mark.parametrize("case", SAME)
def test_the_same_written_otherwise(case: str) -> None:
    changed, expected = SAME[case]
    assert name(changed) == expected


@pytest.mark.parametrize("case", [case for case in SAME if SAME[case][1] == "qwen2" and "normalizer" not in case])
def test_the_tokenizers_library_takes_them_for_the_same(case: str) -> None:
    empty = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}

    def words(tokenizer: Json) -> list[Any]:
        loaded = Tokenizer.from_str(json.dumps({**tokenizer, **empty}))
        assert loaded.pre_tokenizer is not None
        return [loaded.pre_tokenizer.pre_tokenize_str(text) for text in TEXTS]

    assert words(SAME[case][0]) == words(QWEN)


NEAR_MISSES: dict[str, Json] = {
    "prefix-space": {**LLAMA, "pre_tokenizer": sequence(split(LLAMA_3_REGEX), byte_level(add_prefix_space=True))},
    "prefix-space-by-default": {
        **LLAMA,
        "pre_tokenizer": sequence(split(LLAMA_3_REGEX), {"type": "ByteLevel", "use_regex": False}),
    },
    "own-regex": {**LLAMA, "pre_tokenizer": sequence(split(LLAMA_3_REGEX), byte_level(use_regex=True))},
    "other-normalizer": {**QWEN, "normalizer": {"type": "NFKC"}},
    "normalizers": {
        **QWEN,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
    },
    "two-splits": {**LLAMA, "pre_tokenizer": sequence(split(r"\p{N}"), split(LLAMA_3_REGEX), byte_level())},
    "no-split": {**LLAMA, "pre_tokenizer": sequence(byte_level())},
    "byte-level-alone": {**LLAMA, "pre_tokenizer": byte_level()},
    "byte-level-first": {**LLAMA, "pre_tokenizer": sequence(byte_level(), split(LLAMA_3_REGEX))},
    "no-byte-level": {**LLAMA, "pre_tokenizer": sequence(split(LLAMA_3_REGEX))},
    "removed": {**LLAMA, "pre_tokenizer": sequence({**split(LLAMA_3_REGEX), "behavior": "Removed"}, byte_level())},
    "removes-text": {
        **structure(STRUCTURES["deepseek-coder"]),
        "pre_tokenizer": sequence(
            split("[\r\n]", outside=True), *STRUCTURES["deepseek-coder"].pre_tokenizer["pretokenizers"][1:]
        ),
    },
    "literal": {
        **LLAMA,
        "pre_tokenizer": sequence({**split(""), "pattern": {"String": LLAMA_3_REGEX}}, byte_level()),
    },
    "digits": {**LLAMA, "pre_tokenizer": sequence({"type": "Digits"}, split(LLAMA_3_REGEX), byte_level())},
    "digits-together": {
        **LLAMA,
        "pre_tokenizer": sequence({"type": "Digits", "individual_digits": False}, GPT_2),
    },
    "metaspace": {**LLAMA, "pre_tokenizer": {"type": "Metaspace"}},
    "nothing": {**LLAMA, "pre_tokenizer": sequence()},
    "none": {**LLAMA, "pre_tokenizer": None},
    "four-digits": {**LLAMA, "pre_tokenizer": sequence(split(LLAMA_3_REGEX.replace("{1,3}", "{1,4}")), byte_level())},
    "other-order": {
        **structure(STRUCTURES["deepseek-v3"]),
        "pre_tokenizer": sequence(*STRUCTURES["deepseek-v3"].pre_tokenizer["pretokenizers"][1::-1], byte_level()),
    },
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses_are_refused(case: str) -> None:
    with pytest.raises(VocabularyError, match="x: unknown pre-tokenizer: ") as caught:
        name(NEAR_MISSES[case])
    assert "supported are llama-bpe, dbrx, qwen2, " in caught.value.hint


@given(data=st.data())
def test_one_changed_character_is_refused(data: st.DataObject) -> None:
    base = data.draw(st.sampled_from([LLAMA, QWEN]))
    regex = base["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    at = data.draw(st.integers(0, len(regex) - 1))
    changed = (
        regex[:at] + data.draw(st.sampled_from(["", "x", "+", " "]) | st.characters(codec="utf-8")) + regex[at + 1 :]
    )
    source = copy.deepcopy(base)
    source["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = changed
    if changed == regex:
        assert name(source)
    else:
        with pytest.raises(VocabularyError):
            name(source)
