"""Weights that sharded training left empty: DeepSpeed's ZeRO-3 and FSDP keep only a part of each tensor in a process.

A model or an adapter that was saved without gathering the parts has tensors of shape [0] in their place.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from quantkit.checkpoint.tensor_file import Refusal, TensorSpec
from quantkit.errors import CheckpointError
from quantkit.system.shell import command

GATHER_HINT = (
    "after sharded training (ZeRO-3, FSDP), gather the weights before save_pretrained: with DeepSpeed set "
    "stage3_gather_16bit_weights_on_model_save, or run its zero_to_fp32.py; with FSDP save FULL_STATE_DICT"
)
_SCRIPT = "zero_to_fp32.py"


def refuse_ungathered(specs: Iterable[TensorSpec], folder: Path, refuse: Refusal = CheckpointError) -> None:
    """Refuse tensors of shape [0].

    Args:
        specs: tensors as they are stored.
        folder: the folder that they are saved in, or below; DeepSpeed's script may be there.
        refuse: the error class to raise.

    Raises:
        QuantkitError: *refuse*, with the first such tensor, the number of them, and how to gather the weights.
    """
    empty = sorted((spec for spec in specs if spec.shape == (0,)), key=lambda spec: spec.name)
    if not empty:
        return
    script = next((path for path in (folder / _SCRIPT, folder.parent / _SCRIPT) if path.is_file()), None)
    more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
    raise refuse(
        f"{empty[0].file}: tensor {empty[0].name!r} has shape {list(empty[0].shape)}{more}: sharded training "
        "(DeepSpeed ZeRO-3, FSDP) saved it without its values",
        hint=f"{command('python', script, script.parent, 'OUT', '--safe_serialization')}, then use the folder OUT"
        if script is not None
        else GATHER_HINT,
    )
