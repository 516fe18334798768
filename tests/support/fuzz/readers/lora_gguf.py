"""LoRA files of llama.cpp, and whether they fit a model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from quantkit.ggml.types import GGMLType
from quantkit.gguf.header import TensorInfo, encode_header
from quantkit.gguf.kv import f32, string, u32
from quantkit.gguf.lora import ScaledLora, check_fits, read_lora
from quantkit.gguf.model import read_model
from tests.support.fuzz.mutate_gguf import GgufMutator
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import folder


def _seeds() -> Sequence[bytes]:
    metadata = [
        string("general.architecture", "llama"),
        string("general.type", "adapter"),
        string("adapter.type", "lora"),
        f32("adapter.lora.alpha", 8.0),
    ]
    factors = [
        TensorInfo("blk.0.attn_q.weight.lora_a", (2, 32), GGMLType.F32, 0),
        TensorInfo("blk.0.attn_q.weight.lora_b", (16, 2), GGMLType.F32, 256),
        TensorInfo("token_embd.weight.lora_a", (8, 2), GGMLType.F32, 384),
        TensorInfo("token_embd.weight.lora_b", (32, 2), GGMLType.F32, 448),
    ]
    return [encode_header(metadata, factors) + bytes(704)]


@cache
def _base() -> bytes:
    metadata = [string("general.architecture", "llama"), u32("llama.block_count", 1)]
    tensors = [
        TensorInfo("token_embd.weight", (8, 32), GGMLType.F32, 0),
        TensorInfo("blk.0.attn_q.weight", (16, 32), GGMLType.F32, 1024),
        TensorInfo("output.weight", (8, 32), GGMLType.F32, 3072),
    ]
    return encode_header(metadata, tensors) + bytes(4096)


def _read(data: bytes) -> None:
    place = folder({"base.gguf": _base(), "lora.gguf": data})
    lora = read_lora(ScaledLora(place / "lora.gguf"))
    check_fits(lora, read_model(place / "base.gguf"))
    for name in lora.factors:
        lora.factor(name)


READER = Reader(
    "lora-gguf",
    _seeds,
    _read,
    GgufMutator(
        keys=(b"adapter.type", b"adapter.lora.alpha", b"adapter.alora.invocation_tokens", b"split.count"),
        texts=(b"adapter", b"lora", b"llama"),
        names=(b".lora_a", b".lora_b", b"output.weight.lora_a", b"output.weight.lora_b"),
    ),
)
