"""llama.cpp's logits after every token, on the processor, with a cache in float32 and without flash attention.

Weights are not repacked for the processor, which would copy those of most quantized files into memory: they are read
from the mapped file, whose pages the system may drop.

A session of its own: a chat keeps its cache in half precision and asks for the logits of the last token only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.errors import GGUFError, QuantkitError
from quantkit.ggml.llama import llama_cpp
from quantkit.ggml.llama_log import captured_log
from quantkit.gguf.model import read_whole_model
from quantkit.prove.sequences import LONGEST, TokenSequence, total
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
        params.n_gpu_layers, params.use_extra_bufts = 0, False
        model = llama_cpp.llama_model_load_from_file(os.fsencode(gguf), params)
        if model is None:
            raise GGUFError(f"{gguf}: llama.cpp cannot load it: {failure_reason(log.text)}")
        stack.callback(llama_cpp.llama_model_free, model)
        batches = list(_batches(sequences))
        context = _context(model, max(map(total, batches)), max(map(len, batches)), threads)
        if context is None:
            raise QuantkitError(
                f"{gguf}: not enough memory for its logits: {failure_reason(log.text)}",
                hint="close other programs and try again",
            )
        stack.callback(llama_cpp.llama_free, context)
        size = int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model)))
        logits = np.lib.format.open_memmap(out, "w+", dtype=np.float32, shape=(total(sequences), size))
        for one in sequences:
            if max(one.ids) >= size:
                raise QuantkitError(
                    f"{gguf}: token {max(one.ids)} of {one.name!r} is not in its vocabulary of {size}",
                    hint="prove it against the model that it was built from: --model MODEL",
                )
        start = 0
        for batch in batches:
            count = total(batch)
            _evaluate(context, gguf, batch)
            found = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), shape=(count, size))
            logits[start : start + count] = found
            start += count
        logits.flush()


def _batches(sequences: Sequence[TokenSequence]) -> Iterator[list[TokenSequence]]:
    """The sequences in order, as many at a time as have :data:`LONGEST` tokens together: a file that is larger than the
    memory is read from the disk once for each call."""
    batch: list[TokenSequence] = []
    for one in sequences:
        if batch and total([*batch, one]) > LONGEST:
            yield batch
            batch = []
        batch.append(one)
    yield batch


def _context(model: Any, tokens: int, sequences: int, threads: int | None) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = tokens
    params.n_seq_max, params.kv_unified = sequences, True
    params.n_threads = params.n_threads_batch = threads or min(usable_processors(), MOST_THREADS)
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.offload_kqv = params.op_offload = False
    return llama_cpp.llama_init_from_model(model, params)


def _evaluate(context: Any, gguf: Path, sequences: Sequence[TokenSequence]) -> None:
    """Evaluate sequences in one call; no token sees another sequence's."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    tokens = [(number, place, token) for number, one in enumerate(sequences) for place, token in enumerate(one.ids)]
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    try:
        batch.n_tokens = len(tokens)
        for row, (number, place, token) in enumerate(tokens):
            batch.token[row], batch.pos[row], batch.logits[row] = token, place, 1
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, number
        status = llama_cpp.llama_decode(context, batch)
    finally:
        llama_cpp.llama_batch_free(batch)
    if status != 0:
        names = ", ".join(repr(one.name) for one in sequences)
        raise QuantkitError(f"{gguf}: llama.cpp cannot evaluate {names} (status {status})")
