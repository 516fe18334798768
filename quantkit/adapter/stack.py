"""LoRA on a stack of experts that the checkpoint has as one tensor: a share of the factors for each of its matrices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from quantkit.adapter.changes import LowRank, Place, Slice
from quantkit.adapter.hints import BASE_HINT, MERGE_HINT
from quantkit.checkpoint.tensor_file import TensorSpec
from quantkit.errors import AdapterError

# The one class of transformers with such biases, GptOssExperts, says that its matrices are [in, out].
_BIAS = "_bias"


def stack_changes(
    path: Path,
    name: str,
    factors: LowRank,
    rank: int,
    specs: Mapping[str, TensorSpec],
    base: Mapping[str, TensorSpec],
    saved_transposed: bool | None,
) -> Iterator[LowRank]:
    """The change of each matrix.

    Args:
        path: the adapter's folder, for errors.
        name: of the stack.
        factors: ``lora_B`` and ``lora_A`` of all experts, for matrices that are [out, in].
        rank: of one matrix.
        specs: the adapter's tensors.
        base: the base's tensors.
        saved_transposed: what :func:`quantkit.adapter.parameters.is_transposed` tells.

    Raises:
        AdapterError: the factors do not fit, or it cannot be told which side is which.
    """
    count, rows, columns = base[name].shape
    a, b = specs[factors.cols].shape, specs[factors.rows].shape
    straight = a == (rank * count, columns) and b == (rows, rank * count)
    turned = a == (rank * count, rows) and b == (columns, rank * count)
    known = f"{name}{_BIAS}" in base
    if count == 1 or not (turned or (straight and not known)):
        raise AdapterError(
            f"{path}: {name!r} has factors of shape {list(a)} and {list(b)}, which do not fit {count} matrices of "
            f"shape {[rows, columns]} and rank {rank}",
            hint=BASE_HINT,
        )
    if straight and turned and not known:
        if saved_transposed is None:
            raise AdapterError(
                f"{path}: {name!r} has square matrices, and peft_version in adapter_config.json does not say which "
                "factor is for their rows",
                hint=MERGE_HINT,
            )
        turned = saved_transposed
    if turned:
        factors = replace(factors, rows=factors.cols, cols=factors.rows, transposed=True)
    for expert in range(count):
        part, place = Slice(expert, count, 0, rows), Place(expert * rows, count * rows)
        yield replace(factors, part=part, place=place)
