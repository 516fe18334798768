"""llama.cpp's logits after every token, on the processor, with a cache in float32 and without flash attention.

A session of its own: a chat keeps its cache in half precision and asks for the logits of the last token only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.errors import GGUFError, QuantkitError
from quantkit.ggml.llama import llama_cpp
from quantkit.ggml.llama_log import captured_log
from quantkit.gguf.model import read_whole_model
from quantkit.prove.sequences import TokenSequence, total
from quantkit.run.load_log import failure_reason
from quantkit.system.processors import MOST_THREADS, usable_processors


def write_logits(gguf: Path, sequences: Sequence[TokenSequence], out: Path, threads: int | None) -> None:
    """Write the logits after each token of each sequence: a .npy file, float32, shape [positions, vocabulary].

    Raises:
        GGUFError: not a valid GGUF model, or llama.cpp rejects it.
        QuantkitError: not enough memory, or a token that the vocabulary does not have.
    """
    read_whole_model(gguf)
    with ExitStack() as stack, captured_log() as log:
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        model = llama_cpp.llama_model_load_from_file(os.fsencode(gguf), params)
        if model is None:
            raise GGUFError(f"{gguf}: llama.cpp cannot load it: {failure_reason(log.text)}")
        stack.callback(llama_cpp.llama_model_free, model)
        context = _context(model, max(len(one.ids) for one in sequences), threads)
        if context is None:
            raise QuantkitError(
                f"{gguf}: not enough memory for its logits: {failure_reason(log.text)}",
                hint="close other programs and try again",
            )
        stack.callback(llama_cpp.llama_free, context)
        size = int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model)))
        logits = np.lib.format.open_memmap(out, "w+", dtype=np.float32, shape=(total(sequences), size))
        start = 0
        for one in sequences:
            if max(one.ids) >= size:
                raise QuantkitError(
                    f"{gguf}: token {max(one.ids)} of {one.name!r} is not in its vocabulary of {size}",
                    hint="prove it against the model that it was built from: --model MODEL",
                )
            _evaluate(context, gguf, one)
            found = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), shape=(len(one.ids), size))
            logits[start : start + len(one.ids)] = found
            start += len(one.ids)
        logits.flush()


def _context(model: Any, tokens: int, threads: int | None) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = tokens
    params.n_threads = params.n_threads_batch = threads or min(usable_processors(), MOST_THREADS)
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.offload_kqv = params.op_offload = False
    return llama_cpp.llama_init_from_model(model, params)


def _evaluate(context: Any, gguf: Path, one: TokenSequence) -> None:
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    batch = llama_cpp.llama_batch_init(len(one.ids), 0, 1)
    try:
        batch.n_tokens = len(one.ids)
        for place, token in enumerate(one.ids):
            batch.token[place], batch.pos[place], batch.logits[place] = token, place, 1
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
        status = llama_cpp.llama_decode(context, batch)
    finally:
        llama_cpp.llama_batch_free(batch)
    if status != 0:
        raise QuantkitError(f"{gguf}: llama.cpp cannot evaluate {one.name!r} (status {status})")
