"""The GGUF vocabulary from ``tokenizer.model`` of ChatGLM 2 and 3 (SentencePiece) and of GLM-4-9B (tiktoken's ranks).

Both are read by Python code that comes with the model, which is not run. What ChatGLM 3's code adds is built in here;
GLM-4's special tokens are in tokenizer_config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantkit.errors import VocabularyError
from quantkit.vocab.files import (
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    Content,
    TokenizerFiles,
    padding,
    padding_notes,
    spm_entries,
)
from quantkit.vocab.tiktoken import byte_text, holds_ranks, rank_entries, read_ranks

MODEL = "tokenizer.model"
RANK_PRE_TOKENIZER = "chatglm-bpe"
"""llama.cpp's name for how GLM-4 splits text."""
_PIECE_PRE_TOKENIZER = "chatglm-spm"
# The texts of the first three pieces, and the special tokens behind all pieces.
_FIRST = ("<unk>", "<bos>", "<eos>")
SPECIAL = (
    *("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
)
"""ChatGLM 3's special tokens, in the order of their ids; they follow the pieces."""
_END = "<|endoftext|>"


def read_chatglm(files: TokenizerFiles) -> Content | None:
    """The vocabulary in tokenizer.model; None if there is no such file.

    Raises:
        VocabularyError: the file is broken, treats text in a way that llama.cpp does not support, or has more tokens
            than the embedding has rows.
    """
    path = files.path(MODEL)
    if not path.is_file():
        return None
    return _of_ranks(files, path) if holds_ranks(path) else _of_pieces(files, path)


def rank_specials(ranks: Mapping[bytes, int], tokenizer_config: Mapping[str, Any], where: str) -> dict[int, Any]:
    """GLM-4's added tokens by id, as tokenizer_config.json has them.

    Raises:
        VocabularyError: there are none, or one has the id of a rank.
    """
    decoder = tokenizer_config.get("added_tokens_decoder") or {}
    added = {int(number): token for number, token in decoder.items()}
    if _END not in {token["content"] for token in added.values()} or min(added) < len(ranks):
        raise VocabularyError(
            f"{where}: added_tokens_decoder does not have {_END} and the other special tokens behind the {len(ranks)} "
            "tokens of tokenizer.model",
            hint="copy the model's tokenizer_config.json into the folder",
        )
    return added


def _of_ranks(files: TokenizerFiles, path: Path) -> Content:
    ranks = read_ranks(path)
    added = rank_specials(ranks, files.tokenizer_config, str(files.path("tokenizer_config.json")))
    texts = [padding(number) for number in range(files.rows)]
    types = [UNUSED] * files.rows
    _refuse_outside(files, max(added), path)
    for token, number in ranks.items():
        texts[number], types[number] = byte_text(token), NORMAL
    for number, token in added.items():
        texts[number], types[number] = str(token["content"]), CONTROL if token.get("special") else USER_DEFINED
    entries = rank_entries(ranks, RANK_PRE_TOKENIZER, texts, types, str(path))
    return Content(entries, tuple(texts), tuple(padding_notes(files.rows, types.count(UNUSED))))


def _of_pieces(files: TokenizerFiles, path: Path) -> Content:
    # SentencePiece takes a while to load.
    from quantkit.vocab.model_proto import read_model
    from quantkit.vocab.spm import check_model, prefix_entries

    model = read_model(path)
    check_model(model, path)
    texts, scores, types = (list(values) for values in zip(*model.pieces, strict=True))
    texts[: len(_FIRST)] = _FIRST
    last = len(texts) + len(SPECIAL)
    _refuse_outside(files, last - 1, path)
    unused = range(last, files.rows)
    texts += [*SPECIAL, *map(padding, unused)]
    scores += [0.0] * (files.rows - len(scores))
    types += [*[CONTROL] * len(SPECIAL), *[UNUSED] * len(unused)]
    entries = spm_entries(texts, scores, types, _PIECE_PRE_TOKENIZER)
    notes = padding_notes(files.rows, len(unused))
    return Content((*entries, *prefix_entries(model, files.rules)), tuple(texts), tuple(notes))


def _refuse_outside(files: TokenizerFiles, last: int, path: Path) -> None:
    if last >= files.rows:
        raise VocabularyError(
            f"{path}: token id {last} has no row in the embedding, which has {files.rows} rows",
            hint="the tokenizer belongs to a model with a larger vocabulary: use the one saved with these weights",
        )
