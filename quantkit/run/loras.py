"""LoRA files of llama.cpp beside a loaded model.

:func:`quantkit.gguf.lora.check_loras` comes first: llama.cpp aborts the process at some files that do not fit, and
passes over what it does not compute.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

from quantkit.errors import GGUFError, QuantkitError
from quantkit.ggml.llama import llama_cpp
from quantkit.ggml.llama_log import captured_log
from quantkit.gguf.lora import ScaledLora
from quantkit.run.load_log import failure_reason


def load_loras(model: Any, loras: Sequence[ScaledLora]) -> list[Any]:
    """Load LoRA files into a model, which frees them; before a context is opened.

    Args:
        model: llama.cpp's.
        loras: files that :func:`quantkit.gguf.lora.check_loras` has let through.

    Raises:
        GGUFError: llama.cpp rejects a file, with its reason.
    """
    loaded = []
    for lora in loras:
        with captured_log() as log:
            handle = llama_cpp.llama_adapter_lora_init(model, os.fsencode(lora.path))
        if not handle:
            raise GGUFError(
                f"{lora.path}: llama.cpp cannot load it: {failure_reason(log.text)}",
                hint="give the base model's GGUF file that it was made for",
            )
        loaded.append(handle)
    return loaded


def apply_loras(context: Any, loaded: Sequence[Any], scales: Sequence[float]) -> None:
    """Let a context compute with LoRA files, each with its scale, in place of those before; 0 leaves one out.

    Raises:
        QuantkitError: llama.cpp cannot.
    """
    used = [(handle, scale) for handle, scale in zip(loaded, scales, strict=True) if scale]
    handles = (llama_cpp.llama_adapter_lora_p_ctypes * len(used))(*(handle for handle, _ in used))
    numbers = (ctypes.c_float * len(used))(*(scale for _, scale in used))
    with captured_log() as log:
        status = llama_cpp.llama_set_adapters_lora(context, handles, len(used), numbers)
    if status != 0:
        raise QuantkitError(f"llama.cpp cannot use the LoRA files: {failure_reason(log.text)}")
