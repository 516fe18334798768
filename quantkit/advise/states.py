"""What layers that read tokens one after another keep of them: states of a fixed size, whatever the context.

llama.cpp's rules (``llama_memory_recurrent``, ``llama_hparams::n_embd_r`` and ``n_embd_s``): short convolutions keep
their last inputs; Mamba-2 and gated delta nets also a matrix. Both are float32. Which layers these are follows from the
architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_WITHOUT_HEADS = ("lfm2", "lfm2moe", "granitehybrid")
_WITHOUT_HEADS_AND_MLP = ("nemotron_h", "nemotron_h_moe")
_BY_INTERVAL = ("qwen3next", "qwen35", "qwen35moe")
# Where the layers attend as well.
BESIDE_ATTENTION = ("falcon-h1",)
# llama.cpp's, where the file has none.
_INTERVAL = 4
_NUMBER_NBYTES = 4


def stateful(metadata: Mapping[str, Any], arch: str, heads: Sequence[int]) -> list[bool]:
    """Whether each layer keeps a state.

    Args:
        metadata: values of a GGUF file by key.
        arch: its architecture.
        heads: of keys, by layer.
    """
    if arch in _WITHOUT_HEADS:
        return [not count for count in heads]
    if arch in _WITHOUT_HEADS_AND_MLP:
        inner = metadata.get(f"{arch}.feed_forward_length")
        widths = inner if isinstance(inner, list) else [inner] * len(heads)
        return [not count and not width for count, width in zip(heads, widths, strict=False)]
    if arch in _BY_INTERVAL:
        listed = metadata.get(f"{arch}.attention.recurrent_layers")
        if isinstance(listed, list) and len(listed) >= len(heads):
            return [bool(one) for one in listed[: len(heads)]]
        interval = int(metadata.get(f"{arch}.full_attention_interval", _INTERVAL))
        return [(layer + 1) % interval != 0 for layer in range(len(heads))]
    return [arch in BESIDE_ATTENTION] * len(heads)


def state_nbytes(metadata: Mapping[str, Any], arch: str) -> int:
    """Bytes of one layer's state."""

    def size(key: str) -> int:
        return int(metadata.get(f"{arch}.{key}", 0))

    inner, state = size("ssm.inner_size"), size("ssm.state_size")
    if short := size("shortconv.l_cache"):
        inputs = size("embedding_length") * (short - 1)
    else:
        inputs = max(size("ssm.conv_kernel") - 1, 0) * (inner + 2 * size("ssm.group_count") * state)
    return (inputs + state * inner) * _NUMBER_NBYTES
