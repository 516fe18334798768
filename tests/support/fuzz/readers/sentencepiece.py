"""tokenizer.model: SentencePiece's protobuf message."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from quantkit.checkpoint.folder import Checkpoint
from quantkit.vocab.vocabulary import read_vocabulary
from tests.support.fuzz import tiny
from tests.support.fuzz.mutate_proto import ProtoMutator
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import folder
from tests.support.sentencepiece_model import BYTE, CONTROL, NORMAL, UNIGRAM, UNKNOWN, model_file

_PIECES = [
    ("<unk>", 0.0, UNKNOWN),
    ("<s>", 0.0, CONTROL),
    ("</s>", 0.0, CONTROL),
    *((f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)),
    *((text, -float(rank), NORMAL) for rank, text in enumerate(("▁a", "ab", "▁", "a", "b"))),
]


def _seeds() -> Sequence[bytes]:
    return [model_file(_PIECES), model_file(_PIECES, dummy_prefix=False)]


@cache
def _beside() -> dict[str, bytes]:
    added = {"1": {"content": "<s>", "special": True}}
    settings = tiny.text({"bos_token": "<s>", "eos_token": "</s>", "added_tokens_decoder": added})
    files = tiny.model(model_safetensors=None, tokenizer_json=None, tokenizer_config_json=settings)
    return {**files, "generation_config.json": b"{}"}


def _read(data: bytes) -> None:
    place = folder({**_beside(), "tokenizer.model": data})
    checkpoint = Checkpoint(place, {**tiny.CONFIG, "vocab_size": 270, "bos_token_id": 1, "eos_token_id": 2}, {}, {})
    read_vocabulary(checkpoint, 270, tokenizers=("sentencepiece",))


READER = Reader(
    "sentencepiece",
    _seeds,
    _read,
    ProtoMutator(messages=(1, 2, 3)),
    more=lambda: [model_file(_PIECES, kind=UNIGRAM), model_file(_PIECES, removes_blanks=True)],
)
