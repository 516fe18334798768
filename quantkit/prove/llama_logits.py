"""llama.cpp's logits after every token, on the processor, with a cache in float32 and without flash attention.

Weights are not repacked for the processor, which would copy those of most quantized files into memory: they are read
from the mapped file, whose pages the system may drop.

A session of its own: a chat keeps its cache in half precision and asks for the logits of the last token only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.errors import QuantkitError
from quantkit.ggml.llama import llama_cpp
from quantkit.prove.sequences import LONGEST, TokenSequence, total
from quantkit.run.inference import Token, context_params, decode, forget, loaded_model, opened_context


def write_logits(gguf: Path, sequences: Sequence[TokenSequence], out: Path, threads: int | None) -> None:
    """Write the logits after each token of each sequence: a .npy file, float32, shape [positions, vocabulary].

    Raises:
        GGUFError: not a valid GGUF model, or llama.cpp rejects it.
        QuantkitError: not enough memory, or a token that the vocabulary does not have.
    """
    batches = list(_batches(sequences))
    params = _params(max(map(total, batches)), max(map(len, batches)), threads)
    with (
        loaded_model(gguf, n_gpu_layers=0, repack=False) as model,
        opened_context(model, params, "close other programs and try again") as (context, _),
    ):
        size = model.vocabulary
        for one in sequences:
            if max(one.ids) >= size:
                raise QuantkitError(
                    f"{gguf}: token {max(one.ids)} of {one.name!r} is not in its vocabulary of {size}",
                    hint="prove it against the model that it was built from: --model MODEL",
                )
        logits = np.lib.format.open_memmap(out, "w+", dtype=np.float32, shape=(total(sequences), size))
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


def _params(tokens: int, sequences: int, threads: int | None) -> Any:
    params = context_params(tokens, threads)
    params.n_seq_max, params.kv_unified = sequences, True
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.offload_kqv = params.op_offload = False
    return params


def _evaluate(context: Any, gguf: Path, sequences: Sequence[TokenSequence]) -> None:
    """Evaluate sequences in one call."""
    forget(context)
    tokens = [(number, place, token) for number, one in enumerate(sequences) for place, token in enumerate(one.ids)]
    status, reason = decode(context, [Token(token, place, number, True) for number, place, token in tokens])
    if status != 0:
        names = ", ".join(repr(one.name) for one in sequences)
        raise QuantkitError(f"{gguf}: llama.cpp cannot evaluate {names} (status {status}): {reason}")
