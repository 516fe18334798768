"""The process that asks llama.cpp what contexts take: a question as JSON on stdin, its logs as JSON on stdout.

A process of its own for the same reason as :mod:`quantkit.plan.dry_run`: libllama and torch must not meet.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

from quantkit.ggml.llama import begin, llama_cpp
from quantkit.ggml.llama_log import captured_log
from quantkit.system.child_process import answer_module


def reserve(path: str, runs: list[dict[str, int]]) -> dict[str, Any]:
    """Open contexts of a model whose weights are not there, with nothing allocated.

    Args:
        path: a GGUF file with a real header.
        runs: ``context``, ``batch``, and the cache's types ``keys`` and ``values`` as ggml's numbers.

    Returns:
        ``loaded`` with the ``log`` of loading, and of ``contexts`` for each run whether it ``opened`` and its ``log``,
        which says what would be allocated.
    """
    params = llama_cpp.llama_model_default_params()
    # The list of devices is empty: what is asked about is the processor, whatever else the machine has.
    params.devices = ctypes.cast((ctypes.c_void_p * 1)(None), ctypes.c_void_p)
    params.no_alloc, params.load_mode = True, llama_cpp.LLAMA_LOAD_MODE_NONE
    with captured_log() as load:
        model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if model is None:
        return {"loaded": False, "log": load.text, "contexts": []}
    contexts = []
    for run in runs:
        wanted = llama_cpp.llama_context_default_params()
        wanted.n_ctx, wanted.n_batch, wanted.n_ubatch = run["context"], max(run["batch"], 32), run["batch"]
        wanted.n_outputs_max = 1
        wanted.type_k, wanted.type_v = run["keys"], run["values"]
        wanted.swa_full = False
        with captured_log() as log:
            context = llama_cpp.llama_init_from_model(model, wanted)
        if context is not None:
            llama_cpp.llama_free(context)
        contexts.append({"opened": context is not None, "log": log.text})
    llama_cpp.llama_model_free(model)
    return {"loaded": True, "log": load.text, "contexts": contexts}


if __name__ == "__main__":
    begin()
    answer_module(lambda question: reserve(question["path"], question["runs"]))
