"""A data file as tokens, from inside a process that loads libllama.

A text gives the ids that llama-imatrix and llama-perplexity compute on: BOS by the file's rule, texts of special tokens
not parsed. Conversations are rendered with the file's chat template, each whole and without a prompt for an answer, and
follow each other; special tokens are parsed, and BOS is added to one whose template does not write it.
"""

from __future__ import annotations

from pathlib import Path

from quantkit.chat_template.render import render_undated
from quantkit.errors import ChatFormatError, QuantkitError
from quantkit.ggml.llama_vocabulary import LlamaVocabulary, open_vocabulary
from quantkit.gguf.model import read_whole_model
from quantkit.material.data_file import Data, read_data
from quantkit.material.talks import Talk
from quantkit.material.tokens import Tokens


def read_tokens(gguf: Path, data: Path, limit: int | None = None) -> Tokens:
    """The tokens of a data file.

    Args:
        gguf: the model: its vocabulary and chat template.
        data: the file; see :mod:`quantkit.material.data_file`.
        limit: how many tokens are needed; conversations beyond them are not rendered.

    Raises:
        QuantkitError: the data or the GGUF file is broken, or the chat template is missing or refuses a conversation.
    """
    found = read_data(data)
    read_whole_model(gguf)
    with open_vocabulary(gguf) as vocabulary:
        if not found.talks:
            ids = vocabulary.tokenize(found.text, special=False, add=True)
            if vocabulary.adds_eos and ids[-1:] == [vocabulary.eos]:
                ids.pop()  # llama.cpp's programs refuse such a vocabulary
            return Tokens(found.name, found.sha256, tuple(ids[:limit]))
        return _conversations(gguf, data, found, vocabulary, limit)


def _conversations(gguf: Path, path: Path, data: Data, vocabulary: LlamaVocabulary, limit: int | None) -> Tokens:
    if not vocabulary.chat_template:
        raise ChatFormatError(
            f"{gguf}: the file has no chat template, so the conversations of {path} cannot be rendered",
            hint="build it with the format it was trained on (quantkit build MODEL --template NAME), or give a text",
        )
    bos, used = vocabulary.bos, 0
    ids: list[int] = []
    for where, talk in data.talks:
        if limit is not None and len(ids) >= limit:
            break
        try:
            text = _render(vocabulary, talk)
        except ChatFormatError as error:
            raise QuantkitError(
                f"{path}: {where}: {error}", hint="change or leave out this conversation, or give a text"
            ) from None
        found = vocabulary.tokenize(text, special=True, add=False)
        ids += [bos, *found] if vocabulary.adds_bos and bos is not None and found[:1] != [bos] else found
        used += 1
    return Tokens(data.name, data.sha256, tuple(ids[:limit]), used)


def _render(vocabulary: LlamaVocabulary, talk: Talk) -> str:
    return render_undated(
        vocabulary.chat_template,
        talk,
        bos_token=vocabulary.text(vocabulary.bos),
        eos_token=vocabulary.text(vocabulary.eos),
        add_generation_prompt=False,
    )
