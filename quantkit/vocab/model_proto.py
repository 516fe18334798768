"""SentencePiece's ``tokenizer.model``: its pieces, and its settings for treating text.

The file is a protobuf message. SentencePiece itself reads the pieces; the few settings that its Python classes do not
expose are read here, field by field (numbers from ``sentencepiece_model.proto``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from quantkit.errors import VocabularyError
from quantkit.vocab.files import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED

_TRAINER, _NORMALIZER = 2, 3
_BPE = 2
_ANOTHER = "download the file again; SentencePiece wrote it when the tokenizer was trained"


@dataclass(frozen=True)
class SentencePieceModel:
    """A ``tokenizer.model``.

    Attributes:
        pieces: text, score and llama.cpp's token type of every piece, by id.
        merges: the pieces are merged as in BPE; otherwise it is a unigram model.
        rewrites: the text is normalized first (NFKC and similar).
        dummy_prefix: a space is put before the text.
        removes_blanks: only one of several consecutive spaces is kept.
        suffix_blanks: a word ends with its space, instead of beginning with it.
    """

    pieces: tuple[tuple[str, float, int], ...]
    merges: bool
    rewrites: bool
    dummy_prefix: bool
    removes_blanks: bool
    suffix_blanks: bool


def read_model(path: Path) -> SentencePieceModel:
    """Read a ``tokenizer.model``.

    Raises:
        VocabularyError: the file cannot be read, or is not a SentencePiece model.
    """
    try:
        data = path.read_bytes()
        processor = load_processor(data)
        fields = dict(_fields(data, (_TRAINER, _NORMALIZER)))
        trainer, rules = (_settings(fields.get(number)) for number in (_TRAINER, _NORMALIZER))
    except OSError as error:
        raise VocabularyError(f"{path}: cannot be read ({error})", hint=_ANOTHER) from None
    except (ValueError, RuntimeError, IndexError):
        raise VocabularyError(f"{path}: not a SentencePiece model", hint=_ANOTHER) from None
    return SentencePieceModel(
        pieces=tuple(_pieces(processor)),
        merges=trainer.get(3) == _BPE,
        rewrites=bool(rules.get(2)),
        dummy_prefix=rules.get(3, 1) == 1,
        removes_blanks=rules.get(4, 1) == 1,
        suffix_blanks=trainer.get(24, 0) == 1,
    )


def load_processor(data: bytes) -> SentencePieceProcessor:
    """SentencePiece's processor for a model's bytes.

    Raises:
        RuntimeError: the bytes are not a model.
    """
    processor = SentencePieceProcessor()
    processor.LoadFromSerializedProto(data)
    if not processor.GetPieceSize():
        raise RuntimeError("no pieces")
    return processor


def _pieces(processor: SentencePieceProcessor) -> Iterator[tuple[str, float, int]]:
    kinds = {
        UNKNOWN: processor.IsUnknown,
        CONTROL: processor.IsControl,
        UNUSED: processor.IsUnused,
        BYTE: processor.IsByte,
    }
    for number in range(processor.GetPieceSize()):
        kind = next((kind for kind, test in kinds.items() if test(number)), NORMAL)
        yield processor.IdToPiece(number), processor.GetScore(number), kind


def _settings(message: int | bytes | None) -> dict[int, int | bytes]:
    """The fields of a message inside the model; empty if the message is absent."""
    return dict(_fields(message, range(1, 64))) if isinstance(message, bytes) else {}


def _fields(message: bytes, wanted: range | tuple[int, ...]) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of the *wanted* fields of a protobuf message.

    Raises:
        ValueError, IndexError: it is not a protobuf message.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        value: int | bytes
        if wire == 0:
            value, at = _varint(message, at)
        else:
            if wire == 2:
                size, at = _varint(message, at)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise ValueError(f"wire type {wire}")
            value, at = message[at : at + size], at + size
        if at > len(message):
            raise ValueError("the message ends inside a field")
        if number in wanted:
            yield number, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
