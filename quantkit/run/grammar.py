"""Holds an answer to a grammar (GBNF), with llama.cpp's sampler."""

from __future__ import annotations

import ctypes
import time
from typing import Any

import numpy as np

from quantkit.ggml.llama import llama_cpp
from quantkit.ggml.llama_log import captured_log
from quantkit.run.grammar_check import require_size
from quantkit.run.options import GrammarError

_SLOWEST = 1.0
"""Seconds for a token. Where a grammar is ambiguous, llama.cpp follows all readings, which may double with each one."""

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""llama.cpp's ``llama_token_data``."""


class Grammar:
    """A grammar and how far an answer has come in it. Close it to free its memory."""

    def __init__(self, vocabulary: Any, text: str) -> None:
        """Read a grammar, whose answers begin at ``root``.

        Raises:
            GrammarError: it is not a grammar, or too large.
        """
        require_size(text)
        with captured_log():
            self._sampler = llama_cpp.llama_sampler_init_grammar(vocabulary, text.encode(), b"root")
        if not self._sampler:
            raise GrammarError(
                "grammar is not valid GBNF with a rule 'root'", hint="see llama.cpp's grammars/README.md"
            )

    def choose(self, chain: Any, context: Any, n_vocab: int, row: int = -1) -> int:
        """Sample a token that the grammar allows from a row of logits, with llama.cpp's *chain*, and go on.

        The chain's own choice is tried first: to check every token of the vocabulary takes longer.

        Raises:
            GrammarError: the grammar allows none, or is too ambiguous.
        """
        started = time.perf_counter()
        token = self._sample(chain, context, n_vocab, row, restricted=False)
        if not self.allows(token):
            token = self._sample(chain, context, n_vocab, row, restricted=True)
        for sampler in (chain, self._sampler):
            llama_cpp.llama_sampler_accept(sampler, token)
        if (seconds := time.perf_counter() - started) > _SLOWEST:
            raise GrammarError(f"the grammar is too ambiguous: one token took {seconds:.0f} seconds")
        return token

    def _sample(self, chain: Any, context: Any, n_vocab: int, row: int, *, restricted: bool) -> int:
        candidates = np.zeros(n_vocab, CANDIDATE)
        candidates["id"] = np.arange(n_vocab)
        logits = llama_cpp.llama_get_logits_ith(context, row)
        candidates["logit"] = np.ctypeslib.as_array(logits, shape=(n_vocab,))
        array = candidate_array(candidates)
        if restricted:
            llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(array))
            if not np.isfinite(candidates["logit"]).any():
                raise GrammarError("the grammar allows no token that the model has")
        llama_cpp.llama_sampler_apply(chain, ctypes.byref(array))
        return int(candidates["id"][array.selected])

    def allows(self, token: int) -> bool:
        """Whether the answer may go on with a token; an end-of-generation token ends it."""
        candidate = np.zeros(1, CANDIDATE)
        candidate["id"], candidate["logit"] = token, 1.0
        array = candidate_array(candidate)
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(array))
        return bool(np.isfinite(candidate["logit"][0]))

    def close(self) -> None:
        """Free the memory."""
        llama_cpp.llama_sampler_free(self._sampler)
        self._sampler = None


def candidate_array(candidates: np.ndarray[Any, Any]) -> Any:
    """An array of :data:`CANDIDATE` as llama.cpp takes it, without a copy."""
    data = candidates.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token_data))
    return llama_cpp.llama_token_data_array(data=data, size=len(candidates), selected=-1, sorted=False)
