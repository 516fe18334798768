"""Hugging Face tokenizers with real vocabularies, rebuilt from llama.cpp's vocabulary files, and small trained ones.

A vocabulary file holds tokens, types and merges or scores. What it does not carry (the steps before BPE, the
post-processor) is written as the models' own tokenizer.json has it, and proven by llama.cpp's test vectors. Where
llama.cpp has no vocabulary file of a model, a small one is trained with the model's own steps and special tokens. A cut
vocabulary, where the real one is not the point, keeps the first tokens, the merges closed over them, and the special
tokens at new ids.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import gguf
from tokenizers import Tokenizer, pre_tokenizers, trainers

from tests.support.gemma4_vocabulary import NAME as GEMMA4_NAME
from tests.support.gemma4_vocabulary import write_gemma4
from tests.support.gguf_read import read_gguf
from tests.support.pre_tokenizers import STRUCTURES, byte_level
from tests.support.reference import reference_folder
from tests.support.sentencepiece_vocabularies import NAMES as SENTENCEPIECE_NAMES
from tests.support.sentencepiece_vocabularies import write_sentencepiece
from tests.support.texts import training_texts
from tests.support.tokenizer_parts import added_token, begin_of_text, write_json
from tests.support.vocabulary_kinds import KINDS, Kind

SMALL_SIZE = 2000
TRAINED_SIZE = 1000
_VECTOR_SEPARATOR = "\n__ggml_vocab_test__\n"
_NORMAL, _CONTROL = int(gguf.TokenType.NORMAL), int(gguf.TokenType.CONTROL)
_QWEN_EXTRA = tuple(f"<|extra_{i}|>" for i in range(205))
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *_QWEN_EXTRA)
"""The special tokens of Qwen's first generation; they follow the ranks."""
HUNYUAN_SPECIAL = ("<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>", *_QWEN_EXTRA)
TIKTOKEN = {"qwen-tiktoken": "qwen.tiktoken", "hy-tiktoken": "hy.tiktoken"}
TIKTOKEN_SPECIAL = {"qwen.tiktoken": QWEN_SPECIAL, "hy.tiktoken": HUNYUAN_SPECIAL}


@dataclass(frozen=True)
class Source:
    """A BPE vocabulary: texts by id, types by id, merges as "left right"."""

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]

    @cached_property
    def added(self) -> tuple[str, ...]:
        """The added tokens."""
        return tuple(text for text, kind in self.pairs if kind != _NORMAL)

    @cached_property
    def normal(self) -> tuple[str, ...]:
        """The BPE vocabulary."""
        return tuple(text for text, kind in self.pairs if kind == _NORMAL)

    @cached_property
    def pairs(self) -> tuple[tuple[str, int], ...]:
        """Text and type of every token but the padding of the embedding."""
        pairs = enumerate(zip(self.tokens, self.types, strict=True))
        return tuple(pair for number, pair in pairs if pair[0] != f"[PAD{number}]")


@cache
def read_source(name: str) -> Source:
    """llama.cpp's vocabulary file *name*: ``llama-bpe``, ``qwen2``, ``falcon``, ..."""
    metadata = read_gguf(reference_folder() / "models" / f"ggml-vocab-{name}.gguf").metadata
    keys = ("tokens", "token_type", "merges")
    return Source(*(tuple(metadata[f"tokenizer.ggml.{key}"].value) for key in keys))


@cache
def train_source(name: str) -> Source:
    """A small vocabulary with the steps before BPE and the special tokens of *name*."""
    kind, structure = KINDS[name], STRUCTURES[name]
    frame = {**_EMPTY, "normalizer": structure.normalizer, "pre_tokenizer": structure.pre_tokenizer}
    tokenizer = Tokenizer.from_str(json.dumps({**frame, "model": {"type": "BPE", "vocab": {}, "merges": []}}))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=TRAINED_SIZE, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(training_texts(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    normal = sorted(model["vocab"], key=model["vocab"].__getitem__)
    types = [_CONTROL] * len(kind.first) + [_NORMAL] * len(normal) + [_CONTROL] * len(kind.last)
    merges = tuple(" ".join(pair) for pair in model["merges"])
    return Source((*kind.first, *normal, *kind.last), tuple(types), merges)


def test_vectors(name: str) -> list[tuple[str, list[int]]]:
    """llama.cpp's own test vectors of a vocabulary: texts and their token ids, without BOS."""
    models = reference_folder() / "models"
    texts = (models / f"ggml-vocab-{name}.gguf.inp").read_bytes().decode().split(_VECTOR_SEPARATOR)
    # Where the last text is empty, so is its line, which has no end.
    end = "\n" if texts[-1] else ""
    lines = (models / f"ggml-vocab-{name}.gguf.out").read_text(encoding="utf-8").removesuffix(end).split("\n")
    return [(text, [int(number) for number in line.split()]) for text, line in zip(texts, lines, strict=True)]


test_vectors.__test__ = False  # type: ignore[attr-defined]  # a helper, not a test


def write_vocabulary(
    folder: Path, name: str, *, small: bool = False, extra: Sequence[str] = (), ordinary: Sequence[tuple[str, str]] = ()
) -> Path:
    """Write a tokenizer's files: tokenizer.json, tokenizer.model or qwen.tiktoken, and tokenizer_config.json.

    Args:
        folder: created when absent.
        name: one of :data:`tests.support.vocabulary_kinds.KINDS` (byte-level BPE), of
            :data:`tests.support.sentencepiece_vocabularies.NAMES`, ``gemma-4`` or ``qwen-tiktoken``.
        small: cut a real vocabulary to its first 2000 tokens; trained ones are small already.
        extra: added tokens that are no control tokens, after the others (a vocabulary extended with ``add_tokens``).
        ordinary: tokens put behind all others, each given as the two known tokens it is merged from (a vocabulary
            extended by training a tokenizer further).
    """
    folder.mkdir(parents=True, exist_ok=True)
    if name in SENTENCEPIECE_NAMES:
        write_sentencepiece(folder, name, small=small, extra=extra, ordinary=ordinary)
    elif name == GEMMA4_NAME:
        if ordinary:
            raise ValueError("Gemma 4's tokenizer takes no further merges")
        write_gemma4(folder, small=small, extra=tuple(extra))
    elif name in TIKTOKEN:
        if extra or ordinary:
            raise ValueError("a list of ranks takes no further tokens")
        _write_tiktoken(folder, TIKTOKEN[name], small=small)
    else:
        _write_bpe(folder, name, small, extra, ordinary)
    return folder


def vocabulary_rows(folder: Path) -> int:
    """The number of ids the tokenizer in *folder* has: the smallest embedding that goes with it."""
    return max(token_ids(folder).values()) + 1


def token_ids(folder: Path) -> dict[str, int]:
    """Ids of all tokens, special ones included, by text."""
    for file, special in TIKTOKEN_SPECIAL.items():
        if (folder / file).is_file():
            ranks = len((folder / file).read_bytes().splitlines())
            return {text: ranks + number for number, text in enumerate(special)}
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    ids = {token["content"]: int(number) for number, token in config.get("added_tokens_decoder", {}).items()}
    if (folder / "tokenizer.json").is_file():
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        ids |= tokenizer["model"]["vocab"] | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    return ids


def _write_bpe(folder: Path, name: str, small: bool, extra: Sequence[str], ordinary: Sequence[tuple[str, str]]) -> None:
    kind, structure = KINDS[name], STRUCTURES[name]
    source = read_source(kind.source) if kind.source else train_source(name)
    pairs, merges = _cut(name) if small and kind.source else (source.pairs, source.merges)
    last = max(number for number, (_, token_type) in enumerate(pairs) if token_type == _NORMAL)
    vocabulary = {text: number for number, (text, _) in enumerate(pairs[: last + 1])}
    added = [(number, text, value == _CONTROL) for number, (text, value) in enumerate(pairs) if value != _NORMAL]
    added += [(len(pairs) + number, text, False) for number, text in enumerate(extra)]
    if ordinary:
        # New BPE tokens stand behind the added ones, so that old ids stay. The tokenizers library then wants the added
        # tokens in the BPE vocabulary too: others it numbers by itself, from the vocabulary's size on.
        vocabulary.update({text: number for number, text, _ in added})
        vocabulary.update({left + right: len(vocabulary) + i for i, (left, right) in enumerate(ordinary)})
        merges += tuple(f"{left} {right}" for left, right in ordinary)
    tokens = [{**added_token(text, special, strip=kind.strip), "id": number} for number, text, special in added]
    ids = {token["content"]: token["id"] for token in tokens}
    tokenizer = {
        **_EMPTY,
        "added_tokens": tokens,
        "normalizer": structure.normalizer,
        "pre_tokenizer": structure.pre_tokenizer,
        "post_processor": _post_processor(kind, ids),
        "decoder": byte_level(trim_offsets=False) if name == "qwen2" else _AROUND,
        "model": {**_BPE, "ignore_merges": structure.whole_words, "vocab": vocabulary, "merges": _pairs(merges)},
    }
    write_json(folder / "tokenizer.json", tokenizer, indent=1 if small else None)
    write_json(folder / "tokenizer_config.json", kind.tokenizer_config(tokens))


@cache
def _cut(name: str) -> tuple[tuple[tuple[str, int], ...], tuple[str, ...]]:
    """The first tokens, the special ones, and the merges between them."""
    kind = KINDS[name]
    source = read_source(kind.source)
    known = set(source.normal[:SMALL_SIZE])
    kept = known | set(kind.kept or source.added)
    pairs = (merge.split(" ") for merge in source.merges)
    merges = tuple(f"{a} {b}" for a, b in pairs if a in known and b in known and a + b in known)
    return tuple(pair for pair in source.pairs if pair[0] in kept), merges


_EMPTY: dict[str, Any] = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": []}
_BPE: dict[str, Any] = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
}
_AROUND = byte_level(add_prefix_space=True, use_regex=True)


def _pairs(merges: Sequence[str]) -> list[list[str]]:
    return [merge.split(" ") for merge in merges]


def _post_processor(kind: Kind, ids: dict[str, int]) -> dict[str, Any] | None:
    if kind.post == "bos":
        template = begin_of_text(kind.bos, ids[kind.bos])
        return {"type": "Sequence", "processors": [{**_AROUND, "trim_offsets": False}, template]}
    return byte_level(trim_offsets=False) if kind.post == "byte-level" else None


def _write_tiktoken(folder: Path, file: str, *, small: bool) -> None:
    """``qwen.tiktoken`` as Qwen-7B-Chat's: Qwen2 has its vocabulary, whose ids are the ranks; the same as Hunyuan's."""
    decode = {text: byte for byte, text in byte_texts().items()}
    normal = read_source("qwen2").normal[: SMALL_SIZE if small else None]
    lines = [base64.b64encode(bytes(decode[c] for c in text)) + b" %d\n" % rank for rank, text in enumerate(normal)]
    (folder / file).write_bytes(b"".join(lines))
    config = {
        "model_max_length": 32768,
        "tokenizer_class": (name := "HYTokenizer" if file == "hy.tiktoken" else "QWenTokenizer"),
        "auto_map": {"AutoTokenizer": [f"tokenization_{file.partition('.')[0]}.{name}", None]},
    }
    write_json(folder / "tokenizer_config.json", config)


def byte_texts() -> dict[int, str]:
    """How byte-level BPE writes each byte: printable ones as they are, the others from U+0100 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {**{byte: chr(byte) for byte in plain}, **{byte: chr(256 + i) for i, byte in enumerate(rest)}}
