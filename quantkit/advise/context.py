"""Asks llama.cpp how much memory a context takes beside the weights.

The buffer of intermediate results depends on the whole graph of an architecture, which changes between releases, so it
is not estimated here: llama.cpp plans it for a file without weights and allocates nothing (``no_alloc``). Its log also
has the size of the cache, which :mod:`quantkit.advise.cache` computes: for an architecture that is not known there,
llama.cpp's answer counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quantkit.advise.cache import CacheTypes
from quantkit.errors import GGUFError
from quantkit.gguf.header import EMBEDDING, TensorInfo
from quantkit.gguf.kv import KV, u32
from quantkit.plan.mixture import last_line
from quantkit.plan.sparse import sparse_file
from quantkit.system.child_process import ChildError, ask_module

WORKER = "quantkit.advise.context_worker"
"""The module that is asked."""
MOST_CONTEXT = 2**24
"""Tokens of context that are asked about at most: planning a context takes memory for each of its tokens."""
_MIB = 2**20
_CACHE = re.compile(r"^llama_(?:kv_cache|memory_recurrent)\w*: +size = +([\d.]+) MiB", re.MULTILINE)
_COMPUTE = re.compile(r"^\w+: +\w+ compute buffer size = +([\d.]+) MiB", re.MULTILINE)
_OUTPUT = re.compile(r"^\w+: +\w+ +output buffer size = +([\d.]+) MiB", re.MULTILINE)


@dataclass(frozen=True)
class ContextRun:
    """A context to ask about.

    Attributes:
        context: tokens.
        types: of the cache.
        batch: tokens that are computed at once.
    """

    context: int
    types: CacheTypes
    batch: int


@dataclass(frozen=True)
class ContextMemory:
    """llama.cpp's answer, in bytes, to a hundredth of a MiB.

    Attributes:
        cache: keys and values (or whatever the architecture remembers), without whole windows.
        compute: intermediate results, and the logits of one token.
    """

    cache: int
    compute: int


def ask_context(
    metadata: Sequence[KV], tensors: Sequence[TensorInfo], runs: Sequence[ContextRun]
) -> list[ContextMemory | None]:
    """What contexts take on the processor.

    Args:
        metadata: metadata of the file; a vocabulary in it is not used.
        tensors: its tensors, with offsets; of any types.
        runs: the contexts.

    Returns:
        For each context, None where llama.cpp refuses it: not every cache type fits every head.

    Raises:
        GGUFError: llama.cpp cannot read the model, or its log does not say; or a context is longer than any model's.
    """
    longest = max((run.context for run in runs), default=0)
    if longest > MOST_CONTEXT:
        raise GGUFError(
            f"a context of {longest:,} tokens cannot be planned: {MOST_CONTEXT:,} are the most",
            hint="ask for fewer tokens of context",
        )
    bare = [entry for entry in metadata if not entry.key.startswith(("tokenizer.", "general.alignment"))]
    arch = next((str(entry.value) for entry in bare if entry.key == "general.architecture"), "")
    rows = next((info.shape[0] for info in tensors if info.name == EMBEDDING), 0)
    if rows and not any(entry.key == f"{arch}.vocab_size" for entry in bare):
        bare.append(u32(f"{arch}.vocab_size", rows))
    asked = [
        {"context": run.context, "batch": run.batch, "keys": run.types.keys, "values": run.types.values} for run in runs
    ]
    with sparse_file(bare, tensors) as path:
        try:
            found: dict[str, Any] = ask_module(WORKER, {"path": str(path), "runs": asked})
        except ChildError as error:
            raise GGUFError(
                f"llama.cpp cannot plan a context for this model: it ended with {error.how}",
                hint=error.hint("check the model with: quantkit inspect MODEL"),
            ) from None
    if not found["loaded"]:
        raise GGUFError(
            f"llama.cpp cannot load this model: {last_line(found['log'])}", hint="see it with: quantkit inspect MODEL"
        )
    return [parse_log(one["log"]) if one["opened"] else None for one in found["contexts"]]


def parse_log(log: str) -> ContextMemory:
    """Read llama.cpp's log of opening a context.

    Raises:
        GGUFError: it has no sizes. Its format has changed, and guessing would be worse.
    """
    caches, computed = _CACHE.findall(log), _COMPUTE.findall(log)
    if not caches or not computed:
        raise GGUFError(
            "llama.cpp's log does not say what a context takes",
            hint="install the tested version: pip install 'llama-cpp-python==0.3.36'",
        )
    compute = sum(map(float, (*computed, *_OUTPUT.findall(log))))
    return ContextMemory(round(sum(map(float, caches)) * _MIB), round(compute * _MIB))
