"""The process that asks llama.cpp for mixtures: a question as JSON on stdin, its logs as JSON on stdout.

It is a separate process because libllama and torch must not be loaded into the same one: with some builds of the two,
the second crashes on the first one's C++ runtime. It has no numpy, which would take longer to import than the answer.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

from quantkit.ggml import functions  # noqa: F401  (before llama)
from quantkit.ggml.llama import begin, llama_cpp
from quantkit.ggml.llama_log import captured_log
from quantkit.system.child_process import answer_module


def dry_run(path: str, run: dict[str, Any], importance: Sequence[str]) -> dict[str, Any]:
    """Run ``llama_model_quantize`` without writing.

    Args:
        path: a GGUF file with a real header; its weights are never read.
        run: ``ftype`` (llama.cpp's number), and :meth:`quantkit.plan.type_choices.TypeChoices.parameters`.
        importance: the tensors that have an importance; a dry run does not read the values.

    Returns:
        ``failed``, and the ``log``.
    """
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.dry_run, params.nthread = run["ftype"], True, 1
    params.pure, params.quantize_output_tensor = run["pure"], not run["leave_output"]
    if run["output"] is not None:
        params.output_tensor_type = run["output"]
    if run["embedding"] is not None:
        params.token_embedding_type = run["embedding"]
    # Both lists end with an empty entry.
    overrides = (llama_cpp.llama_model_tensor_override * (len(run["tensors"]) + 1))()
    for override, (pattern, kind) in zip(overrides, run["tensors"], strict=False):
        override.pattern, override.type = pattern.encode(), kind
    if run["tensors"]:
        params.tt_overrides = overrides
    one = ctypes.c_float(1.0)
    entries = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
    for entry, name in zip(entries, importance, strict=False):
        entry.name, entry.data, entry.size = name.encode(), ctypes.pointer(one), 1
    if importance:
        params.imatrix = entries
    with captured_log() as log:
        failed = llama_cpp.llama_model_quantize(os.fsencode(path), os.fsencode(path + ".out"), ctypes.byref(params))
    return {"failed": bool(failed), "log": log.text}


if __name__ == "__main__":
    begin()
    answer_module(lambda question: [dry_run(question["path"], run, question["importance"]) for run in question["runs"]])
