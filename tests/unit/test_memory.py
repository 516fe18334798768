"""What a model needs to run, on hand-made metadata and logs."""

from __future__ import annotations

from typing import Any

import pytest

from quantkit.advise.cache import CacheLayer, CacheTypes, cache_layers, layer_nbytes
from quantkit.advise.context import ContextMemory, parse_log
from quantkit.advise.memory import memory, program_nbytes
from quantkit.errors import GGUFError
from quantkit.ggml.types import GGMLType

LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.embedding_length": 256,
    "llama.attention.head_count": 8,
    "llama.attention.head_count_kv": 2,
}
GEMMA: dict[str, Any] = {
    "general.architecture": "gemma3",
    "gemma3.block_count": 7,
    "gemma3.embedding_length": 640,
    "gemma3.attention.head_count": 4,
    "gemma3.attention.head_count_kv": 1,
    "gemma3.attention.key_length": 256,
    "gemma3.attention.value_length": 128,
    "gemma3.attention.sliding_window": 512,
}
F16 = CacheTypes()
LOG = """\
llama_context: n_ctx_seq             = 2048
llama_context:        CPU  output buffer size =     1.00 MiB
llama_kv_cache_iswa: creating non-SWA KV cache, size = 2048 cells
llama_kv_cache:        CPU KV buffer size =     0.00 MiB
llama_kv_cache: size =    6.00 MiB (  2048 cells,   3 layers,  1/1 seqs), K (f16):    3.00 MiB, V (f16):    3.00 MiB
llama_kv_cache_iswa: creating     SWA KV cache, size = 1024 cells
llama_kv_cache:        CPU KV buffer size =     0.00 MiB
llama_kv_cache: size =   15.50 MiB (  1024 cells,  15 layers,  1/1 seqs), K (f16):    7.50 MiB, V (f16):    8.00 MiB
sched_reserve:        CPU compute buffer size =    20.25 MiB
"""


def test_a_layer_stores_its_key_and_value_heads() -> None:
    assert cache_layers(LLAMA) == (CacheLayer(64, 64), CacheLayer(64, 64))


def test_as_many_key_heads_as_heads_where_nothing_is_said() -> None:
    plain = {key: value for key, value in LLAMA.items() if not key.endswith("head_count_kv")}
    assert cache_layers(plain) == (CacheLayer(256, 256), CacheLayer(256, 256))


def test_heads_may_differ_by_layer() -> None:
    differing = {**LLAMA, "llama.attention.head_count_kv": [2, 0]}
    assert cache_layers(differing) == (CacheLayer(64, 64), CacheLayer(0, 0))


def test_every_sixth_layer_of_gemma_3_sees_everything() -> None:
    assert [layer.window for layer in cache_layers(GEMMA)] == [512, 512, 512, 512, 512, None, 512]
    assert cache_layers(GEMMA)[0] == CacheLayer(256, 128, 512)


def test_a_window_that_llama_cpp_ignores() -> None:
    assert {layer.window for layer in cache_layers({**LLAMA, "llama.attention.sliding_window": 512})} == {None}


@pytest.mark.parametrize(
    ("context", "types", "nbytes"),
    [
        (256, F16, 256 * (64 + 64) * 2),
        (257, F16, 512 * (64 + 64) * 2),  # cells come in multiples of 256
        (256, CacheTypes(GGMLType.Q8_0, GGMLType.Q4_0), 256 * (2 * 34 + 2 * 18)),  # bytes of a block of 32
    ],
)
def test_bytes_of_a_layer(context: int, types: CacheTypes, nbytes: int) -> None:
    assert layer_nbytes(CacheLayer(64, 64), context, types, batch=512) == nbytes


@pytest.mark.parametrize(
    ("context", "batch", "full", "cells"),
    [(8192, 512, False, 1024), (8192, 64, False, 768), (600, 512, False, 768), (8192, 512, True, 8192)],
)
def test_a_window_keeps_itself_and_a_batch(context: int, batch: int, full: bool, cells: int) -> None:
    layer = CacheLayer(32, 32, window=512)
    assert layer_nbytes(layer, context, F16, batch=batch, full=full) == cells * 64 * 2


STATES = {"ssm.conv_kernel": 4, "ssm.inner_size": 64, "ssm.state_size": 16, "ssm.group_count": 2}
MAMBA = 4 * (3 * (64 + 2 * 2 * 16) + 16 * 64)


@pytest.mark.parametrize(
    ("arch", "own", "stored"),
    [
        ("lfm2", {"attention.head_count_kv": [0, 2], "shortconv.l_cache": 3}, [(0, 4 * 256 * 2), (64, 0)]),
        ("granitehybrid", {**STATES, "attention.head_count_kv": [2, 0]}, [(64, 0), (0, MAMBA)]),
        (
            "nemotron_h",
            {**STATES, "block_count": 3, "attention.head_count_kv": [0, 2, 0], "feed_forward_length": [0, 0, 96]},
            [(0, MAMBA), (64, 0), (0, 0)],
        ),
        ("falcon-h1", STATES, [(64, MAMBA), (64, MAMBA)]),
        ("qwen35", {**STATES, "full_attention_interval": 2}, [(0, MAMBA), (64, 0)]),
        (
            "qwen3next",
            {**STATES, "full_attention_interval": 4, "attention.recurrent_layers": [True, False, False]},
            [(0, MAMBA), (64, 0)],
        ),
        ("granite", {**STATES, "attention.head_count_kv": [2, 0]}, [(64, 0), (0, 0)]),  # has no such layers
    ],
)
def test_states_of_layers(arch: str, own: dict[str, Any], stored: list[tuple[int, int]]) -> None:
    general = {key.replace("llama", arch): value for key, value in LLAMA.items()}
    found = cache_layers({**general, "general.architecture": arch, **{f"{arch}.{key}": own[key] for key in own}})
    assert [(layer.keys, layer.state) for layer in found] == stored
    assert layer_nbytes(found[0], 256, F16, batch=512) == 256 * stored[0][0] * 2 * 2 + stored[0][1]


def test_memory_by_part() -> None:
    found = memory({**LLAMA, "tokenizer.ggml.tokens": ["a", "b"]}, 1000, 256, compute=77)
    assert (found.weights, found.cache, found.compute) == (1000, 2 * 256 * 128 * 2, 77)
    assert found.program == program_nbytes(2) > program_nbytes(0) > 0
    assert found.total == found.weights + found.cache + found.compute + found.program


@pytest.mark.parametrize("key", ["llama.block_count", "llama.embedding_length", "llama.attention.head_count"])
def test_what_is_missing_is_named(key: str) -> None:
    with pytest.raises(GGUFError, match=key.replace(".", r"\.")):
        cache_layers({name: value for name, value in LLAMA.items() if name != key})


def test_llama_cpps_log() -> None:
    assert parse_log(LOG) == ContextMemory(cache=round(21.5 * 2**20), compute=round(21.25 * 2**20))


def test_a_log_without_sizes_is_not_guessed_at() -> None:
    with pytest.raises(GGUFError, match="does not say what a context takes"):
        parse_log(LOG.replace("compute buffer size", "compute memory"))
