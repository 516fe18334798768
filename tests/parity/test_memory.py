"""What a context takes, computed from the metadata, beside what llama.cpp would allocate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from quantkit.advise.cache import CacheTypes, cache_layers
from quantkit.advise.context import ContextRun, ask_context
from quantkit.advise.memory import memory
from quantkit.errors import GGUFError
from quantkit.ggml.types import UNQUANTIZED, GGMLType
from quantkit.model.opening import open_model
from quantkit.plan.gguf_outputs import layout

Maker = Callable[..., Path]
_CONTEXTS = (100, 2048, 5000)
_ROUNDING = 2 * 2**20 * 0.005  # two caches, each printed to a hundredth of a MiB
# Of kinds that list the kinds of their layers.
LAYERS = {"gemma4": 4, "lfm2": 3, "lfm2-moe": 3, "nemotron-h": 3, "granite-4": 2, "qwen3-next": 2, "qwen3.5": 2}
# A state that does not vanish in the rounding.
CONFIGS = {"lfm2": {"conv_L_cache": 99}, "lfm2-moe": {"conv_L_cache": 99}, "nemotron-h": {"ssm_state_size": 64}}


@pytest.mark.parametrize(
    "kind",
    ["llama3-untied", "llama3-tied", "qwen2", "qwen3", "qwen3-moe", "qwen2-moe", "mixtral", "mistral", "gemma2",
     "gemma3", "phi3", "granite", "smollm3", "olmo2", "glm4", "glm4-moe", "gemma4", "gemma4-large",
     "deepseek-v3", "gpt-oss", "llama4", "lfm2", "lfm2-moe", "falcon-h1", "nemotron-h", "granite-4", "qwen3-next",
     "qwen3.5"],
)  # fmt: skip
def test_the_cache_is_that_of_llama_cpp(checkpoint: Maker, kind: str) -> None:
    windowed = kind.startswith(("gemma", "gpt-oss"))
    config = {"sliding_window": 1024} if windowed or kind == "mistral" else CONFIGS.get(kind, {})
    with open_model(checkpoint(kind, layers=LAYERS.get(kind, 7), config=config)) as model:
        tensors = model.tensors(UNQUANTIZED["f16"])
        metadata = model.bare_metadata("tiny")
    infos, _ = layout(tensors, {tensor.name: tensor.outtype for tensor in tensors})
    values = {entry.key: entry.value for entry in metadata}
    runs = [
        ContextRun(context, CacheTypes(keys, values), batch)
        for keys, values in ((GGMLType.F16, GGMLType.F16), (GGMLType.Q8_0, GGMLType.Q4_0))
        for context in (*_CONTEXTS, *((20000,) if kind == "llama4" else ()))  # its window is 8192
        for batch in (64, 512)
    ]
    answers = ask_context(metadata, infos, runs)
    windows = {layer.window for layer in cache_layers(values)}
    assert windows == ({1024, None} if windowed else {8192, None} if kind == "llama4" else {None})
    for run, answer in zip(runs, answers, strict=True):
        if kind == "deepseek-v3" and run.types.values is not GGMLType.F16:
            assert answer is None  # its values are its keys, which have another type
            continue
        assert answer is not None
        found = memory(values, 0, run.context, compute=answer.compute, types=run.types, batch=run.batch)
        assert abs(found.cache - answer.cache) <= _ROUNDING, run
        assert answer.compute > 0


def test_a_cache_type_that_does_not_fit_the_heads(checkpoint: Maker) -> None:
    with open_model(checkpoint("llama3-untied")) as model:
        tensors, metadata = model.tensors(UNQUANTIZED["f16"]), model.bare_metadata("tiny")
    infos, _ = layout(tensors, {tensor.name: tensor.outtype for tensor in tensors})
    wide = CacheTypes(GGMLType.Q6_K, GGMLType.Q6_K)  # blocks of 256 weights
    refused, opened = ask_context(metadata, infos, [ContextRun(512, wide, 64), ContextRun(512, CacheTypes(), 64)])
    assert refused is None
    assert opened is not None


def test_a_model_that_llama_cpp_does_not_load(checkpoint: Maker) -> None:
    with open_model(checkpoint("llama3-untied")) as model:
        tensors, metadata = model.tensors(UNQUANTIZED["f16"]), model.bare_metadata("tiny")
    infos, _ = layout(tensors, {tensor.name: tensor.outtype for tensor in tensors})
    short = [info for info in infos if info.name != "blk.0.ffn_down.weight"]
    with pytest.raises(GGUFError, match=r"llama\.cpp cannot load this model"):
        ask_context(metadata, short, [ContextRun(512, CacheTypes(), 64)])
