"""The process that reads a grammar for :mod:`quantkit.run.grammar_check`, and follows it for some tokens.

It exits with 0 for a grammar that can be used, and with 3 for one that llama.cpp refuses, with its reasons on stdout
and stderr. With one that takes too long or too much memory it does not get so far.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

from quantkit.ggml.llama import begin, llama_cpp
from quantkit.ggml.llama_log import captured_log

_SECONDS = 3  # of the processor
_BYTES = 2**30  # of memory besides files
_LONGEST, _SHORTEST = 24, 8  # tokens of each kind
_REFUSED = 3


def main() -> None:
    """Read the grammar on stdin with the vocabulary of the GGUF file in the first argument."""
    text = sys.stdin.buffer.read()
    with captured_log() as log:
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        model = llama_cpp.llama_model_load_from_file(os.fsencode(sys.argv[1]), params)
    if not model:
        sys.exit(log.text)
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    _limit()
    for steps, sign in ((_LONGEST, -1), (_SHORTEST, 1)):
        with captured_log() as log:
            sampler = llama_cpp.llama_sampler_init_grammar(vocabulary, text, b"root")
        if not sampler:
            sys.stdout.write(log.text)
            sys.exit(_REFUSED)
        _walk(sampler, vocabulary, steps, sign)


def _limit() -> None:
    try:
        import resource
    except ModuleNotFoundError:  # Windows: only the parent's clock limits it
        return
    used = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (used + _SECONDS, used + _SECONDS + 1))  # SIGXCPU, and not SIGKILL
    resource.setrlimit(resource.RLIMIT_DATA, (_BYTES, _BYTES))


def _walk(sampler: Any, vocabulary: Any, steps: int, sign: int) -> None:
    """Follow a grammar for some tokens: the longest (*sign* -1), at which readings multiply, or the shortest (1)."""
    import numpy as np

    from quantkit.run.grammar import CANDIDATE, candidate_array

    count = int(llama_cpp.llama_vocab_n_tokens(vocabulary))
    lengths = [sign * len(llama_cpp.llama_vocab_get_text(vocabulary, token)) for token in range(count)]
    order = np.argsort(lengths, kind="stable")
    ends = np.array([bool(llama_cpp.llama_vocab_is_eog(vocabulary, token)) for token in range(count)])
    for _ in range(steps):
        candidates = np.zeros(count, CANDIDATE)
        candidates["id"] = np.arange(count)
        candidates["logit"] = 1.0
        llama_cpp.llama_sampler_apply(sampler, ctypes.byref(candidate_array(candidates)))
        allowed = np.isfinite(candidates["logit"]) & ~ends
        if not allowed.any():
            return
        token = int(order[allowed[order]][0])
        llama_cpp.llama_sampler_accept(sampler, token)


if __name__ == "__main__":
    begin()
    main()
