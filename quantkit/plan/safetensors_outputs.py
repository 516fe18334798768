"""The plan's safetensors files: shards with their headers."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence

from quantkit.plan.packing import pack
from quantkit.plan.values import Output, PlannedTensor, TensorSlot


def safetensors_outputs(tensors: Sequence[PlannedTensor], max_shard_size: int) -> list[Output]:
    """Shards of at most *max_shard_size* bytes, in tensor order, with the names that transformers uses."""
    shards = list(pack(tensors, lambda tensor: tensor.outtype.nbytes(tensor.shape), max_shard_size))
    if len(shards) == 1:
        return [_output("model.safetensors", shards[0])]
    return [
        _output(f"model-{number:05d}-of-{len(shards):05d}.safetensors", shard) for number, shard in enumerate(shards, 1)
    ]


def _output(file: str, tensors: Sequence[PlannedTensor]) -> Output:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    spans, offset = [], 0
    for tensor in tensors:
        end = offset + tensor.outtype.nbytes(tensor.shape)
        entries[tensor.name] = {
            "dtype": tensor.outtype.name,
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        spans.append((tensor, offset, end - offset))
        offset = end
    raw = json.dumps(entries, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # the format aligns the data to 8 bytes
    header = struct.pack("<Q", len(raw)) + raw
    placed = {tensor.name: TensorSlot(tensor.outtype, len(header) + start, nbytes) for tensor, start, nbytes in spans}
    return Output(file, "safetensors", header, len(header) + offset, placed)
