"""GGUF headers: metadata and the list of tensors."""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.ggml.types import GGMLType
from quantkit.gguf.header import TensorInfo, encode_header, read_header
from quantkit.gguf.kv import KVType, array, f32, string, u32
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import file


def _seeds() -> Sequence[bytes]:
    metadata = [
        string("general.architecture", "llama"),
        u32("llama.block_count", 1),
        f32("llama.rope.freq_base", 10000.0),
        array("tokenizer.ggml.tokens", ["a", "b", "<s>"], KVType.STRING),
        array("tokenizer.ggml.token_type", [1, 1, 3], KVType.INT32),
    ]
    tensors = [
        TensorInfo("token_embd.weight", (3, 32), GGMLType.F16, 0),
        TensorInfo("blk.0.attn_q.weight", (2, 32), GGMLType.Q8_0, 192),
    ]
    return [encode_header(metadata, tensors) + bytes(320), encode_header([], [])]


READER = Reader("gguf-header", _seeds, lambda data: read_header(file("model.gguf", data)))
