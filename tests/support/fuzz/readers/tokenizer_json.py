"""tokenizer.json: byte-level BPE, and the BPE with byte fallback of Llama 2 and Gemma 4."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

from quantkit.checkpoint.folder import Checkpoint
from quantkit.vocab.vocabulary import read_vocabulary
from tests.support.fuzz import tiny
from tests.support.fuzz.mutate_json import JsonMutator
from tests.support.fuzz.reader import Reader, read_each
from tests.support.fuzz.scratch import folder

_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _llama() -> dict[str, object]:
    """As transformers writes the tokenizer of Llama 2."""
    tokens = ["<unk>", "<s>", "</s>", *_BYTES, "▁", "a", "b", "ab", "▁ab"]
    metaspace = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    steps = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    added = {**dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False), "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": at, "content": tokens[at], **added} for at in range(3)],
        "normalizer": {"type": "Sequence", "normalizers": metaspace},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": steps},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [["a", "b"], ["▁", "ab"]],
        },
    }


def _seeds() -> Sequence[bytes]:
    return [tiny.text(tiny.tokenizer()), tiny.text(_llama())]


def _others() -> Iterator[bytes]:
    """The small tokenizers of the tests: other splits, normalizers and post-processors."""
    from tests.support.vocabularies import write_vocabulary
    from tests.support.vocabulary_kinds import KINDS

    with TemporaryDirectory() as place:
        for name in (*KINDS, "gemma-4"):
            write_vocabulary(Path(place, name), name, small=True)
            value = json.loads(Path(place, name, "tokenizer.json").read_bytes())
            vocabulary = value["model"]["vocab"]
            kept = dict(list(vocabulary.items())[:300])
            value["model"]["vocab"] = kept
            value["model"]["merges"] = value["model"]["merges"][:20]
            value["added_tokens"] = value["added_tokens"][:5]
            yield tiny.text(value)


@cache
def _beside() -> dict[str, bytes]:
    return tiny.model(model_safetensors=None, generation_config_json=b"{}")


def _read(data: bytes) -> None:
    place = folder({**_beside(), "tokenizer.json": data})
    checkpoint = Checkpoint(place, {**tiny.CONFIG, "vocab_size": 400}, {}, {})
    kinds = ("bpe", "llama-hf", "gemma4")
    read_each(*(partial(read_vocabulary, checkpoint, 400, tokenizers=(kind,)) for kind in kinds))


READER = Reader(
    "tokenizer-json",
    _seeds,
    _read,
    JsonMutator(
        words=(
            *("type", "Sequence", "ByteLevel", "Metaspace", "Split", "NFC", "NFKC", "Replace", "Prepend", "Unigram"),
            *(
                "pattern",
                {"Regex": "(a+)+"},
                {"Regex": "["},
                {"Regex": "\\p{N}{1,3}"},
                "TemplateProcessing",
                "Isolated",
            ),
            *("prepend_scheme", "first", "always", "pretokenizers", "normalizers", "processors", "decoders"),
            *("content", "special", "id", "ids", "merges", "vocab", "a b", ["a", "b"], "dropout", 399, 400, 401),
        )
    ),
    largest=1 << 16,
    more=lambda: list(_others()),
)
