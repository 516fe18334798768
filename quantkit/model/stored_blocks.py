"""Weights that a checkpoint stores in blocks of a ggml type: copied where no adapter changes them, else decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from quantkit.adapter.folder import Adapter
from quantkit.arch.base import Rule
from quantkit.checkpoint.folder import Checkpoint
from quantkit.model.planned import planned_tensor
from quantkit.plan.values import PlannedTensor


def copied(checkpoint: Checkpoint, adapters: Sequence[Adapter], rule: Rule) -> PlannedTensor | None:
    """The tensor of a rule, made of its source's blocks; None if those are to be decoded, or there are none.

    Blocks run along the rows of the file only if the rule transposes each matrix of the checkpoint as a whole.
    """
    name = rule.sources[0]
    blocks = checkpoint.stored_blocks(name)
    if blocks is None or not rule.transposed or any(name in adapter.changes for adapter in adapters):
        return None
    matrices, rows, width = blocks.shape
    if rule.row_order != tuple(range(i * width, (i + 1) * width) for i in range(matrices)):
        return None
    chosen = rule.column_order or (range(rows),)
    order = tuple(range(i * rows + run.start, i * rows + run.stop, run.step) for i in range(matrices) for run in chosen)
    plain = replace(rule, transposed=False, row_order=order, column_order=(), unit=1)
    return replace(planned_tensor(plain, blocks.type), blocks=True)


def block_notes(checkpoint: Checkpoint, adapters: Sequence[Adapter] | None = None) -> Iterator[str]:
    """What becomes of the tensors that are stored in such blocks.

    Args:
        checkpoint: the base.
        adapters: to be merged; None where every tensor is decoded.
    """
    kinds = {name: blocks.type.label for name in checkpoint.tensors if (blocks := checkpoint.stored_blocks(name))}
    changed = {name for name in kinds if adapters is None or any(name in adapter.changes for adapter in adapters)}
    for label, count in Counter(kinds[name] for name in kinds if name not in changed).items():
        yield (
            f"{checkpoint.path.name}: {count} tensors are stored as {label}; their blocks are copied into every file "
            "(--tensor-type encodes them again)"
        )
    for label, count in Counter(kinds[name] for name in sorted(changed)).items():
        why = "are" if adapters is None else "are changed by an adapter: they are"
        yield f"{checkpoint.path.name}: {count} tensors that are stored as {label} {why} dequantized to f32"
