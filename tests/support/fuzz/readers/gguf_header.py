"""GGUF headers: metadata and the list of tensors, as `quantkit inspect` shows them."""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.ggml.types import GGMLType
from quantkit.gguf.header import TensorInfo, encode_header
from quantkit.gguf.kv import KVType, array, f32, string, u16, u32
from quantkit.jobs.inspect import inspect
from tests.support.fuzz.mutate_gguf import GgufMutator
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import file


def _seeds() -> Sequence[bytes]:
    metadata = [
        string("general.architecture", "llama"),
        u32("general.file_type", 1),
        u32("llama.block_count", 1),
        f32("llama.rope.freq_base", 10000.0),
        array("tokenizer.ggml.tokens", ["a", "b", "<s>"], KVType.STRING),
        array("tokenizer.ggml.token_type", [1, 1, 3], KVType.INT32),
    ]
    tensors = [
        TensorInfo("token_embd.weight", (3, 32), GGMLType.F16, 0),
        TensorInfo("blk.0.attn_q.weight", (2, 32), GGMLType.Q8_0, 192),
    ]
    return [encode_header(metadata, tensors) + bytes(320), encode_header([u16("split.count", 1)], [])]


READER = Reader(
    "gguf-header",
    _seeds,
    lambda data: inspect(file("model.gguf", data)),
    GgufMutator(
        keys=(b"general.alignment", b"general.type", b"split.no", b"split.count", b"split.tensors.count"),
        texts=(b"adapter", b"imatrix", b"mmproj"),
    ),
)
