"""The process that asks llama.cpp for mixtures: a question as JSON on stdin, its logs as JSON on stdout.

A process of its own because libllama and torch must not meet in one: with some builds of the two, whichever is loaded
second crashes on the other's C++ runtime.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import llama_cpp

from quantkit.llama_log import captured_log


def dry_run(path: str, ftype: int, importance: Sequence[str], pure: bool) -> dict[str, Any]:
    """Run ``llama_model_quantize`` without writing.

    Args:
        path: a GGUF file whose header is real.
        ftype: llama.cpp's number of the file type.
        importance: the tensors that have an importance; a dry run looks at no value.
        pure: one type for all tensors.

    Returns:
        ``failed``, and the ``log``.
    """
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.dry_run, params.pure, params.nthread = ftype, True, pure, 1
    one = ctypes.c_float(1.0)
    entries = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()  # closed by an empty one
    for entry, name in zip(entries, importance, strict=False):
        entry.name, entry.data, entry.size = name.encode(), ctypes.pointer(one), 1
    if importance:
        params.imatrix = entries
    with captured_log() as log:
        failed = llama_cpp.llama_model_quantize(os.fsencode(path), os.fsencode(path + ".out"), ctypes.byref(params))
    return {"failed": bool(failed), "log": log.text}


if __name__ == "__main__":
    question = json.load(sys.stdin)
    answers = [dry_run(question["path"], f, question["importance"], question["pure"]) for f in question["ftypes"]]
    json.dump(answers, sys.stdout)
