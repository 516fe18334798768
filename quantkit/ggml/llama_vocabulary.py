"""A GGUF file's vocabulary as llama.cpp uses it, without the model's weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quantkit.errors import GGUFError, QuantkitError
from quantkit.ggml.llama import llama_cpp
from quantkit.ggml.llama_log import captured_log


def tokenize(vocabulary: Any, text: str, *, special: bool, add: bool) -> list[int]:
    """The tokens of a text.

    Args:
        vocabulary: llama.cpp's.
        text: any text.
        special: whether texts of special tokens are parsed as these tokens.
        add: whether llama.cpp adds BOS, EOS and separators, as the file says.

    Raises:
        QuantkitError: the text is not valid Unicode.
    """
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise QuantkitError(f"the text is not valid Unicode: {error}", hint="pass it as UTF-8") from None
    room = len(data) + 2
    while True:
        tokens = (llama_cpp.llama_token * room)()
        count = int(llama_cpp.llama_tokenize(vocabulary, data, len(data), tokens, room, add, special))
        if count >= 0:
            return list(tokens[:count])
        room = -count


class LlamaVocabulary:
    """The vocabulary and the chat template of a GGUF file.

    Attributes:
        bos, eos: ids of these tokens; None where there is none.
        adds_bos, adds_eos: whether the file says that texts begin or end with them.
        chat_template: the Jinja template in the file, "" if there is none.
    """

    def __init__(self, model: Any) -> None:
        """Wrap a loaded model; callers use :func:`open_vocabulary`."""
        self._vocabulary = llama_cpp.llama_model_get_vocab(model)
        bos, eos = (get(self._vocabulary) for get in (llama_cpp.llama_vocab_bos, llama_cpp.llama_vocab_eos))
        self.bos, self.eos = (None if token < 0 else int(token) for token in (bos, eos))
        self.adds_bos = bool(llama_cpp.llama_vocab_get_add_bos(self._vocabulary))
        self.adds_eos = bool(llama_cpp.llama_vocab_get_add_eos(self._vocabulary))
        template = llama_cpp.llama_model_chat_template(model, None)
        self.chat_template = "" if template is None else template.decode(errors="replace")

    def tokenize(self, text: str, *, special: bool, add: bool) -> list[int]:
        """As :func:`tokenize`."""
        return tokenize(self._vocabulary, text, special=special, add=add)

    def text(self, token: int | None) -> str:
        """The text of a token as the vocabulary stores it; "" for None."""
        if token is None:
            return ""
        return str(llama_cpp.llama_vocab_get_text(self._vocabulary, token).decode(errors="replace"))


@contextmanager
def open_vocabulary(gguf: Path) -> Iterator[LlamaVocabulary]:
    """Load the vocabulary of a GGUF file, whose header was checked.

    Raises:
        GGUFError: llama.cpp rejects it.
    """
    with captured_log() as log:
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        model = llama_cpp.llama_model_load_from_file(os.fsencode(gguf), params)
        if model is None:
            lines = [line.strip() for line in log.text.splitlines() if line.strip()]
            raise GGUFError(f"{gguf}: llama.cpp cannot load it: {lines[-1] if lines else 'no reason given'}")
        try:
            yield LlamaVocabulary(model)
        finally:
            llama_cpp.llama_model_free(model)
