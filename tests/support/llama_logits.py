"""llama.cpp's logits of a GGUF file, with LoRA files on it, from a process of its own (no torch in it)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_TOKENS = 32


def llama_logits(
    gguf: Path, tokens: Sequence[int], out: Path, *, loras: Sequence[Path] = ()
) -> npt.NDArray[np.float32]:
    """Logits after each of *tokens*: shape [tokens, vocabulary].

    Args:
        gguf: the model.
        tokens: at most 32.
        out: a file for the answer.
        loras: LoRA files, each applied with scale 1.
    """
    assert len(tokens) <= _TOKENS
    question = {"gguf": str(gguf), "tokens": list(tokens), "out": str(out), "loras": [str(lora) for lora in loras]}
    command = [sys.executable, __file__, json.dumps(question)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    logits: npt.NDArray[np.float32] = np.load(out)
    return logits


def _answer(question: dict[str, Any]) -> None:
    import ctypes

    import llama_cpp

    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(question["gguf"].encode(), llama_cpp.llama_model_default_params())
    assert model
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = _TOKENS
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = llama_cpp.llama_init_from_model(model, params)
    assert context
    loras = [llama_cpp.llama_adapter_lora_init(model, path.encode()) for path in question["loras"]]
    assert all(loras), "a LoRA file was refused"
    if loras:
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * len(loras))(*loras)
        scales = (ctypes.c_float * len(loras))(*([1.0] * len(loras)))
        assert llama_cpp.llama_set_adapters_lora(context, adapters, len(loras), scales) == 0
    size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    rows = []
    for token in question["tokens"]:
        batch = llama_cpp.llama_batch_get_one((llama_cpp.llama_token * 1)(token), 1)
        assert llama_cpp.llama_decode(context, batch) == 0
        rows.append(np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), shape=(size,)).copy())
    np.save(question["out"], np.stack(rows))


if __name__ == "__main__":
    _answer(json.loads(sys.argv[1]))
