"""``qwen.tiktoken``: ranks to tokens, merges and special tokens."""

from __future__ import annotations

import base64
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
from tokenizers.pre_tokenizers import ByteLevel

from quantkit.checkpoint.folder import Checkpoint
from quantkit.errors import VocabularyError
from quantkit.verify.encoders import open_encoder
from quantkit.vocab.families import VocabularyRules
from quantkit.vocab.tiktoken import SPECIAL, byte_text, merged_parts, read_ranks
from quantkit.vocab.vocabulary import read_vocabulary

BYTES = {bytes([byte]): byte for byte in range(256)}


def write(path: Path, ranks: Mapping[bytes, int]) -> Path:
    lines = [base64.b64encode(token).decode() + f" {rank}\n" for token, rank in ranks.items()]
    path.write_text("".join(lines), encoding="ascii")
    return path


def test_merges_by_hand() -> None:
    """b"abcd" is merged from "ab" and "cd"; b"bcd" is not used on the way, its rank is higher than that of "ab"."""
    ranks = {**BYTES, b"ab": 256, b"cd": 257, b"bcd": 258, b"abcd": 259, b"abc": 260}
    assert merged_parts(ranks, "x") == [(b"a", b"b"), (b"c", b"d"), (b"b", b"cd"), (b"ab", b"cd"), (b"ab", b"c")]


def test_of_two_equal_merges_the_first_is_done() -> None:
    ranks = {**BYTES, b"aa": 256, b"aaa": 257, b"aaaa": 258}
    assert merged_parts(ranks, "x") == [(b"a", b"a"), (b"aa", b"a"), (b"aa", b"aa")]


def parts_by_definition(ranks: Mapping[bytes, int], token: bytes) -> list[bytes]:
    """Again and again the leftmost pair of the lowest rank below the token's own."""
    parts = [token[at : at + 1] for at in range(len(token))]
    while len(parts) > 2:
        pairs = [(ranks.get(parts[at] + parts[at + 1], len(ranks)), at) for at in range(len(parts) - 1)]
        rank, at = min(pairs)
        if rank >= ranks[token]:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def test_merges_are_those_of_the_definition() -> None:
    numbers = random.Random(3)
    for _ in range(100):
        ranks, expected = {b"a": 0, b"b": 1, b"c": 2}, []
        for _ in range(30):
            token = b"".join(numbers.choices(list(ranks), k=2))
            parts = parts_by_definition({**ranks, token: len(ranks)}, token)
            if token not in ranks and len(parts) == 2:
                ranks[token] = len(ranks)
                expected.append(tuple(parts))
        assert merged_parts(ranks, "x") == expected


def test_a_token_without_parts() -> None:
    with pytest.raises(VocabularyError, match="x: b'abc' of rank 256 cannot be merged from two tokens of lower rank"):
        merged_parts({**BYTES, b"abc": 256}, "x")


def test_bytes_are_written_as_the_tokenizers_library_writes_them() -> None:
    assert sorted(byte_text(token) for token in BYTES) == sorted(ByteLevel.alphabet())
    assert (byte_text(b" \n"), byte_text(b"a!~"), byte_text("é".encode())) == ("ĠĊ", "a!~", "Ã©")


def test_ranks_in_any_order(tmp_path: Path) -> None:
    ranks = {**BYTES, b"ab": 256}
    assert list(read_ranks(write(tmp_path / "x.tiktoken", dict(reversed(ranks.items()))))) == list(ranks)


def test_a_byte_is_missing(tmp_path: Path) -> None:
    ranks = {token: rank for rank, token in enumerate([*list(BYTES)[:9], *list(BYTES)[10:]])}
    with pytest.raises(VocabularyError, match=r"x\.tiktoken: there is no token for the byte 0x09; expected"):
        read_ranks(write(tmp_path / "x.tiktoken", ranks))


def test_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "qwen.tiktoken", {**BYTES, b"ab": 256})
    checkpoint = Checkpoint(tmp_path, {"architectures": ["QWenLMHeadModel"]}, {}, {})
    found = read_vocabulary(checkpoint, 470, tokenizers=("tiktoken",))
    entries = {entry.key.removeprefix("tokenizer.ggml."): entry.value for entry in found.metadata}
    assert (entries["model"], entries["pre"], entries["merges"]) == ("gpt2", "qwen2", ["a b"])
    assert entries["tokens"][256:260] == ["ab", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert entries["tokens"][-5:] == ["[PAD465]", "[PAD466]", "[PAD467]", "[PAD468]", "[PAD469]"]
    assert entries["token_type"] == [1] * 257 + [3] * 208 + [5] * 5
    ids = {key: value for key, value in entries.items() if key.endswith("_id")}
    assert ids == {"bos_token_id": 257, "eos_token_id": 257, "unknown_token_id": 257}
    assert (found.bos_token, found.eos_token, len(SPECIAL)) == ("<|endoftext|>", "<|endoftext|>", 208)


def test_hunyuan(tmp_path: Path) -> None:
    """Its BOS is <|bos|>, whatever its config.json says."""
    write(tmp_path / "hy.tiktoken", {**BYTES, b"ab": 256})
    config = {"architectures": ["HunYuanMoEV1ForCausalLM"], "bos_token_id": 1, "eos_token_id": 260, "pad_token_id": 261}
    found = read_vocabulary(
        Checkpoint(tmp_path, config, {}, {}),
        467,
        tokenizers=("tiktoken",),
        rules=VocabularyRules(named={"bos": "<|bos|>"}),
    )
    entries = {entry.key.removeprefix("tokenizer.ggml."): entry.value for entry in found.metadata}
    assert (entries["pre"], entries["merges"]) == ("hunyuan", ["a b"])
    special = ["<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>", "<|extra_0|>"]
    assert list(entries["tokens"][257:263]) == special
    assert list(entries["token_type"]) == [1] * 257 + [3] * 210
    ids = {key: value for key, value in entries.items() if key.endswith("_id")}
    assert ids == {"bos_token_id": 259, "eos_token_id": 260, "padding_token_id": 261}
    encoder = open_encoder(tmp_path / "hy.tiktoken")
    assert encoder.encode("<|eos|>ab") == [260, 256]


def test_ids_of_the_config_come_first(tmp_path: Path) -> None:
    write(tmp_path / "qwen.tiktoken", BYTES)
    checkpoint = Checkpoint(tmp_path, {"architectures": ["QWenLMHeadModel"], "eos_token_id": 258}, {}, {})
    found = read_vocabulary(checkpoint, 464, tokenizers=("tiktoken",))
    ids = {entry.key: entry.value for entry in found.metadata if entry.key.endswith("_id")}
    assert ids == {"tokenizer.ggml.eos_token_id": 258, "tokenizer.ggml.unknown_token_id": 256}
