"""``tokenizer.model`` of ChatGLM 3 and of GLM-4-9B, which the models' own code reads."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from quantkit.checkpoint.folder import Checkpoint, read_json
from quantkit.errors import VocabularyError
from quantkit.jobs.build import build
from quantkit.jobs.recipe import Recipe
from quantkit.verify.encoders import open_encoder
from quantkit.vocab import regexes
from tests.parity.test_vocabularies import ours, theirs
from tests.support.chatglm_tokenizer import NAME, SPECIAL
from tests.support.family_templates import GLM_4
from tests.support.llama_model import llama_vocabulary
from tests.support.plain_lora import write_plain_lora
from tests.support.qwen_tokenizer import encode_by_rank
from tests.support.reference import ReferenceConverter
from tests.support.sentencepiece_model import UNIGRAM, model_file
from tests.support.texts import TEXTS
from tests.support.tokenizer_parts import write_json
from tests.support.vocabularies import byte_texts, vocabulary_rows
from tests.support.vocabulary_gguf import read_folder, write_gguf

Maker = Callable[..., Path]

CONFIG: dict[str, Any] = {
    "architectures": ["ChatGLMModel"],
    "model_type": "chatglm",
    "_name_or_path": "THUDM/chatglm3-6b",  # by which the converter knows it
    "ffn_hidden_size": 64,
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_layers": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def of(folder: Path, rows: int, **config: Any) -> Checkpoint:
    """The tokenizer's folder, with the config.json of a model with so many rows."""
    settings = {**CONFIG, "padded_vocab_size": rows, "vocab_size": rows, **config}
    write_json(folder / "config.json", settings)
    return Checkpoint(folder, settings, {}, {})


@pytest.fixture
def chatglm3(vocabulary: Maker, tmp_path: Path) -> tuple[Path, int]:
    """The folder of a ChatGLM 3's tokenizer, with Llama's pieces, and how many ids it has."""
    folder = tmp_path / "chatglm3"
    folder.mkdir()
    shutil.copy(vocabulary("llama-spm") / "tokenizer.model", folder)
    count = vocabulary_rows(vocabulary("llama-spm"))
    added = {str(count + i): {"content": text, "special": text[0] == "["} for i, text in enumerate(SPECIAL)}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": NAME, "added_tokens_decoder": added})
    return folder, count + len(SPECIAL)


def test_chatglm3(chatglm3: tuple[Path, int], converter: ReferenceConverter, tmp_path: Path) -> None:
    folder, count = chatglm3
    vocabulary = read_folder(of(folder, count + 7))
    found, user = ours(vocabulary), count - len(SPECIAL) + SPECIAL.index("<|user|>")
    assert found.pop("tokenizer.ggml.eot_token_id") == user  # the converter leaves it out
    assert found == theirs(converter, folder, tmp_path / "reference.gguf", None)
    encoder = open_encoder(folder / "tokenizer.model")
    with llama_vocabulary(write_gguf(vocabulary, tmp_path / "ours.gguf")) as llama:
        for text in (*TEXTS, *encoder.probes):
            assert llama.encode(text) == encoder.encode(text), text


def as_ranks(vocabulary: Path, folder: Path) -> tuple[Path, dict[bytes, int]]:
    """GLM-4's folder as it is published: the tokens of a tokenizer.json as ranks."""
    folder.mkdir()
    decode = {text: byte for byte, text in byte_texts().items()}
    tokens = read_json(vocabulary / "tokenizer.json")["model"]["vocab"]
    ranks = {bytes(decode[c] for c in text): number for text, number in tokens.items()}
    lines = [base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()]
    (folder / "tokenizer.model").write_bytes(b"".join(lines))
    shutil.copy(vocabulary / "tokenizer_config.json", folder)
    return folder, ranks


def test_ranks_of_glm4(vocabulary: Maker, tmp_path: Path) -> None:
    """The vocabulary is the one that the tokenizer.json of the same tokens becomes."""
    published, rows = vocabulary("glm4"), vocabulary_rows(vocabulary("glm4")) + 5
    pad = read_json(published / "tokenizer.json")["added_tokens"][0]["id"]
    folder, ranks = as_ranks(published, tmp_path / "glm4")
    read = read_folder(of(folder, rows, pad_token_id=pad))
    shutil.copytree(published, tmp_path / "json")
    same = ours(read_folder(of(tmp_path / "json", rows, pad_token_id=pad)))
    found = ours(read)
    own = ("tokenizer.ggml.pre", "tokenizer.ggml.merges")
    assert {k: v for k, v in found.items() if k not in own} == {k: v for k, v in same.items() if k not in own}
    encoder = open_encoder(folder / "tokenizer.model")
    with llama_vocabulary(write_gguf(read, tmp_path / "ours.gguf")) as llama:
        for text in TEXTS:
            if "<|" not in text:
                assert llama.encode(text) == encode_by_rank(ranks, regexes.CL100K, text), text
            assert llama.encode(text) == encoder.encode(text), text
        for text in encoder.probes:
            assert llama.encode(text) == encoder.encode(text), text


def test_a_verified_build(checkpoint: Maker, vocabulary: Maker, tmp_path: Path) -> None:
    """GLM-4-9B-chat as it is published, with an adapter beside which its tokenizer was saved."""
    base = Path(shutil.copytree(checkpoint("chatglm", dtype="f32"), tmp_path / "base"))
    ranks, _ = as_ranks(vocabulary("glm4"), tmp_path / "ranks")
    adapter = tmp_path / "adapter"
    write_plain_lora(base, "self_attention.dense", adapter, load_file(base / "model.safetensors"))
    (base / "tokenizer.json").unlink()
    for folder in (base, adapter):
        shutil.copytree(ranks, folder, dirs_exist_ok=True)
        (folder / "chat_template.jinja").write_text(GLM_4, encoding="utf-8")
    built = build(Recipe(base, (adapter,), ("q4_0",), tmp_path / "out", "tiny"))
    assert built.report is not None
    assert built.report.passed
    assert any(check.name.endswith("token ids match tokenizer.model") for check in built.report.checks)


def test_what_is_refused(chatglm3: tuple[Path, int], vocabulary: Maker, tmp_path: Path) -> None:
    folder, count = chatglm3
    with pytest.raises(VocabularyError, match=f"token id {count - 1} has no row in the embedding"):
        read_folder(of(folder, count - 1))
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("a", -1.0, 1)]
    (folder / "tokenizer.model").write_bytes(model_file(pieces, kind=UNIGRAM))
    with pytest.raises(VocabularyError, match="unigram"):
        read_folder(of(folder, count))
    folder, ranks = as_ranks(vocabulary("glm4"), tmp_path / "glm4")
    with pytest.raises(VocabularyError, match="has no row in the embedding"):
        read_folder(of(folder, len(ranks) + 2))
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    write_json(folder / "tokenizer_config.json", {**config, "added_tokens_decoder": {}})
    with pytest.raises(VocabularyError, match=r"does not have <\|endoftext\|>"):
        read_folder(of(folder, 2000))
