"""Gemma 4's vocabulary: as llama.cpp's converter writes it, and split as Hugging Face's tokenizer splits texts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from quantkit.errors import VocabularyError
from quantkit.vocab.files import UNUSED
from tests.support.gguf_read import read_gguf
from tests.support.llama_model import llama_vocabulary
from tests.support.reference import ReferenceConverter, reference_folder
from tests.support.texts import TEXTS
from tests.support.vocabularies import test_vectors, vocabulary_rows, write_vocabulary
from tests.support.vocabulary_gguf import add_config, read_folder, write_gguf

Maker = Callable[..., Path]
NAME = "gemma-4"
# What the converter reads before it comes to the vocabulary.
CONFIG: dict[str, Any] = {
    "attn_logit_softcapping": None,
    "global_head_dim": 64,
    "layer_types": ["full_attention"],
    "moe_intermediate_size": None,
    "num_kv_shared_layers": 0,
}


def values(folder: Path, **config: Any) -> dict[str, Any]:
    found = read_folder(add_config(folder, NAME, **CONFIG, **config))
    entries = [*found.metadata, *found.template_metadata(found.chat_template)]
    return {entry.key: entry.value if entry.item is None else list(entry.value) for entry in entries}


@pytest.fixture
def folder(vocabulary: Maker, tmp_path: Path) -> Path:
    return Path(shutil.copytree(vocabulary(NAME), tmp_path / "model"))


def test_the_cut_vocabulary_is_the_converters(vocabulary: Maker, converter: ReferenceConverter, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(vocabulary(NAME, extra=("<tool>", "乐于助人")), tmp_path / "model"))
    found = values(folder)
    reference = converter.convert(folder, tmp_path / "reference.gguf", "f16", vocab_only=True)
    theirs = {key: entry.value for key, entry in read_gguf(reference).metadata.items() if key.startswith("tokenizer.")}
    assert found == theirs
    assert {"tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_space_prefix"} <= found.keys()
    assert "tokenizer.ggml.eot_token_id" not in found


def test_rows_without_a_token_are_unused_tokens(folder: Path) -> None:
    """The converter leaves them out, so that llama.cpp does not load its file."""
    rows = vocabulary_rows(folder)
    found = values(folder, rows=rows + 5)
    assert found["tokenizer.ggml.tokens"][rows:] == [f"[PAD{rows + i}]" for i in range(5)]
    assert found["tokenizer.ggml.token_type"][rows:] == [UNUSED] * 5


def test_the_real_vocabulary(tmp_path: Path) -> None:
    """Entry for entry that of the converter, and llama.cpp's ids are those of its vectors and of tokenizer.json."""
    folder = write_vocabulary(tmp_path / "model", NAME)
    checkpoint = add_config(folder, NAME)
    reference = read_gguf(reference_folder() / "models" / f"ggml-vocab-{NAME}.gguf").metadata
    found = read_folder(checkpoint)
    made = {entry.key: entry.value if entry.item is None else list(entry.value) for entry in found.metadata}
    assert made == {key: made_of.value for key, made_of in reference.items() if key in made}
    assert made.keys() == {key for key in reference if key.startswith("tokenizer.")} - {"tokenizer.chat_template"}
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with llama_vocabulary(write_gguf(found, tmp_path / "vocabulary.gguf")) as vocabulary:
        vectors = test_vectors(NAME)
        assert [vocabulary.encode(text) for text, _ in vectors] == [ids for _, ids in vectors]
        for text in (*TEXTS, *(text for text, _ in vectors)):
            assert (text, vocabulary.encode(text)) == (text, tokenizer.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"merges": []}, "the merges are missing"),
        ({"merges": [["\n", "a"]]}, "joins a newline"),
        ({"ignore_merges": True}, "ignore_merges=True"),
        ({"dropout": 0.1}, "dropout=0.1"),
    ],
)
def test_what_llama_cpp_would_split_otherwise(folder: Path, change: dict[str, Any], said: str) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**tokenizer, "model": {**tokenizer["model"], **change}}), encoding="utf-8")
    with pytest.raises(VocabularyError, match=said):
        values(folder)


def test_a_space_before_the_text(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    steps = [{"type": "Prepend", "prepend": "▁"}, tokenizer["normalizer"]]
    tokenizer |= {"normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": None}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(VocabularyError, match="puts a space before the text"):
        values(folder)


@pytest.mark.parametrize("tokens", [[5, "a"], [5, -1], [2**31]])
def test_tokens_that_are_never_sampled(folder: Path, tokens: list[Any]) -> None:
    generation = {"suppress_tokens": [5, 7]}
    unified = {"architectures": ["Gemma4UnifiedForConditionalGeneration"], "model_type": "gemma4_unified_text"}
    assert values(folder, generation=generation, **unified)["tokenizer.ggml.suppress_tokens"] == [5, 7]
    assert "tokenizer.ggml.suppress_tokens" not in values(folder, generation=generation)
    with pytest.raises(VocabularyError, match="suppress_tokens"):
        values(folder, generation={"suppress_tokens": tokens}, **unified)
