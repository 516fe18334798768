"""A GGUF file in llama.cpp itself: its vocabulary, its logits."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt


class LlamaVocabulary:
    """A loaded vocabulary."""

    def __init__(self, model: llama_cpp.llama_model_p) -> None:
        self._vocab = llama_cpp.llama_model_get_vocab(model)

    def encode(self, text: str, *, bos: bool = False) -> list[int]:
        """Token ids of a text, its special tokens parsed; with *bos* what llama.cpp adds around texts."""
        data = text.encode()
        room = (ctypes.c_int32 * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), room, len(room), bos, True)
        assert count >= 0
        return list(room[:count])

    @property
    def adds_bos(self) -> bool:
        """Whether BOS is put before every text."""
        return bool(llama_cpp.llama_vocab_get_add_bos(self._vocab))

    def ends_answer(self, token: int) -> bool:
        """Whether generation stops at it."""
        return bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))


@contextmanager
def llama_vocabulary(gguf: Path) -> Iterator[LlamaVocabulary]:
    """Load the vocabulary of a GGUF file, and nothing else of it."""
    with _loaded(gguf, vocab_only=True) as model:
        yield LlamaVocabulary(model)


def llama_logits(gguf: Path, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
    """The logits after each of *tokens*, which are given one by one as in generation: shape [tokens, vocabulary]."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = 2 * len(tokens)
    params.n_threads = params.n_threads_batch = 1
    # Flash attention computes in half precision on some processors.
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    rows = []
    with _loaded(gguf) as model:
        size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        context = llama_cpp.llama_init_from_model(model, params)
        assert context is not None
        try:
            for token in tokens:
                batch = llama_cpp.llama_batch_get_one((llama_cpp.llama_token * 1)(token), 1)
                assert llama_cpp.llama_decode(context, batch) == 0
                rows.append(np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), shape=(size,)).copy())
        finally:
            llama_cpp.llama_free(context)
    return np.stack(rows)


@contextmanager
def _loaded(gguf: Path, *, vocab_only: bool = False) -> Iterator[llama_cpp.llama_model_p]:
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = vocab_only
    model = llama_cpp.llama_model_load_from_file(str(gguf).encode(), params)
    assert model is not None, f"llama.cpp refused {gguf}"
    try:
        yield model
    finally:
        llama_cpp.llama_model_free(model)
