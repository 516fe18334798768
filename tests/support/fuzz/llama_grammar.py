"""Grammars as llama.cpp reads them, with a small vocabulary."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from quantkit.ggml.llama import begin, llama_cpp
from quantkit.ggml.llama_log import captured_log

begin()


@cache
def _vocabulary() -> Any:
    from tests.unit.tiny_gguf import write_tiny_gguf

    with tempfile.TemporaryDirectory() as folder, captured_log():
        path = write_tiny_gguf(Path(folder) / "tiny.gguf")
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    assert model
    return model, llama_cpp.llama_model_get_vocab(model)


def prepare() -> None:
    """Load the vocabulary."""
    _vocabulary()


def parse(grammar: str) -> bool:
    """Whether llama.cpp takes a grammar."""
    with captured_log():
        sampler = llama_cpp.llama_sampler_init_grammar(_vocabulary()[1], grammar.encode(), b"root")
    if not sampler:
        return False
    llama_cpp.llama_sampler_free(sampler)
    return True
