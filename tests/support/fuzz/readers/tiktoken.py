"""Lists of ranks: *.tiktoken, and GLM-4's tokenizer.model."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import suppress
from random import Random

from quantkit.checkpoint.folder import Checkpoint
from quantkit.errors import QuantkitError
from quantkit.vocab.vocabulary import read_vocabulary
from tests.support.fuzz import tiny
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import folder

_ROWS = 600
_TOKENS = [*(bytes([byte]) for byte in range(256)), b"th", b"the", b"in", b" the"]


def _line(token: bytes, rank: object) -> bytes:
    return base64.b64encode(token) + b" " + str(rank).encode() + b"\n"


def _seeds() -> Sequence[bytes]:
    return [b"".join(_line(token, rank) for rank, token in enumerate(_TOKENS))]


def _read(data: bytes) -> None:
    checkpoint = Checkpoint(folder({"qwen.tiktoken": data}), {"vocab_size": _ROWS}, {}, {})
    with suppress(QuantkitError):
        read_vocabulary(checkpoint, _ROWS, tokenizers=("tiktoken",))
    texts = {"300": "<|endoftext|>", "301": "<|user|>"}
    special = {number: {"content": text, "special": True} for number, text in texts.items()}
    place = folder({"tokenizer.model": data, "tokenizer_config.json": tiny.text({"added_tokens_decoder": special})})
    checkpoint = Checkpoint(place, {"vocab_size": _ROWS}, {}, {})
    read_vocabulary(checkpoint, _ROWS, tokenizers=("chatglm",))


def _mutate(data: bytes, random: Random) -> bytes:
    """Another line, rank or token; a token of any length goes with the ranks."""
    lines = data.splitlines(keepends=True) or [b""]
    at = random.randrange(len(lines))
    token = random.choice((b"", b"a" * 3000, b"th" * 400, b"\0", bytes(range(50)), b"the the"))
    match random.randrange(7):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[-1])
        case 2:
            lines[at] = _line(token, random.choice((at, len(lines), -1, 2**70, "1_0", "٣", "x", "")))
        case 3:
            lines[at] = lines[at].replace(b" ", random.choice((b"", b"  ", b"\t", b"=", b"\0")))
        case 4:
            lines[at] = lines[at].rstrip() + random.choice((b"", b" 1\n", b"\r\n", b"\x0b", b"\x85\n", b"0\n"))
        case _:
            lines.append(_line(token, len(lines)))
    return b"".join(lines)


READER = Reader("tiktoken", _seeds, _read, _mutate)
