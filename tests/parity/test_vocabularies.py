"""The vocabulary's metadata, key for key, as llama.cpp's converter writes it from the same files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantkit.vocab.files import CONTROL, NORMAL, USER_DEFINED
from quantkit.vocab.vocabulary import Vocabulary
from tests.support.gguf_read import read_gguf
from tests.support.pre_tokenizers import STRUCTURES
from tests.support.reference import ReferenceConverter
from tests.support.sentencepiece_vocabularies import NAMES as SENTENCEPIECE
from tests.support.vocabularies import vocabulary_rows
from tests.support.vocabulary_gguf import add_config, read_folder

Maker = Callable[..., Path]
Values = dict[str, Any]

# The names of the pre-tokenizers whose hash the converter knows, where llama.cpp has another with the same splits.
OTHER_NAMES = {"starcoder": "starcoder"}


def ours(vocabulary: Vocabulary) -> Values:
    entries = [*vocabulary.metadata, *vocabulary.template_metadata(vocabulary.chat_template)]
    return {entry.key: entry.value if entry.item is None else list(entry.value) for entry in entries}


def theirs(converter: ReferenceConverter, model: Path, out: Path, pre: str | None) -> Values:
    metadata = read_gguf(converter.convert(model, out, "f16", pre=pre, vocab_only=True)).metadata
    return {key: entry.value for key, entry in metadata.items() if key.startswith("tokenizer.")}


def copied(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "model"))


@pytest.mark.parametrize("name", [*STRUCTURES, "llama-spm", "phi-3", "gemma-spm", "gemma-whole", "qwen-tiktoken"])
def test_every_vocabulary(vocabulary: Maker, converter: ReferenceConverter, tmp_path: Path, name: str) -> None:
    """Cut to a size, and with rows of the embedding that no token has."""
    folder = copied(vocabulary(name), tmp_path)
    found = ours(read_folder(add_config(folder, name, rows=vocabulary_rows(folder) + 5)))
    pre = STRUCTURES[name].name if name in STRUCTURES else "qwen2" if name == "qwen-tiktoken" else None
    assert found == theirs(converter, folder, tmp_path / "reference.gguf", pre)


@pytest.mark.parametrize("name", ["gpt-2", "falcon", "starcoder", "llama-spm"])
def test_real_vocabularies_under_the_converters_own_name(
    vocabulary: Maker, converter: ReferenceConverter, tmp_path: Path, name: str
) -> None:
    folder = copied(vocabulary(name, small=False), tmp_path)
    found = ours(read_folder(add_config(folder, name)))
    expected = theirs(converter, folder, tmp_path / "reference.gguf", None)
    assert expected.pop("tokenizer.ggml.pre") == OTHER_NAMES.get(name, found.pop("tokenizer.ggml.pre"))
    found.pop("tokenizer.ggml.pre", None)
    assert found == expected


EXTENDED = {
    "llama-spm": {"extra": ("<tool>", "乐于助人", "▁x"), "ordinary": (("▁th", "ings"), ("▁with", "in"))},
    "gemma-spm": {"extra": ("<tool>", "乐于助人")},
    "phi-3": {"extra": ("<tool>", "<|looks_special|>")},
    "smollm": {"extra": ("<tool>", "乐于助人"), "ordinary": (("Ġth", "er"), ("Ġther", "es"))},
    "tekken": {"extra": ("<tool>",)},
}


@pytest.mark.parametrize("name", EXTENDED)
def test_extended_vocabularies(vocabulary: Maker, converter: ReferenceConverter, tmp_path: Path, name: str) -> None:
    folder = copied(vocabulary(name, **EXTENDED[name]), tmp_path)
    found = ours(read_folder(add_config(folder, name)))
    pre = STRUCTURES[name].name if name in STRUCTURES else None
    assert found == theirs(converter, folder, tmp_path / "reference.gguf", pre)


def test_sentencepiece_without_a_tokenizer_json(
    vocabulary: Maker, converter: ReferenceConverter, tmp_path: Path
) -> None:
    """As Llama-2's first folders: the special tokens come from config.json then."""
    folder = copied(vocabulary("llama-spm", extra=("<pad>",)), tmp_path)
    (folder / "tokenizer.json").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    del config["added_tokens_decoder"]
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "add_prefix_space": True}), encoding="utf-8")
    rows = vocabulary_rows_of_pieces(folder)
    # One row too few for the added token, as with models that never got a row for "<pad>".
    found = read_folder(add_config(folder, "llama-spm", rows=rows, bos_token_id=1, eos_token_id=2, pad_token_id=0))
    assert ours(found) == theirs(converter, folder, tmp_path / "reference.gguf", None)
    assert ours(found)["tokenizer.ggml.add_space_prefix"] is True
    assert found.notes == (f"the embedding has {rows} rows, but none for the token '<pad>': left out",)


def vocabulary_rows_of_pieces(folder: Path) -> int:
    added = json.loads((folder / "added_tokens.json").read_text(encoding="utf-8"))
    return min(added.values())


def test_a_tokenizer_json_with_byte_fallback(vocabulary: Maker, converter: ReferenceConverter, tmp_path: Path) -> None:
    """Equal but for the scores, of which the converter writes one for all; see docs/differences.md."""
    folder = copied(vocabulary("llama-hf", extra=("<tool>",)), tmp_path)
    found = ours(read_folder(add_config(folder, "llama-hf")))
    expected = theirs(converter, folder, tmp_path / "reference.gguf", None)
    assert set(expected.pop("tokenizer.ggml.scores")) == {-1000.0}
    assert len(set(found.pop("tokenizer.ggml.scores"))) > 1000
    assert found == expected


@pytest.mark.parametrize(("name", "whole"), [("gemma-hf", "gemma-spm"), ("phi-3-hf", "phi-3")])
def test_tokenizer_json_alone_where_the_converter_has_no_way(
    vocabulary: Maker, tmp_path: Path, name: str, whole: str
) -> None:
    """As with tokenizer.model, but for the scores, and some of Gemma's added tokens; see docs/differences.md."""
    parts = {"alone": name, "whole": whole}
    alone, with_model = (
        ours(read_folder(add_config(copied(vocabulary(name, extra=("<tool>",)), tmp_path / key), name)))
        for key, name in parts.items()
    )
    assert alone.pop("tokenizer.ggml.scores") != with_model.pop("tokenizer.ggml.scores")
    columns = [found.pop(f"tokenizer.ggml.{key}") for found in (alone, with_model) for key in ("tokens", "token_type")]
    rows = list(zip(*columns, strict=True))
    assert all(text == other.replace(" ", "▁") for text, _, other, _ in rows)
    changed = {text: (kind, other) for text, kind, _, other in rows if kind != other}
    blanks = {"▁" * size: (NORMAL, USER_DEFINED) for size in range(2, 9)}
    unused = ("<mask>", "<2mass>", "[@BOS@]", *(f"<unused{i}>" for i in range(8)))
    assert changed == ({**blanks, **dict.fromkeys(unused, (USER_DEFINED, CONTROL))} if name == "gemma-hf" else {})
    assert alone == with_model


def test_code_llama(vocabulary: Maker, converter: ReferenceConverter, tmp_path: Path) -> None:
    """Its 32016 tokens have one to end what it fills in."""
    names = ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>")
    folder = copied(vocabulary("llama-spm", extra=names), tmp_path)
    found = ours(read_folder(add_config(folder, "llama-spm", rows=32016)))
    assert found == theirs(converter, folder, tmp_path / "reference.gguf", None)
    assert found["tokenizer.ggml.eot_token_id"] == 32010


@pytest.mark.parametrize("name", ["smollm", "granite"])
def test_small_models_without_bos(vocabulary: Maker, converter: ReferenceConverter, tmp_path: Path, name: str) -> None:
    folder = copied(vocabulary(name), tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "add_bos_token": True}), encoding="utf-8")
    found = ours(read_folder(add_config(folder, name, rows=49152)))
    assert found == theirs(converter, folder, tmp_path / "reference.gguf", STRUCTURES[name].name)
    assert found["tokenizer.ggml.add_bos_token"] is False


def test_chat_templates_in_every_place(vocabulary: Maker, converter: ReferenceConverter, tmp_path: Path) -> None:
    folder = copied(vocabulary("smollm"), tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    del config["chat_template"]

    def compare(**more: Any) -> Values:
        (folder / "tokenizer_config.json").write_text(json.dumps({**config, **more}), encoding="utf-8")
        found = ours(read_folder(add_config(folder, "smollm")))
        assert found == theirs(converter, folder, tmp_path / "reference.gguf", "smollm")
        return {key: value for key, value in found.items() if "template" in key}

    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "json"}), encoding="utf-8")
    assert compare() == {"tokenizer.chat_template": "json"}
    (folder / "chat_template.jinja").write_text("file", encoding="utf-8")
    assert compare() == {"tokenizer.chat_template": "file"}
    (folder / "chat_template.jinja").unlink()  # it would count, as in transformers
    named = [{"name": "default", "template": "d"}, {"name": "tool-use", "template": "t"}]
    assert compare(chat_template=named)["tokenizer.chat_template.tool_use"] == "t"
    assert compare(chat_template="own") == {"tokenizer.chat_template": "own"}


def test_all_vocabularies_of_sentencepiece_are_here() -> None:
    assert set(SENTENCEPIECE) == {"llama-spm", "phi-3", "gemma-spm", "gemma-whole", "llama-hf", "phi-3-hf", "gemma-hf"}
