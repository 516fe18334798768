"""The GGUF vocabulary from ``qwen.tiktoken`` or ``hy.tiktoken``, of Qwen's first generation and of Hunyuan's experts.

Such a file is a list of byte strings and their ranks. The special tokens and the split regex are in the model's Python
code, which is not run: they are built in here.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from contextlib import suppress
from heapq import heappop, heappush
from pathlib import Path

from quantkit.errors import VocabularyError
from quantkit.files.visible import visible
from quantkit.gguf.kv import KV, KVType, array, string
from quantkit.vocab.files import CONTROL, NORMAL, UNUSED, Content, TokenizerFiles, padding, padding_notes
from quantkit.vocab.special import end_tokens

END_OF_TEXT = "<|endoftext|>"
_EXTRA = tuple(f"<|extra_{number}|>" for number in range(205))
SPECIAL = (END_OF_TEXT, "<|im_start|>", "<|im_end|>", *_EXTRA)
"""Qwen's special tokens, in the order of their ids; they follow the ranks."""
PRE_TOKENIZER = "qwen2"
"""Qwen2 has the same regex."""
HUNYUAN = "hy.tiktoken"
"""The name of Hunyuan's file."""
_HUNYUAN_SPECIAL = (END_OF_TEXT, "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>", *_EXTRA)


def special_tokens(file: str) -> tuple[str, ...]:
    """The special tokens behind the ranks of a file with this name, in the order of their ids."""
    return _HUNYUAN_SPECIAL if file == HUNYUAN else SPECIAL


# A line of such a file: nothing in it can be mistaken for a protobuf.
_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")
_LONGEST_LINE = 1000
_ANOTHER = "download the file again; each of its lines has a base64 text and a rank"


def read_tiktoken(files: TokenizerFiles) -> Content | None:
    """The vocabulary in the folder's ``*.tiktoken``; None if there is no such file.

    Raises:
        VocabularyError: the file is broken, or the ids of Qwen's special tokens do not match.
    """
    found = visible(files.folder, "*.tiktoken")
    if not found:
        return None
    if len(found) > 1:
        raise VocabularyError(
            f"{files.folder}: there are {len(found)} *.tiktoken files: {', '.join(path.name for path in found)}",
            hint="keep only the one that belongs to the model",
        )
    ranks = read_ranks(found[0])
    special, hunyuan = special_tokens(found[0].name), found[0].name == HUNYUAN
    tokens = [*(byte_text(token) for token in ranks), *special]
    unused = files.rows - len(tokens)
    if unused < 0:
        raise VocabularyError(
            f"{found[0]}: token id {len(tokens) - 1} has no row in the embedding, which has {files.rows} rows",
            hint="the tokenizer belongs to a model with a larger vocabulary: use the one saved with these weights",
        )
    _check_ends(files, len(ranks), len(special), str(found[0]))
    types = [NORMAL] * len(ranks) + [CONTROL] * len(special) + [UNUSED] * unused
    tokens += [padding(number) for number in range(len(tokens), files.rows)]
    entries = rank_entries(ranks, "hunyuan" if hunyuan else PRE_TOKENIZER, tokens, types, str(found[0]))
    end = len(ranks)
    notes = padding_notes(files.rows, unused)
    # Hunyuan's config.json names its special tokens.
    return Content(entries, tuple(tokens), tuple(notes), {} if hunyuan else {"bos": end, "eos": end, "unk": end})


def rank_entries(
    ranks: Mapping[bytes, int], pre: str, tokens: list[str], types: list[int], where: str
) -> tuple[KV, ...]:
    """The metadata of a byte-level BPE that a list of ranks describes.

    Args:
        ranks: by token, in their order.
        pre: llama.cpp's name for how it splits text.
        tokens: the texts of all ids, special ones and padding too.
        types: their types.
        where: the file, for messages.

    Raises:
        VocabularyError: a token cannot be merged from two of lower rank.
    """
    merges = [" ".join(map(byte_text, parts)) for parts in merged_parts(ranks, where)]
    return (
        string("tokenizer.ggml.model", "gpt2"),
        string("tokenizer.ggml.pre", pre),
        array("tokenizer.ggml.tokens", tokens, KVType.STRING),
        array("tokenizer.ggml.token_type", types, KVType.INT32),
        array("tokenizer.ggml.merges", merges, KVType.STRING),
    )


def holds_ranks(path: Path) -> bool:
    """Whether a file is such a list, by its first line: GLM-4 has one in ``tokenizer.model``."""
    with suppress(OSError), path.open("rb") as file:  # reading it raises the error
        return _LINE.fullmatch(file.readline(_LONGEST_LINE)) is not None
    return False


def _check_ends(files: TokenizerFiles, first: int, count: int, where: str) -> None:
    """Check the ids of the special tokens: they are wrong if the file was truncated at the end of a line."""
    for end in end_tokens(files.generation):
        if not first <= end < first + count:
            raise VocabularyError(
                f"{where}: the file has {first} ranks, so special tokens begin at id {first}, but the end token in "
                f"generation_config.json is {end}",
                hint=_ANOTHER,
            )


def read_ranks(path: Path) -> dict[bytes, int]:
    """The tokens of a tiktoken file in the order of their ranks 0, 1, 2, ...

    Raises:
        VocabularyError: a line is invalid, or a rank or token appears twice or is missing.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise VocabularyError(f"{path}: cannot be read ({error})", hint=_ANOTHER) from None
    ranks: dict[bytes, int] = {}
    seen: set[int] = set()
    for number, line in enumerate(lines, 1):
        try:
            text, place = line.split()
            token, rank = base64.b64decode(text, validate=True), int(place)
        except (ValueError, binascii.Error):
            raise VocabularyError(f"{path}: line {number} is not a base64 text and a rank", hint=_ANOTHER) from None
        if token in ranks or rank in seen:
            raise VocabularyError(f"{path}: line {number}: the token or its rank {rank} appears twice", hint=_ANOTHER)
        ranks[token] = rank
        seen.add(rank)
    if missing := set(range(len(ranks))) - seen:
        raise VocabularyError(f"{path}: rank {min(missing)} is missing", hint=_ANOTHER)
    ranks = dict(sorted(ranks.items(), key=lambda item: item[1]))
    absent = next((byte for byte in range(256) if bytes([byte]) not in ranks), None)
    if absent is not None:
        raise VocabularyError(
            f"{path}: there is no token for the byte 0x{absent:02X}; expected tokens for all 256 bytes", hint=_ANOTHER
        )
    return ranks


def merged_parts(ranks: Mapping[bytes, int], where: str) -> list[tuple[bytes, bytes]]:
    """The merges that byte-level BPE needs: for each token, in the order of ranks, the two tokens it is merged from.

    A token's two parts are what remains of its bytes after all merges of lower rank.

    Raises:
        VocabularyError: a token cannot be merged from two of lower rank.
    """
    merges = []
    for token, rank in ranks.items():
        if len(token) > 1:
            parts = _merge_below(ranks, token, rank)
            if len(parts) != 2:
                raise VocabularyError(
                    f"{where}: {token!r} of rank {rank} cannot be merged from two tokens of lower rank", hint=_ANOTHER
                )
            merges.append((parts[0], parts[1]))
    return merges


def _merge_below(ranks: Mapping[bytes, int], token: bytes, rank: int) -> list[bytes]:
    """The parts of a token after the merges below its rank, the lowest first, down to two parts.

    A queue of neighbours: looking through all parts for each merge takes minutes for a token of 100 kB.
    """
    size, count = len(token), len(token)
    end, before = list(range(1, size + 1)), list(range(-1, size))  # of the part that starts there
    queue: list[tuple[int, int, int, int]] = []

    def offer(start: int) -> None:
        middle = end[start]
        if middle < size and (found := ranks.get(token[start : end[middle]], rank)) < rank:
            heappush(queue, (found, start, middle, end[middle]))

    for start in range(size):
        offer(start)
    gone = bytearray(size)
    while count > 2 and queue:
        _, start, middle, stop = heappop(queue)
        if gone[start] or end[start] != middle or end[middle] != stop:
            continue  # a neighbour was merged meanwhile
        end[start], gone[middle], before[stop] = stop, 1, start
        count -= 1
        if before[start] >= 0:
            offer(before[start])
        offer(start)
    return [token[start : end[start]] for start in range(size) if not gone[start]]


def _byte_characters() -> list[str]:
    """How byte-level BPE writes each byte: printable Latin-1 characters unchanged, the others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (chr(0x100 + number) for number in range(256))
    return [chr(byte) if byte in printable else next(others) for byte in range(256)]


_CHARACTERS = _byte_characters()


def byte_text(token: bytes) -> str:
    """A token's bytes, as byte-level BPE writes them."""
    return "".join(_CHARACTERS[byte] for byte in token)
