"""``tokenizer.model`` files: SentencePiece's protobuf message, written field by field.

Real vocabularies come from llama.cpp's vocabulary files, which hold text, score and type of every piece; Gemma's, for
which there is none, is trained with SentencePiece on the tests' own text.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Sequence
from functools import cache

import sentencepiece

from tests.support.texts import training_texts

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2

RowRange = tuple[str, float, int]
"""Text, score and type."""

GEMMA_TURNS = ("<start_of_turn>", "<end_of_turn>")
_GEMMA_UNUSED = tuple(f"<unused{i}>" for i in range(99))
_GEMMA_FIRST = ("<mask>", "<2mass>", "[@BOS@]")
_GEMMA_BLANKS = (*("\n" * i for i in range(1, 9)), *("▁" * i for i in range(2, 9)), "\t", "\t\t", "<table>", "</table>")
GEMMA_SYMBOLS = (*_GEMMA_FIRST, *_GEMMA_UNUSED[:8], *GEMMA_TURNS, *_GEMMA_BLANKS)
"""Gemma's user-defined pieces, fewer of each kind."""
ALL_GEMMA_SYMBOLS = (*_GEMMA_FIRST, *_GEMMA_UNUSED, *GEMMA_TURNS, *_GEMMA_BLANKS)
"""With as many unused ones as Gemma has, so that the end of a turn is its token 107."""


def model_file(
    pieces: Sequence[RowRange],
    *,
    kind: int = BPE,
    dummy_prefix: bool = True,
    removes_blanks: bool = False,
) -> bytes:
    """The bytes of a ``tokenizer.model`` as Llama's: byte fallback, no normalization, spaces kept.

    Args:
        pieces: in the order of their ids; 0 to 2 are unknown, BOS and EOS.
        kind: ``BPE`` or ``UNIGRAM``.
        dummy_prefix: a space is put before the text.
        removes_blanks: of several blanks one is kept.
    """
    has_bytes = any(kind == BYTE for _, _, kind in pieces)
    trainer = _number(3, kind) + _number(4, len(pieces)) + _number(35, has_bytes)
    trainer += b"".join(_number(field, value) for field, value in ((40, 0), (41, 1), (42, 2), (43, -1)))
    rules = _text(1, "identity") + _number(3, dummy_prefix) + _number(4, removes_blanks) + _number(5, 1)
    body = b"".join(_block(1, _text(1, text) + _float(2, score) + _number(3, kind)) for text, score, kind in pieces)
    return body + _block(2, trainer) + _block(3, rules)


@cache
def gemma_model() -> bytes:
    """A trained ``tokenizer.model`` built as Gemma's: no dummy prefix, blanks and turns as user-defined pieces."""
    return trained_model()


@cache
def whole_gemma_model() -> bytes:
    """The same with all pieces that Gemma has before those of bytes, so that these ids are Gemma's."""
    return trained_model(user_defined_symbols=list(ALL_GEMMA_SYMBOLS))


def trained_model(**options: object) -> bytes:
    """A ``tokenizer.model`` trained on the tests' text, with Gemma's settings but for *options*."""
    out = io.BytesIO()
    settings = {
        "model_type": "bpe",
        "vocab_size": 1200,
        "pad_id": 0,
        "eos_id": 1,
        "bos_id": 2,
        "unk_id": 3,
        "pad_piece": "<pad>",
        "eos_piece": "<eos>",
        "bos_piece": "<bos>",
        "user_defined_symbols": list(GEMMA_SYMBOLS),
        "byte_fallback": True,
        "split_digits": True,
        "allow_whitespace_only_pieces": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "character_coverage": 0.995,
        "num_threads": 1,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(training_texts()), model_writer=out, **{**settings, **options}
    )
    return out.getvalue()


def read_pieces(model: bytes) -> list[RowRange]:
    """The pieces of a ``tokenizer.model``, in the order of their ids."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    def kind(number: int) -> int:
        tests = {UNKNOWN: processor.IsUnknown, CONTROL: processor.IsControl, BYTE: processor.IsByte}
        return next((value for value, test in tests.items() if test(number)), NORMAL)

    count = processor.GetPieceSize()
    return [(processor.IdToPiece(i), processor.GetScore(i), kind(i)) for i in range(count)]


def merges(pieces: Iterable[RowRange]) -> list[list[str]]:
    """The merges of a tokenizer.json made from these pieces, in the order in which transformers writes them.

    Every way to join two pieces to a third is one; the best result comes first, then the longest left part.
    """
    normal = {text: score for text, score, kind in pieces if kind == NORMAL}
    found = []
    for text, score in normal.items():
        cuts = ((text[:i], text[i:]) for i in range(len(text) - 1, 0, -1))
        found += [(-score, -len(a), [a, b]) for a, b in cuts if a in normal and b in normal]
    return [pair for *_, pair in sorted(found, key=lambda entry: entry[:2])]


def _varint(value: int) -> bytes:
    value %= 1 << 64
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _block(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _text(field: int, text: str) -> bytes:
    return _block(field, text.encode())
