"""``tokenizer.model``, and tokenizer.json with byte fallback: pieces, scores, types, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantkit.arch.families import find_architecture
from quantkit.checkpoint.folder import Checkpoint
from quantkit.errors import VocabularyError
from quantkit.vocab.families import NO_RULES
from quantkit.vocab.llama_hf import merge_scores
from quantkit.vocab.model_proto import read_model
from quantkit.vocab.vocabulary import Vocabulary, read_vocabulary
from tests.support.sentencepiece_model import BYTE, CONTROL, NORMAL, UNKNOWN, RowRange, gemma_model, model_file

Json = dict[str, Any]
USER_DEFINED, UNUSED = 4, 5

BYTES: list[RowRange] = [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
PIECES: list[RowRange] = [
    ("<unk>", 0.0, UNKNOWN),
    ("<s>", 0.0, CONTROL),
    ("</s>", 0.0, CONTROL),
    *BYTES,
    ("▁a", -1.5, NORMAL),
    ("a", -2.0, NORMAL),
    ("▁", -3.0, NORMAL),
    ("b", -4.0, UNUSED),
]
FIRST = 3 + 256


def read(folder: Path, rows: int, config: Json | None = None, **files: Json) -> Vocabulary:
    folder.mkdir(exist_ok=True)
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    checkpoint = Checkpoint(folder, config or {}, {}, {})
    rules = find_architecture(config, "config.json").vocabulary if config else NO_RULES
    return read_vocabulary(checkpoint, rows, tokenizers=("sentencepiece", "llama-hf", "bpe"), rules=rules)


def values(vocabulary: Vocabulary) -> Json:
    return {entry.key.removeprefix("tokenizer.ggml."): entry.value for entry in vocabulary.metadata}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.model").write_bytes(model_file(PIECES))
    return tmp_path


def test_pieces(folder: Path) -> None:
    found = values(read(folder, len(PIECES) + 1))
    assert (found["model"], found["pre"]) == ("llama", "default")
    assert found["tokens"] == [text for text, _, _ in PIECES] + [f"[PAD{len(PIECES)}]"]
    assert found["scores"] == [score for _, score, _ in PIECES] + [-10000.0]
    assert found["token_type"] == [kind for _, _, kind in PIECES] + [UNUSED]
    assert "add_space_prefix" not in found


def test_added_tokens(folder: Path) -> None:
    """added_tokens.json first, then tokenizer_config.json over it."""
    end = len(PIECES)
    decoder = {
        str(end + 1): {"content": "▁x", "special": False},
        str(end + 2): {"content": "<|y|>", "special": False},
        "0": {"content": "<unk>", "special": True},
    }
    found = read(
        folder,
        end + 3,
        added_tokens={"<tool>": end, "over": end + 1},
        tokenizer_config={"added_tokens_decoder": decoder},
    )
    entries = values(found)
    assert entries["tokens"][end:] == ["<tool>", " x", "<|y|>"]
    assert entries["token_type"][end:] == [USER_DEFINED, USER_DEFINED, CONTROL]
    assert entries["scores"][end:] == [-1000.0] * 3
    assert (entries["token_type"][0], entries["scores"][0]) == (CONTROL, -1000.0)


def test_phi_3_takes_added_tokens_as_they_are_marked(folder: Path) -> None:
    end = len(PIECES)
    decoder = {str(end): {"content": "<|y|>", "special": False}, str(end + 1): {"content": "▁x", "special": True}}
    tokenizer = {"added_tokens": [{"id": end + 2, "content": "<|z|>", "special": True}]}
    config = {"architectures": ["Phi3ForCausalLM"]}
    found = values(
        read(folder, end + 3, config, tokenizer_config={"added_tokens_decoder": decoder}, tokenizer=tokenizer)
    )
    assert found["tokens"][end:] == ["<|y|>", "▁x", "<|z|>"]
    assert found["token_type"][end:] == [USER_DEFINED, CONTROL, CONTROL]


def test_internlm_2_has_unused_pieces_and_a_null_character(tmp_path: Path) -> None:
    pieces = [*PIECES, ("[UNUSED_TOKEN_1]", -5.0, NORMAL), ("\0", -6.0, NORMAL), ("<|im_end|>", -7.0, NORMAL)]
    (tmp_path / "tokenizer.model").write_bytes(model_file(pieces))
    found = values(read(tmp_path, len(pieces), {"architectures": ["InternLM2ForCausalLM"]}))
    assert found["tokens"][-3:] == ["[UNUSED_TOKEN_1]", "\N{DRAGON}", "<|im_end|>"]
    assert (found["token_type"][-3], found["token_type"][-1]) == (UNUSED, NORMAL)
    assert (found["add_space_prefix"], found["eos_token_id"]) == (True, len(pieces) - 1)
    plain = values(read(tmp_path, len(pieces)))
    assert (plain["tokens"][-2], plain["token_type"][-3]) == ("\0", NORMAL)
    assert not {"add_space_prefix", "eos_token_id"} & plain.keys()


def test_tokens_without_a_row(folder: Path) -> None:
    rows = len(PIECES) - 1
    found = read(folder, rows, added_tokens={"<pad>": len(PIECES)})
    assert values(found)["tokens"] == [text for text, _, _ in PIECES[:-1]]
    assert found.notes == (f"the embedding has {rows} rows, but none for the token 'b' and 1 more: left out",)


@pytest.mark.parametrize(
    ("family", "told", "expected"),
    [
        ("LlamaForCausalLM", None, False),
        ("LlamaForCausalLM", True, True),  # as the converter does
        ("Qwen2ForCausalLM", True, False),
        ("Gemma2ForCausalLM", True, False),
    ],
)
def test_a_model_without_a_blank_before_the_text(
    tmp_path: Path, family: str, told: bool | None, expected: bool
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(model_file(PIECES, dummy_prefix=False))
    found = read(tmp_path, len(PIECES), {"architectures": [family]}, tokenizer_config={"add_prefix_space": told})
    assert values(found)["add_space_prefix"] is expected


@pytest.mark.parametrize("family", ["Gemma2ForCausalLM", "Gemma3ForCausalLM"])
def test_gemma_puts_no_blank_before_the_text(tmp_path: Path, family: str) -> None:
    (tmp_path / "tokenizer.model").write_bytes(gemma_model())
    assert values(read(tmp_path, 1200, {"architectures": [family]}))["add_space_prefix"] is False


def test_settings_of_a_model(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(gemma_model())
    found = read_model(path)
    assert (found.merges, found.rewrites, found.dummy_prefix, found.removes_blanks) == (True, False, False, False)
    path.write_bytes(model_file(PIECES, removes_blanks=True))
    found = read_model(path)
    assert (found.merges, found.dummy_prefix, found.removes_blanks, found.suffix_blanks) == (True, True, True, False)


@pytest.mark.parametrize("size", [1, 10, 100, 2000])
def test_a_model_cut_anywhere(tmp_path: Path, size: int) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(model_file(PIECES)[:size])
    with pytest.raises(VocabularyError, match=r"tokenizer\.model: "):
        read(tmp_path, len(PIECES))


def test_scores_follow_the_merges() -> None:
    vocabulary = {"a", "b", "c", "ab", "abc", "bc"}
    merges = [("a", "b"), ("ab", "c"), ("a", "bc"), ("b", "c")]
    assert merge_scores(vocabulary, merges, "x") == {"ab": -0.0, "abc": -1.0, "bc": -2.0}


def test_runs_of_one_character_may_stand_among_each_other() -> None:
    merges = [("aa", "aa"), ("aa", "a"), ("a", "aaa"), ("aaa", "a"), ("a", "aa"), ("a", "a")]
    vocabulary = {"a" * size for size in range(1, 5)}
    assert merge_scores(vocabulary, merges, "x") == {"aaaa": -0.0, "aaa": -0.0, "aa": -2.0}


def test_merges_that_scores_cannot_say() -> None:
    vocabulary = {"a", "b", "c", "ab", "abc", "bc"}
    with pytest.raises(VocabularyError, match="x: the merges of 'ab' and 'bc' are mixed"):
        merge_scores(vocabulary, [("a", "b"), ("b", "c"), ("a", "b")], "x")
    with pytest.raises(VocabularyError, match="x: 'a' and 'bc' form 'abc', but no merge joins them"):
        merge_scores(vocabulary, [("a", "b"), ("b", "c"), ("ab", "c")], "x")


LLAMA_BLANKS = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ],
}
METASPACE = {"type": "Metaspace", "replacement": "▁", "split": False}


def fallback(**changes: Any) -> Json:
    """A tokenizer.json with byte fallback of the pieces above."""
    vocabulary = {text: number for number, (text, _, _) in enumerate(PIECES)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [(1, "<s>", True), (len(PIECES), "<tool>", False)]
    return {
        "added_tokens": [
            {"id": number, "content": text, "special": special, **flags} for number, text, special in added
        ],
        "normalizer": LLAMA_BLANKS,
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": []},
        "model": {"type": "BPE", "byte_fallback": True, "vocab": vocabulary, "merges": ["▁ a"]},
        **changes,
    }


def test_a_tokenizer_json_with_byte_fallback(tmp_path: Path) -> None:
    config = {"bos_token": "<s>", "unk_token": "<unk>"}
    found = read(tmp_path, len(PIECES) + 2, tokenizer=fallback(), tokenizer_config=config)
    entries = values(found)
    assert entries["tokens"][FIRST:] == ["▁a", "a", "▁", "b", "<tool>", f"[PAD{len(PIECES) + 1}]"]
    assert entries["token_type"] == [3, 3, 1, *[BYTE] * 256, 1, 1, 1, 1, USER_DEFINED, UNUSED]
    assert entries["scores"][FIRST:] == [0.0, *[-1000.0] * 5]
    assert (entries["model"], entries["bos_token_id"]) == ("llama", 1)
    assert "add_space_prefix" not in entries


def test_added_tokens_that_are_pieces_with_byte_fallback(tmp_path: Path) -> None:
    """As Gemma's: control tokens as they are marked; a run of blanks is merged, as transformers does."""
    source = fallback()
    vocabulary = {**source["model"]["vocab"], "\n\n": len(PIECES), "▁▁": len(PIECES) + 1, "<turn>": len(PIECES) + 2}
    merges = ["▁ ▁", "▁ a"]
    tokens = [("\n\n", False), ("▁▁", False), ("<turn>", True)]
    added = [{"id": vocabulary[text], "content": text, "special": special} for text, special in tokens]
    changed = {**source, "added_tokens": added, "model": {**source["model"], "vocab": vocabulary, "merges": merges}}
    entries = values(read(tmp_path, len(vocabulary), tokenizer=changed))
    assert entries["tokens"][-3:] == ["\n\n", "▁▁", "<turn>"]
    assert entries["token_type"][-3:] == [USER_DEFINED, NORMAL, CONTROL]
    assert entries["scores"][-3:] == [-1000.0, 0.0, -1000.0]


def test_a_byte_that_stands_as_itself(tmp_path: Path) -> None:
    source = fallback()
    vocabulary = {"\t" if text == "<0x09>" else text: number for text, number in source["model"]["vocab"].items()}
    found = values(read(tmp_path, 300, tokenizer={**source, "model": {**source["model"], "vocab": vocabulary}}))
    assert (found["tokens"][3 + 9], found["token_type"][3 + 9]) == ("\t", NORMAL)


@pytest.mark.parametrize(
    ("normalizer", "steps", "prefix"),
    [
        (None, {**METASPACE, "prepend_scheme": "first"}, None),
        (None, METASPACE, None),
        (None, {**METASPACE, "prepend_scheme": "never"}, False),
        (LLAMA_BLANKS["normalizers"][1], None, False),
    ],
)
def test_where_a_blank_is_put(tmp_path: Path, normalizer: Json | None, steps: Json | None, prefix: bool | None) -> None:
    found = read(tmp_path, len(PIECES) + 1, tokenizer=fallback(normalizer=normalizer, pre_tokenizer=steps))
    assert values(found).get("add_space_prefix") is prefix
    noted = any("puts a space before text" in note for note in found.notes)
    assert noted is (steps is not None and steps.get("prepend_scheme") == "first")


@pytest.mark.parametrize("steps", [{**METASPACE, "split": True}, {**METASPACE, "replacement": "_"}, {"type": "Digits"}])
def test_blanks_in_another_way(tmp_path: Path, steps: Json) -> None:
    with pytest.raises(VocabularyError, match="treats spaces in an unknown way"):
        read(tmp_path, len(PIECES) + 1, tokenizer=fallback(normalizer=None, pre_tokenizer=steps))


def test_byte_fallback_without_bytes(tmp_path: Path) -> None:
    source = fallback()
    vocabulary = {"a": 0, "<s>": 1}
    changed = {**source, "model": {**source["model"], "vocab": vocabulary, "merges": []}, "added_tokens": []}
    with pytest.raises(VocabularyError, match="there are no byte tokens"):
        read(tmp_path, 300, tokenizer=changed)
