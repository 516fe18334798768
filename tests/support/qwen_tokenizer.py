"""A stand-in for ``QWenTokenizer`` and ``HYTokenizer``, which Qwen's first models and Hunyuan's bring as code.

It has what llama.cpp's converter asks of it, and is used in the converter's process only.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from tokenizers import Regex, pre_tokenizers

_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class QwenTokenizer:
    """The tokenizer in a folder with ``qwen.tiktoken`` or ``hy.tiktoken``.

    Attributes:
        mergeable_ranks: ranks by token.
        special_tokens: ids by text.
    """

    def __init__(self, folder: str | Path) -> None:
        hunyuan = (Path(folder) / "hy.tiktoken").is_file()
        lines = (Path(folder) / ("hy.tiktoken" if hunyuan else "qwen.tiktoken")).read_bytes().splitlines()
        pairs = (line.split() for line in lines)
        self.mergeable_ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
        own = ("<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>") if hunyuan else ("<|im_start|>", "<|im_end|>")
        texts = ["<|endoftext|>", *own, *(f"<|extra_{i}|>" for i in range(205))]
        self.special_tokens = {text: len(self.mergeable_ranks) + i for i, text in enumerate(texts)}

    @property
    def vocab_size(self) -> int:
        return len(self.mergeable_ranks) + len(self.special_tokens)

    def get_vocab(self) -> dict[bytes | str, int]:
        return {**self.mergeable_ranks, **self.special_tokens}

    def encode(self, text: str) -> list[int]:
        """Ids of a text without special tokens: words that are tokens, and of the others their merges by rank."""
        return encode_by_rank(self.mergeable_ranks, _REGEX, text)


def encode_by_rank(mergeable_ranks: Mapping[bytes, int], regex: str, text: str) -> list[int]:
    """Ids of a text as tiktoken finds them: in each piece of *regex*, the neighbors of the lowest rank merge."""
    split = pre_tokenizers.Split(Regex(regex), behavior="isolated")
    ids = []
    for word, _ in split.pre_tokenize_str(text):
        parts = [bytes([byte]) for byte in word.encode()]
        while len(parts) > 1:
            ranks = [mergeable_ranks.get(a + b) for a, b in pairwise(parts)]
            best = min((rank for rank in ranks if rank is not None), default=None)
            if best is None:
                break
            at = ranks.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [mergeable_ranks[part] for part in parts]
    return ids
