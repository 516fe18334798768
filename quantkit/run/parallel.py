"""How many answers at a time a model gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.advise.cache import F16_CACHE, cache_layers, layer_nbytes
from quantkit.errors import GGUFError, QuantkitError
from quantkit.gguf.model import GGUFModel, read_model
from quantkit.run.prompt_cache import MOST_PARALLEL
from quantkit.system.machine import total_memory

if TYPE_CHECKING:
    from quantkit.run.engine import Engine
    from quantkit.run.lanes import Lanes

_USUAL = 4  # as llama.cpp's server
_PART = 4  # of the memory that this process can have, all contexts take at most one such part
_LONG_FACTORS = "rope_factors_long.weight"


def open_parallel(engine: Engine, path: Path, asked: int | None) -> Lanes:
    """Open a context for several answers at a time.

    Unless a number is asked for it is 4, or half as many, or 1: so that the contexts take at most a quarter of the
    memory that this process can have, and fit onto the graphics card if the model is there.

    Args:
        engine: the model, whose own context serves for one answer.
        path: its file.
        asked: how many, from 1 to :data:`MOST_PARALLEL`.

    Raises:
        QuantkitError: not enough memory, or more than the model can have.
    """
    if asked == 1:
        return engine.lanes
    file = read_model(path)
    most = most_parallel(file, engine.n_ctx)
    if asked is not None:
        if asked > most:
            raise QuantkitError(
                f"--parallel {asked}: this model computes the positions of a context of {asked} times {engine.n_ctx} "
                f"tokens otherwise than those of {engine.n_ctx} (LongRoPE)",
                hint=f"use --parallel {most}" if most > 1 else "leave --parallel out, or choose a smaller num_ctx",
            )
        return engine.open_lanes(asked)
    metadata = {key: entry.value for key, entry in file.header.metadata.items()}
    parallel = usual_parallel(metadata, engine.n_ctx, total_memory(), most)
    while parallel > 1:
        try:
            return engine.open_lanes(parallel)
        except QuantkitError:  # the graphics card is full, of which nothing is known beforehand
            parallel //= 2
    return engine.lanes


def most_parallel(file: GGUFModel, n_ctx: int) -> int:
    """How many contexts of *n_ctx* tokens the model can have as one.

    llama.cpp takes the factors of LongRoPE for all positions by the size of the whole context.
    """
    if _LONG_FACTORS not in file.header.tensors:
        return MOST_PARALLEL
    arch = file.value("general.architecture")
    original = file.value(f"{arch}.rope.scaling.original_context_length", file.value(f"{arch}.context_length", 0))
    return MOST_PARALLEL if n_ctx > original else min(MOST_PARALLEL, max(1, original // n_ctx))


def usual_parallel(metadata: Mapping[str, Any], n_ctx: int, memory: int | None, most: int) -> int:
    """The number where none is asked for, see :func:`open_parallel`.

    Args:
        metadata: values of the file by key.
        n_ctx: tokens of context of each answer.
        memory: bytes that this process can have, None if that is not known.
        most: see :func:`most_parallel`.
    """
    try:
        # One more context is for answers that must be repeatable.
        one = sum(layer_nbytes(layer, n_ctx, F16_CACHE, batch=0, full=True) for layer in cache_layers(metadata))
    except GGUFError:
        return 1
    if memory is None:
        return 1
    most = min(most, memory // _PART // one - 1 if one else _USUAL)
    return next((number for number in (_USUAL, _USUAL // 2) if number <= most), 1)
