"""The other side of the comparison of token ids: a tokenizer from each kind of file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from quantkit.errors import VocabularyError
from quantkit.verify.encoders import open_encoder, tokenizer_file
from quantkit.vocab.files import blank_notes

Maker = Callable[..., Path]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("llama-bpe", "tokenizer.json"),
        ("llama-spm", "tokenizer.json"),
        ("qwen-tiktoken", "qwen.tiktoken"),
    ],
)
def test_the_file_that_transformers_would_load(vocabulary: Maker, name: str, file: str) -> None:
    found = tokenizer_file(vocabulary(name))
    assert found is not None
    assert found.name == file


def test_no_file(tmp_path: Path) -> None:
    assert tokenizer_file(tmp_path) is None


def test_sentencepiece_and_tokenizer_json_agree(vocabulary: Maker) -> None:
    folder = vocabulary("llama-spm")
    by_model, by_json = (open_encoder(folder / name) for name in ("tokenizer.model", "tokenizer.json"))
    for text in ("Hello  world 你好", "\n\tx", ""):
        assert by_model.encode(text) == by_json.encode(text)
    assert set(by_model.probes) == {"<unk>", "<s>", "</s>"}
    assert [by_model.encode(probe) for probe in by_model.probes] == [[0], [1], [2]]


def test_qwens_special_tokens(vocabulary: Maker) -> None:
    encoder = open_encoder(vocabulary("qwen-tiktoken") / "qwen.tiktoken")
    assert encoder.added == 208
    assert encoder.encode("<|im_start|>a<|extra_204|>") == [2001, 64, 2207]
    assert encoder.prepare("e\u0301") == "é"


def _flags(folder: Path, tmp_path: Path, **flags: bool) -> tuple[str, ...]:
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"] = [{**tokenizer["added_tokens"][0], **flags}]
    tokenizer["post_processor"] = None
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    return open_encoder(path).probes


def test_probes_leave_out_what_llama_cpp_does_otherwise(vocabulary: Maker, tmp_path: Path) -> None:
    folder, text = vocabulary("smollm"), "<|endoftext|>"
    assert _flags(folder, tmp_path) == (f"one {text} two{text}",)
    assert _flags(folder, tmp_path, lstrip=True) == (f"one{text}two{text}",)
    assert _flags(folder, tmp_path, rstrip=True) == (f"one{text}two{text}",)
    assert _flags(folder, tmp_path, single_word=True) == (f"one {text} two",)
    assert _flags(folder, tmp_path, single_word=True, rstrip=True) == ()


def test_a_blank_before_the_text_only(vocabulary: Maker, tmp_path: Path) -> None:
    tokenizer = json.loads((vocabulary("llama-hf") / "tokenizer.json").read_text(encoding="utf-8"))
    steps = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**tokenizer, "normalizer": None, "pre_tokenizer": steps}), encoding="utf-8")
    encoder = open_encoder(path)
    assert encoder.probes == ("one <unk>", "one <s>", "one </s>")
    assert encoder.blank_once


def test_added_tokens_that_are_normalized(vocabulary: Maker, tmp_path: Path) -> None:
    """As transformers 4 added them to Llama's tokenizer: found behind a blank only."""
    tokenizer = json.loads((vocabulary("llama-hf", extra=("<tool>",)) / "tokenizer.json").read_text(encoding="utf-8"))
    number = tokenizer["added_tokens"][-1]["id"]
    tokenizer["added_tokens"][-1]["normalized"] = True
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    encoder = open_encoder(path)
    assert number in encoder.encode("a <tool>")
    assert number not in encoder.encode("a<tool>")
    assert not any("<tool>" in probe for probe in encoder.probes)
    assert any("normalized: '<tool>'" in note for note in blank_notes(tokenizer))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "qwen.tiktoken"])
def test_unreadable_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"[]")
    with pytest.raises(VocabularyError, match=name.replace(".", r"\.")):
        open_encoder(tmp_path / name)
